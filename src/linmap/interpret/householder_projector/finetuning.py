"""Fine-tuning a generator whose layers have been swapped: on images, or on what the original generator draws.

What was tried without images, on the faces of gan-face-generate (Frechet distance on DINOv2-small's features of 512
images; two fresh sets of the original generator's are 31.8 apart; statistics of batch normalisation taken anew):

| | rank 10 | rank 20 | rank 50 | rank 100 |
| --- | --- | --- | --- | --- |
| the original whose first layer reads the directions alone | 69.1 | 41.4 | 30.5 | 31.8 |
| the projector at its start | 67.9 | 42.7 | 47.3 | 69.8 |

The first row is what the rank costs in a generator whose code goes through the one layer, the second adds what equal
singular values cost. None of what was tried in 150 steps with lr=5e-4, one seed each, ended nearer than it started:

- rank 10, batch 32, matching with the image that the original draws of the same code: 107.9. What the projector cannot
  tell apart is averaged, and images blur. Against a discriminator that starts anew: 251.8. Both together: 97.4.
- rank 50, batch 16, matching with the image of the first row, which a drawn image could equal: 65.1. Diversity (the
  mean distance of features) came back from 24.0 to 26.4, where the original has 26.2; sharpness did not.

With lr=1e-4, 40 steps of warm-up and images of the first row to match, 100 steps of 16 of both at rank 10 kept what
was there: 67.1. These are the defaults. A budget of a few hundred steps is better spent on a rank of 20 to 50 and no
step at all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.interpret.householder_projector.adversaries import Adversaries, Objective
from linmap.interpret.householder_projector.discriminator import Discriminator
from linmap.interpret.householder_projector.layers import restrict_
from linmap.interpret.householder_projector.projector import HouseholderProjector
from linmap.interpret.householder_projector.runs import recalibrate_
from linmap.interpret.householder_projector.weights import settle_
from linmap.training import TrainingConfig, TrainingHistory, parts, private, train

EPOCH = 1000  # steps that the loop counts as one pass
CALIBRATION = 1024  # codes whose images give batch normalisation its statistics
BETAS = (0.0, 0.99)  # of Adam, as in StyleGAN2


@dataclass(frozen=True)
class FineTuning:
    """The settings of a fine-tuning.

    Raises
    ------
    ValueError
        If a setting is out of its range.
    """

    steps: int = 300
    """Optimiser steps; the paper takes about 1 % of the original training."""
    batch_size: int = 32
    """Images of a step, real and drawn ones each."""
    lr: float = 1e-4
    """Learning rate of the generator."""
    discriminator_lr: float = 1e-3
    """Learning rate of the discriminator, which starts anew."""
    objective: Literal["auto", "adversarial", "matching", "both"] = "auto"
    """adversarial: a discriminator tells real images from drawn ones; matching: each drawn image shall be what the
    original generator draws of what the directions see of the same code; auto: adversarial on images, both
    without."""
    trained: Literal["all", "projectors"] = "all"
    """The parameters of the generator that are trained."""
    matching: float = 10.0
    """Weight of the matching in "both"."""
    r1: float = 1.0
    """Weight of the gradient penalty on real images."""
    r1_every: int = 16
    """Steps between gradient penalties, each of which counts for as many steps."""
    average: float = 0.99
    """Decay a step of the running average of the generator's weights, which is the result."""
    warmup: int = 40
    """Steps in which the discriminator alone learns from the adversarial loss."""
    flip: bool = False
    """Mirror half of the real images."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision, as in TrainingConfig."""
    checkpoint_every: int | None = None
    """Steps between checkpoints."""
    seed: int = 0
    """Of the codes, the images of each step and the discriminator's start."""

    def __post_init__(self) -> None:
        for name in ("discriminator_lr", "matching", "r1_every"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ArgumentError(f"{name}={getattr(self, name)} must be positive.")
        for name in ("r1", "warmup"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ArgumentError(f"{name}={getattr(self, name)} must not be negative.")
        if not 0 <= self.average < 1:
            raise ArgumentError(f"average={self.average} must lie in [0, 1).")
        for name, kinds in (("objective", ("auto", *get_args(Objective))), ("trained", ("all", "projectors"))):
            if getattr(self, name) not in kinds:
                raise ArgumentError(f"{name}={getattr(self, name)!r} must be one of {', '.join(kinds)}.")
        self.config()

    def config(self) -> TrainingConfig:
        """What the training loop is told."""
        return TrainingConfig(
            epochs=max(1, -(-self.steps // EPOCH)),
            max_steps=self.steps,
            batch_size=self.batch_size,
            lr=self.lr,
            betas=BETAS,
            precision=self.precision,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
        )


@runtime_checkable
class Drawing(Protocol):
    """A module that draws images (n, channels, height, width) in [-1, 1] of codes z ~ N(0, I)."""

    latent_dim: int

    def __call__(self, z: Tensor) -> Tensor: ...


def finetune(
    generator: Drawing,
    teacher: Drawing | None = None,
    images: Tensor | None = None,
    *,
    settings: FineTuning | None = None,
    out: Path | str | None = None,
    resume: bool = False,
) -> TrainingHistory:
    """Train a generator, in place, to draw what the original one drew, or what the user's images show.

    The adversarial loss is the non-saturating logistic one with the lazy gradient penalty R1 (Mescheder, Geiger and
    Nowozin, 2018; Karras et al., 2020); both networks take their steps at once, in one optimiser of the training loop,
    which gives precision, progress, checkpoints and exact resumption. Without images, what the teacher draws is real to
    the discriminator. "matching" compares images of the same code pair by pair, the generator's with those of the
    teacher whose swapped layers read the directions' span alone, at three sizes.
    Afterwards the generator holds the running average of its weights, with batch normalisation's statistics taken anew,
    is in evaluation mode, and on the device that Accelerate chose.

    Parameters
    ----------
    generator
        Whose layers have been swapped by `project_layers`; has `latent_dim`, the length of its codes.
    teacher
        The generator as it was, with the same `latent_dim`; needed without images and for "matching". Left unchanged.
    images
        (N, channels, height, width) like the generator's, floating in [-1, 1] or uint8.
    settings
        `FineTuning()` when None.
    out, resume
        As in `linmap.training.train`: the folder of checkpoints, and whether to go on from the last one.

    Returns
    -------
    TrainingHistory
        Its losses are the sums of the losses of both networks.

    Raises
    ------
    ValueError
        If neither teacher nor images are given, the objective needs what is not there, shapes differ, or images are out
        of range.
    TypeError
        If the generator is no module with a `latent_dim`.
    """
    settings = FineTuning() if settings is None else settings
    network, plain = _module("generator", generator), None if teacher is None else _module("teacher", teacher)
    objective = _objective(settings, plain is not None, images is not None)
    shape = _image_shape(network, generator.latent_dim, plain)
    real = None if images is None else _real(images, shape)
    original = plain if images is None and objective != "matching" else None
    with private(settings.seed):
        discriminator = None if objective == "matching" else Discriminator(*shape).to(next(network.parameters()))
        codes = torch.randn(CALIBRATION, generator.latent_dim).to(next(network.parameters()))
        model = None if plain is None or objective == "adversarial" else _within_reach(network, plain, codes)
    with _only(network, settings.trained):
        both = Adversaries(
            network,
            discriminator,
            None if original is None else _frozen(original),
            model,
            objective=objective,
            matching=settings.matching,
            r1=settings.r1,
            r1_every=settings.r1_every,
            average=settings.average,
            warmup=settings.warmup,
        )

        def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            part = parts.current()
            place = () if part is None or not part.first else (part.first,)  # the noise of each process is its own
            with private(_seed(settings.seed, int(both.steps), *place)):  # noise of the generators, alike on resumption
                return model(batch["z"], batch.get("real"))

        history = train(
            both,
            loss,
            _Steps(settings, generator.latent_dim, real),
            config=settings.config(),
            out=out,
            resume=resume,
            description="fine-tuning",
            callbacks=[both.after_step],
            parameter_groups=lambda _: _groups(both, settings),
            seed_globally=False,
        )
        both.take_average()
    with private(_seed(settings.seed, settings.steps)):
        codes = torch.randn(CALIBRATION, generator.latent_dim).to(next(network.parameters()))
        recalibrate_(network.eval(), codes)
    return history


def _module(name: str, value: object) -> nn.Module:
    if not isinstance(value, nn.Module) or not isinstance(getattr(value, "latent_dim", None), int):
        raise ArgumentTypeError(
            f"{name} must be a module with latent_dim, the length of the codes that it draws from; "
            f"{type(value).__name__} is not."
        )
    return value


def _frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).eval().requires_grad_(False)


def _within_reach(network: nn.Module, plain: nn.Module, codes: Tensor) -> nn.Module:
    """The original generator, its swapped layers reading the span of the directions alone: what can be matched exactly.

    What else the layers read is lost to the projectors. A generator that is to match it all the same draws the mean of
    what it cannot tell apart, which is blurred.
    """
    model = _frozen(plain)
    there = dict(model.named_modules())
    for name, module in network.named_modules():
        if isinstance(module, HouseholderProjector) and name in there:
            layer = there[name]
            settle_(layer)
            weight = layer.get_parameter("weight")
            restrict_(layer, module.directions.detach().to(weight))
            del layer.weight  # a buffer, which checkpoints hold: another machine's SVD may round otherwise
            layer.register_buffer("weight", weight.detach())
    recalibrate_(model, codes)
    return model


def _objective(settings: FineTuning, taught: bool, shown: bool) -> Objective:
    """What "auto" means, or an error where something is missing."""
    if not taught and not shown:
        raise ArgumentError("give teacher, the generator as it was, or images: there is nothing to learn from.")
    objective = settings.objective
    if objective == "auto":
        return "adversarial" if shown else "both"
    if objective != "adversarial" and not taught:
        raise ArgumentError(f"objective={objective!r} needs teacher, the generator as it was.")
    if objective == "matching" and shown:
        raise ArgumentError('objective="matching" does not look at images; leave them out, or take "both".')
    return objective


@torch.no_grad()
def _image_shape(network: nn.Module, latent_dim: int, original: nn.Module | None) -> tuple[int, int, int]:
    """(channels, height, width) of what is drawn, in evaluation mode."""
    weight = next(network.parameters())
    if weight.dtype.itemsize < 4:
        raise ArgumentError(f"generator has weights of {weight.dtype}; train it .float(), with precision='bf16'.")
    shapes = []
    for module in (network, original):
        if module is not None:
            training = module.training
            module.eval()
            shapes.append(tuple(module(torch.zeros(1, latent_dim).to(weight))[0].shape))
            module.train(training)
    if len(shapes[0]) != 3:
        raise ArgumentError(f"generator must draw (n, channels, height, width), got (n, {shapes[0]}).")
    if shapes[0] != shapes[-1]:
        raise ArgumentError(f"generator draws {shapes[0]}, teacher {shapes[1]}; they must draw images of one shape.")
    return cast("tuple[int, int, int]", shapes[0])


def _real(images: Any, shape: tuple[int, int, int]) -> Tensor:
    """The user's images as they were given, checked."""
    if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
        came = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentTypeError(f"images must be a tensor, floating in [-1, 1] or uint8, got {came}.")
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) < 2:
        raise ArgumentError(
            f"images must be at least two of the generator's shape (N, {', '.join(map(str, shape))}), got "
            f"{tuple(images.shape)}; scale or crop them."
        )
    if images.is_floating_point() and not float(images.abs().amax()) <= 1 + 1e-6:
        raise ArgumentError(f"images must lie in [-1, 1], got values up to {float(images.abs().amax()):.3g}.")
    return images


@contextmanager
def _only(network: nn.Module, trained: str) -> Iterator[None]:
    """Let only the projectors' parameters be trained where that is asked, and put the flags back."""
    before = {weight: weight.requires_grad for weight in network.parameters()}
    projectors = [module for module in network.modules() if isinstance(module, HouseholderProjector)]
    if trained == "projectors" and not projectors:
        raise ArgumentError('trained="projectors": the generator has none; swap layers with project_layers first.')
    chosen = set(network.parameters() if trained == "all" else (w for m in projectors for w in m.parameters()))
    try:
        for weight in before:
            weight.requires_grad_(weight in chosen)
        yield
    finally:
        for weight, flag in before.items():
            weight.requires_grad_(flag)


def _groups(both: Adversaries, settings: FineTuning) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in both.generator.parameters() if weight.requires_grad], "lr": settings.lr}
    ]
    if both.discriminator is not None:
        groups.append({"params": list(both.discriminator.parameters()), "lr": settings.discriminator_lr})
    return groups


def _seed(*numbers: int) -> int:
    """A seed that is a function of several numbers."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state >> np.uint64(1))


class _Steps(Dataset):
    """What the steps see: fresh codes, and images drawn with replacement; a function of the seed and the order."""

    def __init__(self, settings: FineTuning, latent_dim: int, images: Tensor | None) -> None:
        self.settings, self.latent_dim, self.images = settings, latent_dim, images

    def __len__(self) -> int:
        return EPOCH * self.settings.batch_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        part = parts.current()
        if part is None:
            return self._drawn(indices)
        own = slice(part.first, part.first + len(indices))  # of what one process draws for the batch
        return {name: values[own] for name, values in self._drawn(part.whole.tolist()).items()}

    def _drawn(self, indices: list[int]) -> dict[str, Tensor]:
        n, generator = len(indices), torch.Generator().manual_seed(_seed(self.settings.seed, *indices[:2]))
        batch = {"z": torch.randn(n, self.latent_dim, generator=generator, dtype=torch.float32)}
        if self.images is not None:
            real = self.images[torch.randint(len(self.images), (n,), generator=generator)]
            real = real.float() / 127.5 - 1 if real.dtype == torch.uint8 else real.float()
            if self.settings.flip:
                mirrored = torch.rand(n, generator=generator) < 0.5
                real = torch.where(mirrored[:, None, None, None], real.flip(-1), real)
            batch["real"] = real
        return batch
