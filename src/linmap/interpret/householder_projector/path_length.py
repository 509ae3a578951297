"""Perceptual path lengths: how much images change for a small step of the latent code (Karras et al., 2019, 2020)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.interpret.householder_projector.arguments import check_floating, check_number
from linmap.interpret.householder_projector.traversal import Synthesis, check_directions, check_step, flat

Features = Callable[[Tensor], Tensor]


@torch.no_grad()
def perceptual_path_length(
    synthesis: Synthesis,
    w_start: Float[Tensor, "S ..."],
    w_end: Float[Tensor, "S ..."],
    t: Float[Tensor, " S"],
    *,
    features: Features | None = None,
    eps: float = 1e-4,
    trim: tuple[float, float] = (1.0, 99.0),
) -> float:
    """The trimmed mean of the squared change of features along straight paths, over the step's square.

    Parameters
    ----------
    synthesis
        Images of codes; called once for each end of the steps.
    w_start, w_end
        Ends of the paths.
    t
        Where on its path each sample's step begins, from 0 to 1.
    features
        Of images; the sum of squares runs over all of them. The images themselves when None.
    eps
        Length of the step, as a share of the path.
    trim
        Percentiles between which samples count.

    Raises
    ------
    ValueError
        If shapes differ, eps is zero, or `trim` are no percentiles.
    """
    if not isinstance(w_start, Tensor) or not isinstance(w_end, Tensor):
        raise ArgumentTypeError("w_start and w_end must be tensors (S, ...).")
    check_floating("w_start", w_start, w_start.ndim, "(S, ...)")
    check_floating("w_end", w_end, w_start.ndim, "(S, ...)")
    check_floating("t", t, 1, "(S,)")
    if w_start.shape != w_end.shape or w_start.shape[:1] != t.shape:
        raise ArgumentError(
            "w_start, w_end and t must have the same number of samples S and the codes the same shape, got "
            f"{tuple(w_start.shape)}, {tuple(w_end.shape)} and {tuple(t.shape)}."
        )
    check_number("eps", eps)
    at = t.to(w_start).reshape(-1, *[1] * (w_start.ndim - 1))
    a, b = torch.lerp(w_start, w_end, at), torch.lerp(w_start, w_end, at + eps)
    _check_resolved(b - a, eps * (w_end - w_start), eps)
    return _trimmed(synthesis, a, b, features, eps, trim)


@torch.no_grad()
def interpretable_path_length(
    synthesis: Synthesis,
    w: Float[Tensor, "S n_slots i"],
    slots: Int[Tensor, " S"],
    directions: Float[Tensor, "S i"],
    *,
    features: Features | None = None,
    eps: float = 1.0,
    trim: tuple[float, float] = (1.0, 99.0),
) -> float:
    """The trimmed mean of the squared change of features for a step along directions, over the step's square.

    It grows with the square of a projector's gain, and of a singular value for SeFa's directions: compare at equal
    change of the image as well.

    Parameters
    ----------
    synthesis, features, trim
        As in `perceptual_path_length`.
    w
        Codes.
    slots
        The slot to move of each sample.
    directions
        The direction of each sample.
    eps
        Length of the step.

    Raises
    ------
    ValueError
        If shapes differ, a slot is out of range, eps is zero, or `trim` are no percentiles.
    """
    check_floating("w", w, 3, "(S, n_slots, i)")
    check_directions("directions", directions, 2, w.shape[-1])
    if not isinstance(slots, Tensor) or slots.dtype == torch.bool or slots.is_floating_point() or slots.is_complex():
        raise ArgumentTypeError("slots must be a tensor (S,) of whole numbers.")
    if slots.shape != (len(w),) or len(directions) != len(w):
        raise ArgumentError(
            f"slots and directions must have one entry for each of the {len(w)} samples of w, got shapes "
            f"{tuple(slots.shape)} and {tuple(directions.shape)}."
        )
    if len(outside := slots[(slots < 0) | (slots >= w.shape[1])]):
        raise ArgumentError(
            f"slots must lie from 0 to {w.shape[1] - 1}, w having {w.shape[1]} slots, got {outside[0]}."
        )
    check_number("eps", eps)
    b = w.clone()
    rows = torch.arange(len(w), device=w.device)
    b[rows, slots.to(w.device, torch.int64)] += eps * directions.to(w)
    return _trimmed(synthesis, w.clone(), b, features, eps, trim)  # a synthesis may work in place


def _check_resolved(step: Tensor, wanted: Tensor, eps: float) -> None:
    """Warn where rounding of the codes is no longer small beside the step."""
    error, size = (float(torch.linalg.vector_norm(x.double())) for x in (step - wanted, wanted))
    if error > 0.1 * size:
        warnings.warn(
            f"a step of eps={eps} is lost in the rounding of {step.dtype} codes; give codes of a wider dtype, or a "
            "larger eps.",
            stacklevel=3,
        )


def _trimmed(synthesis: Synthesis, a: Tensor, b: Tensor, features: Features | None, eps: float, trim: Any) -> float:
    check_step(eps)
    if not isinstance(trim, Iterable) or len(percentiles := list(trim)) != 2:
        raise ArgumentError(f"trim must be two percentiles, got {trim!r}.")
    for percentile in percentiles:
        check_number("trim", percentile)
    low, high = map(float, percentiles)
    if not 0 <= low <= high <= 100:
        raise ArgumentError(f"trim must be two percentiles in ascending order, from 0 to 100, got {trim!r}.")
    n = len(a)
    ends = [flat(synthesis(w) if features is None else features(synthesis(w)), n) for w in (a, b)]
    distances = ((ends[0] - ends[1]).double().square().sum(1) / eps**2).cpu().numpy()
    if not np.isfinite(distances).all():
        raise ArgumentError("the images or features of some samples are not finite, so there is no path length.")
    kept = distances[
        (np.percentile(distances, low, method="lower") <= distances)
        & (distances <= np.percentile(distances, high, method="higher"))
    ]
    return float(kept.mean())
