"""Digits of 16 x 16 by a small style-based generator: most layers keep their plain weights, as in the paper.

The generator is trained here, adversarially; distances, path lengths and directions are measured on 32 features of a
small classifier, as the paper measures on those of Inception.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.experiment import Arm, Check, Part, differ, weights_digest
from linmap.interpret.householder_projector.attributes import stroke_attributes
from linmap.interpret.householder_projector.features import Features
from linmap.interpret.householder_projector.finetuning import FineTuning, finetune
from linmap.interpret.householder_projector.generators import load_generator, save_generator, slots_of
from linmap.interpret.householder_projector.stylegan2 import StyleGAN2Like
from linmap.recipes.householder_projector.compare import (
    METRICS,
    PLAIN,
    PROJECTOR,
    RANDOM,
    Task,
    arms_of,
    checks,
    concluded,
    differences,
    directions_of,
    entanglement_of,
    run_arms,
    train_projector,
)
from linmap.recipes.householder_projector.flags import Compare
from linmap.recipes.householder_projector.measuring import FRECHET, Yardstick
from linmap.training import TrainingConfig, private, train
from studies.householder_projector.faces import before_training
from studies.study import Findings, Job, table_of

SIDE, TRAINED = 16, 10_000
RATES: dict[str, Any] = {"lr": 1.6e-3, "discriminator_lr": 1e-3}
SETTINGS = Compare(
    model="digits", rank=5, ranks=(16,), steps=200, batch_size=16, warmup=0, average=0.99, objective="adversarial",
    samples=1000, codes=128, **RATES,
)  # fmt: skip
PRETRAINING = FineTuning(steps=2000, batch_size=16, warmup=0, average=0.99, r1_every=16, **RATES)


@dataclass(frozen=True)
class Sizes:
    """Of one run of the protocol."""

    settings: Compare
    pretraining: FineTuning
    images: int
    epochs: int


FULL = Sizes(SETTINGS, PRETRAINING, TRAINED, 3)
TINY = Sizes(
    replace(SETTINGS, rank=2, ranks=(3,), steps=1, samples=8, codes=4), replace(PRETRAINING, steps=1), 32, 1
)  # fmt: skip


def digits(job: Job) -> Findings:
    """SeFa, plain fine-tuning and the projector on the style layers of the two up-sampling convolutions."""
    sizes = TINY if job.tiny else FULL
    settings = replace(sizes.settings, seeds=len(job.seeds))
    images, labels = mnist(sizes.images)
    features, accuracy = classifier(images, labels, sizes.epochs)
    generator = pretrained(images, sizes.pretraining, job.out / "generator", job.resume)
    real = features(images[: settings.samples])
    slots = slots_of(generator)
    task = Task(
        generator, slots, images, Yardstick(features, real, stroke_attributes(), settings.samples, settings.codes)
    )
    part = Part("", task, {"weights": weights_digest(generator), "pretraining": asdict(sizes.pretraining)})
    one = replace(settings, gain=1.0)
    unit = Arm(
        "projector, gain 1", "ablation", partial(train_projector, one, settings.rank, False, True), {"gain": 1.0}
    )
    runs = run_arms(settings, job.out, part, job.seeds, job.resume, [*arms_of(settings, before=True), unit])
    rows = runs.rows(METRICS)
    pairs = {arm.name: entanglement_of(runs, arm.name).tolist() for arm in runs.arms if arm.kind != "ablation"}
    spectra = []
    for name in slots:
        weight: Any = generator.get_submodule(name).weight
        values = torch.linalg.svdvals(weight.detach())[:5].tolist()
        spectra.append(f"{name}: {', '.join(f'{value:.2f}' for value in values)}")
    sentences = [
        concluded(runs, rows, pairs),
        f"Leading singular values of the plain style layers: {'; '.join(spectra)}.",
        f"The classifier tells {accuracy:.1%} of digits that it was not trained on.",
    ]
    found = [*checks(runs), recovered(runs)]
    tables = [table_of("Digits", rows, METRICS), before_training(runs), differences(runs), directions_of(runs)]
    return Findings(told(sizes), tables, found, sentences)


def told(sizes: Sizes) -> str:
    """Data and budget."""
    return (
        f"MNIST at {SIDE} x {SIDE}, {sizes.images:,} digits; a style-based generator trained for "
        f"{sizes.pretraining.steps:,} steps of {sizes.pretraining.batch_size}, then {sizes.settings.steps} more for "
        f"each method from there, with a new discriminator; Frechet distance on 32 features of a classifier, "
        f"{sizes.settings.samples:,} images against as many digits"
    )


def recovered(runs: Any) -> Check:
    """Whether fine-tuning brings back what the projection took."""
    before, after, plain = runs.mean(PROJECTOR, "before"), runs.mean(PROJECTOR, FRECHET), runs.mean(PLAIN, FRECHET)
    return Check(
        "fine-tuning takes the projected generator nearer to the digits",
        after < before,
        f"Frechet distance {before:.1f} before, {after:.1f} after, {plain:.1f} of the plain generator; "
        f"random start {runs.mean(RANDOM, 'before'):.1f} before, {runs.mean(RANDOM, FRECHET):.1f} after",
        "the steps are too few, or too large",
        differ(runs.values(PROJECTOR, "before"), runs.values(PROJECTOR, FRECHET)),
    )


# -- data and networks -------------------------------------------------------------------------------------------------


def mnist(n: int) -> tuple[Float[Tensor, "n 1 16 16"], Int[Tensor, " n"]]:
    """The first digits, padded to 32 and averaged to 16 pixels, in [-1, 1]."""
    arrays = read_npz(find("mnist/mnist_12k.npz", "Set LINMAP_DATA to a folder that has it."), ("x_train", "y_train"))
    x, y = arrays["x_train"][:n], arrays["y_train"][:n]
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(x)).float().reshape(-1, 1, 28, 28), (2, 2, 2, 2))
    return F.avg_pool2d(padded, 2) / 127.5 - 1, torch.from_numpy(y.astype(np.int64))


def pretrained(images: Tensor, settings: FineTuning, folder: Path, resume: bool) -> StyleGAN2Like:
    """A generator of digits, trained once and kept."""
    with private(0):
        generator = StyleGAN2Like(32, 32, 4, (32, 32, 16), 1)
    if resume and (folder / "config.json").exists():
        kept: Any = load_generator(folder)
        return kept
    finetune(generator, None, images, settings=settings)
    save_generator(folder, generator)
    return generator.eval().requires_grad_(False)


class Classifier(nn.Module):
    """Three convolutions and 32 features."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def classifier(images: Tensor, labels: Tensor, epochs: int) -> tuple[Features, float]:
    """32 features of a network that tells digits apart, and its accuracy on a tenth that it was not trained on."""
    with private(0):
        network = Classifier()
    held = max(2, len(images) // 10)
    data = TensorDataset(images[held:], labels[held:])

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    config = TrainingConfig(epochs=epochs, batch_size=64, lr=2e-3)
    train(network, loss, data, config=config, seed_globally=False)
    body = copy.deepcopy(network.body).requires_grad_(False)
    with torch.no_grad():
        accuracy = float((network(images[:held]).argmax(1) == labels[:held]).float().mean())
    return Features("32 features of a classifier of digits", body), accuracy
