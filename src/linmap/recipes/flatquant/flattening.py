"""How flat activations and weights are at each place of a block, under the transforms of each method (figure 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from linmap.compress.flatquant.architecture import BlockPaths, block_paths
from linmap.compress.flatquant.baselines import BASELINES
from linmap.compress.flatquant.block import SITES_OF, StudentBlock
from linmap.compress.flatquant.calibration import student_model
from linmap.compress.flatquant.flatness import flatness
from linmap.compress.flatquant.linear import by_heads
from linmap.compress.flatquant.teacher import block_outputs, embedded
from linmap.recipes.flatquant.experiments import Task

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


def curves(task: Task, setting: str, seed: int, work: Path) -> list[Curve]:
    """Of all quantised blocks; FlatQuant's transforms come from `work`."""
    inputs = site_inputs(task)
    found: list[Curve] = []
    for slug in CURVES:
        model, baseline = task.model(), BASELINES[slug]
        kept: dict[str, Any] = {"work": work, "resume": True} if baseline.kind == "system" else {}
        student_model(model, task.calibration, task.config(baseline, setting, seed), **kept)
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


def site_inputs(task: Task) -> dict[int, dict[str, Tensor]]:
    """What passes each place of each quantised block of the original model, on the windows of the errors."""
    _, arguments = embedded(task.original, task.error_windows(), task.path)
    found = {}
    for number in task.blocks:
        block = task.block(task.original, number)
        with watched(block, block_paths(block)) as inputs:
            block_outputs(block, task.teacher[number], arguments[number], len(task.teacher[number]))
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
