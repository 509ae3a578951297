"""Seconds of a model with and without merged tokens, measured in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from linmap.compress.token_transforming import Compressed
from linmap.compress.token_transforming.evaluation.subject import Subject


@dataclass(frozen=True)
class Seconds:
    """Of one batch, each as many times as it was measured."""

    plain: list[float]
    compressed: list[float]

    @property
    def speed_up(self) -> float:
        """The median, over the turns, of how many times as fast the compressed model is."""
        return statistics.median(a / b for a, b in zip(self.plain, self.compressed, strict=True))


def in_turn(
    subject: Subject,
    compressed: Callable[[], Compressed],
    repeats: int,
    batch: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Seconds:
    """The model as it is and compressed, one after the other, `repeats` times, after a pass of each that warms up.

    Parameters
    ----------
    subject
        Whose forward pass is timed; nothing is read from files and nothing restored meanwhile.
    compressed
        Compresses the subject's model.
    repeats
        Turns.
    batch
        Which batch goes through.
    clock
        Seconds: of the wall, or `time.process_time`, which does not see what else the machine does.
    """
    found = Seconds([], [])
    for turn in range(repeats + 1):
        plain = _timed(subject, batch, clock)
        with compressed():
            fewer = _timed(subject, batch, clock)
        if turn:
            found.plain.append(plain)
            found.compressed.append(fewer)
    return found


def _timed(subject: Subject, batch: int, clock: Callable[[], float]) -> float:
    _synchronize()
    start = clock()
    subject.forward(batch)
    _synchronize()
    return clock() - start


def _synchronize() -> None:
    """Wait for the accelerator, where there is one."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
