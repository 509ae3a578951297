"""Seconds of DINOv2-small with merged tokens: one and two threads, one image and eight, in turn in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from linmap.compress.token_transforming import TokenTransform
from linmap.compress.token_transforming.evaluation.images import Images
from linmap.compress.token_transforming.evaluation.subject import plain_macs
from linmap.compress.token_transforming.evaluation.ways import encoder_ways
from linmap.data.image_sets import ImageSet
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Runs, Table, Trial
from studies.study import Findings, Job
from studies.token_transforming.common import OURS
from studies.token_transforming.labels import dinov2
from studies.token_transforming.photographs import photographs

PLAIN, TOME = "as it is", "ToMe on x"
KEEPS = (0.65, 0.35)
FASTER = {0.65: 1.5, 0.35: 2.2}
"""Least times as fast, by budget."""
WITHIN = 1.05
"""Most of ToMe's seconds."""


def run(job: Job) -> Findings:
    """Every combination; a turn is the model as it is, ours and ToMe's at both budgets, one after the other."""
    sides, batches, threads, turns = ((28,), (1,), (1,), 1) if job.tiny else ((224, 518), (1, 8), (1, 2), 5)
    parts = [Part(f"{side}, batch {batch}, {n} thread{'s' * (n > 1)}", (side, batch, n))
             for side in sides for batch in batches for n in threads]  # fmt: skip
    experiment = Experiment("token transforming times", job.out / "runs", {"turns": turns}, job.resume)
    arm = Arm(OURS, "system", lambda trial: measured(trial, turns), seeded=False)
    runs = experiment.run([arm], parts, [0])
    setting = (
        f"DINOv2-small, float32, blocks 3, 6 and 9 keep .65 (about -39 % MACs) or .35 (-58 %); {turns} turns after one "
        "that warms up, wall clock (and the processor's, where one thread works); medians over the turns of what each "
        "takes beside the others in its turn."
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
    ways = {way.name: way.transform for way in encoder_ways(TokenTransform()) if way.name in (OURS, TOME)}
    clock = time.process_time if threads == 1 else time.perf_counter
    full, seconds, saved = plain_macs(subject.model, subject.tokens), dict[str, list[float]](), dict[str, float]()
    for turn in range(turns + 1):
        spent = {PLAIN: timed(subject, clock)}
        for keep in KEEPS:
            for name, transform in ways.items():
                with subject.compressed(transform, keep, None) as handle:
                    spent[f"{name}, {keep:g}"] = timed(subject, clock)
                    saved[f"{name}, {keep:g}"] = 1 - handle.macs(subject.tokens) / full
        if turn:
            for name, value in spent.items():
                seconds.setdefault(name, []).append(value)
    values = {PLAIN: statistics.median(seconds[PLAIN])}
    for keep in KEEPS:
        ours, theirs = seconds[f"{OURS}, {keep:g}"], seconds[f"{TOME}, {keep:g}"]
        values[f"faster, {keep:g}"] = statistics.median(a / b for a, b in zip(seconds[PLAIN], ours, strict=True))
        values[f"ToMe faster, {keep:g}"] = statistics.median(a / b for a, b in zip(seconds[PLAIN], theirs, strict=True))
        values[f"of ToMe, {keep:g}"] = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        values[f"saved, {keep:g}"] = saved[f"{OURS}, {keep:g}"]
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
        cells = [f"{one.values[PLAIN]:.2f}"]
        for keep in KEEPS:
            found = [one.values[f"{name}, {keep:g}"] for name in ("saved", "faster", "ToMe faster", "of ToMe")]
            cells += [f"-{found[0]:.1%}", f"{found[1]:.2f}", f"{found[2]:.2f}", f"{found[3]:.3f}"]
        rows.append([part, *cells])
    columns = [
        f"{name}, keep {keep:g}" for keep in KEEPS for name in ("MACs", "times as fast", "ToMe on x", "of ToMe's time")
    ]
    return Table("Seconds in turn", ["images", "seconds as it is", *columns], rows)


def checks(runs: Runs) -> list[Check]:
    """The bars, over all combinations."""
    found = []
    for keep, bar in FASTER.items():
        speeds = {part: runs.mean(OURS, f"faster, {keep:g}", part) for part in runs.parts}
        slowest = min(speeds, key=lambda part: speeds[part])
        statement, figures = f"keep {keep:g}: at least {bar} times as fast everywhere", speeds[slowest]
        found.append(
            Check(statement, figures >= bar, f"least {figures:.2f} ({slowest})", "merging costs what it saves")
        )
        shares = {part: runs.mean(OURS, f"of ToMe, {keep:g}", part) for part in runs.parts}
        most = max(shares, key=lambda part: shares[part])
        statement, figures = f"keep {keep:g}: within 5 % of ToMe's time everywhere", shares[most]
        found.append(
            Check(statement, figures <= WITHIN, f"most {figures:.3f} ({most})", "centres cost more than pairs")
        )
    return found
