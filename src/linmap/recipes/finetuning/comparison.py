"""`linmap compare bone` and `linmap compare triadaptlora`: adapters beside those that PEFT has, on the same batches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from linmap.data.text import read_training_texts
from linmap.experiment.drawing import Drawing, with_pictures
from linmap.experiment.result import Check, Picture, Result, Row, Table
from linmap.recipes.finetuning.arms import AVERAGE_RANK, banking_bone_arms, gsm8k_bone_arms, triadapt_arms
from linmap.recipes.finetuning.banking import ACCURACY, Banking, FewShot
from linmap.recipes.finetuning.experiments import Arm, Task
from linmap.recipes.finetuning.gsm8k import GSM8K, GSM8KSettings
from linmap.recipes.finetuning.pictures import draw_losses, draw_ranks, draw_scores, draw_validation
from linmap.recipes.finetuning.study import Study, study
from linmap.recipes.job import CompareJob

BankingArm = Literal["head", "lora", "rslora", "pissa", "miss", "bat", "bat-row", "add", "mini", "full"]
GSM8KArm = Literal["frozen", "lora", "rslora", "pissa", "miss", "bat", "bat-row", "add", "full"]
TriAdaptArm = Literal["head", "linear", "nonlinear", "random", "uniform", "lora", "adalora", "full"]
SAME = 0.01  # relative difference of losses that rounding may make


@dataclass(frozen=True)
class BoneComparison(FewShot, GSM8KSettings):
    """Flags of `linmap compare bone`. --data: a file of texts with labels, or of prompts with completions."""

    tasks: tuple[Literal["banking77", "gsm8k"], ...] = ("banking77",)
    """Few-shot classification of bank customers' sentences, and answers to grade-school problems."""
    arms: tuple[BankingArm, ...] = ("head", "lora", "pissa", "bat", "bat-row", "add")
    """Methods for banking77."""
    gsm8k_arms: tuple[GSM8KArm, ...] = ("frozen", "lora", "pissa", "bat", "bat-row", "add")
    """Methods for gsm8k."""


@dataclass(frozen=True)
class TriAdaptComparison(FewShot):
    """Flags of `linmap compare triadaptlora`. --data: a file of texts with labels."""

    lrs: tuple[float, ...] = (5e-3, 1e-2)
    """Learning rates that every arm chooses from, by the validation loss with the first seed; full tuning: 1/50 of
    each."""
    arms: tuple[TriAdaptArm, ...] = ("head", "lora", "adalora", "linear", "nonlinear", "random")
    """Methods: growth by importance (linear, nonlinear), at random and uniform with the same schedule, and others."""


LARGER: dict[str, Any] = {
    "shots": 40, "steps": 300, "batch_size": 32, "validation_per_class": 5, "test_per_class": 40,
}  # fmt: skip
BONE_PRESETS = {
    "quick": BoneComparison(),
    "full": BoneComparison(
        **LARGER,
        lrs=(1e-3, 2e-3, 5e-3),
        tasks=("banking77", "gsm8k"),
        arms=("head", "lora", "rslora", "pissa", "miss", "bat", "bat-row", "add", "mini", "full"),
    ),
}
TRIADAPT_PRESETS = {
    "quick": TriAdaptComparison(batch_size=8),  # in under three minutes on two cores
    "full": TriAdaptComparison(
        **LARGER,
        lrs=(2e-3, 5e-3, 1e-2),
        arms=("head", "lora", "adalora", "linear", "nonlinear", "random", "uniform", "full"),
    ),
}


def compare_bone(settings: BoneComparison, job: CompareJob) -> Result:
    """Bone in its modes, LoRA and its kin, at equal parameters and each at its best learning rate."""
    studies = []
    for slug in chosen_tasks(settings, job.data):
        if slug == "gsm8k":
            task, arms = GSM8K(settings, job.data), pick(gsm8k_bone_arms(), settings.gsm8k_arms)
            studies.append(studied(task, arms, settings.gsm8k_lrs, settings.gsm8k_seeds, job))
        else:
            task, arms = Banking(settings, job.data), pick(banking_bone_arms(), settings.arms)
            studies.append(studied(task, arms, settings.lrs, settings.seeds, job))
    return result("bone", studies, [check for found in studies for check in bone_checks(found)], settings, job)


def compare_triadaptlora(settings: TriAdaptComparison, job: CompareJob) -> Result:
    """Ranks that grow by importance beside fixed ranks, ranks that shrink, and growth that ignores importance."""
    task, arms = Banking(settings, job.data), pick(triadapt_arms(), settings.arms)
    found = studied(task, arms, settings.lrs, settings.seeds, job)
    return result("triadaptlora", [found], triadapt_checks(found), settings, job)


def studied(task: Task, arms: list[Arm], lrs: Sequence[float], seeds: int, job: CompareJob) -> Study:
    return study(task, arms, lrs, range(job.seed, job.seed + seeds), job.out / "runs" / task.slug, job.resume)


def chosen_tasks(settings: BoneComparison, data: Path | None) -> Sequence[str]:
    if data is None:
        return settings.tasks
    return ("gsm8k",) if read_training_texts(data).task == "language" else ("banking77",)


def pick(arms: dict[str, Arm], names: Sequence[str]) -> list[Arm]:
    """The arms of these names, the system first."""
    chosen = [arms[name] for name in dict.fromkeys(names)]
    return sorted(chosen, key=lambda arm: arm.kind != "system")


# -- what was found ---------------------------------------------------------------------------------------------------


def result(
    system: str,
    studies: list[Study],
    checks: list[Check],
    settings: BoneComparison | TriAdaptComparison,
    job: CompareJob,
) -> Result:
    """The rows, tables and pictures of all tasks; the loss of a language model comes first."""
    studies = sorted(studies, key=lambda found: found.task.slug != "gsm8k")
    compared = Result(
        system=system,
        task="; ".join(found.task.described() for found in studies),
        metrics=[metric for found in studies for metric in found.task.metrics],
        rows=rows_of(studies),
        shows=" ".join(shown(found) for found in studies),
        limits=" ".join(limits(found) for found in studies),
        checks=checks,
        tables=[table for found in studies for table in (losses(found), costs(found))],
        preset=job.preset,
        seeds=sorted({run.seed for found in studies for runs in found.runs.values() for run in runs}),
        settings=asdict(settings),
    )
    return with_pictures(compared, [drawing for found in studies for drawing in drawings(found, job.out)])


def rows_of(studies: list[Study]) -> list[Row]:
    """One row for each arm, with its metrics of every task; its cost is that of the first task that has it."""
    rows: dict[str, Row] = {}
    for found in studies:
        for arm in found.arms:
            runs, earlier = found.runs[arm.name], rows.get(arm.name)
            values = {metric.name: found.values(arm.name, metric.name) for metric in found.task.metrics}
            if earlier is None:
                seconds = statistics.fmean(run.step_seconds * run.steps for run in runs)
                rows[arm.name] = Row(arm.name, arm.kind, values, runs[0].parameters, seconds=seconds, note=arm.note)
            else:
                note = earlier.note if earlier.note == arm.note else f"{earlier.note}; {found.task.name}: {arm.note}"
                rows[arm.name] = replace(earlier, values=earlier.values | values, note=note)
    return list(rows.values())


def losses(found: Study) -> Table:
    """The loss of every arm at fixed steps."""
    task, loss = found.task, found.task.metrics[0].name
    rows: list[list[str | float | int]] = [
        [name, *(spread([task.loss_at(run, step) for run in runs]) for step in task.shown_steps)]
        for name, runs in found.runs.items()
    ]
    columns = ["method", *(f"step {step}" for step in task.shown_steps)]
    return Table(f"{task.name}: {loss} at fixed steps", columns, rows, "Mean ± standard deviation over the seeds.")


def spread(numbers: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.4f}{deviation}"


def costs(found: Study) -> Table:
    """What every arm was trained with, and what that cost."""
    rows: list[list[str | float | int]] = []
    for name, runs in found.runs.items():
        first, trained = runs[0], runs[0].steps > 0
        pilots = ", ".join(f"{run.lr:g}: {run.final:.4f}" for run in found.pilots[name])
        pace = statistics.median(run.step_seconds for run in runs)
        rows.append([
            name, f"{first.parameters:,}", f"{first.lr:g}" if first.lr else "—", pilots or "—",
            f"{pace:.3g}" if trained else "—", f"{first.memory / 2**20:.1f}" if trained else "—",
        ])  # fmt: skip
    columns = ["method", "trained", "learning rate", "validation loss of the pilots", "s a step", "MiB"]
    note = (
        "Trained parameters, a head included. Learning rate: the best of the pilots with the first seed. Seconds: the "
        "median step. MiB: what is trained with its gradients and moments, and what the first batch keeps for its "
        "backward pass; the frozen weights are not counted."
    )
    return Table(f"{found.task.name}: settings and costs", columns, rows, note)


def drawings(found: Study, out: Path) -> list[Drawing]:
    """The pictures of a task: the losses of training, and what they come to."""
    task, growing = found.task, [name for name, runs in found.runs.items() if runs[0].ranks]

    def at(name: str, draw: Callable[[Path], Picture]) -> Drawing:
        return out / f"{task.slug}-{name}.svg", draw

    training = at("training", partial(draw_losses, found))
    if isinstance(task, GSM8K):
        return [at("validation", partial(draw_validation, found)), training]
    ranks = [at("ranks", partial(draw_ranks, found, growing[:3]))] if growing else []
    return [training, at("accuracy", partial(draw_scores, found, ACCURACY)), *ranks]


# -- what the numbers say ---------------------------------------------------------------------------------------------


def at_or_below(found: Study, ours: str, theirs: str) -> list[Check]:
    """Whether the first arm's mean loss is at or below the second's; nothing where one of them was left out."""
    if not {ours, theirs} <= found.runs.keys():
        return []
    loss = found.task.metrics[0].name
    a, b = found.values(ours, loss), found.values(theirs, loss)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean = statistics.fmean(differences)
    figures = (
        f"{statistics.fmean(a):.4f} against {statistics.fmean(b):.4f} ({mean:+.4f}); at or below with "
        f"{sum(difference <= 0 for difference in differences)} of {len(differences)} seeds"
    )
    return [
        Check(
            f"{found.task.name}: the {loss} of {ours} is at or below that of {theirs}",
            mean <= 0,
            figures,
            f"on this task {theirs} is the better choice",
        )
    ]


def bone_checks(found: Study) -> list[Check]:
    checks = [check for mode in ("bat", "bat-row", "add") for check in at_or_below(found, f"Bone {mode}", "LoRA")]
    if {"MiSS", "Bone add"} <= found.runs.keys() and found.runs["MiSS"][0].lr == found.runs["Bone add"][0].lr:
        loss = found.task.metrics[0].name
        ours, theirs = (statistics.fmean(found.values(arm, loss)) for arm in ("Bone add", "MiSS"))
        statement = f"{found.task.name}: Bone add is what PEFT calls MiSS: their losses agree within {SAME:.0%}"
        checks.append(
            Check(
                statement,
                abs(ours - theirs) <= SAME * theirs,
                f"{ours:.5f} and {theirs:.5f}",
                "one of the two is not the published method",
            )
        )
    return checks


def triadapt_checks(found: Study) -> list[Check]:
    others = ("random growth", "uniform growth", "TriAdaptLoRA, nonlinear", "LoRA", "AdaLoRA", "head only")
    checks = [check for other in others for check in at_or_below(found, "TriAdaptLoRA", other)]
    grown = {name: runs for name, runs in found.runs.items() if runs[0].ranks}
    if grown:
        layers = len(next(iter(grown.values()))[0].ranks[0][1])
        budget = AVERAGE_RANK * layers
        sums = {name: [sum(run.ranks[-1][1].values()) for run in runs] for name, runs in grown.items()}
        statement = f"growth spends its budget of {AVERAGE_RANK} x {layers} = {budget} ranks, and no more"
        figures = "; ".join(f"{name}: {', '.join(map(str, totals))}" for name, totals in sums.items())
        checks.append(
            Check(
                statement,
                all(total == budget for totals in sums.values() for total in totals),
                figures,
                "the budget does not hold, and arms are compared at unequal sizes",
            )
        )
    return checks


def shown(found: Study) -> str:
    """The arms in the order of their losses, and between which values the test lies."""
    task, loss = found.task, found.task.metrics[0].name
    means = {name: statistics.fmean(found.values(name, loss)) for name in found.runs}
    order = sorted((name for name in means if math.isfinite(means[name])), key=lambda name: means[name])
    text = f"{task.name}, {loss} after {task.steps} steps: {', '.join(f'{name} {means[name]:.3f}' for name in order)}."
    if ACCURACY not in {metric.name for metric in task.metrics}:
        return text
    accuracies = {name: statistics.fmean(found.values(name, ACCURACY)) for name in order}
    least, best = min(order, key=lambda name: accuracies[name]), max(order, key=lambda name: accuracies[name])
    return f"{text} Test accuracy goes from {accuracies[least]:.3f} ({least}) to {accuracies[best]:.3f} ({best})."


def limits(found: Study) -> str:
    """What not to conclude."""
    seeds = len(next(iter(found.runs.values())))
    runs = [run for of_arm in found.runs.values() for run in of_arm]
    parts = [f"{seeds} seed{'s' if seeds > 1 else ''}, one split, one model", *found.task.caveats(runs)]
    if edge := found.at_edge():
        parts.append(f"the best learning rate is at an end of the grid for {', '.join(edge)}")
    if failed := sorted({run.arm for run in runs if not math.isfinite(run.final)}):
        parts.append(f"training diverged for {', '.join(failed)}")
    return f"{found.task.name}: {'; '.join(parts)}."
