"""What `FakeQuantize` does to all numbers of a matrix: block by block as PyTorch's operations, or compiled into loops.

A compiled loop reads and writes each number once where the operations do so a dozen times; without it a training step
on a CPU takes a third longer. It needs a C++ compiler and some seconds to be made.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, cast, no_type_check

import torch
from torch import Tensor

from linmap.compress.flatquant.kernels import INT8_DOT, code_products

Per = Literal["token", "row"]
SMALLEST_RANGE = 1e-5  # of a row of weights
BLOCK = 2**17  # numbers that are worked on at once: no new memory from the system, and they stay in the cache
VARIANTS = 64  # of a loop, by dtype and by which sizes are 1; PyTorch gives up after 8


class Grid(NamedTuple):
    """The quantiser of each row; `codes` are the first and the last, None where rounding cannot pass them."""

    scale: Tensor
    zero: Tensor
    high: Tensor | None  # bounds of the clamp before, of weights
    low: Tensor | None
    codes: tuple[int, int] | None


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def grid_of(
    largest: Tensor,
    smallest: Tensor,
    max_logit: Tensor | None,
    min_logit: Tensor | None,
    bits: int,
    symmetric: bool,
    per: Per,
) -> Grid:
    """From the extremes of each row and the logits."""
    nothing = torch.zeros_like(largest)
    clips = max_logit is not None or min_logit is not None
    high = largest if max_logit is None else largest * max_logit.sigmoid()
    low = smallest if min_logit is None else smallest * min_logit.sigmoid()
    clamps = clips and per == "row"
    if clamps:
        largest, smallest = torch.clamp(largest, low, high), torch.clamp(smallest, low, high)
    else:
        largest, smallest = high, low
    largest, smallest = torch.maximum(largest, nothing), torch.minimum(smallest, nothing)
    span = torch.maximum(largest, -smallest) if symmetric else largest - smallest
    if per == "row":
        span = span.clamp(min=SMALLEST_RANGE)
    scale = span / (2 ** (bits - 1) - 1 if symmetric else 2**bits - 1)
    scale = scale.where(scale != 0, 1)  # a token of zeros; NaN stays
    if symmetric:
        codes = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if clips and not clamps else None
        return Grid(scale, nothing, *((high, low) if clamps else (None, None)), codes)
    # the zero point is rounded, so that the last code can be passed without clipping too
    zero = (-smallest / scale).round()
    return Grid(scale, zero, *((high, low) if clamps else (None, None)), (0, 2**bits - 1))


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest number of each row."""
    return at_least_float32(x.amax(-1, keepdim=True)), at_least_float32(x.amin(-1, keepdim=True))


# -- forwards and backwards --------------------------------------------------------------------------------------------

Found = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Gradients = tuple[Tensor, Tensor | None, Tensor | None]


@no_type_check  # no run-time checks in what is compiled
def forwards(
    x: Tensor, max_logit: Tensor | None, min_logit: Tensor | None, bits: int, symmetric: bool, per: Per
) -> Found:
    """s (q - z), s, z, and the extremes of the rows."""
    largest, smallest = extremes(x)
    grid = grid_of(largest, smallest, max_logit, min_logit, bits, symmetric, per)
    y = torch.empty_like(x)
    for block in blocks(x):
        part = part_of(grid, block)
        y[block] = steps(x[block], part).mul_(part.scale)
    return y, grid.scale, grid.zero, largest, smallest


@no_type_check
def backwards(
    grad: Tensor, grad_scale: Tensor | None, x: Tensor, largest: Tensor, smallest: Tensor,
    max_logit: Tensor | None, min_logit: Tensor | None, bits: int, symmetric: bool, per: Per,
) -> Gradients:  # fmt: skip
    """Gradients of x and of the logits."""
    grid = grid_of(largest, smallest, max_logit, min_logit, bits, symmetric, per)
    grad_x = torch.empty_like(x, dtype=grid.scale.dtype)
    found = [_gradients(grad[block], x[block], part_of(grid, block), grad_x[block]) for block in blocks(x)]
    grads = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True)]
    if grad_scale is not None:
        grads[0] = grads[0] + grad_scale
    of_extremes, *of_logits = _of_scalars(grads, largest, smallest, max_logit, min_logit, bits, symmetric, per)
    for extreme, g in zip((largest, smallest), of_extremes, strict=True):
        for block in blocks(x):
            places = _equal(at_least_float32(x[block]), extreme[block])
            grad_x[block].addcmul_(places, g[block] / places.sum(-1, keepdim=True))
    return grad_x, *of_logits


@no_type_check
def _of_scalars(
    grads: list[Tensor],
    largest: Tensor,
    smallest: Tensor,
    max_logit: Tensor | None,
    min_logit: Tensor | None,
    bits: int,
    symmetric: bool,
    per: Per,
) -> tuple[tuple[Tensor, Tensor], Tensor | None, Tensor | None]:
    """Gradients of the extremes and the logits, given those of scale, high and low."""

    def bounds(*scalars: Tensor) -> tuple[Tensor, ...]:
        rest = iter(scalars[2:])
        a, b = (None if logit is None else next(rest) for logit in (max_logit, min_logit))
        grid = grid_of(scalars[0], scalars[1], a, b, bits, symmetric, per)
        return tuple(bound for bound in (grid.scale, grid.high, grid.low) if bound is not None)

    given = [scalar for scalar in (largest, smallest, max_logit, min_logit) if scalar is not None]
    _, pull = torch.func.vjp(bounds, *given)
    of_largest, of_smallest, *of_logits = pull(tuple(grads))
    found = iter(of_logits)
    of_max, of_min = (None if logit is None else next(found) for logit in (max_logit, min_logit))
    return (of_largest, of_smallest), of_max, of_min


def blocks(x: Tensor) -> list[Any]:
    """Rows of x that stay in the cache of a CPU together, as indices."""
    rows = max(1, BLOCK // max(1, x.shape[-1]))
    if x.device.type != "cpu" or torch.compiler.is_compiling() or len(x) <= rows:
        return [...]
    return [slice(i, i + rows) for i in range(0, len(x), rows)]


def part_of(grid: Grid, block: Any) -> Grid:
    high, low = (None if bound is None else bound[block] for bound in (grid.high, grid.low))
    return Grid(grid.scale[block], grid.zero[block], high, low, grid.codes)


def steps(x: Tensor, grid: Grid) -> Tensor:
    """q - z."""
    return _kept(_clamped(at_least_float32(x), grid).div(grid.scale).round_(), grid)


def _clamped(x: Tensor, grid: Grid) -> Tensor:
    """x between the bounds of its row: `torch.clamp`, several times faster."""
    if grid.high is None or grid.low is None:
        return x
    return torch.maximum(x, grid.low).minimum(grid.high)


def _kept(rounded: Tensor, grid: Grid) -> Tensor:
    """q - z from round(x / s), in place."""
    if grid.codes is None:
        return rounded
    return rounded.add_(grid.zero).clamp_(*grid.codes).sub_(grid.zero)


def _gradients(grad: Tensor, x: Tensor, grid: Grid, grad_x: Tensor) -> tuple[Tensor, ...]:
    """Those of scale, high and low; that of x with these fixed goes into `grad_x`."""
    grad, x = at_least_float32(grad), at_least_float32(x)
    inner = _clamped(x, grid)
    u = inner / grid.scale
    steps = u.round()
    grad_inner = grad_x.copy_(grad)
    if grid.codes is not None:
        rounded = steps.clone()
        K = _equal(rounded, _kept(steps, grid))
        grad_inner.mul_(K)
        u.mul_(K)
    grad_scale = steps.sub_(u).mul_(grad).sum(-1, keepdim=True)
    if grid.high is None or grid.low is None:
        return (grad_scale,)
    outside = torch.ne(inner, x, out=u).mul_(grad_inner)
    grad_x.sub_(outside)
    total = outside.sum(-1, keepdim=True)
    above = torch.gt(x, grid.high, out=inner).mul_(outside).sum(-1, keepdim=True)
    return grad_scale, *_of_bounds(total, above, grid.high, grid.low)


def _of_bounds(total: Tensor, above: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
    """torch.clamp returns `high` everywhere if high <= low."""
    return above.where(low <= high, total), (total - above).where(low < high, 0)


def _equal(a: Tensor, b: Tensor) -> Tensor:
    """1 where a = b, 0 elsewhere, as numbers: much faster than booleans."""
    return torch.eq(a, b, out=torch.empty_like(a))


# -- compiled ----------------------------------------------------------------------------------------------------------


@functools.cache
def _loop(function: Callable[..., Any]) -> Callable[..., Any]:
    return cast(Any, torch.compile)(function, dynamic=True, recompile_limit=VARIANTS)


@no_type_check
def _loop_codes(
    x: Tensor, max_logit: Tensor | None, min_logit: Tensor | None, bits: int, symmetric: bool, per: Per
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q - z in int8, s, and the extremes of the rows."""
    largest, smallest = extremes(x)
    grid = grid_of(largest, smallest, max_logit, min_logit, bits, symmetric, per)
    return steps(x, grid).to(torch.int8), grid.scale, largest, smallest


def _loop_rescale(product: Tensor, x_scale: Tensor, W_scale: Tensor) -> Tensor:
    return product * x_scale * W_scale.mT


def _loop_values(codes: Tensor, scale: Tensor) -> Tensor:
    return codes * scale


Kind = tuple[int, bool, Per]


@no_type_check
class RoundedProduct(torch.autograd.Function):
    """Q(x) Q(W)^T of two quantisers: their integers are multiplied, which is exact and four times as fast."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, x_max: Tensor | None, x_min: Tensor | None, x_kind: Kind,
        W: Tensor, W_max: Tensor | None, W_min: Tensor | None, W_kind: Kind,
    ) -> Tensor:  # fmt: skip
        x_codes, x_scale, *x_extremes = _loop(_loop_codes)(x, x_max, x_min, *x_kind)
        W_codes, W_scale, *W_extremes = _loop(_loop_codes)(W, W_max, W_min, *W_kind)
        ctx.kinds = x_kind, W_kind
        ctx.save_for_backward(
            x, *x_extremes, x_max, x_min, x_codes, x_scale, W, *W_extremes, W_max, W_min, W_codes, W_scale
        )
        return _loop(_loop_rescale)(code_products(x_codes, W_codes), x_scale, W_scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, W = ctx.saved_tensors[:7], ctx.saved_tensors[7:]
        grad_x = grad @ _loop(_loop_values)(*W[5:])
        grad_W = grad.mT @ _loop(_loop_values)(*x[5:])
        of_x = _loop(backwards)(grad_x, None, *x[:5], *ctx.kinds[0])
        of_W = _loop(backwards)(grad_W, None, *W[:5], *ctx.kinds[1])
        return *of_x, None, *of_W, None


# -- which of the two --------------------------------------------------------------------------------------------------

_compiled: ContextVar[bool] = ContextVar("compiled", default=False)


@contextmanager
def compiled_passes(on: bool = True) -> Iterator[None]:
    """Whether quantisers inside are compiled, on a CPU; their gradients are then too, wherever they are taken."""
    token = _compiled.set(on)
    try:
        yield
    finally:
        _compiled.reset(token)


def compiles(x: Tensor) -> bool:
    return not torch.compiler.is_compiling() and x.device.type == "cpu" and _compiled.get()


def multiplies_codes(x: Tensor) -> bool:
    return compiles(x) and INT8_DOT and x.dtype == torch.float32 and x.shape[-1] > 1


def passes_for(x: Tensor) -> tuple[Callable[..., Found], Callable[..., Gradients]]:
    """Forwards and backwards, compiled or not."""
    return (_loop(forwards), _loop(backwards)) if compiles(x) else (forwards, backwards)


@functools.cache
def can_compile() -> bool:
    """Whether loops can be compiled on this machine; the first call tries it."""
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        return False
    try:
        _loop(extremes)(torch.zeros(2, 3))
    except Exception:  # no headers of Python, no room for its cache, ...: whatever it is, it works without
        return False
    return True
