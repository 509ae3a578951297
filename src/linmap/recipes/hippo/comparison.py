"""`linmap compare hippo`: what states remember, and what layers of them learn beside a GRU and MiniRocket."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import numpy as np
from rich.console import Console

from linmap.experiment.drawing import draw_all
from linmap.experiment.result import Check, Metric, Picture, Result, Row, Table
from linmap.recipes.hippo.baselines import MiniRocket
from linmap.recipes.hippo.classification import GRU, REAL, ROCKET, SLOW, SYSTEM, Arm, Run, Trainings, arms_of
from linmap.recipes.hippo.memory import (
    CYCLES,
    DELAY,
    DELAYED,
    QUARTERS,
    SIGNALS,
    STATES,
    WINDOW,
    Reconstruction,
    delays,
    reconstructions,
)
from linmap.recipes.hippo.pictures import draw_delays, draw_errors, draw_kernels, draw_reconstructions, draw_training
from linmap.recipes.hippo.settings import Comparison
from linmap.recipes.hippo.tasks import Task, load_task, user_task
from linmap.recipes.job import CompareJob

MAJORITY = "the most frequent class"
SMALL_SETTING = 0.83  # accuracy of S4D-Lin on `mnist` after six epochs
Runs = dict[tuple[str, str], list[Run]]
"""By task and arm."""


def compare(settings: Comparison, job: CompareJob) -> Result:
    """Reconstruction and delay in closed form; then classification, all methods trained alike."""
    console = Console(stderr=True)
    names = [None] if job.data else settings.tasks
    tasks = [load_task(name) if name else user_task(job.data, job.seed) for name in names]  # pyright: ignore
    with console.status("hippo: keeping the past of signals"):
        kept, delayed = reconstructions(settings.states, job.seed), delays(job.seed)
    arms, runs = train_all(tasks, settings, job, console)
    headline = {arm.name: runs[tasks[0].name, arm.name] for arm in arms if (tasks[0].name, arm.name) in runs}
    pictures, undrawn = illustrations(headline, str(tasks[0]), kept, delayed, job)
    return Result(
        system="hippo",
        task=f"classes of series, mean over the samples of a small stack: {'; '.join(map(str, tasks))}",
        metrics=[Metric(_metric(task.name), "higher") for task in tasks],
        rows=[*(row_of(arm, runs, tasks) for arm in arms), majority_row(tasks)],
        shows=shows(tasks, arms, runs, delayed),
        limits=" ".join([limits(settings, tasks), *undrawn]),
        checks=[*memory_checks(kept, delayed), *learning_checks(tasks, runs, job)],
        tables=[reconstruction_table(kept), delay_table(delayed)],
        pictures=pictures,
        preset=job.preset,
        seeds=list(range(job.seed, job.seed + settings.seeds)),
        settings=asdict(settings),
    )


def illustrations(
    headline: dict[str, list[Run]], task: str, kept: list[Reconstruction], delayed: dict[str, list[float]],
    job: CompareJob,
) -> tuple[list[Picture], list[str]]:  # fmt: skip
    """The pictures, once all is measured, and a sentence for each that could not be drawn."""
    job.out.mkdir(parents=True, exist_ok=True)
    drawings = {
        "training.svg": partial(draw_training, headline, task),
        "reconstruction.svg": partial(draw_reconstructions, job.seed),
        "reconstruction-error.svg": partial(draw_errors, kept), "delay.svg": partial(draw_delays, delayed),
        "kernels.svg": draw_kernels,
    }  # fmt: skip
    return draw_all((job.out / name, lambda path, draw=draw: draw(path.parent)) for name, draw in drawings.items())


def train_all(tasks: list[Task], settings: Comparison, job: CompareJob, console: Console) -> tuple[list[Arm], Runs]:
    """Every arm on every task that it belongs to. State spaces share the rate that is chosen for the system."""
    trainings = Trainings(settings, job, lambda line: console.print(f"[dim]{line}[/dim]"))
    arms: dict[str, Arm] = {}
    runs: Runs = {}
    for task in tasks:
        rates: dict[str, float] = {}
        for arm in arms_of(task, settings, headline=task is tasks[0]):
            arms.setdefault(arm.name, arm)
            of = arm if arm.name in (SYSTEM, GRU) else arms[SYSTEM]
            rates[of.name] = rates.get(of.name) or trainings.best_rate(arm if of is arm else of, task)
            runs[task.name, arm.name] = trainings.seeds(arm, task, rates[of.name])
    order = {"system": 0, "baseline": 1, "ablation": 2}
    return sorted(arms.values(), key=lambda arm: order[arm.kind]), runs


def _metric(task: str) -> str:
    return f"accuracy, {task}"


# -- rows and tables ---------------------------------------------------------------------------------------------------


def row_of(arm: Arm, runs: Runs, tasks: list[Task]) -> Row:
    found = {task.name: runs[task.name, arm.name] for task in tasks if (task.name, arm.name) in runs}
    first_task, first = next(iter(found.items()))
    rates = f"rate {', '.join(f'{rate:g}' for rate in dict.fromkeys(r[0].rate for r in found.values()))}"
    return Row(
        arm.name, arm.kind, {_metric(task): [run.accuracy for run in done] for task, done in found.items()},
        parameters=first[0].parameters, seconds=float(np.mean([run.seconds for run in first])),
        note="; ".join(part for part in (arm.note, rates if arm.trained else "") if part)
        + ("" if first_task == tasks[0].name else f" (size and time: {first_task})"),
    )  # fmt: skip


def majority_row(tasks: list[Task]) -> Row:
    return Row(
        MAJORITY, "reference", {_metric(task.name): [task.majority] for task in tasks}, note="no look at the series"
    )


def reconstruction_table(found: list[Reconstruction]) -> Table:
    sizes = list(dict.fromkeys(r.N for r in found))
    pairs = list(dict.fromkeys((r.signal, r.method) for r in found))
    error = {(r.signal, r.method, r.N): r.error for r in found}
    rows: list[list[str | float | int]] = [
        [signal, method, *(f"{error[signal, method, N]:.4f}" for N in sizes)] for signal, method in pairs
    ]
    return Table(
        "The past of a signal, reconstructed from N numbers", ["signal", "kept by", *(f"N = {N}" for N in sizes)], rows,
        f"Root mean square error over the signal's deviation, on all of the past (first way) or on the last {WINDOW} "
        f"samples (El Niño: {QUARTERS} quarters). The white signals are {SIGNALS} of 400 samples.",
    )  # fmt: skip


def delay_table(found: dict[str, list[float]]) -> Table:
    rows: list[list[str | float | int]] = [
        [name, *(f"{error:.1f}".replace("-0.0", "0.0") for error in errors)] for name, errors in found.items()
    ]
    return Table(
        f"A delay by {DELAY} samples, read linearly from {STATES} states",
        ["system", *(f"{cycles} cycles" if cycles > 1 else "1 cycle" for cycles in CYCLES)], rows,
        f"log10 of the squared error over the variance, on {DELAYED} signals that the readout was not fitted to; "
        "columns are the highest frequency in cycles per delay.",
    )  # fmt: skip


# -- what it says ------------------------------------------------------------------------------------------------------


def memory_checks(kept: list[Reconstruction], delayed: dict[str, list[float]]) -> list[Check]:
    white = {r.N: r.error for r in kept if r.signal == kept[0].signal and r.method == kept[0].method}
    few, many = min(white), max(white)
    five, twenty = CYCLES.index(5), CYCLES.index(20)
    at = {name: errors[five] for name, errors in delayed.items()}
    wrong = [at["LegT, dt ten times too small"], at["LegT, dt ten times too large"]]
    return [
        Check("in more numbers, scaled LegS has a tenth of the error on a band-limited signal",
              white[many] < white[few] / 10, f"{white[few]:.3f} at N = {few}, {white[many]:.4f} at N = {many}",
              "the state does not hold what the theory says it can"),
        Check("at 5 cycles, LegT and LegS delay to 1e-5 and FouT to 1e-2; real and random states do not",
              max(at["LegT"], at["LegS"]) < -5 and at["FouT"] < -2 and min(at["S4D-Real"], at["random"]) > -0.5,
              ", ".join(f"{name} {value:.1f}" for name, value in at.items() if "ten times" not in name),
              "the initialisation is wrong, or it does not matter which one is taken"),
        Check("at 20 cycles, only the measures with a window delay",
              max(delayed["LegT"][twenty], delayed["FouT"][twenty]) < -1 < delayed["LegS"][twenty],
              ", ".join(f"{name} {delayed[name][twenty]:.1f}" for name in ("LegT", "FouT", "LegS")),
              "a window is not what makes a long delay possible"),
        Check("with a step ten times too small or too large, LegT does not delay", min(wrong) > -0.5,
              f"{wrong[0]:.1f} and {wrong[1]:.1f} against {at['LegT']:.1f}",
              "the step would not matter, against the theory"),
    ]  # fmt: skip


def learning_checks(tasks: list[Task], runs: Runs, job: CompareJob) -> list[Check]:
    name, mean = tasks[0].name, {arm: _mean(found) for (task, arm), found in runs.items() if task == tasks[0].name}
    checks = [
        Check(
            f"{name}: S4D-Lin is above {peer}",
            mean[SYSTEM] > mean[peer],
            f"{mean[SYSTEM]:.4f} against {mean[peer]:.4f}",
            f"take {peer} on series like these",
        )
        for peer in (GRU, REAL)
        if job.data is None
    ]
    if "mnist" in name and job.data is None:
        checks.append(
            Check(f"{name}: with a timescale far too long, S4D-Lin loses at least 0.3", mean[SLOW] < mean[SYSTEM] - 0.3,
                  f"{mean[SLOW]:.4f} against {mean[SYSTEM]:.4f}",
                  "the timescale would not matter, and need not be chosen")
        )  # fmt: skip
    if name == "mnist" and job.data is None:
        checks.append(Check(f"mnist: S4D-Lin reaches {SMALL_SETTING} in six epochs", mean[SYSTEM] >= SMALL_SETTING,
                            f"{mean[SYSTEM]:.4f}",
                            "the published accuracy at this size is not reproduced"))  # fmt: skip
    gaps = [run.stream_gap for found in runs.values() for run in found if run.stream_gap is not None]
    if gaps:
        checks.append(Check("sample by sample, the trained models answer as at once (1e-3)", max(gaps) < 1e-3,
                            f"largest difference of a probability {max(gaps):.0e}",
                            "an answer to a stream is not the one to the whole series"))  # fmt: skip
    return checks


def _mean(runs: list[Run]) -> float:
    return float(np.mean([run.accuracy for run in runs]))


def shows(tasks: list[Task], arms: list[Arm], runs: Runs, delayed: dict[str, list[float]]) -> str:
    sentences = []
    for task in tasks:
        found = sorted(
            ((arm.name, _mean(runs[task.name, arm.name])) for arm in arms if (task.name, arm.name) in runs),
            key=lambda pair: -pair[1],
        )
        sentences.append(f"{task.name}: " + ", ".join(f"{name} {value:.3f}" for name, value in found))
    five = CYCLES.index(5)
    best = min(delayed, key=lambda name: delayed[name][five])
    sentences.append(f"A delay of {DELAY} samples at 5 cycles is held best by {best} (1e{delayed[best][five]:.1f})")
    return ". ".join(sentences) + "."


def limits(settings: Comparison, tasks: list[Task]) -> str:
    seeds = "One seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    rate = (
        f"all rates are {settings.rates[0]:g}" if len(settings.rates) == 1
        else f"rates are chosen among {', '.join(f'{r:g}' for r in settings.rates)} for S4D-Lin and for the GRU; "
        "the other state spaces take that of S4D-Lin"
    )  # fmt: skip
    small = [task.name for task in tasks if len(task.train) < 300]
    said = f"{seeds} of small models trained briefly; {rate}."
    if small:
        said += f" {', '.join(small)} have few series: differences of a few points are noise there."
    if settings.minirocket and not MiniRocket.available():
        said += f" {ROCKET} is left out, for numba is not installed (pip install 'linmap[sequence]')."
    return said + " The Long Range Arena at its full size is not run."
