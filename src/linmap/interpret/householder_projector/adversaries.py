"""A generator, its discriminator and its teachers as one module, whose forward is the loss of a step."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from linmap.interpret.householder_projector.discriminator import Discriminator
from linmap.maps.numbers import autocast, whole

Objective = Literal["adversarial", "matching", "both"]

SCALES = 3  # of the pyramid on which images are compared


class Adversaries(nn.Module):
    """Generator and discriminator in one step of one optimiser.

    Each network's loss reaches its own parameters only: the discriminator sees the images detached, and the generator a
    discriminator whose parameters are constants.

    Parameters
    ----------
    generator
        Is trained.
    discriminator
        None where nothing is adversarial.
    original
        Draws the images that pass for real; None where those are given.
    model
        Draws the image that each code shall give; None without matching. Both are frozen, always in evaluation mode.
    objective, matching, r1, r1_every, average, warmup
        As in `FineTuning`.
    """

    steps: Tensor

    def __init__(
        self,
        generator: nn.Module,
        discriminator: Discriminator | None,
        original: nn.Module | None,
        model: nn.Module | None,
        *,
        objective: Objective,
        matching: float,
        r1: float,
        r1_every: int,
        average: float,
        warmup: int,
    ) -> None:
        super().__init__()
        self.generator, self.discriminator, self.original, self.model = generator, discriminator, original, model
        self.objective: Objective = objective
        self.matching, self.r1, self.r1_every = matching, r1, r1_every
        self.decay, self.warmup = average, warmup
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for i, weight in enumerate(self._averaged()):
            self.register_buffer(f"average_{i}", weight.detach().clone())

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for frozen in (self.original, self.model):
            if frozen is not None:
                frozen.eval()
        return self

    # -- the loss of a step --------------------------------------------------------------------------------------------

    def forward(
        self, z: Float[Tensor, "n latent"], real: Float[Tensor, "n channels height width"] | None
    ) -> Float[Tensor, ""]:
        """The sum of both networks' losses; `real` is None where the original generator draws the real images."""
        dtype = next(self.generator.parameters()).dtype
        z, real = z.to(dtype), None if real is None else real.to(dtype)
        drawn = self.generator(z).to(dtype)
        loss = drawn.new_zeros(())
        if self.model is not None:
            weight = 1.0 if self.objective == "matching" else self.matching
            loss = loss + weight * self._mismatch(drawn, self._drawn_by(self.model, z))
        if self.discriminator is None:
            return loss
        if real is None:
            assert self.original is not None
            real = self._drawn_by(self.original, z)
        loss = loss + self._told_apart(self.discriminator, drawn.detach(), real)
        if int(self.steps) >= self.warmup:
            return loss + F.softplus(-self._constant(drawn)).mean()
        return loss + 0 * drawn.sum()  # the generator waits

    @staticmethod
    @torch.no_grad()
    def _drawn_by(frozen: nn.Module, z: Tensor) -> Float[Tensor, "n channels height width"]:
        return frozen(z).to(z.dtype)

    def _told_apart(self, discriminator: Discriminator, drawn: Tensor, real: Tensor) -> Float[Tensor, ""]:
        """The discriminator's loss: softplus(D(drawn)) + softplus(-D(real)), and R1 in its turn."""
        loss = F.softplus(discriminator(drawn)).mean() + F.softplus(-discriminator(real)).mean()
        if self.r1 and int(self.steps) % self.r1_every == 0:
            loss = loss + self.r1 / 2 * self.r1_every * self._penalty(discriminator, real)
        return loss

    @staticmethod
    def _penalty(discriminator: Discriminator, real: Tensor) -> Float[Tensor, ""]:
        """The mean squared norm of the gradient of the logits by the real images, in full precision."""
        real = real.detach().requires_grad_()
        with torch.autocast(real.device.type, enabled=False) if autocast(real) else torch.enable_grad():
            (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
        return gradient.square().flatten(1).sum(1).mean()

    def _constant(self, drawn: Tensor) -> Float[Tensor, " n"]:
        """The discriminator's logits with its parameters as constants."""
        assert self.discriminator is not None
        constants = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, constants, (drawn,))

    @staticmethod
    def _mismatch(drawn: Tensor, wanted: Tensor) -> Float[Tensor, ""]:
        """The mean absolute difference of pixels, over images at full, half and quarter size."""
        loss = drawn.new_zeros(())
        for scale in range(SCALES):
            loss = loss + (drawn - wanted).abs().mean()
            if min(drawn.shape[2:]) < 4 or scale == SCALES - 1:
                break
            drawn, wanted = F.avg_pool2d(drawn, 2), F.avg_pool2d(wanted, 2)
        return loss

    # -- the average ---------------------------------------------------------------------------------------------------

    def _averaged(self) -> list[Tensor]:
        return [weight for weight in self.generator.parameters() if weight.requires_grad]

    @torch.no_grad()
    def after_step(self, _: Any = None, __: int = 0) -> None:
        """Count the step and move the running average, with a shorter memory in the first steps."""
        self.steps += 1
        steps = int(self.steps)
        decay = min(self.decay, (1 + steps) / (10 + steps))
        for i, weight in enumerate(self._averaged()):
            self.get_buffer(f"average_{i}").lerp_(whole(weight), 1 - decay)

    @torch.no_grad()
    def take_average(self) -> None:
        """Give the generator the running average of its weights."""
        for i, weight in enumerate(self._averaged()):
            weight.copy_(self.get_buffer(f"average_{i}"))
