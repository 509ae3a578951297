"""The one rule on what numbers a map takes, and norms that no unit can overflow."""

from __future__ import annotations

import sys
from typing import Any, cast

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd import forward_ad


def readable(x: Shaped[Tensor, "*shape"], dtype: torch.dtype) -> Shaped[Tensor, "*shape"]:
    """x as a map of `dtype` reads it: integers and booleans as numbers of that dtype, real numbers as complex ones for
    a complex map; all else as it is."""
    if not (x.is_floating_point() or x.is_complex()):
        return x.to(dtype)
    return x.to(x.dtype.to_complex()) if dtype.is_complex and not x.is_complex() else x


def frobenius(M: Tensor) -> tuple[float, float]:
    """The Frobenius norm of M as the largest magnitude, and the norm in units of that: neither over- nor underflows."""
    M = M.detach().to(torch.promote_types(M.dtype, torch.float64))
    largest = M.abs().amax()
    return float(largest), float(torch.linalg.vector_norm(M / largest)) if largest > 0 else 0.0


def relative_error(M: Shaped[Tensor, "*shape"], found: Shaped[Tensor, "*shape"]) -> float:
    """||M - found|| / ||M||, whatever the unit of M; ||found|| where M is zero."""
    difference = M.to(torch.promote_types(M.dtype, torch.float64)) - found
    (unit, norm), (error_unit, error) = frobenius(M), frobenius(difference)
    return error_unit * error if norm == 0 else error_unit / unit * (error / norm)


def autocast(x: Tensor) -> bool:
    """Whether autocast acts on the device of x; PyTorch knows no autocast on the meta device."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`, whose module costs half a second and is there wherever one has been made."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor without its graph, gathered from all processes where it is sharded; there a collective operation."""
    return cast(Any, tensor).full_tensor() if sharded(tensor) else tensor.detach()


def transformed() -> bool:
    """Whether `torch.func` (vmap, grad, jvp, ...) or forward-mode differentiation follows what is computed now.

    Gradients that are written by hand know a plain backward alone; the plain operations know all of it.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
