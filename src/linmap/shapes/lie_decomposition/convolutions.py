"""`LieConv2d`: features on the plane and the group to such features, in the form of a cross-correlation.

With offsets z of pixels from the one that is computed, and samples g of the output and g~ of the input, its kernel is
K(g, g~, z) = |det g~|^-1 k(g^-1 z, xi^-1(g^-1 g~)), summed over g~ and z.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from linmap.geometry.groups import GroupSamples, PolarGroup
from linmap.shapes.lie_decomposition.checks import (
    at_least_float32,
    check_choice,
    check_features,
    check_samples,
)
from linmap.shapes.lie_decomposition.coordinates import (
    Angle,
    Mask,
    inverse_volume,
    mask_factor,
    offsets,
    relative_coordinates,
    squared,
)
from linmap.shapes.lie_decomposition.layer import LieLayer, fan_in
from linmap.shapes.lie_decomposition.siren import Siren

MeasureSide = Literal["input", "output"]


class LieConv2d(LieLayer):
    """From features on one set of samples to features on another.

    Parameters
    ----------
    group, in_channels, out_channels, kernel_size, mask, padding, bias, hidden, w0, generator
        As of `LieLift2d`; the smooth mask is of all coordinates.
    angle
        "cos_sin": the kernel sees cosine and sine of the relative angle, the mask the angle in (-pi, pi]; "radians":
        both see the angle in [0, 2 pi), as the authors' do, with a jump at the identity.
    measure_side
        Where 1 / |det| stands: at the samples of the "input", which is right for any two sets, or of the "output", as
        the authors' do.
    separable
        The kernel is `kernel_net` at the group's coordinates and offset 0, times `space_net` at the offset: one spatial
        kernel for each output channel and sample, and much less work. The smooth mask is the product of those of the
        offset and of the group's coordinates.
    normalize_samples
        Divide by the number of input samples where these have no weights; weights are used as they are.

    Attributes
    ----------
    space_net
        Of a separable layer: from offsets (..., 2) to (..., out_channels) values.

    Raises
    ------
    ValueError
        If an argument is out of its range; the message names it.
    TypeError
        If the group is no `PolarGroup`, or a size no integer.
    """

    def __init__(
        self,
        group: PolarGroup,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        mask: Mask = "auto",
        angle: Angle = "cos_sin",
        measure_side: MeasureSide = "input",
        separable: bool = False,
        normalize_samples: bool = False,
        padding: int = 0,
        bias: bool = False,
        hidden: int = 60,
        w0: float = 10.0,
        generator: Generator | None = None,
    ) -> None:
        check_choice("angle", angle, Angle)
        check_choice("measure_side", measure_side, MeasureSide)
        features = 2 + getattr(group, "dim", 0) + (angle == "cos_sin")
        fan = fan_in(in_channels, 1 if separable else kernel_size)
        super().__init__(
            group, in_channels, out_channels, kernel_size, mask, padding, bias, features, fan, hidden, w0, generator
        )
        self.angle: Angle = angle
        self.measure_side: MeasureSide = measure_side
        self.separable, self.normalize_samples = bool(separable), bool(normalize_samples)
        self.space_net = (
            Siren(2, out_channels, hidden, w0=w0, fan=kernel_size**2, generator=generator) if separable else None
        )

    def kernel(self, samples_in: GroupSamples, samples_out: GroupSamples) -> Float[Tensor, "out N_out in N_in k k"]:
        """The whole kernel, with mask, measure and weights."""
        self._check_samples(samples_in, samples_out)
        kernels = self._kernels(lambda: self._build(samples_in, samples_out), samples_in, samples_out)
        if not self.separable:
            return kernels[0].clone()  # the caller's own: what is kept must not change
        of_group, of_space = kernels
        return of_group[..., None, None] * of_space[:, :, None, None]

    def forward(
        self, x: Float[Tensor, "batch in N_in height width"], samples_in: GroupSamples, samples_out: GroupSamples
    ) -> Float[Tensor, "batch out N_out height2 width2"]:
        """Features on samples_out, of features x on samples_in.

        Raises
        ------
        ValueError
            If x has another rank, number of channels or of samples or is smaller than the kernel, or samples lie
            outside of the group.
        TypeError
            If x is not of floating point.
        """
        self._check_samples(samples_in, samples_out)
        check_features(x, self.in_channels, len(samples_in), self.kernel_size, self.padding)
        kernels = self._kernels(lambda: self._build(samples_in, samples_out), samples_in, samples_out)
        flat = at_least_float32(x).flatten(1, 2)
        weights = [kernel.to(flat.dtype) for kernel in kernels]
        if self.separable:
            of_group, of_space = (weight.flatten(0, 1) for weight in weights)
            flat = flat.contiguous(memory_format=torch.channels_last)  # in which depthwise convolutions are fast
            y = F.conv2d(flat, of_group.flatten(1)[..., None, None])
            y = F.conv2d(y, of_space.unsqueeze(1), padding=self.padding, groups=len(of_space))
        else:
            y = F.conv2d(flat, weights[0].flatten(0, 1).flatten(1, 2), padding=self.padding)
        return self._with_bias(y.unflatten(1, (self.out_channels, len(samples_out)))).to(x.dtype)

    # -- kernels -------------------------------------------------------------------------------------------------------

    def _build(self, samples_in: GroupSamples, samples_out: GroupSamples) -> tuple[Tensor, ...]:
        """The kernel, or that of the group (out, N_out, in, N_in) and that of space (out, N_out, k, k)."""
        if self.separable:
            return self._of_group(samples_in, samples_out), self._of_space(samples_out)
        z = offsets(samples_out, self.kernel_size).unsqueeze(1)
        v, w = relative_coordinates(self.group, samples_in, samples_out, self.angle)
        v, w = v[:, :, None, None], w[:, :, None, None]
        grid = (len(samples_out), len(samples_in), self.kernel_size, self.kernel_size, -1)
        values = self._values(torch.cat([z.expand(grid), v.expand(grid)], -1))
        factor = mask_factor(squared(z) + self._seen(w), self.mask_kind)
        factor = factor * self._measure(samples_in, samples_out)[:, :, None, None]
        return (self._pairs(values * factor.unsqueeze(-1)).permute(4, 0, 5, 1, 2, 3),)

    def _of_group(self, samples_in: GroupSamples, samples_out: GroupSamples) -> Tensor:
        v, w = relative_coordinates(self.group, samples_in, samples_out, self.angle)
        values = self._values(torch.cat([v.new_zeros(*v.shape[:-1], 2), v], -1))
        factor = mask_factor(self._seen(w), self.mask_kind) * self._measure(samples_in, samples_out)
        return self._pairs(values * factor.unsqueeze(-1)).permute(2, 0, 3, 1)

    def _of_space(self, samples_out: GroupSamples) -> Tensor:
        z = offsets(samples_out, self.kernel_size)
        values = self._values(z, self.space_net) * mask_factor(squared(z), self.mask_kind).unsqueeze(-1)
        return values.permute(3, 0, 1, 2)

    def _seen(self, w: Tensor) -> Tensor:
        """The squared norms of the group's coordinates, as far as the mask sees them."""
        return squared(w) if self.mask_kind == "smooth" else w.new_zeros(w.shape[:-1])

    def _measure(self, samples_in: GroupSamples, samples_out: GroupSamples) -> Float[Tensor, "*_"]:
        """What the kernel of each pair of samples is multiplied by, (N_out, N_in)."""
        measure = samples_in.g.new_ones(len(samples_out), len(samples_in))
        if samples_in.weight is not None:
            measure = measure * samples_in.weight
        elif self.normalize_samples:
            measure = measure / len(samples_in)
        if self.group.volume_preserving:
            return measure
        if self.measure_side == "input":
            return measure * inverse_volume(samples_in)
        return measure * inverse_volume(samples_out).unsqueeze(1)

    def _check_samples(self, samples_in: GroupSamples, samples_out: GroupSamples) -> None:
        check_samples("samples_in", samples_in, self.group)
        if samples_out is not samples_in:
            check_samples("samples_out", samples_out, self.group)

    def _settings(self) -> list:
        return [*super()._settings(), self.angle, self.measure_side, self.separable, self.normalize_samples]

    def extra_repr(self) -> str:
        more = f"angle={self.angle!r}, measure_side={self.measure_side!r}, separable={self.separable}"
        return f"{super().extra_repr()}, {more}, normalize_samples={self.normalize_samples}"
