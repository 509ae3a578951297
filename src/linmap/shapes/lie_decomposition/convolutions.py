"""The lifting, the group convolution and the projection, in the form of cross-correlations.

With offsets z of pixels from the one that is computed, H the matrix group, and samples g of the output and g~ of the
input:

- lifting: K(g, z) = |det g|^-1 k(g^-1 z);
- group convolution: K(g, g~, z) = |det g~|^-1 k(g^-1 z, xi^-1(g^-1 g~)), summed over g~ and z;
- projection: K(g~, z) = |det g~|^-1 k(g~^-1 z).
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
    check_image,
    check_samples,
)
from linmap.shapes.lie_decomposition.coordinates import (
    Angle,
    Mask,
    inverse_volume,
    masked,
    offsets,
    relative_coordinates,
)
from linmap.shapes.lie_decomposition.layer import LieLayer
from linmap.shapes.lie_decomposition.siren import Siren

MeasureSide = Literal["input", "output"]


class LieLift2d(LieLayer):
    """From images to features on the plane and the group.

    Parameters
    ----------
    group
        SO2(), SLn(2) or GLnPlus(2).
    in_channels, out_channels
        Channels of the images and of the features.
    kernel_size
        Height and width of the kernel in pixels; an even one is centred between pixels.
    mask
        "disc": the kernel is 0 where |g^-1 z| > 1; "smooth": it is multiplied by sigmoid(2 (1 - |coordinates|));
        "none"; "auto": smooth for GL+(2), the disc for SL(2) and SO(2).
    padding
        Zeros around the images.
    bias
        Add a number to each output channel.
    hidden, w0
        Width and frequency of the kernel network.
    generator
        Source of its initial values; None: PyTorch's global one.

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
        padding: int = 0,
        bias: bool = False,
        hidden: int = 60,
        w0: float = 10.0,
        generator: Generator | None = None,
    ) -> None:
        fan = in_channels * kernel_size**2
        super().__init__(
            group, in_channels, out_channels, kernel_size, mask, padding, bias, 2, fan, hidden, w0, generator
        )

    def kernel(self, samples: GroupSamples) -> Float[Tensor, "out N in k k"]:
        """The kernel of samples, mask and |det g|^-1 included."""
        check_samples("samples", samples, self.group)
        (kernel,) = self._kernels(lambda: (self._kernel(samples),), samples)
        return kernel

    def _kernel(self, samples: GroupSamples) -> Tensor:
        z = offsets(samples, self.kernel_size)
        values = masked(self._values(z), _squared(z).unsqueeze(-1), self.mask_kind)
        if not self.group.volume_preserving:
            values = values * inverse_volume(samples)[:, None, None, None]
        return self._pairs(values).permute(3, 0, 4, 1, 2)

    def forward(self, x: Float[Tensor, "batch in height width"], samples: GroupSamples) -> Float[Tensor, "*_"]:
        """Features (batch, out, N, height', width') on the samples.

        Raises
        ------
        ValueError
            If x has another rank or number of channels or is smaller than the kernel, or samples lie outside of the
            group.
        TypeError
            If x is not of floating point.
        """
        check_image(x, self.in_channels, self.kernel_size, self.padding)
        kernel = self.kernel(samples).flatten(0, 1)
        y = F.conv2d(at_least_float32(x), kernel.to(at_least_float32(x).dtype), padding=self.padding)
        return self._with_bias(y.unflatten(1, (self.out_channels, len(samples)))).to(x.dtype)


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
        fan = in_channels if separable else in_channels * kernel_size**2
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
            return kernels[0]
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
        values = self._values(_joined(z.expand(grid), v.expand(grid)))
        values = masked(values, (_squared(z) + self._seen(w)).unsqueeze(-1), self.mask_kind)
        kernel = self._pairs(values * self._measure(samples_in, samples_out)[:, :, None, None, None])
        return (kernel.permute(4, 0, 5, 1, 2, 3),)

    def _of_group(self, samples_in: GroupSamples, samples_out: GroupSamples) -> Tensor:
        v, w = relative_coordinates(self.group, samples_in, samples_out, self.angle)
        values = self._values(_joined(v.new_zeros(*v.shape[:-1], 2), v))
        values = masked(values, self._seen(w).unsqueeze(-1), self.mask_kind)
        kernel = self._pairs(values * self._measure(samples_in, samples_out).unsqueeze(-1))
        return kernel.permute(2, 0, 3, 1)

    def _of_space(self, samples_out: GroupSamples) -> Tensor:
        z = offsets(samples_out, self.kernel_size)
        values = masked(self._values(z, self.space_net), _squared(z).unsqueeze(-1), self.mask_kind)
        return values.permute(3, 0, 1, 2)

    def _seen(self, w: Tensor) -> Tensor:
        """The squared norms of the group's coordinates, as far as the mask sees them."""
        return _squared(w) if self.mask_kind == "smooth" else w.new_zeros(w.shape[:-1])

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


class LieProject2d(LieLayer):
    """From features on the plane and the group to features on the plane.

    Parameters
    ----------
    group, in_channels, out_channels, kernel_size, mask, padding, bias, hidden, w0, generator
        As of `LieLift2d`.
    normalize_samples
        As of `LieConv2d`.

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
        normalize_samples: bool = False,
        padding: int = 0,
        bias: bool = False,
        hidden: int = 60,
        w0: float = 10.0,
        generator: Generator | None = None,
    ) -> None:
        fan = in_channels * kernel_size**2
        super().__init__(
            group, in_channels, out_channels, kernel_size, mask, padding, bias, 2, fan, hidden, w0, generator
        )
        self.normalize_samples = bool(normalize_samples)

    def kernel(self, samples_in: GroupSamples) -> Float[Tensor, "out in N_in k k"]:
        """The kernel of samples, with mask, measure and weights."""
        check_samples("samples_in", samples_in, self.group)
        (kernel,) = self._kernels(lambda: (self._kernel(samples_in),), samples_in)
        return kernel

    def _kernel(self, samples: GroupSamples) -> Tensor:
        z = offsets(samples, self.kernel_size)
        values = masked(self._values(z), _squared(z).unsqueeze(-1), self.mask_kind)
        measure = samples.g.new_ones(len(samples)) if self.group.volume_preserving else inverse_volume(samples)
        if samples.weight is not None:
            measure = measure * samples.weight
        elif self.normalize_samples:
            measure = measure / len(samples)
        return self._pairs(values * measure[:, None, None, None]).permute(3, 4, 0, 1, 2)

    def _settings(self) -> list:
        return [*super()._settings(), self.normalize_samples]

    def forward(
        self, x: Float[Tensor, "batch in N_in height width"], samples_in: GroupSamples
    ) -> Float[Tensor, "batch out height2 width2"]:
        """Features (batch, out, height', width'), of features x on samples_in; errors as of `LieConv2d.forward`."""
        check_samples("samples_in", samples_in, self.group)
        check_features(x, self.in_channels, len(samples_in), self.kernel_size, self.padding)
        flat = at_least_float32(x).flatten(1, 2)
        y = F.conv2d(flat, self.kernel(samples_in).to(flat.dtype).flatten(1, 2), padding=self.padding)
        return self._with_bias(y).to(x.dtype)


def _squared(v: Tensor) -> Tensor:
    return (v * v).sum(-1)


def _joined(z: Tensor, v: Tensor) -> Tensor:
    """Offsets first, then the group's coordinates."""
    return torch.cat([z, v], -1)
