"""Where the error comes from: by block, alone and accumulated, and by the position of a token."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from linmap.compress.flatquant.baselines import BASELINES, RandomHadamard
from linmap.compress.flatquant.teacher import block_outputs, embedded
from linmap.experiment import Arm, Outcome, Picture, Run, Runs, Table, Trial, draw_all
from linmap.experiment.figures import mean_std
from linmap.pictures import SERIES, SYSTEM, figure, save_svg
from linmap.recipes.flatquant.compare import Task, experiment_of, parts, quantised
from linmap.recipes.flatquant.pictures import decimal
from studies.flatquant.setting import METHODS, TINY_METHODS, task_of
from studies.study import Findings, Job

WINDOWS = 2  # of the test text


def errors(job: Job) -> Findings:
    """Relative squared errors of the hidden states, block by block."""
    task = task_of(job)
    experiment, work = experiment_of(task, job.out, job.resume)
    states = teacher(task)
    arms = [
        Arm(BASELINES[slug].name, BASELINES[slug].kind, partial(run, task, slug, work, states), BASELINES[slug].options)
        for slug in (TINY_METHODS if job.tiny else METHODS)
    ]
    bits = "W4A4KV4"
    runs = experiment.run(arms, parts([bits]), job.seeds[:1])
    title = "Relative squared error behind a block, mean over the blocks"
    rows: list[list[str | float | int]] = [
        [arm.name, *(mean_std(runs.values(arm.name, name), 4) for name in ("alone", "accumulated", "at the end"))]
        for arm in arms
    ]
    drawings = [(job.out / "block-errors.svg", partial(draw_blocks, runs, bits, task.blocks)),
                (job.out / "positions.svg", partial(draw_positions, runs, bits))]  # fmt: skip
    pictures, notes = draw_all(drawings)
    setting = f"{task.settings.model} at {bits}, the first {WINDOWS} test windows of {task.given.names[1]}, one seed."
    return Findings(setting, [Table(title, ["method", "alone", "accumulated", "behind the last"], rows)],
                    sentences=notes, pictures=pictures)  # fmt: skip


def run(task: Task, slug: str, work: Path, states: list[Tensor], trial: Trial) -> Outcome:
    model, seconds = quantised(task, slug, trial.data, trial.seed, work)
    alone, accumulated, positions = block_errors(task, model, states, trial.seed if BASELINES[slug].rotates else None)
    values = {"alone": np.mean(alone), "accumulated": np.mean(accumulated), "at the end": accumulated[-1]}
    details = {"alone": alone, "accumulated": accumulated, "positions": positions}
    return Outcome({name: float(value) for name, value in values.items()}, details=details, seconds=seconds)


def error_windows(task: Task) -> Tensor:
    count, length = min(WINDOWS, task.settings.test_windows), task.settings.test_length
    return task.test[: count * length].view(count, length)


@torch.no_grad()
def teacher(task: Task, model: Any = None) -> list[Tensor]:
    """What the original model has in front of each block and behind the last quantised one."""
    model = task.model() if model is None else model
    x, arguments = embedded(model, error_windows(task).to(model.device), task.path)
    states = [x]
    for number in range(task.blocks[-1] + 1):
        states.append(block_outputs(task.block(model, number), states[-1], arguments[number], 1))
    return states


@torch.no_grad()
def block_errors(
    task: Task, model: Any, teacher: list[Tensor], rotation: int | None
) -> tuple[list[float], list[float], list[float]]:
    """Relative squared errors on the first test windows.

    Parameters
    ----------
    teacher
        The states of the original model.
    rotation
        The seed of the rotation where the model's residual stream was rotated.

    Returns
    -------
    alone
        By block: the error of its outputs, given the inputs that it has in the original model.
    accumulated
        The same, given what the quantised blocks before it return.
    positions
        By position in a window: accumulated error behind the last quantised block.
    """
    h, arguments = embedded(model, error_windows(task).to(model.device), task.path)
    Q = None
    if rotation is not None:
        Q = RandomHadamard.draw(h.shape[-1], torch.Generator().manual_seed(rotation))
    alone, accumulated, tokens = [], [], h.new_zeros(h.shape[:-1])
    for number in range(task.blocks[-1] + 1):
        block = task.block(model, number)
        h = block_outputs(block, h, arguments[number], 1)
        if number not in task.blocks:
            continue
        x, y = (states if Q is None else Q(states).to(h.dtype) for states in teacher[number : number + 2])
        own = block_outputs(block, x, arguments[number], 1)
        tokens = relative_error(h, y)
        alone.append(float(relative_error(own, y).mean()))
        accumulated.append(float(tokens.mean()))
    return alone, accumulated, tokens.mean(0).tolist()


def relative_error(x: Float[Tensor, "n length d"], y: Float[Tensor, "n length d"]) -> Float[Tensor, "n length"]:
    """||x - y||^2 / ||y||^2 of each token."""
    return (x - y).square().sum(-1) / y.square().sum(-1)


# -- pictures ---------------------------------------------------------------------------------------------------------


def first_runs(runs: Runs) -> dict[str, Run]:
    """Of the first seed, by the slug of the way."""
    return {slug: of[0] for slug, row in BASELINES.items() if (of := runs.of(row.name))}


def style(method: str) -> dict[str, Any]:
    """A colour for each transform, FlatQuant's the first; GPTQ is dashed, distillation dotted."""
    colours = {"c-hadamard": 2, "hadamard": 1, "random": 4, "quarot": 3, "smoothquant": 5, "rtn": 7, "gptq": 7}
    base = method.removesuffix("-gptq").removesuffix("-rtn").removesuffix("-distilled")
    colour = SYSTEM if base == "flatquant" else SERIES[colours[base]]
    line = "--" if method.endswith("gptq") else ":" if method.endswith("distilled") else "-"
    return {"color": colour, "linestyle": line}


def draw_blocks(runs: Runs, bits: str, blocks: Sequence[int], path: Path) -> Picture:
    """Relative error of every block, alone and accumulated, with the first seed."""
    with figure(7.6, 3.9, ncols=2, sharey=True) as (fig, axes):
        for slug, run in first_runs(runs).items():
            for ax, kind in zip(axes, ("alone", "accumulated"), strict=True):
                marker = "o" if len(blocks) < 8 else None
                ax.plot(blocks, run.details[kind], marker=marker, markersize=3.5, label=run.arm, **style(slug))
        axes[0].set(title="each block alone", ylabel="relative squared error", xlabel="block", yscale="log")
        axes[1].set(title="with all blocks before it quantised", xlabel="block")
        for ax in axes:
            ax.xaxis.get_major_locator().set_params(integer=True)
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8.5)
        save_svg(fig, path)
    return Picture(
        path.name, f"Errors of the blocks at {bits}",
        "||y' - y||² / ||y||² of the hidden states behind each block, mean over the tokens of the test text. Left: the "
        "block has the inputs of the original model; right: those of the quantised blocks before it.",
    )  # fmt: skip


def draw_positions(runs: Runs, bits: str, path: Path) -> Picture:
    """Accumulated error by the position of a token, in groups that double in length."""
    drawn = first_runs(runs)
    length = max(len(run.details["positions"]) for run in drawn.values())
    edges = np.unique(np.concatenate([np.arange(min(8, length) + 1), np.geomspace(8, length, 14).round().astype(int)]))
    edges = edges[edges <= length]
    centres = np.sqrt((edges[:-1] + 1) * edges[1:])
    with figure(7.2, 3.8) as (fig, ax):
        for slug, run in drawn.items():
            means = [np.mean(run.details["positions"][a:b]) for a, b in pairwise(edges)]
            ax.plot(centres, means, label=run.arm, **style(slug))
        ax.set(xscale="log", yscale="log", xlabel="position in the window", ylabel="relative squared error")
        decimal(ax.xaxis, length)
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8.5)
        save_svg(fig, path)
    return Picture(
        path.name, f"Errors by position at {bits}",
        "||y' - y||² / ||y||² behind the last quantised block, by the position of a token: the first tokens of a text "
        "carry the largest activations.",
    )  # fmt: skip
