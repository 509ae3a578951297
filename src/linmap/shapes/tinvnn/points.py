"""Point sets as the library takes them: checked, and centred in float64."""

from __future__ import annotations

import sys
import warnings
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Real
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError


class Points(NamedTuple):
    """A batch of point sets as it came, and what is returned."""

    X: Real[Tensor, "batch n d"]
    mask: Bool[Tensor, "batch n"] | None
    single: bool
    """One cloud came, and results have no batch dimension."""
    dtype: torch.dtype
    """Of the results."""


class Centred(NamedTuple):
    """A batch in float64 with the mean at zero; masked points are zero."""

    points: Float64[Tensor, "batch d n"]
    first: Float64[Tensor, "batch d"]
    """A point of each cloud; `points` are differences to it and to `mean`, so that large offsets cost no digits."""
    mean: Float64[Tensor, "batch d"]
    """Of the differences to `first`."""
    count: Float64[Tensor, " batch"]
    unit: Float64[Tensor, " batch"]
    """What points were divided by where squares would leave the range of float64; else 1."""
    norm: Float64[Tensor, " batch"]
    """Root of the sum of the squared distances to the mean, in this unit."""


def callers_level() -> int:
    """The `stacklevel` with which the caller of this function warns at the line that called the library."""
    frame, level = sys._getframe(1), 1
    between = ("linmap", "torch")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in between:
        frame, level = frame.f_back, level + 1
    return level


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a name that is not one of a `Literal`.

    Raises
    ------
    ValueError
        The message lists the valid ones.
    """
    if value not in get_args(choices):
        raise ArgumentError(f"{name}={value!r} must be one of {', '.join(map(repr, get_args(choices)))}.")


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least `least`.

    Raises
    ------
    ValueError
        The message names it.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ArgumentError(f"{name}={value!r} must be at least {least}, and a whole number.")


def read_points(X: Any, mask: Any = None, name: str = "X") -> Points:
    """Check shape and type of clouds; that the numbers are finite is found while they are centred.

    Raises
    ------
    TypeError
        If X holds no real numbers.
    ValueError
        If X is not (B, n, d) or (n, d), is empty, or the mask does not fit or leaves fewer than two points.
    """
    X = as_tensor(X, name)
    if X.ndim not in (2, 3) or 0 in X.shape[-2:]:
        raise ArgumentError(
            f"{name} must be (B, n, d) or one cloud (n, d) of at least one point, got shape {tuple(X.shape)}."
        )
    single = X.ndim == 2
    X = X[None] if single else X
    if mask is not None:
        mask = _read_mask(mask, X, single, name)
    if X.is_floating_point():
        dtype = X.dtype if X.dtype == torch.float64 else torch.float32
    else:
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        warnings.warn(f"{name} holds integers ({X.dtype}); they are cast to {dtype}.", stacklevel=callers_level())
    return Points(X, mask, single, dtype)


def as_tensor(X: Any, name: str = "X") -> Tensor:
    """A tensor of real numbers.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if not isinstance(X, Tensor) and hasattr(X, "__array__"):  # of NumPy, pandas and others, whatever their memory
        X = np.asarray(X)
        if X.dtype.kind in "fiu":
            X = np.require(X, X.dtype.newbyteorder("="), ["C", "W"])
    try:
        X = torch.as_tensor(X)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(f"{name} must be a tensor of numbers, got {type(X).__name__} ({error}).") from None
    if X.is_complex() or X.dtype == torch.bool:
        raise ArgumentTypeError(f"{name} must hold real numbers, got {X.dtype}.")
    return X


def as_mask(mask: Any, device: torch.device | None = None) -> Bool[Tensor, ...]:
    """A boolean tensor.

    Raises
    ------
    TypeError
        If it is something else.
    """
    try:
        mask = torch.as_tensor(mask, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentTypeError(f"mask must be a boolean tensor, got {type(mask).__name__}.") from None
    if mask.dtype != torch.bool:
        raise ArgumentTypeError(f"mask must be boolean, True where there is a point, got {mask.dtype}.")
    return mask


def _read_mask(mask: Any, X: Tensor, single: bool, name: str) -> Bool[Tensor, "batch n"]:
    mask = as_mask(mask, X.device)
    mask = mask[None] if single and mask.ndim == 1 else mask
    if mask.shape != X.shape[:2]:
        raise ArgumentError(
            f"mask must have one value for each point of {name}, shape {tuple(X.shape[: 1 if single else 2])}, got "
            f"{tuple(mask.shape)}."
        )
    if (few := mask.sum(1) < 2).any():
        where = int(few.nonzero()[0])
        raise ArgumentError(
            f"mask leaves {int(mask[where].sum())} points of cloud {where}; a masked cloud needs two or more."
        )
    return mask


def centre(X: Real[Tensor, "batch n d"], mask: Bool[Tensor, "batch n"] | None, name: str = "X", at: int = 0) -> Centred:
    """Subtract a point of each cloud, then the mean of these differences, in float64.

    Parameters
    ----------
    at
        Index of the first cloud, for messages.

    Raises
    ------
    ValueError
        If a number is not finite; the message names the cloud.
    """
    batch, n, d = X.shape
    points = torch.empty(batch, d, n, dtype=torch.float64, device=X.device)
    points.copy_(X.mT)
    if mask is None:
        first = points[:, :, 0].clone()
        count = torch.full((batch,), float(n), dtype=torch.float64, device=X.device)
    else:
        first = points.gather(2, mask.int().argmax(1)[:, None, None].expand(-1, d, 1))[:, :, 0]
        count = mask.sum(1).double()
    points.sub_(first.unsqueeze(-1))
    if mask is not None:
        points.masked_fill_(~mask.unsqueeze(1), 0.0)
    mean = points.sum(-1) / count.unsqueeze(-1)
    _check_finite(mean, X, mask, name, at)
    points.sub_(mean.unsqueeze(-1))
    if mask is not None:
        points.masked_fill_(~mask.unsqueeze(1), 0.0)
    return Centred(points, first, mean, count, *_into_range(points))


def _check_finite(mean: Tensor, X: Tensor, mask: Tensor | None, name: str, at: int) -> None:
    """Refuse NaN and infinities: the mean of a cloud is finite if all of its numbers are."""
    if mean.isfinite().all():
        return
    finite = X.isfinite().all(-1)
    finite = finite if mask is None else finite | ~mask
    if not finite.all():
        cloud, point = (int(i) for i in (~finite).nonzero()[0])
        raise ArgumentError(f"{name} is not finite: cloud {cloud + at}, point {point} is {X[cloud, point].tolist()}.")
    raise ArgumentError(f"{name} has numbers whose differences overflow; divide it by a power of ten.")


def _into_range(
    points: Float64[Tensor, "batch d n"],
) -> tuple[Float64[Tensor, " batch"], Float64[Tensor, " batch"]]:
    """Divide clouds whose fourth powers would overflow, or whose squares would vanish, by their largest coordinate.

    Returns the divisors and the norms of the quotients.
    """
    norm = points.flatten(1).norm(dim=1)
    unit = torch.ones_like(norm)
    extreme = ~((norm > 1e-30) & (norm < 1e30))  # infinite where a square overflowed, 0 where all vanished
    if extreme.any():
        largest = points[extreme].abs().amax((1, 2))
        unit[extreme] = torch.where(largest > 0, largest, 1.0)
        points.div_(unit[:, None, None])
        norm = points.flatten(1).norm(dim=1)
    return unit, norm
