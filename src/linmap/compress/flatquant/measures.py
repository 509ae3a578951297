"""What a model is judged by: perplexity, how flat its tensors are, and what it takes on disk."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn

from linmap.data.built import weight_files
from linmap.data.door import understood
from linmap.errors import ArgumentError

# -- perplexity --------------------------------------------------------------------------------------------------------


def perplexity(
    model: nn.Module, ids: Int[Tensor, " n"], window: int = 512, n_windows: int | None = None, batch_size: int = 4
) -> float:
    """exp of the mean of `window_losses`, whose parameters and errors it has."""
    return math.exp(statistics.fmean(window_losses(model, ids, window, n_windows, batch_size)))


@torch.no_grad()
def window_losses(
    model: nn.Module, ids: Int[Tensor, " n"], window: int = 512, n_windows: int | None = None, batch_size: int = 4
) -> list[float]:
    """Mean negative log-likelihood of a token, for each window; windows do not overlap.

    Nothing is put in front of a window, which is scored from its second token. The rest of the stream that fills no
    window is left out.

    Parameters
    ----------
    ids
        A stream of token ids.
    window
        Tokens of a window.
    n_windows
        Score only the first windows; None: all.
    batch_size
        Windows of a forward pass.

    Raises
    ------
    ValueError
        If the stream is shorter than the windows, or a window has nothing to predict.
    """
    if window < 2:
        raise ArgumentError(f"window={window} leaves nothing to predict; take at least 2 tokens.")
    count = len(ids) // window if n_windows is None else n_windows
    if count < 1 or len(ids) < count * window:
        raise ArgumentError(
            f"{len(ids)} tokens do not fill {max(count, 1)} windows of {window}; give more text or smaller windows."
        )
    device = next(model.parameters()).device
    windows = ids[: count * window].view(count, window).to(device)
    was_training = model.training
    model.eval()
    losses: list[float] = []
    for batch in windows.split(batch_size):
        output: Any = model(input_ids=batch, use_cache=False)
        logits = output.logits[:, :-1].float().flatten(0, 1)
        tokens = F.cross_entropy(logits, batch[:, 1:].flatten(), reduction="none").view(len(batch), -1)
        losses += tokens.double().mean(-1).tolist()
    model.train(was_training)
    return losses


# -- flatness ----------------------------------------------------------------------------------------------------------


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


# -- sizes -------------------------------------------------------------------------------------------------------------


CODES = ".weight_scale"  # beside the codes of a quantised linear layer


@dataclass(frozen=True)
class Sizes:
    """Bytes of a whole model, and of its quantised linear layers with their scales and transforms."""

    stored: int
    float16: int
    linears: int
    linears_float16: int

    @property
    def share(self) -> float:
        """Of the linear layers' float16 size; 1 if none is quantised."""
        return self.linears / self.linears_float16 if self.linears_float16 else 1.0


def sizes(original: Mapping[str, tuple[int, int]], quantised: Mapping[str, tuple[int, int]]) -> Sizes:
    """Sizes from the (numbers, bytes) of the tensors of a model before and after, by name."""
    layers = {name.removesuffix(CODES) for name in quantised if name.endswith(CODES)}
    shared = [name for name in quantised if ".input_transform." in name or ".cache_transform." in name]
    parts = [name for name in quantised if name not in shared and _layer(name, layers)]
    return Sizes(
        stored=sum(size for _, size in quantised.values()),
        float16=2 * sum(numbers for numbers, _ in original.values()),
        linears=sum(quantised[name][1] for name in [*parts, *shared]),
        linears_float16=2 * sum(original[name][0] for name in original if _layer(name, layers)),
    )


def _layer(name: str, layers: set[str]) -> bool:
    """Whether a tensor is of one of these layers, or of a module inside it."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in layers:
            return True
    return False


def model_tensors(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Of a model in memory; what is tied counts once."""
    tensors = {
        tensor.data_ptr() if tensor.numel() > 1 else name: (name, tensor)
        for name, tensor in reversed(model.state_dict().items())
    }
    return {name: (tensor.numel(), tensor.nbytes) for name, tensor in tensors.values()}


def folder_tensors(folder: Path) -> dict[str, tuple[int, int]]:
    """Of the safetensors files of a folder, by their headers."""
    found: dict[str, tuple[int, int]] = {}
    for path in weight_files(folder):
        with understood(path, "a file of safetensors"), safe_open(path, framework="pt"):
            pass  # whatever is wrong with the header is told
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                numbers = 1
                for n in entry["shape"]:
                    numbers *= n
                found[name] = (numbers, end - begin)
    return found
