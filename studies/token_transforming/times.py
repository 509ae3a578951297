"""Seconds of DINOv2-small with merged tokens: one and two threads, one image and eight, in turn in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linmap.compress.token_transforming import TokenTransform, Transform
from linmap.compress.token_transforming.evaluation.images import Images
from linmap.compress.token_transforming.evaluation.subject import plain_macs
from linmap.compress.token_transforming.evaluation.ways import encoder_ways
from linmap.data.image_sets import ImageSet
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Runs, Table, Trial
from studies.study import Findings, Job
from studies.token_transforming.common import HARD, OURS
from studies.token_transforming.labels import dinov2
from studies.token_transforming.photographs import photographs
from studies.token_transforming.thresholds import stages_of

PLAIN, TOME, FREE = "as it is", "ToMe on x", "for nothing"
OF_TOME = {OURS: "of ToMe", HARD: "hard of ToMe"}
LEAST = [f"{key}, least" for key in OF_TOME.values()]
FASTER = {0.39: 1.5, 0.58: 2.2}
"""Least times as fast, by the part of the multiply-adds that is saved."""
WITHIN = 1.05
"""Most of ToMe's seconds."""


class First(Transform):
    """Leaves the first M of N tokens, with masses of 1, and takes no time."""

    def __init__(self, like: Tensor, M: int) -> None:
        object.__setattr__(self, "_shape", (len(like), M, like.shape[1]))
        object.__setattr__(self, "_mass_out", like.new_ones(len(like), M))

    _shape: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def apply(self, x: Tensor) -> Tensor:
        return x[:, : self._shape[1]]


@dataclass(frozen=True)
class Free(TokenTransform):
    """What fewer tokens would save if merging took no time: no way can be faster."""

    def build(self, x: Tensor, *, M: int, **options: Any) -> Transform:
        """The first tokens, whatever they hold."""
        return First(x, M)


def run(job: Job) -> Findings:
    """Every combination; a turn is the model as it is and each way at both budgets, one after the other."""
    sides, batches, threads, turns = ((28,), (1,), (1,), 1) if job.tiny else ((224, 518), (1, 8), (1, 2), 5)
    parts = [Part(f"{side}, batch {batch}, {n} thread{'s' * (n > 1)}", (side, batch, n))
             for side in sides for batch in batches for n in threads]  # fmt: skip
    experiment = Experiment("token transforming times", job.out / "runs", {"turns": turns}, job.resume)
    arm = Arm(OURS, "system", lambda trial: measured(trial, turns), seeded=False)
    runs = experiment.run([arm], parts, [0])
    setting = (
        "DINOv2-small, float32, blocks 3, 6 and 9 keep what saves 39 or 58 % of the multiply-adds; "
        f"{turns} turns after one that warms up, wall clock (and the processor's, where one thread works); medians "
        f"over the turns of what each takes beside the others in its turn. '{FREE}': the first tokens stay and the "
        "others vanish, so that merging takes no time; what is missing to the multiply-adds are the patches, their "
        "positions and reading the weights, which fewer tokens do not save."
    )
    return Findings(setting, [table(runs)], checks(runs))


def measured(trial: Trial, turns: int) -> Outcome:
    """Medians of the ratios within a turn."""
    side, batch, threads = trial.data
    model, preparation = dinov2()
    images = photographs()
    chosen = [number % len(images) for number in range(batch)]
    subject = Images(
        model, ImageSet(tuple(map(str, range(batch))), lambda i: images[chosen[i]]), preparation.at(side), batch
    )
    torch.set_num_threads(threads)
    subject.inputs(0)
    ways = {way.name: way.transform for way in encoder_ways(TokenTransform()) if way.name in (OURS, HARD, TOME)}
    ways[FREE] = Free(select="random")
    clock = time.process_time if threads == 1 else time.perf_counter
    stages = {saved: (0.5, (3, 6, 9)) if side < 42 else stages_of(subject, 1 - saved) for saved in FASTER}
    full, seconds, macs = plain_macs(subject.model, subject.tokens), dict[str, list[float]](), dict[str, float]()
    for turn in range(turns + 1):
        spent = {PLAIN: timed(subject, clock)}
        for saved, budget in stages.items():
            for name, transform in ways.items():
                with subject.compressed(transform, *budget) as handle:
                    spent[f"{name}, {saved:g}"] = timed(subject, clock)
                    macs[f"{name}, {saved:g}"] = 1 - handle.macs(subject.tokens) / full
        if turn:
            for name, value in spent.items():
                seconds.setdefault(name, []).append(value)
    values = {PLAIN: statistics.median(seconds[PLAIN])}
    for saved in FASTER:
        of = {name: seconds[f"{name}, {saved:g}"] for name in ways}
        for name, its in of.items():
            values[f"{name}, {saved:g}"] = statistics.median(a / b for a, b in zip(seconds[PLAIN], its, strict=True))
        for name, key in OF_TOME.items():
            values[f"{key}, {saved:g}"] = statistics.median(a / b for a, b in zip(of[name], of[TOME], strict=True))
            values[f"{key}, least, {saved:g}"] = min(of[name]) / min(of[TOME])
        values[f"saved, {saved:g}"] = macs[f"{OURS}, {saved:g}"]
    return Outcome(values, details={"seconds": seconds})


def timed(subject: Images, clock: Callable[[], float]) -> float:
    """Seconds of one forward pass."""
    start = clock()
    subject.forward(0)
    return clock() - start


def table(runs: Runs) -> Table:
    """A line for each combination."""
    rows: list[list[str | float | int]] = []
    for part in runs.parts:
        (one,) = runs.of(OURS, part)
        cells = [f"{one.values[PLAIN]:.3f}"]
        for saved in FASTER:
            found = [
                one.values[f"{name}, {saved:g}"]
                for name in ("saved", OURS, HARD, TOME, FREE, *OF_TOME.values(), *LEAST)
            ]
            cells += [
                f"-{found[0]:.1%}",
                *(f"{times:.2f}" for times in found[1:5]),
                *(f"{share:.3f}" for share in found[5:]),
            ]
        rows.append([part, *cells])
    columns = [
        f"{name}, -{saved:.0%}"
        for saved in FASTER
        for name in ("MACs", "times as fast", HARD, TOME, FREE, *(f"{key}'s time" for key in OF_TOME.values()), *LEAST)
    ]
    return Table("Seconds in turn", ["images", "seconds as it is", *columns], rows)


def checks(runs: Runs) -> list[Check]:
    """The bars, over all combinations."""
    found = []
    for saved, bar in FASTER.items():
        speeds = {part: runs.mean(OURS, f"{OURS}, {saved:g}", part) for part in runs.parts}
        slowest = min(speeds, key=lambda part: speeds[part])
        least, free = speeds[slowest], runs.mean(OURS, f"{FREE}, {saved:g}", slowest)
        statement = f"-{saved:.0%}: at least {bar} times as fast everywhere"
        figures = f"least {least:.2f} ({slowest}; {free:.2f} if merging took no time)"
        found.append(Check(statement, least >= bar, figures, "a pass has costs that fewer tokens do not save"))
        for name, key in OF_TOME.items():
            shares = {part: runs.mean(OURS, f"{key}, {saved:g}", part) for part in runs.parts}
            most = max(shares, key=lambda part: shares[part])
            statement = f"-{saved:.0%}: {name} is within 5 % of ToMe's time everywhere"
            figures = f"most {shares[most]:.3f} ({most})"
            found.append(Check(statement, shares[most] <= WITHIN, figures, "centres cost more than pairs"))
    return found
