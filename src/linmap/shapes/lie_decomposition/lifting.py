"""`LieLift2d`: from images to features on the plane and the group, by the kernel K(g, z) = |det g|^-1 k(g^-1 z)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional as F

from linmap.geometry.groups import GroupSamples, PolarGroup
from linmap.shapes.lie_decomposition.checks import at_least_float32, check_image, check_samples
from linmap.shapes.lie_decomposition.coordinates import Mask, inverse_volume, mask_factor, offsets, squared
from linmap.shapes.lie_decomposition.layer import LieLayer, fan_in


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
        fan = fan_in(in_channels, kernel_size)
        super().__init__(
            group, in_channels, out_channels, kernel_size, mask, padding, bias, 2, fan, hidden, w0, generator
        )

    def kernel(self, samples: GroupSamples) -> Float[Tensor, "out N in k k"]:
        """The kernel of samples, mask and |det g|^-1 included."""
        return self._kernel_of(samples).clone()  # the caller's own: what is kept must not change

    def _kernel_of(self, samples: GroupSamples) -> Tensor:
        check_samples("samples", samples, self.group)
        (kernel,) = self._kernels(lambda: (self._kernel(samples),), samples)
        return kernel

    def _kernel(self, samples: GroupSamples) -> Tensor:
        z = offsets(samples, self.kernel_size)
        factor = mask_factor(squared(z), self.mask_kind)
        if not self.group.volume_preserving:
            factor = factor * inverse_volume(samples)[:, None, None]
        return self._pairs(self._values(z) * factor.unsqueeze(-1)).permute(3, 0, 4, 1, 2)

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
        kernel = self._kernel_of(samples).flatten(0, 1)
        y = F.conv2d(at_least_float32(x), kernel.to(at_least_float32(x).dtype), padding=self.padding)
        return self._with_bias(y.unflatten(1, (self.out_channels, len(samples)))).to(x.dtype)
