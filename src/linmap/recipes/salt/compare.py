"""SALT beside other ways to adapt the same segmenter: same images, same decoder, same steps, rates chosen alike."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from linmap.adapt.segmentation import TARGETS, probabilities
from linmap.adapt.segmentation.training import adapter_parameters, salt_rank
from linmap.data.masks import MaskedImages
from linmap.errors import ArgumentError
from linmap.experiment import conclude, fingerprint, paired, ranking
from linmap.experiment.engine import Arm, Choice, Experiment, Outcome, Part, Runs, Trial
from linmap.experiment.result import Kind, Metric, Result, Table
from linmap.recipes.job import CompareJob
from linmap.recipes.salt.fit import Adapt, adapt, build, load, measure, train_segmenter, trained_parameters
from linmap.recipes.salt.flags import CompareImages
from linmap.recipes.salt.pictures import draw_losses, draw_masks

DICE, HD95, CHOOSING = "Dice", "HD95", "validation Dice"
DRAWN = 3  # test images in the picture
EVERY = 4  # every fourth image is for the test


@dataclass(frozen=True)
class Images:
    """What the arms get."""

    train: MaskedImages
    test: MaskedImages
    n: int
    """Training images, the first ones."""


def compare(settings: CompareImages, job: CompareJob) -> Result:
    """SALT, its parts alone (LoRA, scale and shift), the decoder alone and full tuning."""
    settings.training(job.seed)  # refuses what does not go together before any work
    data = load(job.data, settings.size, settings.label)
    rows = range(len(data))
    test = data[[i for i in rows if i % EVERY == EVERY - 1]]
    train = data[[i for i in rows if i % EVERY != EVERY - 1]]
    runs = run_arms(settings, job, train, test, {"data": fingerprint(job.data)})
    name = job.data.stem if job.data else "ultrasound"
    part = runs.parts[0]  # of the first metric
    return conclude(
        "salt", runs.rows(columns_of(settings)), list(metrics_of(settings)), settings, over="images",
        pairs={arm.name: _image_means(runs, arm.name, part).tolist() for arm in runs.arms},
        task=described(name, settings, test), shows=shows(runs, settings), limits=limits(settings, test),
        tables=[differences(runs)], seeds=list(range(job.seed, job.seed + settings.seeds)),
        drawings=[(job.out / "segmentations.svg", partial(draw_masks, runs, test[:DRAWN])),
                  (job.out / "losses.svg", partial(draw_losses, runs, settings.epochs))],
    )  # fmt: skip


def run_arms(
    settings: CompareImages, job: CompareJob, train: MaskedImages, test: MaskedImages, data: dict[str, Any],
    arms: Sequence[Arm] | None = None,
) -> Runs:  # fmt: skip
    """Every arm on every number of training images, with all seeds.

    Raises
    ------
    ArgumentError
        If there are fewer training images.
    """
    if max(settings.images) > len(train):
        raise ArgumentError(
            f"images={settings.images}: there are {len(train)} training images; choose at most as many."
        )
    key = {k: v for k, v in asdict(settings).items() if k not in ("images", "seeds", "rates")} | data
    parts = [Part(_part_name(n), Images(train, test, n), {"images": n}) for n in settings.images]
    seeds = range(job.seed, job.seed + settings.seeds)
    arms = list(arms_of(settings)) if arms is None else arms
    return Experiment("salt", job.out / "runs", key, job.resume).run(arms, parts, seeds, Choice(CHOOSING, "higher"))


def _part_name(n: int) -> str:
    """Of so many training images."""
    return f"{n} images"


# -- the arms ----------------------------------------------------------------------------------------------------------


def arms_of(settings: CompareImages) -> Iterator[Arm]:
    """SALT and the rest; none has more parameters in the encoder than LoRA but for full tuning."""

    def arm(name: str, kind: Kind, how: Adapt | None, note: str, **own: Any) -> Arm:
        rates = settings.rates if how else ()
        return Arm(name, kind, partial(train_arm, settings, name, how), own, rates, note=note)

    lora = partial(put_lora, rank=settings.lora_rank)
    r = salt_rank(settings.ratio, adapter_parameters(lora))
    options, about = {"ratio": settings.ratio, "r": r}, f"ratio {settings.ratio:g}, r = {r}"
    yield arm("SALT", "system", partial(adapt, relu="all", **options), f"{about}, relu on the whole core", r=r)
    yield arm("decoder only", "baseline", None, "encoder frozen")
    yield arm("LoRA", "baseline", lora, f"PEFT, r = {settings.lora_rank} on the same convolutions")
    yield arm("full tuning", "baseline", _unfreeze, "every weight")
    shift = partial(adapt, ratio=1.0, relu="all")
    yield arm("scale and shift", "baseline", shift, "all singular values, as in S-SAM")


def _unfreeze(encoder: nn.Module) -> None:
    """Train every weight."""
    encoder.requires_grad_(True)


def put_lora(encoder: nn.Module, rank: int) -> None:
    """Put PEFT's LoRA on the 1 x 1 convolutions."""
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS), encoder)


def train_arm(settings: CompareImages, name: str, how: Adapt | None, trial: Trial) -> Outcome:
    """Train on the first images; measure on the test images, or to choose a rate on the last training images."""
    images: Images = trial.data
    train, n = images.train, images.n
    held = max(1, round(settings.validation * len(train)))
    if trial.choosing:
        n = min(n, len(train) - held)
    model, losses, start = build(how, trial.seed), [], time.perf_counter()
    train_segmenter(
        model, train[:n], settings.training(trial.seed), trial.rate or settings.lr, augment=settings.augment,
        losses=losses, description=f"{name}, {n} images, seed {trial.seed}",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if trial.choosing:
        return Outcome({CHOOSING: float(np.mean(measure(model, train[-held:])["dice"]))})
    found = measure(model, images.test)
    bits = (probabilities(model, images.test.images[:DRAWN]) > 0.5).numpy()
    details = found | {
        "losses": [round(loss, 5) for loss in losses],
        "masks": [np.packbits(mask).tobytes().hex() for mask in bits],
    }
    values = {DICE: float(np.mean(found["dice"])), HD95: float(np.mean(found["hd95"]))}
    return Outcome(values, trained_parameters(model), details, seconds)


# -- what they say -----------------------------------------------------------------------------------------------------


def columns_of(settings: CompareImages) -> dict[str, tuple[str, str | None]]:
    """By the name of a metric, the measure and the number of images."""
    return {f"{name}, {_part_name(n)}": (name, _part_name(n)) for n in settings.images for name in (DICE, HD95)}


def metrics_of(settings: CompareImages) -> Iterator[Metric]:
    """Dice first."""
    for name, (kind, _) in columns_of(settings).items():
        yield Metric(name, "higher") if kind == DICE else Metric(name, unit="pixels", digits=1)


def _image_means(runs: Runs, arm: str, part: str) -> np.ndarray:
    """Dice of every test image, seeds averaged, (n,)."""
    return np.mean([run.details["dice"] for run in runs.of(arm, part)], 0)


def differences(runs: Runs) -> Table:
    """What SALT gains over every other, with an interval over the test images."""
    first, *others = runs.arms
    rows: list[list[str | float | int]] = [
        [arm.name, *(paired(_image_means(runs, first.name, part), _image_means(runs, arm.name, part)).text()
                     for part in runs.parts)]
        for arm in others
    ]  # fmt: skip
    note = "With the 95 % interval over the test images, seeds averaged."
    return Table(f"Dice of {first.name} less that of the others", ["method", *runs.parts], rows, note)


def described(name: str, settings: CompareImages, test: MaskedImages) -> str:
    """Data, split and budget."""
    return (
        f"{name}, {settings.size} x {settings.size} pixels: {settings.epochs} epochs on the first "
        f"{', '.join(map(str, settings.images))} training images, Dice and HD95 on {len(test)} test images; "
        "EfficientNet-lite0 as encoder, one decoder for all"
    )


def shows(runs: Runs, settings: CompareImages) -> str:
    """The arms in the order of Dice."""
    sentences = []
    for n in settings.images:
        means = {arm.name: runs.mean(arm.name, DICE, _part_name(n)) for arm in runs.arms}
        order = ", ".join(f"{name} {means[name]:.3f}" for name in ranking(means, "higher"))
        sentences.append(f"With {n} images, Dice: {order}.")
    return " ".join(sentences)


def limits(settings: CompareImages, test: MaskedImages) -> str:
    """What not to conclude."""
    return (
        f"{len(test)} test images and {settings.seeds} seeds on one small network: differences of one or two points of "
        f"Dice are noise. Learning rates are chosen among {len(settings.rates)} with one seed by the last "
        f"{settings.validation:.0%} of the training images; the decoder's is the same in every method. SALT's change "
        "stays within the singular vectors of weights that are far from square here; LoRA's does not."
    )
