"""DINOv2-small on photographs: patch features and a saliency map, restored from merged tokens."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from copy import copy
from functools import partial
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.compress.token_transforming import Compressed, TokenTransform
from linmap.compress.token_transforming.evaluation.images import PATCHES, POOLED, Images
from linmap.compress.token_transforming.evaluation.measuring import Task
from linmap.compress.token_transforming.evaluation.pictures import draw_flows
from linmap.compress.token_transforming.evaluation.subject import Measure
from linmap.compress.token_transforming.evaluation.ways import Way
from linmap.data.image_preparation import ImagePreparation, read_preparation
from linmap.data.image_sets import ImageSet, embedded_photographs
from linmap.data.images import read_image
from linmap.data.models import load_pretrained
from linmap.data.pretrained import bundled_model, dinov2_saliency
from linmap.experiment import Check, Runs, Table, draw_all
from studies.study import Findings, Job
from studies.token_transforming.common import HARD, OURS, ahead, all_ways, differences, drawn, kept, ran

CORRELATION = Measure("saliency correlation", "higher", 1.0, 0.015)
RMSE = Measure("saliency RMSE", "lower", 0.0, 0.04)
KEEPS = (0.75, 0.65, 0.5, 0.35)
FURTHER = {
    "matplotlib": ("mpl-data/sample_data", ("grace_hopper.jpg",)),
    "skimage": ("data", ("astronaut.png", "rocket.jpg", "motorcycle_left.png", "coins.png", "clock_motion.png",
                         "moon.png", "hubble_deep_field.jpg", "retina.jpg", "ihc.png", "grass.png", "gravel.png",
                         "brick.png")),
}  # fmt: skip
"""Photographs that other packages carry, by package."""
FIRST = 5
"""Photographs that the bars were set on."""
BARS = {224: {0.65: 0.985, 0.5: 0.975}, 518: {0.65: 0.99}}
"""Least correlation of the saliency map, by side and budget."""

SHARPER = [
    Way("centres to themselves", "ablation", TokenTransform(keep_self=True), "only the other tokens are shared"),
    Way("tau .01", "ablation", TokenTransform(tau=0.01), "half the temperature"),
]


class Saliency(Images):
    """With the saliency head of the same file on the restored patches."""

    def __init__(self, model: nn.Module, images: ImageSet, preparation: ImagePreparation, batch_size: int) -> None:
        super().__init__(model, images, preparation, batch_size)
        self.measures = (CORRELATION, RMSE, PATCHES, POOLED)
        self.saliency = dinov2_saliency()

    @torch.no_grad()
    def features(self, batch: int, handle: Compressed | None = None) -> dict[str, Tensor]:
        found = super().features(batch, handle)
        return found | {"map": self.saliency(found["patches"], tuple(self.inputs(batch).shape[-2:]))}

    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        a, b = before["map"].flatten(1), after["map"].flatten(1)
        correlation = F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))
        error = (a - b).square().mean(1).sqrt()
        return super().scores(before, after, batch) | {
            CORRELATION.name: correlation.tolist(),
            RMSE.name: error.tolist(),
        }


def run(job: Job, side: int) -> Findings:
    """All ways at all budgets on every photograph that is there."""
    images = photographs()
    if job.tiny:
        images, side = images.subset([0, 1]), 42
    batch = 2 if side > 300 or job.tiny else 8
    folder = bundled_model("dinov2-small")
    model = load_pretrained(folder, "encoder", "float32").eval()
    subject = Saliency(model, images, read_preparation(folder).at(side), batch)
    keeps = (0.5,) if job.tiny else KEEPS
    task = Task(subject, [*all_ways(), *SHARPER], keeps, repeats=0)
    runs = ran(job, task, {"side": side, "images": images.names})
    tables = [kept(task, runs), differences(task, runs, [one.name for one in subject.measures])]
    noise = under_noise(subject, images)
    tables += [] if job.tiny else [by_photograph(task, runs, noise)]
    pictures, notes = draw_all(
        [
            (job.out / "curves.svg", partial(drawn, runs, CORRELATION, 0.985)),
            (job.out / "flows.svg", partial(draw_flows, subject, TokenTransform(), None)),
        ]
    )
    setting = (
        f"DINOv2-small at {side} x {side} ({subject.patches + 1} tokens), float32, blocks 3, 6 and 9 keep .75 to .35 "
        f"of the patches; restored at the end by R, dropped patches by their nearest; beside every token. Photographs: "
        f"{', '.join(images.names)}."
    )
    checks = bars(runs, side)
    for way in (OURS, HARD):
        checks += ahead(runs, CORRELATION.name, "higher", 0.003, 0.495, way)
    return Findings(setting, tables, checks, notes, pictures)


def bars(runs: Runs, side: int) -> list[Check]:
    """Whether the saliency map is as near as it should be; one flat map moves a mean, and no median."""
    found = []
    for keep, bar in BARS.get(side, {}).items():
        values = runs.of(OURS, f"keep {keep:g}")[0].details[CORRELATION.name]
        sets = {
            f"mean of the first {FIRST} photographs": fmean(values[:FIRST]),
            "mean of all photographs": fmean(values),
            "median of all photographs": median(values),
        }
        for which, value in sets.items():
            statement = f"keep {keep:g}: the saliency map correlates with that of every token by {bar} or more, {which}"
            found.append(Check(statement, value >= bar, f"{value:.4f}", "the map changes more than it should"))
    return found


def under_noise(subject: Saliency, images: ImageSet) -> list[float]:
    """What a change that nobody sees costs: the correlation of each map with that of the photograph under `noisy`."""
    other = copy(subject)
    other._inputs = None
    other.images = ImageSet(images.names, lambda index: noisy(images[index], index))
    found: list[float] = []
    for batch in range(len(subject)):
        found += subject.scores(subject.features(batch), other.features(batch), batch)[CORRELATION.name]
    return found


def noisy(image: np.ndarray, seed: int) -> np.ndarray:
    """Each value one higher or one lower."""
    change = np.random.default_rng(seed).choice([-1, 1], size=image.shape)
    return (image.astype(np.int16) + change).clip(0, 255).astype(np.uint8)


def by_photograph(task: Task, runs: Runs, noise: Sequence[float]) -> Table:
    """The correlation of every photograph, beside how much its map varies at all."""
    spread = [float(one) for before in task.before() for one in before["map"].flatten(1).std(1)]
    ways = [(part, way) for part in runs.parts for way in (OURS, "ToMe on x")]
    columns = [runs.of(way, part)[0].details[CORRELATION.name] for part, way in ways]
    rows: list[list[str | float | int]] = []
    for row, name in enumerate(task.subject.names):
        cells = [f"{column[row]:.3f}" for column in (noise, *columns)]
        rows.append([name, f"{spread[row]:.3f}", *cells])
    for name, mean in (("mean", fmean), ("median", median)):
        rows.append([name, "", f"{mean(noise):.3f}", *(f"{mean(column):.3f}" for column in columns)])
    names = ["photograph", "spread of the map", "under noise", *(f"{way}, {part}" for part, way in ways)]
    note = (
        "Spread: standard deviation over the pixels of the map from every token. Under noise: how that map correlates "
        "with that of the same file with each value one of 256 levels higher or lower, at random."
    )
    return Table(f"{CORRELATION.name.capitalize()} by photograph", names, rows, note)


def photographs() -> ImageSet:
    """Those of linmap and scikit-learn, and those of Matplotlib and scikit-image where these are installed."""
    own, found = embedded_photographs(), list[Path]()
    for package, (folder, names) in FURTHER.items():
        spec = importlib.util.find_spec(package)  # not imported
        places = list(spec.submodule_search_locations or []) if spec else []
        files = [Path(place) / folder / name for place in places for name in names]
        found += [file for file in files if file.exists()]
    names = (*own.names, *(file.stem for file in found))
    return ImageSet(names, lambda index: own[index] if index < len(own) else read_image(found[index - len(own)]))
