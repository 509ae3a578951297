"""The deletion test, and what a column costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from linmap.interpret.linearscope import LinearScope
from linmap.pictures import BASELINE, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.linearscope.settings import LABELS, Settings

PHOTOS = ("chelsea", "coffee", "china", "flower")


@dataclass(frozen=True)
class Deletion:
    """One photograph's deletion test."""

    photo: str
    x: Tensor
    votes: Tensor
    target: int
    logit: float
    residual: float
    exactness: float
    before: float
    after: dict[str, list[float]]


def deletion_test(model: nn.Module, photo: str, x: Tensor, settings: Settings, seed: int) -> Deletion:
    """The top class's probability after the pixels with the highest scores are set to zero."""
    interp = LinearScope(model).at(x)
    probabilities = interp.output.softmax(1)[0]
    target = int(probabilities.argmax())
    votes = interp.votes(target)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[0, target], leaf)
    scores = {
        "votes": votes.sum(0),
        "gradient × input": (gradient * x)[0].sum(0),
        "gradient norm": gradient[0].norm(dim=0),
    }
    generator = torch.Generator().manual_seed(seed)
    chance = [torch.rand(x.shape[-2:], generator=generator) for _ in range(settings.random_masks)]
    after = {name: [_after(model, x, score, target, settings.deleted)] for name, score in scores.items()}
    after["random pixels"] = [_after(model, x, score, target, settings.deleted) for score in chance]
    return Deletion(
        photo, x, votes, target, float(interp.output[0, target]), float(interp.residual[0, target]),
        interp.exactness(), float(probabilities[target]), after,
    )  # fmt: skip


@torch.no_grad()
def _after(model: nn.Module, x: Tensor, score: Tensor, target: int, share: float) -> float:
    deleted = torch.zeros(score.numel(), dtype=torch.bool)
    deleted[score.flatten().topk(round(share * score.numel())).indices] = True
    return float(model(x.masked_fill(deleted.reshape(score.shape), 0)).softmax(1)[0, target])


def draw_deletion(tests: list[Deletion], path: Path) -> None:
    methods = ["before", *tests[0].after]
    colours = [BASELINE, SYSTEM, *SERIES[1:]]
    with figure(7.2, 3.2) as (fig, ax):
        for m, method in enumerate(methods):
            values = [t.before if method == "before" else float(np.mean(t.after[method])) for t in tests]
            places = np.arange(len(tests)) + (m - (len(methods) - 1) / 2) * 0.16
            ax.bar(places, values, 0.15, label=method, color=colours[m])
        ax.set_xticks(range(len(tests)), [f"{t.photo}\n{LABELS.get(t.target, t.target)}" for t in tests])
        ax.set_ylabel("probability of the top class")
        ax.set_title("Deleting the pixels with the highest scores (lower: the score found what mattered)")
        ax.legend(ncols=3, fontsize=8)
        save_svg(fig, path)


@dataclass(frozen=True)
class Cost:
    """Median milliseconds."""

    forward: float
    batched_column: float
    single_column: float
    row: float


def column_cost(model: nn.Module, x: Tensor, batch: int = 16, repeats: int = 3) -> Cost:
    """What a column and a row cost beside a forward pass: `batch` of each in turns, medians."""
    interp = LinearScope(model).at(x)
    work: list[Callable[[], object]] = [
        lambda: [model(x) for _ in range(batch)],
        lambda: interp.columns(range(batch), batch),
        lambda: [interp.columns([i]) for i in range(batch)],
        lambda: [interp.row(i) for i in range(batch)],
    ]
    seconds: list[list[float]] = [[] for _ in work]
    with torch.no_grad():
        interp.row(0)  # builds the graph that all rows share
        for _ in range(repeats):
            for samples, function in zip(seconds, work, strict=True):
                start = time.perf_counter()
                function()
                samples.append(time.perf_counter() - start)
    return Cost(*(1000 * float(np.median(samples)) / batch for samples in seconds))
