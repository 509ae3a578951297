"""What layers of state spaces learn beside a GRU and MiniRocket: pixels of digits, ListOps, real series."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from linmap.experiment import Arm, Check, Choice, Experiment, Kind, Outcome, Runs, Table, Trial, draw_all, mean_std
from linmap.recipes.hippo.compare import (
    ACCURACY,
    CHOOSING,
    GRU,
    MAJORITY,
    ROCKET,
    classified,
    draw_training,
    stream_checks,
    title,
)
from linmap.sequence.s4 import GRUClassifier, S4Classifier
from linmap.sequence.s4.baselines import MiniRocket, MostFrequent
from studies.hippo.tasks import ARCHIVE, Task, part
from studies.study import Findings, Job

SYSTEM, REAL = title("s4d", "lin"), title("s4d", "real")
SLOW = f"{SYSTEM}, timescale far too long"
FAR_TOO_LONG = (1e-5, 1e-4)
SMALL_SETTING = 0.83  # accuracy of S4D-Lin on `mnist` after six epochs
RATES = (1e-2, 3e-3)


def pixels_small(job: Job) -> Findings:
    """The digits inside the package."""
    return _findings(job, ["mnist-small"], [*_both(job, RATES[:1]), *_ablations(job)])


def pixels(job: Job) -> Findings:
    """The published small setting, and other starts of the states."""
    starts = [("s4d", "inv"), ("s4d", "legs"), ("s4", "legs"), ("s4", "fout")]
    further = [_arm(job, title(*start), "system", layer=start[0], init=start[1]) for start in starts]
    name = "mnist-small" if job.tiny else "mnist"
    return _findings(job, [name], [*_both(job, RATES), *further, *_ablations(job)])


def pixels_784(job: Job) -> Findings:
    """Every pixel of 9,000 digits."""
    return _findings(job, ["mnist-small" if job.tiny else "mnist-784"], _both(job, RATES))


def listops(job: Job) -> Findings:
    """Nested operations on digits."""
    return _findings(job, ["listops"], _both(job, RATES))


def archive(job: Job) -> Findings:
    """Real series that ship with aeon."""
    arms = _both(job, RATES)
    if MiniRocket.installed():
        arms.append(Arm(ROCKET, "baseline", partial(_run, MiniRocket, None, False), note="10,000 kernels, of aeon"))
    return _findings(job, ["JapaneseVowels"] if job.tiny else ARCHIVE, arms)


# -- arms --------------------------------------------------------------------------------------------------------------


def _both(job: Job, rates: Sequence[float]) -> list[Arm]:
    """The system and the GRU, each with rates to choose from, and what looks at no series."""
    return [
        Arm(SYSTEM, "system", partial(_run, S4Classifier, {"init": "lin"}, job.resume), rates=rates),
        Arm(GRU, "baseline", partial(_run, GRUClassifier, {}, job.resume), rates=rates, note="equal width"),
        Arm(MAJORITY, "reference", partial(_run, MostFrequent, None, False), seeded=False),
    ]


def _ablations(job: Job) -> list[Arm]:
    return [
        _arm(job, REAL, "ablation", "frequencies begin at 0", init="real"),
        _arm(job, SLOW, "ablation", f"dt in {list(FAR_TOO_LONG)}", init="lin", dt=FAR_TOO_LONG),
    ]


def _arm(job: Job, name: str, kind: Kind, note: str = "", **changes: Any) -> Arm:
    """State spaces with other parameters, at the rate of the system."""
    return Arm(name, kind, partial(_run, S4Classifier, changes, job.resume), changes, rate_of=SYSTEM, note=note)


def _run(kind: Any, changes: dict[str, Any] | None, resume: bool, trial: Trial) -> Outcome:
    task: Task = trial.data
    train, validation, test = task.train, task.validation, task.test
    if trial.choosing:
        train, spared = train.hold_out(CHOOSING, trial.seed)
        assert spared is not None  # a quarter of the training series
        validation, test = None, spared
    build = kind if changes is None else partial(kind, **task.options() | changes)
    return classified(build, train, validation, test, resume, trial)


# -- what it finds -----------------------------------------------------------------------------------------------------


def _findings(job: Job, names: Sequence[str], arms: list[Arm]) -> Findings:
    parts = [part(name, job.tiny) for name in names]
    validated = all(each.data.validation is not None for each in parts)
    choice = Choice("validation accuracy" if validated else ACCURACY.name, "higher", pilots=not validated)
    experiment = Experiment("hippo", job.out / "runs", {"tiny": job.tiny}, job.resume)
    runs = experiment.run(arms, parts, job.seeds, choice)
    first = parts[0]
    draw = partial(draw_training, runs, first.name, str(first.data))
    drawn, missing = draw_all([(job.out / "training.svg", draw)])
    tasks = "; ".join(str(each.data) for each in parts)
    checks = [*_learning_checks(runs), *stream_checks(runs)]
    return Findings(f"{tasks}; mean over the samples of a small stack.", [_table(runs)], checks, missing, drawn)


def _table(runs: Runs) -> Table:
    rows: list[list[str | float | int]] = [
        [
            arm.name,
            *(mean_std(runs.values(arm.name, ACCURACY.name, name)) for name in runs.parts),
            runs.of(arm.name)[0].parameters or "",
            runs.row(arm, [ACCURACY]).note,
        ]
        for arm in runs.arms
    ]
    return Table("Accuracy", ["method", *runs.parts, "parameters", "note"], rows)


def _learning_checks(runs: Runs) -> list[Check]:
    checks, names = [], {arm.name for arm in runs.arms}
    for name in runs.parts:
        mean = {arm: runs.mean(arm, ACCURACY.name, name) for arm in names}
        checks += [
            Check(
                f"{name}: {SYSTEM} is above {peer}",
                mean[SYSTEM] > mean[peer],
                f"{mean[SYSTEM]:.4f} against {mean[peer]:.4f}",
                f"take {peer} on series like these",
                runs.differ(SYSTEM, peer, ACCURACY.name, name),
            )
            for peer in (GRU, REAL)
            if peer in names
        ]
        if SLOW in names:
            statement = f"{name}: with a timescale far too long, {SYSTEM} loses at least 0.3"
            figures = f"{mean[SLOW]:.4f} against {mean[SYSTEM]:.4f}"
            otherwise = "the timescale would not matter, and need not be chosen"
            checks.append(Check(statement, mean[SLOW] < mean[SYSTEM] - 0.3, figures, otherwise))
        if name == "mnist":
            statement, figures = f"mnist: {SYSTEM} reaches {SMALL_SETTING} in six epochs", f"{mean[SYSTEM]:.4f}"
            otherwise = "the published accuracy at this size is not reproduced"
            checks.append(Check(statement, mean[SYSTEM] >= SMALL_SETTING, figures, otherwise))
    return checks
