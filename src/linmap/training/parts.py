"""What one of several processes computes of a batch, and what it asks the others for.

Each process has some rows of every batch, and what is a mean over samples needs no more: gradients are averaged. What
looks at the batch as a whole (statistics of a batch, a ratio of sums, a loss that compares its samples, one draw for
all) takes the functions of this file, and comes out as in one process. There, and outside of a step of `train`, they
change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor


class Part(NamedTuple):
    """The rows of a batch that a process computes."""

    own: Int[Tensor, " rows"]
    """Numbers of its samples."""
    weight: float
    """What makes the mean losses of all parts one mean; 0 where the rows are another process's, and only computed for
    company."""
    whole: Int[Tensor, " samples"]
    """Numbers of the samples of all processes, in their order."""
    first: int
    """Where its own begin there."""


_current: Part | None = None  # of the process: backward passes on a GPU have threads of their own, and need it too


@contextmanager
def computing(part: Part | None) -> Iterator[None]:
    """Inside, `part` is what this process computes; None where there is one process."""
    global _current
    _current = part
    try:
        yield
    finally:
        _current = None


def current() -> Part | None:
    """What this process computes of a batch that it shares with others."""
    return _current


def summed(x: Tensor) -> Tensor:
    """The sum over the processes of what each has; differentiable, as often as you like."""
    if _current is None:
        return x
    return _Sum.apply(x if _current.weight else 0 * x)


def mean(x: Shaped[Tensor, "rows ..."]) -> Tensor:
    """The mean over the rows of all processes, of which this one may have none."""
    if _current is None:
        return x.mean(0)
    return summed(x.sum(0)) / summed(x.new_tensor(len(x)))


def share(count: Tensor) -> Tensor | float:
    """The factor for a mean over `count` things of this process's rows, such as the points of its clouds, that makes
    the loss the mean over those of all rows."""
    if _current is None:
        return 1.0
    own = count.detach().double()
    factor = own / summed(own) * (len(_current.whole) / len(_current.own))
    return factor.to(torch.get_default_dtype())


def total(count: int) -> int:
    """How many things all processes have, where each row has as many."""
    return count if _current is None else count // len(_current.own) * len(_current.whole)


def drawn(draw: Callable[..., Tensor], *shape: int, **options: Any) -> Tensor:
    """This process's rows of `draw(*shape)`, such as `torch.rand`, for the rows of all.

    Every process must call it with a generator in the same state; without it, their rows would be alike.
    """
    if _current is None or shape[0] != len(_current.own):
        return draw(*shape, **options)
    return draw(len(_current.whole), *shape[1:], **options)[_current.first : _current.first + shape[0]]


def everyones(x: Shaped[Tensor, "rows ..."]) -> Shaped[Tensor, "samples ..."]:
    """The rows of all processes, in the order of the batch, without gradients."""
    if _current is None:
        return x
    each = len(x) // len(_current.own)
    whole = x.new_zeros(len(_current.whole) * each, *x.shape[1:], dtype=torch.uint8 if x.dtype == torch.bool else None)
    if _current.weight:
        whole[_current.first * each :][: len(x)] = x.detach()
    torch.distributed.all_reduce(whole)
    return whole.to(x.dtype)


class _Sum(torch.autograd.Function):
    """Sums forth and back; the backward pass is of the same kind, and has one of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        whole = x.detach().clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Sum.apply(gradients[0])
