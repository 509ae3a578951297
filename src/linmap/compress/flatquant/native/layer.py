"""A quantised layer and a transform by the C++ kernels, as PyTorch calls them.

Outside of `torch.compile` the library is called as it is; inside, through the operators `linmap_flatquant::linear` and
`linmap_flatquant::transform`, which stay whole in compiled graphs. What is exported holds PyTorch's operations only, so
that it runs where linmap is not.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import torch
from torch import Tensor
from torch.library import Library

from linmap.compress.flatquant.kernels import MOST_WIDE_COLUMNS
from linmap.compress.flatquant.native import choice
from linmap.maps.numbers import transformed

FORMATS = (torch.float32, torch.bfloat16, torch.float16)
CALL = struct.Struct("=20Q")  # `Call` of linear.cpp
ROWS = struct.Struct("=10Q")  # `Rows` of linear.cpp


class Matrices(NamedTuple):
    """x -> (x * scale) (left ⊗ right), each of which may be left out; n1 n2 channels with an identity for the rest."""

    left: Tensor | None = None
    right: Tensor | None = None
    scale: Tensor | None = None


NOTHING = Matrices()


def runs(x: Tensor) -> bool:
    """Whether the kernels take x: numbers on a CPU, outside of what follows PyTorch's operations one by one."""
    if x.device.type != "cpu" or x.dtype not in FORMATS or not x.shape or not x.shape[-1]:
        return False
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting() and _compiled_in()
    plain = type(x) is Tensor or type(x) is torch.nn.Parameter
    if not plain or torch._C._len_torch_dispatch_stack() or torch.jit.is_tracing() or transformed():
        return False
    return choice.active().library is not None


@torch.compiler.assume_constant_result
def _compiled_in() -> bool:
    return choice.active().library is not None


def takes(weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, bits: int, n: int) -> bool:
    """Whether the tensors of a layer of n columns are what the kernels read."""
    m, columns = weight.shape
    if columns != ((n + 1) // 2 if bits <= 4 else n) or scale.shape[0] != m or not m:
        return False
    if (
        weight.element_size() != 1
        or scale.dtype is not torch.float32
        or n > MOST_WIDE_COLUMNS
        or not groups_fit(n, scale.shape[1], bits)
    ):
        return False
    if zero is not None and (zero.dtype is not torch.float32 or zero.shape != scale.shape):
        return False
    return weight.device.type == "cpu" and (bias is None or bias.shape[0] == m)


def groups_fit(n: int, groups: int, bits: int) -> bool:
    """Whether groups divide n columns and no two of them share a lane of a vector."""
    return n % groups == 0 and (groups == 1 or (n // groups) % (8 if bits <= 4 else 4) == 0)


def linear(
    x: Tensor,
    matrices: Matrices,
    logits: tuple[Tensor | None, Tensor | None],
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    bits: tuple[int, int],
) -> Tensor:
    """Q(x P) Q(W)^T + b in the dtype of x, computed in float32.

    Parameters
    ----------
    x : (..., n)
    logits
        Of the clipping of x, if it is rounded.
    weight : (m, n) or (m, ceil(n / 2))
        Codes; up to four bits two to a byte.
    scale, zero : (m, groups)
        With zeros, codes are unsigned.
    bits
        Of the weight and of x; 16: x is not rounded. Below, the weight has no zeros and one scale a row.
    """
    call = torch.ops.linmap_flatquant.linear if torch.compiler.is_compiling() else _linear
    return call(x, *matrices, *logits, weight, scale, zero, bias, *bits)


def transform(x: Tensor, matrices: Matrices) -> Tensor:
    """(x * scale) (left ⊗ right) in the dtype of x, computed in float32."""
    call = torch.ops.linmap_flatquant.transform if torch.compiler.is_compiling() else _transform
    return call(x, *matrices)


def encode(
    x: Tensor, logits: tuple[Tensor | None, Tensor | None], bits: int, symmetric: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes of the rows of x, two to a byte up to four bits, scales, and zero points in uint8: `quantizer.quantize`."""
    n, x_F = x.shape[-1], _floats(x)
    shape = x.shape[:-1]
    packed = bits <= 4
    codes = x_F.new_empty((*shape, (n + 1) // 2 if packed else n), dtype=torch.uint8)
    scale = x_F.new_empty((*shape, 1))
    zero = None if symmetric else x_F.new_empty((*shape, 1), dtype=torch.uint8)
    call = ROWS.pack(
        x_F.data_ptr(), x_F.numel() // n, n, bits, _at(logits[0]), _at(logits[1]), codes.data_ptr(), scale.data_ptr(),
        _at(zero), choice.threads(),
    )  # fmt: skip
    choice.library().linmap_encode(call)
    return codes if packed or not symmetric else codes.view(torch.int8), scale, zero


def _linear(
    x: Tensor, left: Tensor | None, right: Tensor | None, channels: Tensor | None, max_logit: Tensor | None,
    min_logit: Tensor | None, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None,
    w_bits: int, a_bits: int,
) -> Tensor:  # fmt: skip
    n, m = x.shape[-1], weight.shape[0]
    x_F, weight, scale = _floats(x), weight.contiguous(), _floats(scale)
    left, right, channels, zero, bias = map(_optional, (left, right, channels, zero, bias))
    y = torch.empty((*x.shape[:-1], m), dtype=torch.float32, device=x.device)
    n1 = 1 if left is None else left.shape[0]
    call = CALL.pack(
        x_F.data_ptr(), x_F.numel() // n, _at(left), _at(right), _at(channels), n1, n // n1, _at(max_logit),
        _at(min_logit), weight.data_ptr(), _at(scale), _at(zero), _at(bias), m, n, scale.shape[1], w_bits, a_bits,
        y.data_ptr(), choice.threads(),
    )  # fmt: skip
    _done(choice.library().linmap_linear(call))
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def _transform(x: Tensor, left: Tensor | None, right: Tensor | None, channels: Tensor | None) -> Tensor:
    n, x_F = x.shape[-1], _floats(x)
    left, right, channels = map(_optional, (left, right, channels))
    y = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    n1 = 1 if left is None else left.shape[0]
    call = CALL.pack(
        x_F.data_ptr(), x_F.numel() // n, _at(left), _at(right), _at(channels), n1, n // n1, 0, 0, 0, 0, 0, 0, 0, n, 1,
        16, 16, y.data_ptr(), choice.threads(),
    )  # fmt: skip
    _done(choice.library().linmap_transform(call))
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def _floats(x: Tensor) -> Tensor:
    if x.dtype is torch.float32 and x.is_contiguous():
        return x
    return x.detach().to(torch.float32).contiguous()


def _optional(x: Tensor | None) -> Tensor | None:
    return None if x is None else _floats(x)


def _at(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _done(status: int) -> None:
    if status:
        raise MemoryError("no memory for the codes of the activations.")


# -- in compiled graphs ------------------------------------------------------------------------------------------------

OPERATORS = Library("linmap_flatquant", "DEF")
OPERATORS.define(
    "linear(Tensor x, Tensor? left, Tensor? right, Tensor? channels, Tensor? max_logit, Tensor? min_logit, "
    "Tensor weight, Tensor scale, Tensor? zero, Tensor? bias, int w_bits, int a_bits) -> Tensor"
)
OPERATORS.define("transform(Tensor x, Tensor? left, Tensor? right, Tensor? channels) -> Tensor")
OPERATORS.impl("linear", _linear, "CPU")
OPERATORS.impl("transform", _transform, "CPU")


@torch.library.register_fake("linmap_flatquant::linear")
def _(x: Tensor, left, right, channels, max_logit, min_logit, weight, *rest) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.register_fake("linmap_flatquant::transform")
def _(x: Tensor, left, right, channels) -> Tensor:
    return x.new_empty(x.shape)
