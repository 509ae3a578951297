"""How far an input pixel reaches: its projective field, proved step by step from the tape.

Each axis is treated by itself: `lo` and `hi` hold, for every input position, the first and the last output position
that it can write to (lo > hi where it writes nowhere).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linmap.errors import LinmapError
from linmap.interpret.linearscope.tape import Step, Tape


class ReceptiveFieldError(LinmapError, ValueError):
    """An operation on the way spreads a pixel over the image in a way that is not traced."""


@dataclass(frozen=True)
class Reach:
    """First and last output position of every input position along one axis."""

    lo: np.ndarray
    hi: np.ndarray

    def union(self, other: Reach) -> Reach:
        return Reach(np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi))

    def within(self, size: int) -> Reach:
        """Cut to an axis of `size` positions."""
        lo, hi = np.maximum(self.lo, 0), np.minimum(self.hi, size - 1)
        nowhere = lo > hi
        return Reach(np.where(nowhere, _FAR, lo), np.where(nowhere, -_FAR, hi))

    def period(self) -> int:
        """Smallest distance at which the reaches of any two input positions are disjoint."""
        n = len(self.lo)
        last = np.maximum.accumulate(self.hi)  # the furthest that positions up to j reach
        first = np.minimum.accumulate(self.lo[::-1])[::-1]  # the nearest that positions from j on reach
        return next((p for p in range(1, n) if bool((last[:-p] < first[p:]).all())), n)


_FAR = 1 << 40

ELEMENTWISE = frozenset(
    [
        "relu",
        "leaky_relu",
        "_prelu_kernel",
        "rrelu_with_noise",
        "hardtanh",
        "hardsigmoid",
        "threshold",
        "hardshrink",
        "softshrink",
        "abs",
        "maximum",
        "minimum",
        "clamp",
        "clamp_min",
        "clamp_max",
        "sigmoid",
        "tanh",
        "elu",
        "celu",
        "softplus",
        "log_sigmoid_forward",
        "silu",
        "gelu",
        "mish",
        "hardswish",
        "exp",
        "pow",
        "sqrt",
        "log",
        "reciprocal",
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "neg",
        "clone",
        "detach",
        "alias",
        "_to_copy",
        "copy",
        "native_batch_norm",
        "native_layer_norm",
        "native_group_norm",
        "where",
        "masked_fill",
        "view",
        "_unsafe_view",
    ]
)


def projective_field(tape: Tape, shape: tuple[int, ...]) -> tuple[Reach, Reach]:
    """The reach of every input row and of every input column of images (1, channels, height, width) = `shape`.

    Raises
    ------
    ReceptiveFieldError
        If an operation on the way is not traced; the message names it.
    """
    if len(shape) != 4:
        raise ReceptiveFieldError(f"a projective field needs images (1, channels, height, width), got {tuple(shape)}.")
    every = [Reach(np.arange(size), np.arange(size)) for size in shape[2:]]
    values = {tape.start: (every[0], every[1])}
    shapes = {tape.start: tuple(shape)}
    for step in tape.steps:
        _check_images(step, [shapes[i] for i in step.inputs])
        moved = [_moved(step, values[i]) for i in step.inputs]
        first = moved[0]
        for other in moved[1:]:
            first = (first[0].union(other[0]), first[1].union(other[1]))
        values[step.output] = (first[0].within(step.shape[2]), first[1].within(step.shape[3]))
        shapes[step.output] = tuple(step.shape)
    return values[tape.end]


def _check_images(step: Step, inputs: list[tuple[int, ...]]) -> None:
    name = step.place.name
    keeps_place = name in ELEMENTWISE or name == "cat"
    if (
        len(step.shape) != 4
        or any(len(shape) != 4 for shape in inputs)
        or (keeps_place and any(shape[2:] != tuple(step.shape[2:]) for shape in inputs))
    ):
        raise ReceptiveFieldError(f"{step.place} leaves the plane of images, so no receptive field can be proved.")


def _moved(step: Step, reach: tuple[Reach, Reach]) -> tuple[Reach, Reach]:
    """Where the reach of an operation's input lies in its output."""
    name = step.place.name
    arguments: Any = step.arguments
    if name in ELEMENTWISE or (name == "cat" and (arguments[1] if len(arguments) > 1 else 0) % 4 == 1):
        return reach
    if name == "convolution":
        kernel, (stride, padding, dilation, transposed) = arguments[1][2:], arguments[3:7]
        move: Callable[..., Reach] = _transposed_window if transposed else _window
        return _both(move, reach, kernel, stride, padding, dilation)
    if name in ("avg_pool2d", "max_pool2d_with_indices"):
        kernel = arguments[1]
        stride = arguments[2] if len(arguments) > 2 and arguments[2] else kernel
        padding = arguments[3] if len(arguments) > 3 else 0
        dilation = arguments[4] if name.startswith("max") and len(arguments) > 4 else 1
        return _both(_window, reach, kernel, stride, padding, dilation)
    if name == "constant_pad_nd" and len(arguments[1]) in (2, 4):
        left, top = arguments[1][0], arguments[1][2] if len(arguments[1]) == 4 else 0
        return _shift(reach[0], top), _shift(reach[1], left)
    spread = {"pixel_shuffle": 0, "upsample_nearest2d": 0, "upsample_bilinear2d": 1, "upsample_bicubic2d": 2}.get(name)
    factors = (
        [out / size for out, size in zip(step.shape[2:], arguments[0][2:], strict=True)] if spread is not None else []
    )
    if spread is not None and all(factor == int(factor) >= 1 for factor in factors):
        return _spread(reach[0], int(factors[0]), spread), _spread(reach[1], int(factors[1]), spread)
    raise ReceptiveFieldError(f"{step.place} is not traced, so no receptive field can be proved; use columns(idx).")


def _both(
    move: Callable[..., Reach], reach: tuple[Reach, Reach], *settings: int | Sequence[int]
) -> tuple[Reach, Reach]:
    rows, columns = zip(*(_pair(setting) for setting in settings), strict=True)
    return move(reach[0], *rows), move(reach[1], *columns)


def _pair(setting: int | Sequence[int]) -> tuple[int, int]:
    values = [setting] if isinstance(setting, int) else list(setting)
    return values[0], values[-1]


def _window(reach: Reach, kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    """Output o reads inputs o * stride - padding + (0 .. kernel - 1) * dilation."""
    return Reach(-((dilation * (kernel - 1) - padding - reach.lo) // stride), (reach.hi + padding) // stride)


def _transposed_window(reach: Reach, kernel: int, stride: int, padding: int, dilation: int) -> Reach:
    return Reach(reach.lo * stride - padding, reach.hi * stride - padding + dilation * (kernel - 1))


def _shift(reach: Reach, by: int) -> Reach:
    return Reach(reach.lo + by, reach.hi + by)


def _spread(reach: Reach, factor: int, neighbours: int) -> Reach:
    return Reach((reach.lo - neighbours) * factor, (reach.hi + neighbours + 1) * factor - 1)
