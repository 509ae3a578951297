"""A target of speed: the plain and the compressed model are timed on the user's machine, and the budget follows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linmap.compress.token_transforming.budget import Budget
from linmap.compress.token_transforming.cost import LEAST_KEEP
from linmap.compress.token_transforming.schedules import stage_layers
from linmap.errors import ArgumentError, ArgumentTypeError

if TYPE_CHECKING:
    from linmap.compress.token_transforming.encoder_handle import CompressedEncoder

STEPS = 7  # of the bisection: the share that is kept is found to 1 %
CHECKS, LESS = 8, 0.97  # how often the share is lowered that was found, and what is left of it each time
SECONDS, PAIRS = 0.4, (5, 25)  # of plain runs in a measurement; at least and at most so many pairs


@dataclass(frozen=True)
class Measured:
    """What was measured for a target of speed.

    Attributes
    ----------
    target, speedup
        What was asked for, and the ratio of the medians at the budget that was chosen.
    plain_seconds, compressed_seconds
        Medians of one call.
    keep, layers
        The budget: the share of tokens that is kept at each of these layers.
    probes
        (keep, speed-up) of all budgets that were tried, in order.
    """

    target: float
    speedup: float
    plain_seconds: float
    compressed_seconds: float
    keep: float
    layers: tuple[int, ...]
    probes: tuple[tuple[float, float], ...]


def solve_latency(handle: CompressedEncoder, target: float, example: Any) -> None:
    """Set the budget of a handle to the mildest one that is fast enough, and note what was measured.

    Three stages stand where `solve_stages` puts them: as late as keeping `LEAST_KEEP` is fast enough. The share of
    tokens that they keep is found by bisection, each step measured by alternating runs of the plain and the compressed
    model. What is found is measured again, for the best of several measurements is a lucky one; where it is too slow
    then, 3 % less is kept, until it is fast enough.

    Raises
    ------
    TypeError, ValueError
        If the target is no number above 1, or there is no example; if it cannot be reached, with the largest speed-up
        that was. The model is then what it was.
    """
    try:
        _check(target, example)
        handle.measured = _solve(handle, float(target), example)
    except BaseException:
        handle.remove()
        raise


def _check(target: Any, example: Any) -> None:
    if not isinstance(target, Real) or isinstance(target, bool):
        raise ArgumentTypeError(f"target_speedup must be a number above 1, got {target!r}.")
    if not float(target) > 1:
        raise ArgumentError(f"target_speedup must be above 1, got {target}.")
    if example is None:
        raise ArgumentError("target_speedup is measured on an input of the model: give it as example=...")


def _solve(handle: CompressedEncoder, target: float, example: Any) -> Measured:
    probes: list[tuple[float, float]] = []

    def probe(keep: float, layers: tuple[int, ...]) -> tuple[float, float]:
        handle.budget = Budget("stages", (keep, layers))
        plain, fast = _alternate(handle, example)
        probes.append((keep, plain / fast))
        return plain, fast

    places = stage_layers(handle.size.depth)
    for layers in places:
        low = LEAST_KEEP if layers != places[-1] else 1e-6
        best = probe(low, layers)
        if best[0] / best[1] >= target:
            break
    else:
        raise ArgumentError(
            f"target_speedup = {target} cannot be reached on this example: with one token left after layer {layers[0]} "
            f"the model is {best[0] / best[1]:.2f} times as fast."
        )
    high = 1.0
    for _ in range(STEPS):
        keep = (low + high) / 2
        seconds = probe(keep, layers)
        if seconds[0] / seconds[1] >= target:
            low, best = keep, seconds
        else:
            high = keep
    low, best = _confirmed(low, LEAST_KEEP if layers != places[-1] else 1e-6, target, partial(probe, layers=layers))
    handle.budget = Budget("stages", (low, layers))
    return Measured(target, best[0] / best[1], *best, low, layers, tuple(probes))


def _confirmed(
    keep: float, least: float, target: float, probe: Callable[[float], tuple[float, float]]
) -> tuple[float, tuple[float, float]]:
    """The share to keep after further measurements, and the seconds of the last one."""
    seconds = probe(keep)
    for _ in range(CHECKS):
        if seconds[0] / seconds[1] >= target or keep <= least:
            break
        keep = max(LESS * keep, least)
        seconds = probe(keep)
    return keep, seconds


def _alternate(handle: CompressedEncoder, example: Any) -> tuple[float, float]:
    """Median seconds of the plain and of the compressed model, which take turns."""
    devices = [tensor.device for tensor in handle.model.parameters() if tensor.is_cuda][:1]
    with torch.no_grad(), torch.random.fork_rng(devices):
        with handle.paused():
            once = _seconds(handle, example)
        _seconds(handle, example)
        pairs = min(max(int(SECONDS / once), PAIRS[0]), PAIRS[1])
        plain, fast = [], []
        for _ in range(pairs):
            with handle.paused():
                plain.append(_seconds(handle, example))
            fast.append(_seconds(handle, example))
    return median(plain), median(fast)


def _seconds(handle: CompressedEncoder, example: Any) -> float:
    _wait()
    start = time.perf_counter()
    call(handle.model, example)
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def call(model: Any, example: Any) -> Any:
    """The model's output for an input given as a tensor, a tuple or a mapping.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(example, Mapping):
        return model(**example) if _takes_keywords(model) else model(dict(example))
    if isinstance(example, tuple | list):
        return model(*example)
    if isinstance(example, Tensor):
        return model(example)
    raise ArgumentTypeError(f"example must be a tensor, a tuple or a mapping, got {type(example).__name__}.")


def _takes_keywords(model: Any) -> bool:
    """Whether a mapping is an input by keywords; a SentenceTransformer takes it as one argument."""
    return type(model).__name__ != "SentenceTransformer"
