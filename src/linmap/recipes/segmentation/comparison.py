"""SALT beside other ways to adapt the same segmenter: same images, same decoder, same steps, rates chosen alike."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from torch import nn

from linmap.artifacts import write_json
from linmap.data.masks import MaskedImages
from linmap.errors import ArgumentError
from linmap.experiment.drawing import with_pictures
from linmap.experiment.result import Check, Metric, Result, Row, Table
from linmap.recipes.job import CompareJob
from linmap.recipes.language.flags import listed
from linmap.recipes.segmentation.fitting import Adapt, adapt, build, load, measure, train_segmenter, trained
from linmap.recipes.segmentation.metrics import segmentation_loss
from linmap.recipes.segmentation.model import TARGETS, Segmenter, probabilities
from linmap.recipes.segmentation.pictures import draw_losses, draw_masks
from linmap.recipes.segmentation.settings import SegmentationSettings

BOOTSTRAPS = 2000
DRAWN = 3  # test images in the picture


@dataclass(frozen=True)
class Arm:
    """A way to adapt the encoder."""

    name: str
    kind: Literal["system", "baseline", "ablation"]
    adapt: Adapt | None
    note: str


@dataclass(frozen=True)
class Task:
    """The images, and what a run on them depends on."""

    name: str
    train: MaskedImages
    test: MaskedImages


@dataclass(frozen=True)
class Run:
    """One arm after training on some images with one seed."""

    dice: list[float]
    hd95: list[float]
    losses: list[float]
    seconds: float
    parameters: int
    rate: float
    masks: list[str] = field(default_factory=list)
    """Predictions for the drawn images, packed to bits, in hexadecimal."""


def compare(settings: SegmentationSettings, job: CompareJob) -> Result:
    """SALT, its parts alone (LoRA, scale and shift), the decoder alone and full tuning."""
    task = prepare(settings, job)
    arms, seeds = list(arms_of(settings)), list(range(job.seed, job.seed + settings.seeds))
    console = Console(stderr=True)
    runs: dict[tuple[str, int], list[Run]] = {}
    for arm in arms:
        rate = best_rate(arm, task, settings, job)
        for n in settings.images:
            runs[arm.name, n] = [run(arm, task, n, seed, rate, settings, job) for seed in seeds]
            mean = np.mean([np.mean(one.dice) for one in runs[arm.name, n]])
            console.print(f"[dim]{arm.name}, {n} images: Dice {mean:.3f} (rate {rate:g})[/dim]")
    rows = [row_of(arm, runs, settings) for arm in arms]
    table = differences(arms, runs, settings)
    found = Result(
        system="salt",
        task=f"{task.name}, {settings.size} x {settings.size} pixels: {settings.epochs} epochs on the first "
        f"{', '.join(map(str, settings.images))} training images, Dice and HD95 on {len(task.test)} test images; "
        "EfficientNet-lite0 as encoder, one decoder for all",
        metrics=[metric for n in settings.images for metric in metrics_of(n)],
        rows=rows,
        shows=shows(rows, table, settings),
        limits=limits(task, settings),
        checks=checks(rows, settings),
        tables=[table, costs(arms, runs, task, settings)],
        preset=job.preset,
        seeds=seeds,
        settings=asdict(settings),
    )
    few = {arm.name: runs[arm.name, settings.images[0]] for arm in arms}
    many = {arm.name: runs[arm.name, settings.images[-1]][0] for arm in arms}
    return with_pictures(found, [
        (job.out / "losses.svg", lambda path: draw_losses(few, settings, path)),
        (job.out / "segmentations.svg", lambda path: draw_masks(many, drawn(task), path)),
    ])  # fmt: skip


def prepare(settings: SegmentationSettings, job: CompareJob) -> Task:
    """The embedded images, or the user's with every fourth held out for the test."""
    if job.data is None:
        label = {None: "vessels", 1: "nerves", 2: "vessels"}.get(settings.label, str(settings.label))
        task = Task(f"ultrasound, {label}", load(None, settings, "train"), load(None, settings, "test"))
    else:
        data = load(job.data, settings, "train")
        rows = list(range(len(data)))
        task = Task(job.data.stem, data[[i for i in rows if i % 4 != 3]], data[rows[3::4]])
    if max(settings.images) > len(task.train):
        raise ArgumentError(
            f"--images {listed(settings.images)}: there are {len(task.train)} training images; choose at most as many."
        )
    return task


# -- the arms --------------------------------------------------------------------------------------------------------


def arms_of(settings: SegmentationSettings) -> Iterator[Arm]:
    lora = partial(put_lora, rank=settings.lora_rank)
    budget = adapter_parameters(lora)
    r = salt_rank(settings.ratio, budget)
    options = {"ratio": settings.ratio, "r": r}
    about = f"ratio {settings.ratio:g}, r = {r}"
    yield Arm("SALT", "system", partial(adapt, relu="all", **options), f"{about}, relu on the whole core")
    yield Arm("decoder only", "baseline", None, "encoder frozen")
    yield Arm("LoRA", "baseline", lora, f"PEFT, r = {settings.lora_rank} on the same convolutions")
    yield Arm("scale and shift", "baseline", partial(adapt, ratio=1.0, relu="all"), "all singular values, as in S-SAM")
    yield Arm("full tuning", "baseline", lambda encoder: encoder.requires_grad_(True) and None, "every weight")
    yield Arm("SALT, relu on the diagonal", "ablation", partial(adapt, relu="diag", **options), about)


def put_lora(encoder: nn.Module, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS), encoder)


def adapter_parameters(adapt: Adapt | None) -> int:
    """Trainable parameters of the encoder."""
    return sum(p.numel() for p in build(adapt, 0).trainable()[0])


def salt_rank(ratio: float, budget: int) -> int:
    """The largest rank with which SALT has no more parameters: 2 k + 2 r (q - k) in each weight."""
    sizes = [min(m.out_channels, m.in_channels) for m in _pointwise(build(None, 0).encoder)]
    tuned = [(q, max(1, int(ratio * q))) for q in sizes]
    r = 1
    while sum(2 * k + 2 * min(r + 1, q - k) * (q - k) for q, k in tuned) <= budget and r < max(sizes):
        r += 1
    return r


def _pointwise(encoder: nn.Module) -> list[nn.Conv2d]:
    return [m for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d) and re.fullmatch(TARGETS, f".{n}")]


# -- runs ------------------------------------------------------------------------------------------------------------


def best_rate(arm: Arm, task: Task, settings: SegmentationSettings, job: CompareJob) -> float:
    """The rate that gives the best Dice on the last training images, trained on the fewest of the first."""
    if arm.adapt is None or len(settings.rates) == 1:
        return settings.rates[0]
    held = max(1, round(settings.validation * len(task.train)))
    n = min(*settings.images, len(task.train) - held)
    choosing = Task(task.name, task.train[:n], task.train[-held:])
    tried = {
        rate: np.mean(run(arm, choosing, n, job.seed, rate, settings, job, "choosing").dice) for rate in settings.rates
    }
    return max(tried, key=lambda rate: tried[rate])


def run(
    arm: Arm, task: Task, n: int, seed: int, rate: float, settings: SegmentationSettings, job: CompareJob,
    purpose: str = "runs",
) -> Run:  # fmt: skip
    """Train on the first n images and measure on the test images; a finished run is reused with --resume."""
    path = job.out / purpose / f"{arm.name.replace(',', '').replace(' ', '-')}-{n}-{seed}-{rate:g}.json"
    ignored = ("seeds", "images", "rates")
    key = {"data": str(job.data), "settings": {k: v for k, v in asdict(settings).items() if k not in ignored}}
    key = json.loads(json.dumps(key))
    if job.resume and path.exists():
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["key"] == key:
            return Run(**saved["run"])
    model, losses, start = build(arm.adapt, seed), [], time.perf_counter()
    train_segmenter(
        model, task.train[:n], settings.training(seed), settings, rate, losses=losses,
        description=f"{arm.name}, {n} images, seed {seed}",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    bits = (probabilities(model, task.test.images[:DRAWN]) > 0.5).numpy()
    done = Run(
        **measure(model, task.test), losses=[round(value, 5) for value in losses], seconds=seconds, rate=rate,
        parameters=sum(p.numel() for p in trained(model)), masks=[np.packbits(mask).tobytes().hex() for mask in bits],
    )  # fmt: skip
    write_json(path, {"key": key, "run": asdict(done)})
    return done


def drawn(task: Task) -> MaskedImages:
    return task.test[:DRAWN]


def step_memory(arm: Arm, task: Task, settings: SegmentationSettings) -> int:
    """Most bytes that PyTorch holds at once during one training step, beyond the model."""
    model: Segmenter = build(arm.adapt, 0).train()
    images, masks = task.train.images[: settings.batch_size], task.train.masks[: settings.batch_size]

    def step() -> None:
        segmentation_loss(model(images), masks).backward()

    return _peak(step)


def _peak(function: Callable[[], None]) -> int:
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        function()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]  # pyright: ignore
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, held)
    return peak


# -- what they say ---------------------------------------------------------------------------------------------------


def metrics_of(n: int) -> list[Metric]:
    return [
        Metric(f"Dice, {n} images", better="higher"),
        Metric(f"HD95, {n} images", better="lower", unit="pixels", digits=1),
    ]


def row_of(arm: Arm, runs: dict[tuple[str, int], list[Run]], settings: SegmentationSettings) -> Row:
    values: dict[str, list[float]] = {}
    for n in settings.images:
        for metric, name in zip(metrics_of(n), ("dice", "hd95"), strict=True):
            values[metric.name] = [float(np.mean(getattr(one, name))) for one in runs[arm.name, n]]
    every = [one for n in settings.images for one in runs[arm.name, n]]
    note = arm.note if arm.adapt is None else f"{arm.note}; rate {every[0].rate:g}"
    return Row(
        arm.name, arm.kind, values, parameters=every[0].parameters,
        seconds=sum(one.seconds for one in every) / settings.seeds, note=note,
    )  # fmt: skip


def interval(ours: list[Run], theirs: list[Run]) -> tuple[float, float, float]:
    """The mean difference in Dice over seeds and images, and its 95 % interval by a bootstrap over the images."""
    gaps = np.mean([one.dice for one in ours], 0) - np.mean([one.dice for one in theirs], 0)
    rows = np.random.default_rng(0).integers(len(gaps), size=(BOOTSTRAPS, len(gaps)))
    low, high = np.percentile(gaps[rows].mean(1), (2.5, 97.5))
    return float(gaps.mean()), float(low), float(high)


def differences(arms: list[Arm], runs: dict[tuple[str, int], list[Run]], settings: SegmentationSettings) -> Table:
    rows: list[list[str | float | int]] = []
    for arm in arms[1:]:
        cells = [interval(runs[arms[0].name, n], runs[arm.name, n]) for n in settings.images]
        rows.append([arm.name, *(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in cells)])
    return Table(
        "Dice of SALT less that of the others", ["method", *(f"{n} images" for n in settings.images)], rows,
        "With the 95 % interval of a bootstrap over the test images, seeds averaged.",
    )  # fmt: skip


def costs(arms: list[Arm], runs: dict[tuple[str, int], list[Run]], task: Task, settings: SegmentationSettings) -> Table:
    steps = settings.epochs * math.ceil(settings.images[0] / settings.batch_size)
    rows: list[list[str | float | int]] = []
    for arm in arms:
        seconds = float(np.median([one.seconds for one in runs[arm.name, settings.images[0]]]))
        memory = step_memory(arm, task, settings) / 2**20
        rows.append([arm.name, adapter_parameters(arm.adapt), f"{1e3 * seconds / steps:.0f}", f"{memory:.0f}"])
    columns = ["method", "parameters in the encoder", "ms per step", "peak memory of a step, MiB"]
    decoder = sum(p.numel() for p in Segmenter().decoder.parameters())
    return Table("Cost", columns, rows, f"The decoder has {decoder:,} parameters in every method.")


def checks(rows: list[Row], settings: SegmentationSettings) -> list[Check]:
    found, ours = {row.name: row for row in rows}, rows[0]
    checked = []
    for n in settings.images:
        name = metrics_of(n)[0].name
        for peer in ("LoRA", "scale and shift", "decoder only"):
            checked.append(
                Check(
                    f"with {n} images, SALT's Dice is at least that of {peer}",
                    ours.mean(name) >= found[peer].mean(name),
                    f"{ours.mean(name):.4f} against {found[peer].mean(name):.4f}",
                    f"take {peer} for so few images",
                )
            )
    lora = found["LoRA"].parameters or 0
    checked.append(
        Check(
            "SALT has no more parameters than LoRA",
            (ours.parameters or 0) <= lora,
            f"{ours.parameters:,} and {lora:,}",
            "SALT would buy its Dice with more parameters",
        )
    )
    return checked


def shows(rows: list[Row], table: Table, settings: SegmentationSettings) -> str:
    sentences = []
    for n in settings.images:
        name = metrics_of(n)[0].name
        order = sorted(rows, key=lambda row: -row.mean(name))
        sentences.append(f"With {n} images, Dice: " + ", ".join(f"{row.name} {row.mean(name):.3f}" for row in order))
    sure = [
        f"{row[0]} ({settings.images[i]} images)"
        for row in table.rows
        for i, cell in enumerate(row[1:])
        if str(cell).count("+") == 3 or str(cell).count("-") == 3
    ]
    sentences.append(
        f"The interval of the difference to SALT leaves out zero for {', '.join(sure)}" if sure
        else "No difference to SALT is larger than what the choice of the test images explains"
    )  # fmt: skip
    return ". ".join(sentences) + "."


def limits(task: Task, settings: SegmentationSettings) -> str:
    return (
        f"{len(task.test)} test images and {settings.seeds} seeds on one small network: differences of one or two "
        f"points of Dice are noise. Learning rates are chosen once a method, among {len(settings.rates)}, trained on "
        f"{min(settings.images)} images with one seed and judged on the last {settings.validation:.0%} of the training "
        "images, which the decoder's rate is not. SALT's change stays within the singular vectors of weights that are "
        "far from square here; LoRA's does not. The paper adapts SAM, twenty times larger, to other data; its figures "
        "are not comparable."
    )
