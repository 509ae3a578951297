"""`TADPM` proposes set-ups by a diffusion, `MotionRegression` gives one by regression; they share everything else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.arrangement import Arrangement
from linmap.shapes.tooth_arrangement.arranger import Arranger
from linmap.shapes.tooth_arrangement.checks import check_target
from linmap.shapes.tooth_arrangement.diffusion import CosineDDIM
from linmap.shapes.tooth_arrangement.network import Encoder
from linmap.shapes.tooth_arrangement.targets import Target

__all__ = ["TADPM", "Arrangement", "MotionRegression"]
DRAWS = 2  # noised motions of each case in a step
START = 0.8  # time of the sampler's start, over the number of timesteps


class TADPM(Arranger):
    """Set-ups of teeth by a diffusion over their motions.

    Parameters
    ----------
    points
        Points of each tooth that the network sees.
    width, blocks
        Of the transformers: one for the context, one for the denoiser.
    timesteps
        Of the diffusion.
    sampling_steps, eta
        Of the sampler; eta=0 adds no noise on the way.
    target
        "shift": the network predicts what a first guess of c' - c leaves; "absolute": c', as in the paper.
    epochs, batch_size, lr
        Of the training: AdamW, whose rate rises over a tenth of the steps and then falls to zero.
    random_state
        Seed.
    encoder
        "moments": each tooth by a small PointNet and its moments. "points": both jaws by the paper's PointNet++ too,
        which takes many times as long. "mesh": each tooth's mesh by the paper's transformer over patches too, on pairs
        that carry meshes. "joint": both.
    patches
        Most patches of 64 faces of a tooth's mesh, where meshes are read; the paper has 256.
    pretrain_epochs
        Epochs in which the mesh encoder first learns to guess masked patches of the training teeth; 0 leaves that out.

    Attributes
    ----------
    model_
        The network.
    mean_arch_
        (32, 3): the mean place of each tooth in the training pairs; models are laid over it before the network sees
        them, so that neither their place nor their pose matters.
    turns_
        A first guess of each tooth's rotation; teeth are turned by it before the network sees them, and the rest of
        the rotation is what the network predicts.
    shifts_
        A first guess of each tooth's shift c' - c; the network sees it.
    scales_
        What motions are divided by.
    history_
        Of the training.
    """

    def __init__(
        self,
        points: int = 64,
        width: int = 96,
        blocks: int = 3,
        timesteps: int = 1000,
        sampling_steps: int = 50,
        eta: float = 1.0,
        target: Target = "shift",
        epochs: int = 15,
        batch_size: int = 25,
        lr: float = 1e-3,
        random_state: int = 0,
        encoder: Encoder = "moments",
        patches: int = 16,
        pretrain_epochs: int = 0,
    ) -> None:
        self.points, self.width, self.blocks = points, width, blocks
        self.timesteps, self.sampling_steps, self.eta = timesteps, sampling_steps, eta
        check_target(target)
        self.target: Target = target
        self.epochs, self.batch_size, self.lr, self.random_state = epochs, batch_size, lr, random_state
        self.encoder: Encoder = encoder
        self.patches, self.pretrain_epochs = patches, pretrain_epochs

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._diffusion.times(self.sampling_steps, START * self.timesteps)
        if not 0 <= self.eta <= 1:
            raise ArgumentError(f"eta must lie in 0 to 1, got {self.eta}.")

    @property
    def _diffusion(self) -> CosineDDIM:
        return CosineDDIM(self.timesteps)

    def _noised(self, z: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        t = torch.randint(self.timesteps, (DRAWS, len(z)), generator=generator, device=z.device)
        noise = torch.randn(DRAWS, *z.shape, generator=generator, device=z.device)
        y = self._diffusion.noised(z.repeat(DRAWS, 1, 1), t.flatten(), noise.flatten(0, 1))
        return y.unflatten(0, (DRAWS, -1)), t.float()

    def _sampled(
        self, context: Tensor, mask: Tensor, generator: Generator, given: tuple[Tensor, Tensor] | None, guide: Any
    ) -> Tensor:
        denoiser = self.model_.denoiser
        known, known_mask = given or (None, None)
        start = torch.randn(*mask.shape, 9, generator=generator)
        return self._diffusion.sample(
            lambda y, t: denoiser(y, t, context, mask),
            start,
            steps=self.sampling_steps,
            eta=self.eta,
            start=START * self.timesteps,
            generator=generator,
            known=known,
            known_mask=known_mask,
            guide=guide,
        )


class MotionRegression(Arranger):
    """One set-up by regression with the network of `TADPM`: what a diffusion must beat.

    All of its proposals are the same, and fixed teeth are held without the others being told.

    Parameters
    ----------
    points, width, blocks, target, epochs, batch_size, lr, random_state, encoder, patches, pretrain_epochs
        As in `TADPM`.

    Attributes
    ----------
    model_, mean_arch_, turns_, shifts_, scales_, history_
        As in `TADPM`.
    """

    def __init__(
        self,
        points: int = 64,
        width: int = 96,
        blocks: int = 3,
        target: Target = "shift",
        epochs: int = 15,
        batch_size: int = 25,
        lr: float = 1e-3,
        random_state: int = 0,
        encoder: Encoder = "moments",
        patches: int = 16,
        pretrain_epochs: int = 0,
    ) -> None:
        self.points, self.width, self.blocks = points, width, blocks
        check_target(target)
        self.target: Target = target
        self.epochs, self.batch_size, self.lr, self.random_state = epochs, batch_size, lr, random_state
        self.encoder: Encoder = encoder
        self.patches, self.pretrain_epochs = patches, pretrain_epochs

    def _noised(self, z: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(z)[None], z.new_zeros(1, len(z))

    def _sampled(
        self, context: Tensor, mask: Tensor, generator: Generator, given: tuple[Tensor, Tensor] | None, guide: Any
    ) -> Tensor:
        z = self.model_.denoiser(context.new_zeros(*mask.shape, 9), context.new_zeros(len(mask)), context, mask)
        z = z if guide is None else guide(z)
        return z if given is None else torch.where(given[1], given[0], z)
