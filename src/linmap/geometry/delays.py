"""Delay embeddings of signals, and the covariance of an embedded signal: NumPy and PyTorch, differentiable.

Order o is the number of copies of the signal, lag l their distance in samples: z(t) = [x(t); x(t + l); ...;
x(t + (o - 1) l)] (Takens). The covariance of z holds the lagged covariances of x: block (i, j) estimates
E[x(t + i l) x(t + j l)^T], the matrix of the Yule-Walker equations (arXiv 2302.04508).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError

Drop = Literal["official", "tight"]
Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True)
class Window:
    """Which samples the blocks of an embedding hold: block k is x[..., delays[k] : delays[k] + length]."""

    delays: tuple[int, ...]
    length: int


def window(
    n_times: int, order: int = 1, lag: int = 1, delays: Sequence[int] | None = None, drop: Drop = "official"
) -> Window:
    """The blocks of an embedding of `n_times` samples.

    Parameters
    ----------
    n_times
        Samples of the signal.
    order, lag
        Copies, and samples between them; order 1 is the signal itself, whatever the lag.
    delays
        The delay of each copy in samples, in place of `order` and `lag`.
    drop
        "tight" keeps every sample that all copies have. "official" does as the published code: it loses `lag` further
        samples at the end, and one with `delays`.

    Raises
    ------
    ValueError
        If an argument is not what it should be, or no sample is left.
    """
    if drop not in ("official", "tight"):
        raise ArgumentError(f"drop must be 'official' or 'tight', got {drop!r}.")
    if delays is not None:
        return _listed(n_times, delays, drop)
    for name, value in (("order", order), ("lag", lag)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ArgumentError(f"{name} must be a positive integer, got {value!r}.")
    order, lag = int(order), int(lag)
    lost = 0 if order == 1 else (order if drop == "official" else order - 1) * lag
    if lost >= n_times or (order > 1 and order * lag >= n_times):
        raise ArgumentError(
            f"order * lag = {order} * {lag} = {order * lag} needs epochs of more samples than T = {n_times}; at lag "
            f"{lag} the largest order is {max(1, (n_times - 1) // lag)}, at order {order} the largest lag is "
            f"{(n_times - 1) // order or 'none'}."
        )
    return Window(tuple(k * lag for k in range(order)), n_times - lost)


def _listed(n_times: int, delays: Sequence[int], drop: Drop) -> Window:
    whole = [isinstance(d, Integral) and not isinstance(d, bool) and d >= 0 for d in delays]
    if not whole or not all(whole) or len(set(delays)) < len(delays):
        raise ArgumentError(f"delays must be distinct integers of at least 0, got {list(delays)}.")
    length = n_times - max(delays) - (drop == "official")
    if length < 1:
        raise ArgumentError(f"the delay {max(delays)} needs epochs of more samples than T = {n_times}.")
    return Window(tuple(int(d) for d in delays), length)


def embed(
    x: Array, order: int = 1, lag: int = 1, delays: Sequence[int] | None = None, drop: Drop = "official"
) -> Array:
    """The delay embedding of signals, block by block along the channels: (..., c, T) -> (..., o c, T').

    Block k holds all channels, delayed: `out[..., k c : (k + 1) c, t] == x[..., :, t + delays[k]]`, the oldest first.
    Nothing wraps round and nothing is padded. Parameters and errors as of `window`.
    """
    chosen = window(x.shape[-1], order, lag, delays, drop)
    blocks: Any = [x[..., start : start + chosen.length] for start in chosen.delays]
    if len(blocks) == 1:
        return blocks[0]
    joined: Any = torch.cat(blocks, -2) if isinstance(x, Tensor) else np.concatenate(blocks, -2)
    return joined


def augmented_covariance(
    x: Float[Tensor, "*batch channels times"],
    order: int = 1,
    lag: int = 1,
    eps: float = 0.0,
    *,
    estimator: Literal["cov", "oas"] = "cov",
    delays: Sequence[int] | None = None,
    drop: Drop = "official",
) -> Float[Tensor, "*batch size size"]:
    """The augmented covariance of signals as a differentiable function, e.g. in front of an SPDNet.

    Parameters
    ----------
    x
        Signals; the gradient flows back to them.
    order, lag, delays, drop
        The embedding, as of `window`.
    eps
        Added to the diagonal, in squared units of x.
    estimator
        "cov" removes the mean of each row and divides by T' - 1. "oas" divides by T' and shrinks towards the mean
        variance (Chen et al. 2010), so that the matrix is positive definite also where T' is short.

    Raises
    ------
    ValueError
        If the embedding leaves no sample, or with "cov" and eps = 0 too few for a positive definite matrix.
    """
    if estimator not in ("cov", "oas"):
        raise ArgumentError(f"estimator must be 'cov' or 'oas', got {estimator!r}.")
    z = embed(x, order, lag, delays, drop)
    size, length = z.shape[-2:]
    if estimator == "cov" and eps <= 0 and length <= size:
        raise ArgumentError(
            f"{length} samples cannot give a positive definite covariance of {size} rows (order * channels); lower the "
            "order, or use estimator='oas' or eps > 0."
        )
    z = z - z.mean(-1, keepdim=True)
    covariance = z @ z.mT / (length - 1 if estimator == "cov" else length)
    identity = torch.eye(size, dtype=x.dtype, device=x.device)
    if estimator == "oas":
        mean = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        unit = torch.where(mean > 0, mean, 1.0)  # a signal without variance stays at zero
        share = oas_shrinkage((covariance / unit).square().mean((-2, -1))[..., None, None], size, length)
        covariance = (1 - share) * covariance + share * mean * identity
    return covariance + eps * identity if eps else covariance


def oas_shrinkage(dispersion: Array, size: int, length: int) -> Array:
    """The share of the identity in the oracle approximating shrinkage (Chen et al. 2010, eq. 23, as in scikit-learn).

    Parameters
    ----------
    dispersion
        Mean of the squared entries of the empirical covariance (divided by `length`), relative to the square of the
        mean of its diagonal. It is 1 / `size` for a multiple of the identity, as one channel's always is, and rounding
        may leave it slightly below: the share is 1 there, and its gradient 0.
    size, length
        Rows of the matrix, and samples that it was estimated from.
    """
    towards: Any = dispersion + 1
    apart: Any = (length + 1) * (dispersion - 1 / size)
    return towards / apart.clip(min=towards)
