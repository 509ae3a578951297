"""A small discriminator, built to the size of the images."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.training import parts

SIDE = 4  # to which strided convolutions bring the shorter side of an image
GROUP = 4  # images over which the deviation is taken


class Discriminator(nn.Module):
    """Strided convolutions to one logit an image, after DCGAN, without normalisation.

    Batch normalisation would make the logit of an image depend on the others, against which the gradient penalty R1
    works. Before the last layers stands the mean standard deviation over groups of images as a map of its own, from
    which too little variety can be told (Karras, Aila, Laine and Lehtinen, ICLR 2018).

    Parameters
    ----------
    channels, height, width
        Of the images; sides of at least 8 pixels.
    features
        Channels after the first convolution; doubled by each further one, up to eight times that.

    Raises
    ------
    ValueError
        If the images are smaller than 8 x 8.
    """

    def __init__(self, channels: int, height: int, width: int, features: int = 32) -> None:
        super().__init__()
        if min(height, width) < 2 * SIDE:
            raise ArgumentError(f"images must be at least {2 * SIDE} x {2 * SIDE}, got {height} x {width}.")
        n_halvings = int(math.log2(min(height, width) / SIDE))
        sizes = [channels, *(features * min(2**i, 8) for i in range(n_halvings))]
        halvings = [nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise(sizes)]
        self.halvings = nn.ModuleList(halvings)
        self.last = nn.Conv2d(sizes[-1] + 1, sizes[-1], 3, padding=1)
        area = (height >> n_halvings) * (width >> n_halvings)
        self.logit = nn.Linear(sizes[-1] * area, 1)
        for layer in (*halvings, self.last):
            nn.init.kaiming_normal_(layer.weight, 0.2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, images: Float[Tensor, "n channels height width"]) -> Float[Tensor, " n"]:
        """Logits: large where an image looks real."""
        return self.logits(self.maps(images)[-1])

    def maps(self, images: Float[Tensor, "n channels height width"]) -> list[Tensor]:
        """What each strided convolution gives."""
        found, x = [], images
        for halving in self.halvings:
            x = F.leaky_relu(halving(x), 0.2)
            found.append(x)
        return found

    def logits(self, x: Tensor) -> Float[Tensor, " n"]:
        """Of the last of the maps."""
        x = torch.cat([x, _deviation(x).to(x.dtype).expand(-1, 1, *x.shape[2:])], 1)
        return self.logit(F.leaky_relu(self.last(x), 0.2).flatten(1))[:, 0]


def _deviation(x: Tensor) -> Float[Tensor, "n 1 1 1"]:
    """The mean over all features of the standard deviation in each image's group, the same for the whole group; groups
    are of the images of all processes."""
    part, n = parts.current(), parts.total(len(x))
    groups, first = max(1, n // GROUP), 0 if part is None else part.first
    all_numbers = torch.arange(n, device=x.device) % groups
    number = all_numbers[first : first + len(x)]
    member = F.one_hot(number, groups).to(x.dtype).mT  # (groups, own images)
    member = member / all_numbers.bincount(minlength=groups).to(x.dtype)[:, None]
    flat = x.flatten(1)
    mean = parts.summed(member @ flat)
    variance = parts.summed(member @ (flat - mean[number]).square())
    return (variance + 1e-8).sqrt().mean(1)[number][:, None, None, None]
