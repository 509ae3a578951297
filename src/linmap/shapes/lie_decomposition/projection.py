"""`LieProject2d`: back to the plane, by the kernel K(g~, z) = |det g~|^-1 k(g~^-1 z), summed over g~ and z."""

from __future__ import annotations

from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from linmap.geometry.groups import GroupSamples, PolarGroup
from linmap.shapes.lie_decomposition.checks import at_least_float32, check_features, check_samples
from linmap.shapes.lie_decomposition.coordinates import Mask, inverse_volume, mask_factor, offsets, squared
from linmap.shapes.lie_decomposition.layer import LieLayer, fan_in


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
        fan = fan_in(in_channels, kernel_size)
        super().__init__(
            group, in_channels, out_channels, kernel_size, mask, padding, bias, 2, fan, hidden, w0, generator
        )
        self.normalize_samples = bool(normalize_samples)

    def kernel(self, samples_in: GroupSamples) -> Float[Tensor, "out in N_in k k"]:
        """The kernel of samples, with mask, measure and weights."""
        check_samples("samples_in", samples_in, self.group)
        return self._kernel_of(samples_in).clone()  # the caller's own: what is kept must not change

    def _kernel_of(self, samples: GroupSamples) -> Tensor:
        (kernel,) = self._kernels(lambda: (self._kernel(samples),), samples)
        return kernel

    def _kernel(self, samples: GroupSamples) -> Tensor:
        z = offsets(samples, self.kernel_size)
        measure = samples.g.new_ones(len(samples)) if self.group.volume_preserving else inverse_volume(samples)
        if samples.weight is not None:
            measure = measure * samples.weight
        elif self.normalize_samples:
            measure = measure / len(samples)
        factor = mask_factor(squared(z), self.mask_kind) * measure[:, None, None]
        return self._pairs(self._values(z) * factor.unsqueeze(-1)).permute(3, 4, 0, 1, 2)

    def _settings(self) -> list:
        return [*super()._settings(), self.normalize_samples]

    def forward(
        self, x: Float[Tensor, "batch in N_in height width"], samples_in: GroupSamples
    ) -> Float[Tensor, "batch out height2 width2"]:
        """Features (batch, out, height', width'), of features x on samples_in; errors as of `LieConv2d.forward`."""
        check_samples("samples_in", samples_in, self.group)
        check_features(x, self.in_channels, len(samples_in), self.kernel_size, self.padding)
        flat = at_least_float32(x).flatten(1, 2)
        y = F.conv2d(flat, self._kernel_of(samples_in).to(flat.dtype).flatten(1, 2), padding=self.padding)
        return self._with_bias(y).to(x.dtype)
