"""How flat an activation or a weight is over its channels, and the per-channel scale that flattens it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError

SMALLEST_SCALE = 1e-5


class Flatness(NamedTuple):
    """Flat: the norms are equal, so that `max_to_mean` is 1, `kurtosis` is small and `token_peak` near 1.

    Attributes
    ----------
    norms
        Euclidean norm of each channel over the tokens (or of each column over the rows), largest first.
    max_to_mean
        Largest norm over the mean norm.
    kurtosis
        Fourth central moment of all entries over their squared variance: 3 for a Gaussian, more for outliers.
    token_peak
        max |x| / root mean square of x, of each token.
    """

    norms: Float[Tensor, " n"]
    max_to_mean: float
    kurtosis: float
    token_peak: Float[Tensor, " tokens"]


@torch.no_grad()
def flatness(x: Float[Tensor, "*batch n"]) -> Flatness:
    """Measure the flatness of activations (..., n) or of a weight (m, n), in at least float32.

    Tensors of zeros are flat: all their scalars are those of a constant tensor.

    Raises
    ------
    ValueError
        If x has no entries.

    References
    ----------
    Sun et al., "FlatQuant: Flatness Matters for LLM Quantization" (2025), section 2 and figure 1.
    """
    if not x.numel():
        raise ArgumentError(f"flatness needs at least one token and one channel, got x of shape {tuple(x.shape)}.")
    x = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, x.shape[-1])
    norms = torch.linalg.vector_norm(x, dim=0).sort(descending=True).values
    mean = norms.mean()
    centred = x.double() - x.double().mean()
    variance = centred.square().mean()
    return Flatness(
        norms=norms,
        max_to_mean=float(norms[0] / mean) if mean > 0 else 1.0,
        kurtosis=float(centred.pow(4).mean() / variance.square()) if variance > 0 else 1.0,
        token_peak=_over(x.abs().amax(-1), x.square().mean(-1).sqrt()),
    )


def _over(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b, 1)


def smooth_scale(w_max: Float[Tensor, " n"], x_max: Float[Tensor, " n"], alpha: float) -> Float[Tensor, " n"]:
    """c = max(w_max^(1 - alpha) / x_max^alpha, 1e-5) for x -> x * c, W -> W / c; SmoothQuant's s is 1 / c.

    Parameters
    ----------
    w_max
        max |W| of each input channel, over all layers that share it.
    x_max
        max |x| of each channel over the calibration tokens; taken as at least 1e-5.
    alpha
        0 looks at the weights only, 1 at the activations only.

    Raises
    ------
    ValueError
        If alpha is not between 0 and 1, the lengths differ, or a maximum is negative or not finite.

    References
    ----------
    Xiao et al., "SmoothQuant" (2023), equation 4.
    """
    if not 0 <= alpha <= 1:
        raise ArgumentError(f"alpha must be between 0 (weights) and 1 (activations), got {alpha}.")
    if w_max.shape != x_max.shape:
        raise ArgumentError(f"w_max and x_max must have one entry a channel each, got {len(w_max)} and {len(x_max)}.")
    for name, value in (("w_max", w_max), ("x_max", x_max)):
        if not bool((value.isfinite() & (value >= 0)).all()):
            raise ArgumentError(f"{name} must hold finite maxima of absolute values, got {float(value.min())} and up.")
    return (w_max ** (1 - alpha) / x_max.clamp(min=SMALLEST_SCALE) ** alpha).clamp(min=SMALLEST_SCALE)
