"""The comparison of adapters on texts: same records, same batches, same steps, learning rates chosen alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from linmap.data import find
from linmap.experiment import capitalized, conclude, fingerprint, mean_std, ranking
from linmap.experiment.engine import Choice, Experiment, Part, Runs
from linmap.experiment.result import Metric, Result, Table
from linmap.recipes.finetuning.arms import Way
from linmap.recipes.finetuning.flags import EMBEDDED, Completions, Labelled
from linmap.recipes.finetuning.pictures import draw_losses, draw_ranks, draw_scores
from linmap.recipes.finetuning.tasks import CHOOSING, TRAINING, Task
from linmap.recipes.job import CompareJob

QUARTERS = (1, 2, 3, 4)


def compare_ways(
    system: str, task: Task, ways: Sequence[Way], settings: Labelled | Completions, job: CompareJob
) -> Result:
    """Train every arm on the task, and say which to take."""
    experiment = Experiment(system, job.out / "runs", settings.key() | {"data": fingerprint(data_of(job))}, job.resume)
    arms, seeds = [way.arm(settings.rates) for way in ways], range(job.seed, job.seed + settings.seeds)
    runs = experiment.run(arms, [Part("", task)], seeds, choice_of(task))
    rows, first = runs.rows(task.metrics), task.metrics[0]
    growing = [arm.name for arm in arms if runs.of(arm.name)[0].details.get("ranks")]
    return conclude(
        system, rows, task.metrics, settings, task=task.described, shows=shows(task, runs), limits=limits(task, runs),
        tables=[losses(task, runs), costs(task, runs)], seeds=list(seeds),
        drawings=[(job.out / f"{first.name.replace(' ', '-')}.svg", partial(draw_scores, task, runs, first)),
                  (job.out / "training.svg", partial(draw_losses, task, runs)),
                  *([(job.out / "ranks.svg", partial(draw_ranks, runs, growing))] if growing else [])],
    )  # fmt: skip


def data_of(job: CompareJob) -> Path:
    """The user's file, or the embedded one of the same form."""
    return job.data or find(EMBEDDED["classification"], "Reinstall linmap.")


def choice_of(task: Task) -> Choice:
    """The loss on the validation records; shorter runs choose where a task has them."""
    return Choice(CHOOSING, pilots=task.pilot_steps < task.steps)


# -- what was found ----------------------------------------------------------------------------------------------------


def losses(task: Task, runs: Runs) -> Table:
    """The training loss of every arm at fixed steps."""
    steps = [max(task.steps * part // 4, 1) for part in QUARTERS]
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        curves = [run.details["losses"] for run in runs.of(arm.name) if run.details.get("losses")]
        means = (
            [statistics.fmean(curve[max(step - task.window, 0) : step]) for curve in curves if len(curve) >= step]
            for step in steps
        )
        rows.append([arm.name, *(mean_std(values, 4) for values in means)])
    columns = ["method", *(f"step {step}" for step in steps)]
    note = f"Mean of the last {task.window} steps, ± standard deviation over the seeds."
    return Table(f"{capitalized(TRAINING)} at fixed steps", columns, rows, note)


def costs(task: Task, runs: Runs) -> Table:
    """What every arm was trained with, and what that cost."""
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        done = runs.of(arm.name)
        first, trained = done[0], "losses" in done[0].details
        tried = ", ".join(f"{run.rate:g}: {run.values[CHOOSING]:.4f}" for run in runs.tried.get((arm.name, ""), []))
        pace = statistics.median(run.details["step_seconds"] for run in done) if trained else math.nan
        rows.append([
            arm.name, f"{first.parameters or 0:,}", f"{first.rate:g}" if first.rate else "—", tried or "—",
            f"{1000 * pace:.1f}" if trained else "—", f"{first.details['memory'] / 2**20:.1f}" if trained else "—",
        ])  # fmt: skip
    columns = ["method", "trained", "learning rate", f"{CHOOSING} by rate", "ms a step", "MiB"]
    note = (
        "Trained parameters, a head included. Learning rate: the best on the validation records with the first seed. "
        "Milliseconds: the median step. MiB: what is trained with its gradients and moments, and what the first batch "
        "keeps for its backward pass; the frozen weights are not counted."
    )
    return Table("Settings and costs", columns, rows, note)


def shows(task: Task, runs: Runs) -> str:
    """The arms in the order of each measure."""

    def order(metric: Metric) -> str:
        means = {arm.name: runs.mean(arm.name, metric.name) for arm in runs.arms}
        named = [name for name in ranking(means, metric.better) if math.isfinite(means[name])]
        return f"{metric.name}: {', '.join(f'{name} {means[name]:.3f}' for name in named)}"

    return f"From the best to the worst: {'; '.join(map(order, task.metrics[:2]))}."


def limits(task: Task, runs: Runs) -> str:
    """What not to conclude."""
    done = [run for arm in runs.arms for run in runs.of(arm.name)]
    seeds = len({run.seed for run in done})
    parts = [f"{seeds} seed{'s' if seeds > 1 else ''}, one split, one model"]
    if task.classes:
        mean = statistics.fmean(runs.values(runs.arms[0].name, task.metrics[0].name))
        noise = (max(mean * (1 - mean), 0) / len(task.test)) ** 0.5
        parts.append(f"an accuracy has a standard deviation of {noise:.3f} from the draw of the test texts alone")
    else:
        parts.append("losses are compared, not the answers that the model gives")
    if edge := runs.at_edge():
        parts.append(f"the best learning rate is at an end of the grid for {', '.join(edge)}")
    if failed := sorted({run.arm for run in done if not math.isfinite(run.values[CHOOSING])}):
        parts.append(f"training diverged for {', '.join(failed)}")
    return f"{capitalized('; '.join(parts))}."
