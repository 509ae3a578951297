"""A small style-based generator in the manner of StyleGAN2: mapping network, modulated convolutions, skip connections.

References
----------
Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.data.generators import check_sizes

SIDE = 4
"""Pixels on a side of the learned constant."""
SLOPE, GAIN = 0.2, math.sqrt(2)
"""Of the leaky ReLU."""
MAPPING_RATE = 0.01
"""Learning-rate multiplier of the mapping network."""


class StyleGAN2Like(nn.Module):
    """Latent code z -> styles w, one a slot -> image in about [-1, 1]; there is no noise.

    Of every modulated convolution, the style layer is an `nn.Linear` (w to a scale a channel). Slots are numbered as in
    StyleGAN2: the 4 x 4 convolution reads slot 0; at the i-th doubling the up-sampling convolution reads slot 2i - 1
    and the one after it 2i; the layer to colours reads the next slot.

    Parameters
    ----------
    latent_dim, style_dim
        Lengths of z and of w.
    mapping_layers
        Linear layers from z to w.
    widths
        Channels at 4 x 4, 8 x 8, 16 x 16 and so on.
    channels
        Of the image.

    Raises
    ------
    ValueError
        If one of them is no whole number above 0.
    """

    def __init__(
        self,
        latent_dim: int = 32,
        style_dim: int = 32,
        mapping_layers: int = 4,
        widths: Sequence[int] = (32, 32, 16),
        channels: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(
            latent_dim=latent_dim,
            style_dim=style_dim,
            mapping_layers=mapping_layers,
            widths=widths,
            channels=channels,
        )
        self.latent_dim, self.style_dim, self.channels = latent_dim, style_dim, channels
        self.mapping_layers, self.widths = mapping_layers, tuple(widths)
        self.mapper = nn.Sequential(
            *(EqualisedLinear(latent_dim if i == 0 else style_dim, style_dim) for i in range(mapping_layers))
        )
        self.constant = nn.Parameter(torch.randn(1, widths[0], SIDE, SIDE))
        self.first = ModulatedConv(widths[0], widths[0], style_dim)
        self.first_colours = ModulatedConv(widths[0], channels, style_dim, kernel=1, demodulate=False)
        self.blocks = nn.ModuleList(Block(before, after, channels, style_dim) for before, after in pairwise(widths))

    @property
    def side(self) -> int:
        """Pixels on a side of an image."""
        return SIDE * 2 ** len(self.blocks)

    @property
    def n_slots(self) -> int:
        """Styles that `synthesis` takes."""
        return 2 * len(self.widths)

    @property
    def style_layers(self) -> dict[str, int]:
        """The style layers of the up-sampling convolutions, which are projected unless others are named; slots."""
        return {f"blocks.{i}.up.affine": 2 * i + 1 for i in range(len(self.blocks))}

    @property
    def slots(self) -> dict[str, int]:
        """Every style layer, and the slot that it reads."""
        found = {"first.affine": 0, "first_colours.affine": 1} | self.style_layers
        for i in range(len(self.blocks)):
            found |= {f"blocks.{i}.conv.affine": 2 * i + 2, f"blocks.{i}.colours.affine": 2 * i + 3}
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """What the constructor takes."""
        names = ("latent_dim", "style_dim", "mapping_layers", "channels")
        return {name: getattr(self, name) for name in names} | {"widths": list(self.widths)}

    def mapping(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch slots style"]:
        """Styles of codes, the same in every slot."""
        w = self.mapper(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        return w[:, None].expand(-1, self.n_slots, -1)

    def synthesis(self, w: Float[Tensor, "batch slots style"]) -> Float[Tensor, "batch channels side side"]:
        """Images of styles."""
        x = self.first(self.constant.expand(w.shape[0], -1, -1, -1), w[:, 0])
        image = self.first_colours(x, w[:, 1], activate=False)
        for i, block in enumerate(self.blocks):
            x, image = block(x, image, w[:, 2 * i + 1 : 2 * i + 4])
        return image

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels side side"]:
        return self.synthesis(self.mapping(z))


class Block(nn.Module):
    """One doubling of the side: an up-sampling convolution, a convolution, and the colours, added to those before."""

    def __init__(self, before: int, after: int, channels: int, style_dim: int) -> None:
        super().__init__()
        self.up = ModulatedConv(before, after, style_dim)
        self.conv = ModulatedConv(after, after, style_dim)
        self.colours = ModulatedConv(after, channels, style_dim, kernel=1, demodulate=False)

    def forward(self, x: Tensor, image: Tensor, w: Float[Tensor, "batch 3 style"]) -> tuple[Tensor, Tensor]:
        x = self.conv(self.up(_doubled(x), w[:, 0]), w[:, 1])
        return x, _doubled(image) + self.colours(x, w[:, 2], activate=False)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style, with its output channels at unit variance."""

    def __init__(
        self, in_channels: int, out_channels: int, style_dim: int, kernel: int = 3, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.affine = nn.Linear(style_dim, in_channels)
        nn.init.normal_(self.affine.weight, std=style_dim**-0.5)
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale, self.demodulate = (in_channels * kernel**2) ** -0.5, demodulate

    def forward(self, x: Tensor, w: Float[Tensor, "batch style"], activate: bool = True) -> Tensor:
        style, weight = self.affine(w), self.weight * self.scale
        y = F.conv2d(x * style[..., None, None], weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            power = style.square() @ weight.square().sum((2, 3)).T
            y = y * (power + 1e-8).rsqrt()[..., None, None]
        y = y + self.bias[:, None, None]
        return F.leaky_relu(y, SLOPE) * GAIN if activate else y


class EqualisedLinear(nn.Module):
    """A linear layer at a hundredth of the learning rate, with a leaky ReLU."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / MAPPING_RATE)
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = MAPPING_RATE * in_features**-0.5

    def forward(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
        return F.leaky_relu(F.linear(x, self.weight * self.scale, self.bias * MAPPING_RATE), SLOPE) * GAIN


def _doubled(x: Tensor) -> Tensor:
    """Twice the side, bilinearly."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
