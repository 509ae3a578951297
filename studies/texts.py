"""Adapters on texts, as the studies of Bone and TriAdaptLoRA compare them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from linmap.data import find
from linmap.data.text import TextRecord, read_training_texts
from linmap.experiment import Check, Experiment, Part, Picture, Runs, Table, draw_all, fingerprint, mean_std
from linmap.pictures import INK, figure, save_svg
from linmap.recipes.finetuning.arms import Way
from linmap.recipes.finetuning.compare import choice_of, costs, limits, losses
from linmap.recipes.finetuning.flags import Comparison, Labelled
from linmap.recipes.finetuning.pictures import draw_losses, draw_ranks, draw_scores
from linmap.recipes.finetuning.tasks import CHOOSING, Task, labelled_task, of_each_class, split
from studies.study import Findings, Job, table_of

TRAIN, TEST = "triadaptlora/banking77_train.csv.gz", "triadaptlora/banking77_test.csv.gz"
SMALL = Labelled(rates=(2e-3, 5e-3))
"""Five sentences a class, 64 steps."""
LARGE = Labelled(
    shots=40, steps=300, batch_size=32, validation_per_class=5, test_per_class=40, rates=(1e-3, 2e-3, 5e-3, 1e-2)
)
"""What a claim about accuracy needs."""
TINY = Labelled(shots=2, steps=2, batch_size=2, validation_per_class=1, test_per_class=1, rates=(5e-3,))


def banking(settings: Labelled, tiny: bool) -> Task:
    """Banking77 split by its own files; two of its classes where it should be tiny."""
    train, validation, _ = split(_records(TRAIN, tiny), settings, Path(TRAIN))
    test = of_each_class(_records(TEST, tiny), 0, settings.test_per_class)
    return labelled_task("Banking77", [train, validation, test], settings)


def _records(name: str, tiny: bool) -> list[TextRecord]:
    records = read_training_texts(find(name, "Reinstall linmap."), "classification").records
    two = sorted({record.answer or "" for record in records})[:2]
    return [record for record in records if record.answer in two] if tiny else records


def compared(
    job: Job,
    task: Task,
    ways: Sequence[Way],
    settings: Comparison,
    data: str,
    checks: Callable[[Runs], list[Check]],
    further: Callable[[Runs], list[Table]] = lambda runs: [],
) -> Findings:
    """All arms on a task, with what is made of them."""
    key = settings.key() | {"data": fingerprint(find(data, "Reinstall linmap."))}
    experiment = Experiment(task.name, job.out / "runs", key, job.resume)
    runs = experiment.run([way.arm(settings.rates) for way in ways], [Part("", task)], job.seeds, choice_of(task))
    first = task.metrics[0]
    table = table_of(task.name, runs.rows(task.metrics), task.metrics)
    growing = [arm.name for arm in runs.arms if runs.of(arm.name)[0].details.get("ranks")]
    pictures, notes = draw_all(
        [
            (job.out / "training.svg", partial(draw_losses, task, runs)),
            (job.out / "scores.svg", partial(draw_scores, task, runs, first)),
            *([] if task.classes else [(job.out / "validation.svg", partial(draw_validation, task, runs))]),
            *([(job.out / "ranks.svg", partial(draw_ranks, runs, growing[:3]))] if growing else []),
        ]
    )
    tables = [table, *further(runs), losses(task, runs), costs(task, runs)]
    return Findings(task.described, tables, checks(runs), [limits(task, runs), *notes], pictures)


# -- checks ------------------------------------------------------------------------------------------------------------


def at_or_below(runs: Runs, loss: str, ours: str, theirs: str) -> list[Check]:
    """Whether the first arm's mean loss is at or below the second's."""
    gap = runs.difference(ours, theirs, loss)
    figures = (
        f"{runs.mean(ours, loss):.4f} against {runs.mean(theirs, loss):.4f}, difference {gap.text(4)}; at or below "
        f"with {gap.n - gap.wins} of {gap.n} seeds"
    )
    statement = f"the {loss} of {ours} is at or below that of {theirs}"
    return [Check(statement, gap.mean <= 0, figures, f"on this task {theirs} is the better choice", gap.certain)]


def agree(runs: Runs, loss: str, ours: str, theirs: str, within: float) -> list[Check]:
    """Whether two arms that should be one method have one loss; nothing where their rates differ."""
    if runs.rates(ours) != runs.rates(theirs):
        return []
    a, b = runs.mean(ours, loss), runs.mean(theirs, loss)
    statement = f"{ours} is what PEFT calls {theirs}: their losses agree within {within:.0%}"
    return [Check(statement, abs(a - b) <= within * b, f"{a:.5f} and {b:.5f}", "one is not the published method")]


# -- validation by step ------------------------------------------------------------------------------------------------


def validation_at_steps(runs: Runs) -> list[Table]:
    """The validation loss at fixed steps."""
    steps = sorted({step for arm in runs.arms for run in runs.of(arm.name) for step, _ in run.details["validation"]})
    rows: list[list[str | float | int]] = [
        [
            arm.name,
            *(
                mean_std(
                    [
                        dict(run.details["validation"])[step]
                        for run in runs.of(arm.name)
                        if step in dict(run.details["validation"])
                    ],
                    4,
                )
                for step in steps
            ),
        ]
        for arm in runs.arms
    ]
    return [Table(f"{CHOOSING.capitalize()} by step", ["method", *map(str, steps)], rows)]


def draw_validation(task: Task, runs: Runs, path: Path) -> Picture:
    """Validation loss at fixed steps: the curves and, enlarged, where they end."""
    start = next(iter(runs.values("frozen", CHOOSING)), None)
    names = [arm.name for arm in runs.arms if arm.name != "frozen" and math.isfinite(runs.mean(arm.name, CHOOSING))]
    with figure(7.2, 3.8, ncols=2, width_ratios=(3, 2)) as (fig, (left, right)):
        for row, name in enumerate(names):
            style, curves = runs.styles[name], [run.details["validation"] for run in runs.of(name)]
            steps = [step for step, _ in curves[0]]
            values = np.array([[loss for _, loss in curve] for curve in curves])
            if start is not None:
                steps, values = [0, *steps], np.column_stack([np.full(len(curves), start), values])
            left.plot(steps, values.mean(0), marker="o", markersize=3.5, label=name, **style)
            right.plot(values[:, -1], [row] * len(values), "o", color=style["color"], alpha=0.8, markersize=5)
            right.plot(statistics.fmean(values[:, -1]), row, "|", color=INK, markersize=14)
        left.set(xlabel="step", ylabel="validation loss per answer token", title="mean over the seeds")
        left.legend(fontsize=8.5)
        right.set(xlabel="validation loss", title=f"after {task.steps} steps, each seed")
        right.set_yticks(range(len(names)), names)
        right.locator_params(axis="x", nbins=4)
        right.invert_yaxis()
        save_svg(fig, path)
    return Picture(
        path.name,
        f"Validation loss on {task.name}",
        "Left: loss on held-out problems by step, mean over the seeds. Right: every seed at the end (dots) and their "
        "mean (bar).",
    )
