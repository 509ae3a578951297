"""How flat activations and weights are at each place of a block, under each transform (figure 1 of the paper)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from linmap.compress.architecture import BlockPaths, block_paths
from linmap.compress.flatquant.baselines import BASELINES
from linmap.compress.flatquant.block import SITES_OF, StudentBlock
from linmap.compress.flatquant.calibration import student_model
from linmap.compress.flatquant.linear import by_heads
from linmap.compress.flatquant.measures import flatness
from linmap.compress.flatquant.teacher import block_outputs, embedded
from linmap.experiment import Arm, Outcome, Picture, Runs, Table, Trial, draw_all
from linmap.pictures import MUTED, figure, save_svg
from linmap.recipes.flatquant.compare import Task, experiment_of, parts
from linmap.recipes.flatquant.pictures import decimal
from studies.flatquant.errors import error_windows, style, teacher
from studies.flatquant.setting import task_of
from studies.study import Findings, Job

SITES = {
    "attention": "P_a: query, key, value", "output": "P_o, P_v: output", "mlp": "P_ug: up, gate", "down": "P_d: down",
}  # fmt: skip
"""Places with linear layers, and how pictures call them."""
CURVES = {"rtn": "as it is", "smoothquant": "SmoothQuant", "hadamard": "Hadamard", "flatquant-rtn": "FlatQuant"}
POINTS = 96  # of a curve that is kept


@dataclass(frozen=True)
class Curve:
    """Channel norms of one tensor, largest first, divided by their mean."""

    method: str
    site: str
    block: int
    kind: str
    """activation or weight"""
    norms: list[float]
    """At `POINTS` channels, evenly chosen."""
    peak: float
    """The largest norm over the mean."""


def flatness_of_places(job: Job) -> Findings:
    """Channel norms under four transforms, on the test text."""
    task, bits = task_of(job), "W4A4KV4"
    experiment, work = experiment_of(task, job.out, job.resume)
    inputs = site_inputs(task)
    arms = [Arm(name, BASELINES[slug].kind, partial(run, task, slug, work, inputs)) for slug, name in CURVES.items()]
    runs = experiment.run(arms, parts([bits]), job.seeds[:1])
    found = curves_of(runs)
    block = task.blocks[len(task.blocks) // 2]
    pictures, notes = draw_all([(job.out / "flatness.svg", partial(draw_flatness, found, block))])
    setting = f"{task.settings.model}, {len(task.blocks)} blocks, calibrated at {bits} on {task.given.names[0]}."
    return Findings(setting, [flatness_table(found)], sentences=notes, pictures=pictures)


def curves_of(runs: Runs) -> list[Curve]:
    return [Curve(**one) for arm in runs.arms for run in runs.of(arm.name) for one in run.details["curves"]]


def run(task: Task, slug: str, work: Path, inputs: dict[int, dict[str, Tensor]], trial: Trial) -> Outcome:
    found = curves(task, slug, trial.data, trial.seed, work, inputs)
    peaks = {kind: statistics.fmean(c.peak for c in found if c.kind == kind) for kind in ("activation", "weight")}
    return Outcome(peaks, details={"curves": [asdict(one) for one in found]})


def curves(
    task: Task, slug: str, bits: str, seed: int, work: Path, inputs: dict[int, dict[str, Tensor]]
) -> list[Curve]:
    """Of all quantised blocks; FlatQuant's transforms are kept in `work`."""
    model, found = task.model(), list[Curve]()
    kept: dict[str, Any] = {"work": work / f"{bits}-{seed}", "resume": True} if slug.startswith("flatquant") else {}
    student_model(model, task.calibration, task.config(slug, bits, seed), **kept)
    for number in task.blocks:
        student = cast(StudentBlock, task.block(model, number))
        for site, x in inputs[number].items():
            activation, weight = at_site(student, site, x)
            found.append(curve(slug, site, number, "activation", activation))
            found.append(curve(slug, site, number, "weight", weight))
    return found


def curve(method: str, site: str, block: int, kind: str, x: Tensor) -> Curve:
    norms = flatness(x).norms
    norms = norms / norms.mean()
    chosen = torch.linspace(0, len(norms) - 1, min(POINTS, len(norms))).round().long()
    return Curve(method, site, block, kind, [round(float(v), 4) for v in norms[chosen]], float(norms[0]))


@torch.no_grad()
def at_site(student: StudentBlock, site: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The activations of a place and the weights that they meet, both transformed."""
    student.refresh()
    parts = [part for part, place in SITES_OF.items() if place == site]
    weights = torch.cat([student.linear(part).transformed_weight()[0] for part in parts])
    if site == "output" and "value" in student.sites:
        x = by_heads(x, cast(Any, student.sites["value"]).pairs[0].P)
    return cast(Tensor, student.sites[site](x)), weights


def site_inputs(task: Task, model: Any = None) -> dict[int, dict[str, Tensor]]:
    """What passes each place of each quantised block of the original model, on the windows of the errors."""
    model = task.model() if model is None else model
    states, (_, arguments) = teacher(task, model), embedded(model, error_windows(task).to(model.device), task.path)
    found = {}
    for number in task.blocks:
        block = task.block(model, number)
        with watched(block, block_paths(block)) as inputs:
            block_outputs(block, states[number], arguments[number], len(states[number]))
        found[number] = dict(inputs)
    return found


@contextmanager
def watched(block: nn.Module, paths: BlockPaths) -> Iterator[Mapping[str, Tensor]]:
    """The inputs of the places of a block, by place, once it has run."""
    inputs: dict[str, Tensor] = {}
    places = {"attention": paths.q, "output": paths.o, "mlp": paths.up, "down": paths.down}

    def keep(site: str) -> Any:
        return lambda module, args: inputs.__setitem__(site, args[0].detach())

    handles = [block.get_submodule(path).register_forward_pre_hook(keep(site)) for site, path in places.items()]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def flatness_table(found: Sequence[Curve]) -> Table:
    """Largest channel norm over the mean, averaged over the blocks."""
    rows: list[list[str | float | int]] = []
    for kind in ("activation", "weight"):
        for slug, name in CURVES.items():
            means = [
                statistics.fmean(c.peak for c in found if (c.kind, c.method, c.site) == (kind, slug, site))
                for site in SITES
            ]
            rows.append([kind, name, *(f"{mean:.2f}" for mean in means)])
    note = "Largest norm of a channel over the mean of all: 1 is flat. Mean over the quantised blocks; test text."
    return Table("Flatness by place", ["tensor", "transform", *SITES.values()], rows, note)


def draw_flatness(curves: Sequence[Curve], block: int, path: Path) -> Picture:
    """Channel norms at the four places of one block, activations above, weights below."""
    with figure(8.0, 4.6, nrows=2, ncols=len(SITES), sharex=True, sharey="row") as (fig, axes):
        for row, kind in enumerate(("activation", "weight")):
            for ax, (site, title) in zip(axes[row], SITES.items(), strict=True):
                chosen = [c for c in curves if (c.site, c.block, c.kind) == (site, block, kind)]
                for curve in chosen:
                    colour = {"rtn": MUTED} | {m: style(m)["color"] for m in CURVES if m != "rtn"}
                    share = np.linspace(0, 100, len(curve.norms))
                    ax.plot(share, curve.norms, color=colour[curve.method], label=CURVES[curve.method])
                if row == 0:
                    ax.set_title(title, fontsize=9)
                else:
                    ax.set_xlabel("channels, %", fontsize=9)
                ax.tick_params(labelsize=8)
            top = max(c.peak for c in curves if (c.block, c.kind) == (block, kind))
            axes[row, 0].set(yscale="log", ylim=(0.3, 1.2 * top))
            decimal(axes[row, 0].yaxis, top)
            axes[row, 0].set_ylabel(f"norm of {kind} channels\nover their mean", fontsize=9)
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(CURVES))
        save_svg(fig, path)
    return Picture(
        path.name, f"Flatness in block {block}",
        "Norms of the channels, largest first, divided by their mean: a flat tensor is a horizontal line at 1. Above: "
        "activations of the test text; below: the weights that they meet. What is under 0.3 is cut off.",
    )  # fmt: skip
