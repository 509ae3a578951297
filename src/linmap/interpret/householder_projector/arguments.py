"""What every function of the system asks of its tensors and whole numbers."""

from __future__ import annotations

import math
from contextlib import nullcontext
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.maps.numbers import autocast, transformed


def check_floating(name: str, value: Any, ndim: int, shape: str) -> None:
    """Raise unless `value` is a real floating-point tensor of `ndim` dimensions, which `shape` describes."""
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"{name} must be a tensor {shape}, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise ArgumentTypeError(f"{name} must have a real floating dtype, got {value.dtype}; convert it with .float().")
    if value.ndim != ndim:
        raise ArgumentError(f"{name} must have {ndim} dimensions {shape}, got shape {tuple(value.shape)}.")


def check_finite(name: str, value: Tensor) -> None:
    """Raise at the first entry that is not finite."""
    if has_values(value) and not bool((finite := value.isfinite()).all()):
        at = tuple((~finite).nonzero()[0].tolist())
        raise ArgumentError(f"{name} must be finite; entry {at} is {value[at].item()}.")


def check_whole(name: str, value: Any, low: int, high: int, what: str = "") -> int:
    """The whole number, or an error that names its limits."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= int(value) <= high:
        raise ArgumentError(f"{name} must be a whole number from {low} to {high}{what}, got {value!r}.")
    return int(value)


def check_rank(rank: Any, n_out: int, n_in: int) -> int:
    """The rank k of an (o, i) matrix."""
    limit = min(n_in, n_out)
    return check_whole("rank", rank, 1, limit, f", the smaller side of a {n_out} x {n_in} weight")


def check_number(name: str, value: Any) -> None:
    """Raise unless the value is a finite real number, or a tensor of one."""
    if isinstance(value, Tensor) and value.ndim == 0:
        if not has_values(value):
            return
        value = value.item()
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ArgumentError(f"{name} must be a finite number, got {value!r}.")


def has_values(tensor: Tensor) -> bool:
    """Whether a program can branch on the entries: not under `torch.compile`, `torch.func`, or on the meta device."""
    return not (tensor.is_meta or torch.compiler.is_compiling() or transformed())


def widened(tensor: Tensor) -> Tensor:
    """Half precision as float32; all else as it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_autocast(tensor: Tensor) -> Any:
    """A context in which products keep the precision of their factors."""
    return torch.autocast(tensor.device.type, enabled=False) if autocast(tensor) else nullcontext()
