"""One way at one budget: what it keeps of the answers, what it saves, and how fast it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from torch import Tensor

from linmap.compress.token_transforming.evaluation.subject import Measure, Subject
from linmap.compress.token_transforming.evaluation.timing import in_turn
from linmap.compress.token_transforming.evaluation.ways import Way
from linmap.experiment import Arm, Outcome, Part, Runs, Trial

ORIGINAL = "as it is"
SPEED, SAVED = "speed-up", "saved"


class Task:
    """A subject, the ways and the budgets.

    Parameters
    ----------
    subject
        The model and its inputs.
    ways
        The system first.
    keeps
        Budgets; those of the subject when None.
    at
        Blocks in which tokens are merged; None for the subject's own.
    repeats
        Times that each way is timed; 0 for not at all.
    lost
        What may be lost of the measure that decides; None for its own.
    clock
        As of `in_turn`.
    """

    def __init__(
        self,
        subject: Subject,
        ways: Sequence[Way],
        keeps: Sequence[float] | None = None,
        at: Sequence[int] | None = None,
        repeats: int = 3,
        lost: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.subject, self.ways, self.at, self.repeats, self.clock = subject, list(ways), at, repeats, clock
        self.keeps = sorted(keeps or subject.keeps, reverse=True)
        self.lost = self.first.lost if lost is None else lost
        self._before: list[dict[str, Tensor]] | None = None
        self._macs = math.nan

    @property
    def first(self) -> Measure:
        """The measure that decides."""
        return self.subject.measures[0]

    @property
    def batch(self) -> int:
        """Inputs that go through together."""
        return math.ceil(len(self.subject.names) / len(self.subject))

    def places(self) -> str:
        """Where tokens are merged, in words."""
        if self.at is not None:
            return f"block{'s' * (len(self.at) > 1)} {', '.join(map(str, self.at))}"
        return self.subject.places

    def arms(self) -> list[Arm]:
        """The ways, and the model as it is."""
        arms = [Arm(way.name, way.kind, partial(self.run, way), asdict(way.transform), seeded=False, note=way.note)
                for way in self.ways]  # fmt: skip
        return [*arms, Arm(ORIGINAL, "reference", partial(self.run, None), seeded=False, note="every token")]

    def parts(self) -> list[Part]:
        """The budgets."""
        return [Part(f"keep {keep:g}", keep) for keep in self.keeps]

    def before(self) -> list[dict[str, Tensor]]:
        """The features of the model as it is, batch by batch."""
        if self._before is None:
            self._before = [self.subject.features(batch) for batch in range(len(self.subject))]
            self._macs = self.subject.macs(None)
        return self._before

    def run(self, way: Way | None, trial: Trial) -> Outcome:
        """One way at one budget."""
        before, found = self.before(), dict[str, list[float]]()
        if way is None:
            for batch, one in enumerate(before):
                extend(found, self.subject.scores(one, one, batch))
            return Outcome({name: fmean(values) for name, values in found.items()}, details=found)
        compressed = partial(self.subject.compressed, way.transform, trial.data, self.at)
        with compressed() as handle:
            for batch, one in enumerate(before):
                extend(found, self.subject.scores(one, self.subject.features(batch, handle), batch))
            saved = 1 - self.subject.macs(handle) / self._macs
            left = handle.transforms[max(handle.transforms)].shape[1] if handle.transforms else None
        values = {name: fmean(numbers) for name, numbers in found.items()} | {SAVED: saved}
        details: dict[str, Any] = {**found, "left": left}
        if self.repeats:
            seconds = in_turn(self.subject, compressed, self.repeats, clock=self.clock)
            values[SPEED] = seconds.speed_up
            details["seconds"] = asdict(seconds)
        return Outcome(values, details=details)

    def bound(self, runs: Runs) -> float:
        """The least (or most) of the first measure that is good enough."""
        whole = runs.mean(ORIGINAL, self.first.name) if math.isnan(self.first.perfect) else self.first.perfect
        return whole - self.lost if self.first.better == "higher" else whole + self.lost

    def enough(self, value: float, bound: float) -> bool:
        """Whether a mean is good enough."""
        return value >= bound if self.first.better == "higher" else value <= bound


def extend(found: dict[str, list[float]], more: dict[str, list[float]]) -> None:
    """Append the values of another batch."""
    for name, values in more.items():
        found.setdefault(name, []).extend(values)
