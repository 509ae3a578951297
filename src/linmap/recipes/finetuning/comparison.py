"""`linmap compare bone` and `linmap compare triadaptlora`: adapters beside those that PEFT has, on the same batches."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from linmap.data.text import read_training_texts
from linmap.recipes.finetuning.arms import banking_bone_arms, gsm8k_bone_arms, triadapt_arms
from linmap.recipes.finetuning.banking import ACCURACY, Banking, FewShot
from linmap.recipes.finetuning.experiments import Arm, Study, study
from linmap.recipes.finetuning.gsm8k import GSM8K, GSM8KSettings
from linmap.recipes.finetuning.pictures import draw_losses, draw_ranks, draw_scores, draw_validation
from linmap.recipes.job import CompareJob
from linmap.recipes.result import Check, Metric, Picture, Result, Row, Table

BoneArm = Literal["head", "frozen", "bat", "bat-row", "add", "mini", "lora", "rslora", "pissa", "miss", "full"]
TriAdaptArm = Literal["head", "linear", "nonlinear", "random", "uniform", "lora", "adalora", "full"]
TRAINING, VALIDATION = "training loss", "GSM8K validation loss"
WINDOWS = 8  # a reported training loss is the mean over the last eighth of the steps
SAME = 0.01  # relative difference of losses that rounding may make


@dataclass(frozen=True)
class BoneComparison(FewShot, GSM8KSettings):
    """Flags of `linmap compare bone`. --data: a file of texts with labels, or of prompts with completions."""

    tasks: tuple[Literal["banking77", "gsm8k"], ...] = ("banking77",)
    """Few-shot classification of bank customers' sentences, and answers to grade-school problems."""
    arms: tuple[BoneArm, ...] = ("head", "lora", "pissa", "bat", "bat-row", "add")
    """Methods for banking77."""
    gsm8k_arms: tuple[BoneArm, ...] = ("frozen", "lora", "pissa", "bat", "bat-row", "add")
    """Methods for gsm8k."""


@dataclass(frozen=True)
class TriAdaptComparison(FewShot):
    """Flags of `linmap compare triadaptlora`. --data: a file of texts with labels."""

    arms: tuple[TriAdaptArm, ...] = ("head", "lora", "adalora", "linear", "nonlinear", "random")
    """Methods: growth by importance (linear, nonlinear), at random and uniform with the same schedule, and others."""


LARGER = {
    "shots": 40, "steps": 300, "batch_size": 32, "validation_per_class": 5, "test_per_class": 40,
    "lrs": (1e-3, 3e-3, 1e-2),
}  # fmt: skip
BONE_PRESETS = {
    "quick": BoneComparison(),
    "full": BoneComparison(
        **LARGER,
        tasks=("banking77", "gsm8k"),
        arms=("head", "lora", "rslora", "pissa", "miss", "bat", "bat-row", "add", "mini", "full"),
    ),
}
TRIADAPT_PRESETS = {
    "quick": TriAdaptComparison(),
    "full": TriAdaptComparison(
        **LARGER, arms=("head", "lora", "adalora", "linear", "nonlinear", "random", "uniform", "full")
    ),
}


def compare_bone(settings: BoneComparison, job: CompareJob) -> Result:
    """Bone in its modes, LoRA and its kin, at equal parameters and each at its best learning rate."""
    studies: dict[str, Study] = {}
    for task in chosen_tasks(settings, job.data):
        folder = job.out / "runs" / task
        if task == "gsm8k":
            seeds = [job.seed + i for i in range(settings.gsm8k_seeds)]
            arms = pick(gsm8k_bone_arms(), settings.gsm8k_arms)
            studies[task] = study(GSM8K(settings, job.data), arms, settings.gsm8k_lrs, seeds, folder, job.resume)
        else:
            seeds = [job.seed + i for i in range(settings.seeds)]
            arms = pick(banking_bone_arms(), settings.arms)
            studies[task] = study(Banking(settings, job.data), arms, settings.lrs, seeds, folder, job.resume)
    checks = [check for found in studies.values() for check in bone_checks(found)]
    return result("bone", studies, checks, settings, job)


def compare_triadaptlora(settings: TriAdaptComparison, job: CompareJob) -> Result:
    """Ranks that grow by importance beside fixed ranks, ranks that shrink, and growth that ignores importance."""
    task = Banking(settings, job.data)
    seeds = [job.seed + i for i in range(settings.seeds)]
    folder = job.out / "runs" / "banking77"
    found = study(task, pick(triadapt_arms(), settings.arms), settings.lrs, seeds, folder, job.resume)
    return result("triadaptlora", {"banking77": found}, triadapt_checks(found), settings, job)


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
    studies: dict[str, Study],
    checks: list[Check],
    settings: BoneComparison | TriAdaptComparison,
    job: CompareJob,
) -> Result:
    """The rows, tables and pictures of all tasks."""
    metrics = [Metric(VALIDATION)] if "gsm8k" in studies else []
    if "banking77" in studies:
        metrics += [Metric(TRAINING), Metric(ACCURACY, "higher", digits=3)]
    seeds = {run.seed for found in studies.values() for runs in found.runs.values() for run in runs}
    return Result(
        system=system,
        task="; ".join(described(name, found, settings) for name, found in studies.items()),
        metrics=metrics,
        rows=rows_of(studies),
        shows=" ".join(shown(name, found) for name, found in studies.items()),
        limits=" ".join(limit(name, found) for name, found in studies.items()),
        checks=checks,
        tables=[table for name, found in studies.items() for table in (losses(name, found), costs(found))],
        pictures=[picture for name, found in studies.items() for picture in draw(name, found, job.out)],
        preset=job.preset,
        seeds=sorted(seeds),
        settings=asdict(settings),
    )


def window(found: Study) -> int:
    """Steps over which a reported training loss is averaged."""
    return max(found.task.steps // WINDOWS, 1)


def values(name: str, found: Study, arm: str) -> dict[str, list[float]]:
    """The metrics of an arm, a value for each seed."""
    runs = found.runs[arm]
    if name == "gsm8k":
        return {VALIDATION: [run.final for run in runs]}
    training = [run.loss_at(found.task.steps, window(found)) for run in runs]
    return {TRAINING: training, ACCURACY: [run.scores.get(ACCURACY, float("nan")) for run in runs]}


def rows_of(studies: dict[str, Study]) -> list[Row]:
    """One row for each arm, with its metrics of every task; costs are those of the first task that has it."""
    rows: dict[str, Row] = {}
    for name, found in studies.items():
        for arm in found.arms:
            runs = found.runs[arm.name]
            earlier = rows.get(arm.name)
            if earlier is not None:
                note = f"{earlier.note}; {found.task.name}: {arm.note}"
                new = Row(arm.name, arm.kind, earlier.values | values(name, found, arm.name), earlier.parameters,
                          seconds=earlier.seconds, note=note)  # fmt: skip
            else:
                seconds = statistics.fmean(run.step_seconds * run.steps for run in runs)
                new = Row(arm.name, arm.kind, values(name, found, arm.name), runs[0].parameters, seconds=seconds,
                          note=arm.note)  # fmt: skip
            rows[arm.name] = new
    return list(rows.values())


def losses(name: str, found: Study) -> Table:
    """The loss of every arm at fixed steps."""
    task = found.task
    rows: list[list[str | float | int]] = []
    if name == "gsm8k":
        steps, title, note = task.checkpoints, "Validation loss", "On held-out problems, per answer token."
    else:
        steps = tuple(task.steps * part // 4 for part in (1, 2, 3, 4))
        title, note = "Training loss", f"Mean over the last {window(found)} steps."
    for arm in found.arms:
        runs = found.runs[arm.name]
        if name == "gsm8k":
            by_step = [dict(run.validation) for run in runs]
            at = [[recorded.get(step, run.final if not run.steps else float("nan"))
                   for recorded, run in zip(by_step, runs, strict=True)] for step in steps]  # fmt: skip
        else:
            at = [[run.loss_at(step, window(found)) for run in runs] for step in steps]
        rows.append([arm.name, *(spread(losses) for losses in at)])
    return Table(f"{title} on {task.name}", ["method", *(f"step {step}" for step in steps)], rows,
                 f"{note} Mean ± standard deviation over the seeds.")  # fmt: skip


def spread(numbers: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(numbers):.4f}" if len(numbers) > 1 else ""
    return f"{statistics.fmean(numbers):.4f}{deviation}"


def costs(found: Study) -> Table:
    """What every arm was trained with, and what that cost."""
    rows: list[list[str | float | int]] = []
    for arm in found.arms:
        runs = found.runs[arm.name]
        pilots = ", ".join(f"{run.lr:g}: {run.final:.4f}" for run in found.pilots[arm.name])
        pace = statistics.median(run.step_seconds for run in runs)
        rows.append(
            [arm.name, f"{runs[0].parameters:,}", f"{runs[0].lr:g}" if runs[0].lr else "—", pilots or "—",
             f"{pace:.3g}" if runs[0].steps else "—", f"{runs[0].memory / 2**20:.1f}" if runs[0].steps else "—"]
        )  # fmt: skip
    columns = ["method", "trained", "learning rate", "validation loss of the pilots", "s a step", "MiB"]
    note = (
        "Trained parameters, a head included. Learning rate: the best of the pilots with the first seed. Seconds: the "
        "median step. MiB: what is trained with its gradients and moments, and what the first batch keeps for its "
        "backward pass; the frozen weights are not counted."
    )
    return Table(f"Settings and costs on {found.task.name}", columns, rows, note)


def draw(name: str, found: Study, out: Path) -> list[Picture]:
    pictures = [draw_losses(found, window(found), out / f"{name}-training.svg")]
    if name == "gsm8k":
        return [draw_validation(found, out / f"{name}-validation.svg"), *pictures]
    pictures.append(draw_scores(found, ACCURACY, out / f"{name}-accuracy.svg"))
    growing = [arm.name for arm in found.arms if found.runs[arm.name][0].ranks]
    if growing:
        pictures.append(draw_ranks(found, growing[:3], out / f"{name}-ranks.svg"))
    return pictures


# -- what the numbers say ---------------------------------------------------------------------------------------------


def at_or_below(found: Study, name: str, metric: str, first: str, second: str) -> list[Check]:
    """Whether the first arm's mean loss is at or below the second's; nothing where one of them was left out."""
    if first not in found.runs or second not in found.runs:
        return []
    ours, theirs = values(name, found, first)[metric], values(name, found, second)[metric]
    wins = sum(a <= b for a, b in zip(ours, theirs, strict=True))
    mean = statistics.fmean(a - b for a, b in zip(ours, theirs, strict=True))
    what = "validation loss" if metric == VALIDATION else "training loss"
    return [
        Check(
            f"{found.task.name}: {first} ends with a {what} at or below that of {second}",
            mean <= 0,
            f"{statistics.fmean(ours):.4f} against {statistics.fmean(theirs):.4f} ({mean:+.4f}); with {wins} of "
            f"{len(ours)} seeds",
        )
    ]


def bone_checks(found: Study) -> list[Check]:
    name = "gsm8k" if found.task.pilot_steps != found.task.steps or "frozen" in found.runs else "banking77"
    metric = VALIDATION if name == "gsm8k" else TRAINING
    checks = [
        check
        for mode in ("bat", "bat-row", "add")
        for check in at_or_below(found, name, metric, f"Bone {mode}", "LoRA")
    ]
    if {"MiSS", "Bone add"} <= found.runs.keys() and found.runs["MiSS"][0].lr == found.runs["Bone add"][0].lr:
        ours, theirs = (statistics.fmean(values(name, found, arm)[metric]) for arm in ("Bone add", "MiSS"))
        checks.append(
            Check(
                f"{found.task.name}: Bone add is the method that PEFT calls MiSS: losses within {SAME:.0%}",
                abs(ours - theirs) <= SAME * theirs,
                f"{ours:.5f} and {theirs:.5f}",
            )
        )
    return checks


def triadapt_checks(found: Study) -> list[Check]:
    system, checks = "TriAdaptLoRA", []
    for other in ("random growth", "uniform growth", "TriAdaptLoRA, nonlinear", "LoRA", "AdaLoRA", "head only"):
        checks += at_or_below(found, "banking77", TRAINING, system, other)
    grown = [name for name in found.runs if name.startswith(system) or name.endswith("growth")]
    if grown:
        sums = {name: [sum(run.ranks[-1][1].values()) for run in found.runs[name]] for name in grown}
        budgets = {name: 8 * len(found.runs[name][0].ranks[0][1]) for name in grown}
        checks.append(
            Check(
                "growth spends its budget of ranks and no more",
                all(total == budgets[name] for name in grown for total in sums[name]),
                "; ".join(f"{name}: {', '.join(map(str, sums[name]))} of {budgets[name]}" for name in grown),
            )
        )
    return checks


def described(name: str, found: Study, settings: BoneComparison | TriAdaptComparison) -> str:
    task = found.task
    if isinstance(task, GSM8K):
        assert isinstance(settings, BoneComparison)
        return (
            f"{task.name}: SmolLM2-135M, adapters on q_proj and v_proj, {len(task.train)} problems of at most "
            f"{settings.gsm8k_max_length} tokens ({task.left_out} longer ones left out), {task.steps} steps of "
            f"{settings.gsm8k_batch_size}; loss on the answer tokens of {len(task.validation)} held-out problems"
        )
    assert isinstance(task, Banking)
    return (
        f"{task.name}: MiniLM-L6, adapters on query and value, a linear head, {settings.shots} sentences for each of "
        f"{len(task.classes)} classes, {task.steps} steps of {settings.batch_size}; {len(task.test):,} test sentences"
    )


def shown(name: str, found: Study) -> str:
    """The order of the arms by loss, and what the test says beside it."""
    metric = VALIDATION if name == "gsm8k" else TRAINING
    means = {arm.name: statistics.fmean(values(name, found, arm.name)[metric]) for arm in found.arms}
    finite = {arm: mean for arm, mean in means.items() if mean == mean}
    order = sorted(finite, key=lambda arm: finite[arm])
    text = f"{metric if name == 'gsm8k' else f'{found.task.name}, training loss'} after {found.task.steps} steps: "
    text += ", ".join(f"{arm} {finite[arm]:.3f}" for arm in order) + "."
    if name == "gsm8k":
        return text
    accuracies = {arm: statistics.fmean(values(name, found, arm)[ACCURACY]) for arm in order}
    best, least = max(accuracies, key=lambda a: accuracies[a]), min(accuracies, key=lambda a: accuracies[a])
    return (
        f"{text} Test accuracy goes from {accuracies[least]:.3f} ({least}) to {accuracies[best]:.3f} ({best}); the "
        f"standard deviation of one such figure from the draw of the test sentences alone is {noise(found):.3f}."
    )


def noise(found: Study) -> float:
    """Binomial standard deviation of an accuracy of the mean height, on this many test sentences."""
    assert isinstance(found.task, Banking)
    accuracies = [run.scores[ACCURACY] for runs in found.runs.values() for run in runs if ACCURACY in run.scores]
    mean = statistics.fmean(accuracies)
    return (mean * (1 - mean) / len(found.task.test)) ** 0.5


def limit(name: str, found: Study) -> str:
    """What not to conclude."""
    seeds = len(next(iter(found.runs.values())))
    text = f"{found.task.name}: {seeds} seed{'s' if seeds > 1 else ''}, one split, one model"
    if isinstance(found.task, Banking) and (found.task.options.shots < 40 or found.task.steps < 300):
        text += "; too few sentences and steps for claims about accuracy (`--preset full` has 40 and 300)"
    if name == "gsm8k":
        text += (
            "; a model of this size solves almost none of the problems, so that the loss is what is compared, not solved "
            "problems"
        )
    edge = found.at_edge()
    if edge:
        text += f"; the best learning rate is at an end of the grid for {', '.join(edge)}"
    failed = [arm for arm, runs in found.runs.items() if any(run.final != run.final for run in runs)]
    if failed:
        text += f"; training diverged with a seed for {', '.join(failed)}"
    return text + "."
