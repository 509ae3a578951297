"""The diffusion over motions: cosine schedule, noising, and sampling by DDIM from a network that predicts y_0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from linmap.errors import ArgumentError

Denoiser = Callable[[Tensor, Tensor], Tensor]


class CosineDDIM:
    """Nichol and Dhariwal's cosine schedule (2021) with the sampler of Song, Meng and Ermon (2021).

    Parameters
    ----------
    timesteps
        T: times are 0 to T - 1.
    s
        Offset of the schedule.

    Attributes
    ----------
    betas
        (T,) float64, at most 0.999.
    """

    def __init__(self, timesteps: int = 1000, s: float = 0.008) -> None:
        if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
            raise ArgumentError(f"timesteps must be a whole number of at least 1, got {timesteps!r}.")
        if not 0 <= s < math.inf:
            raise ArgumentError(f"s must not be negative, got {s}.")
        self.timesteps, self.s = timesteps, s
        at = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        remaining = torch.cos((at + s) / (1 + s) * math.pi / 2).square()
        self.betas = (1 - remaining[1:] / remaining[:-1]).clamp(0, 0.999)
        self._alpha_bar = torch.cat([(1 - self.betas).cumprod(0), self.betas.new_ones(1)])  # the last is that of -1

    def alpha_bar(self, t: Any) -> Float[Tensor, "*batch"]:
        """The share of y_0's variance that is left at times t, in float64; 1 at -1.

        A fractional time is read at its integer part.

        Raises
        ------
        ValueError
            If a time is outside of -1 to T - 1.
        """
        t = torch.as_tensor(t)
        if not bool(((t >= -1) & (t <= self.timesteps - 1)).all()):
            raise ArgumentError(f"t must lie in -1 to {self.timesteps - 1}, got {t.tolist()}.")
        return self._alpha_bar.to(t.device)[t.long()]

    def noised(self, y0: Tensor, t: Any, noise: Tensor) -> Tensor:
        """sqrt(abar_t) y_0 + sqrt(1 - abar_t) noise, for times t (B,).

        Raises
        ------
        ValueError
            If t is not one time for each of the batch, or the noise is of another shape.
        """
        t = torch.as_tensor(t, device=y0.device)
        if t.shape != y0.shape[:1]:
            raise ArgumentError(f"t must be ({len(y0)},), one time for each of the batch, got {tuple(t.shape)}.")
        if noise.shape != y0.shape:
            raise ArgumentError(f"noise must be of the shape of y0, {tuple(y0.shape)}, got {tuple(noise.shape)}.")
        left = self.alpha_bar(t)[(..., *[None] * (y0.ndim - 1))]
        return left.sqrt().to(y0) * y0 + (1 - left).sqrt().to(y0) * noise

    def times(self, steps: int = 100, start: float = 800) -> Float[Tensor, " steps"]:
        """The times of the sampler, ascending: squares of equally spaced roots from 0 to `start`.

        Raises
        ------
        ValueError
            If there are fewer than two steps, or `start` is not in 0 to T - 1.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
            raise ArgumentError(f"steps must be a whole number of at least 2, got {steps!r}.")
        if not 0 < start <= self.timesteps - 1:
            raise ArgumentError(f"start must lie in 0 to {self.timesteps - 1}, got {start}.")
        return torch.linspace(0, math.sqrt(start), steps, dtype=torch.float64).square().clamp_max(float(start))

    def sample(
        self,
        denoiser: Denoiser,
        y_T: Tensor,
        *,
        steps: int = 100,
        eta: float = 1.0,
        start: float = 800,
        noise: Tensor | None = None,
        generator: Generator | None = None,
        known: Tensor | None = None,
        known_mask: Tensor | None = None,
        guide: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Walk from noise to y_0.

        Parameters
        ----------
        denoiser
            `denoiser(y, t) -> y_0` for fractional times t (B,).
        y_T
            (B, ...): the noise to start from.
        steps, start
            Of `times`.
        eta
            Share of fresh noise: 1 as in DDPM, 0 for none, which is deterministic.
        noise
            (steps, *y_T.shape): the fresh noise of each step, in the order of the walk; drawn where None.
        generator
            Of the draws; PyTorch's global one without.
        known, known_mask
            As y_T: entries that are given. Before each call they are set to their noised values; they come back
            exactly.
        guide
            Applied to each prediction of y_0.

        Raises
        ------
        ValueError
            If a number or a shape does not fit.
        """
        times = self.times(steps, start)
        if not 0 <= eta <= 1:
            raise ArgumentError(f"eta must lie in 0 to 1, got {eta}.")
        if noise is not None and noise.shape != (steps, *y_T.shape):
            raise ArgumentError(f"noise must be {(steps, *y_T.shape)}, got shape {tuple(noise.shape)}.")
        given = _given(known, known_mask, y_T)
        before = torch.cat([times.new_full((1,), -1.0), times[:-1]])
        y = y_T
        for step in range(steps):
            t, previous = times[-1 - step], before[-1 - step]
            left, next_left = self.alpha_bar(t), self.alpha_bar(previous)
            y = _with_known(y, given, left, generator)
            y0 = denoiser(y, t.to(y).expand(len(y)))
            y0 = y0 if guide is None else guide(y0)
            fresh = eta * ((1 - left / next_left) * (1 - next_left) / (1 - left)).clamp_min(0).sqrt()
            kept = (1 - next_left - fresh.square()).clamp_min(0).sqrt()
            direction = (y - left.sqrt().to(y) * y0) / (1 - left).sqrt().to(y)
            y = next_left.sqrt().to(y) * y0 + kept.to(y) * direction
            if noise is not None:
                y = y + fresh.to(y) * noise[step].to(y)
            elif eta > 0:
                y = y + fresh.to(y) * torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
        return y if given is None else torch.where(given[1], given[0], y)


def time_embedding(t: Tensor, width: int, max_period: float = 10000) -> Float[Tensor, "batch width"]:
    """[cos, sin] of times t (B,) at geometric frequencies from 1 to 1 / max_period; an odd width ends in a zero.

    Raises
    ------
    ValueError
        If t is not of one dimension, or a number is not positive.
    """
    t = torch.as_tensor(t)
    if t.ndim != 1:
        raise ArgumentError(f"t must be (B,), got shape {tuple(t.shape)}.")
    if isinstance(width, bool) or not isinstance(width, int) or width < 2:
        raise ArgumentError(f"width must be a whole number of at least 2, got {width!r}.")
    if not max_period > 0:
        raise ArgumentError(f"max_period must be positive, got {max_period}.")
    t = t if t.is_floating_point() else t.float()
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=t.dtype, device=t.device) / half)
    angles = t[:, None] * frequencies
    parts = [angles.cos(), angles.sin()]
    return torch.cat([*parts, angles.new_zeros(len(t), 1)] if width % 2 else parts, -1)


def _given(known: Tensor | None, known_mask: Tensor | None, y_T: Tensor) -> tuple[Tensor, Tensor] | None:
    if known is None and known_mask is None:
        return None
    if known is None or known_mask is None:
        raise ArgumentError("known and known_mask go together; give both or neither.")
    for name, value in (("known", known), ("known_mask", known_mask)):
        if value.shape != y_T.shape:
            raise ArgumentError(f"{name} must be of the shape of y_T, {tuple(y_T.shape)}, got {tuple(value.shape)}.")
    return known.to(y_T), known_mask.bool().to(y_T.device)


def _with_known(y: Tensor, given: tuple[Tensor, Tensor] | None, left: Tensor, generator: Generator | None) -> Tensor:
    if given is None:
        return y
    fresh = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    return torch.where(given[1], left.sqrt().to(y) * given[0] + (1 - left).sqrt().to(y) * fresh, y)
