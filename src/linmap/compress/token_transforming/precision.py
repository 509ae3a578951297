"""Types and checks that all parts share: tokens keep their type, everything between is float32 at least."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError, check_count

Arguments = ParamSpec("Arguments")
Outcome = TypeVar("Outcome")


def full_precision(function: Callable[Arguments, Outcome]) -> Callable[Arguments, Outcome]:
    """Run a function of tensors outside of autocast, so that its products and sums keep the type that it chose."""

    @wraps(function)
    def outside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Outcome:
        for value in (*args, *kwargs.values()):
            device = getattr(value, "device", None)
            if device is not None and device.type in ("cpu", "cuda"):
                if not torch.is_autocast_enabled(device.type):
                    break
                with torch.autocast(device.type, enabled=False):
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return outside


def working_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float32, or float64 where one of the tensors is."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None and tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def check_floating(name: str, value: Any, shape: str) -> None:
    """That an argument is a tensor of real floating-point values with as many axes as `shape` names.

    Raises
    ------
    TypeError
        If it is no tensor, or of another type.
    ValueError
        If it has another number of axes, or an empty one.
    """
    if not isinstance(value, Tensor):
        raise ArgumentTypeError(f"{name} must be a tensor {shape}, got {type(value).__name__}.")
    if not value.is_floating_point():
        raise ArgumentTypeError(f"{name} must hold floating-point values, got {value.dtype}; cast it with .float().")
    if value.ndim != shape.count(",") + 1 or 0 in value.shape:
        raise ArgumentError(f"{name} must have the shape {shape}, got {tuple(value.shape)}.")


def masses(mass: Tensor | None, like: Tensor, n_tokens: int) -> Float[Tensor, "batch tokens"]:
    """The masses of the tokens of `like` as they are computed with; ones where there are none.

    Raises
    ------
    TypeError
        If `mass` is no tensor of real values.
    ValueError
        If it has another shape than (batch, tokens).
    """
    shape = (like.shape[0], n_tokens)
    if mass is None:
        return torch.ones(shape, dtype=working_dtype(like), device=like.device)
    if not isinstance(mass, Tensor) or mass.is_complex():
        kind = mass.dtype if isinstance(mass, Tensor) else type(mass).__name__
        raise ArgumentTypeError(f"mass must be a tensor (B, N) of real values, or None for ones; got {kind}.")
    if mass.shape != shape:
        raise ArgumentError(f"mass must have the shape (B, N) = {shape}, got {tuple(mass.shape)}.")
    return mass.to(working_dtype(like, mass))


def check_share(name: str, value: Any) -> float:
    """A share in (0, 1], as a float.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is outside.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ArgumentTypeError(f"{name} must be a number in (0, 1], got {value!r}.")
    if not 0 < float(value) <= 1:
        raise ArgumentError(f"{name} must lie in (0, 1], got {value}.")
    return float(value)


def check_budget(M: Any, protect: Any) -> tuple[int, int]:
    """M and the number of protected tokens, where at least one token beside them is left.

    Raises
    ------
    TypeError
        If one is no whole number.
    ValueError
        If M < 1, or no token beside the protected ones is left.
    """
    protect = check_count("protect", protect, 0)
    M = check_count("M", M, 1)
    if protect >= M:
        raise ArgumentError(
            f"M = {M} leaves no token beside the protect = {protect} protected ones; M counts them too and must be at "
            f"least {protect + 1}."
        )
    return M, protect
