"""Small members and data of the tests."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from linmap.compress.learngene_pool import LearngenePool, VisionTransformer

WIDTHS = (8, 12, 16)


def vit(dim: int = 16, depth: int = 3, seed: int = 0, heads: int = 2, classes: int = 3, **options) -> VisionTransformer:
    """A vision transformer of 8 x 8 images in patches of 4 x 4, with weights that are large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(8, 4, 1, classes, dim, depth, heads, generator=generator, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def pool_of(widths: tuple[int, ...] = WIDTHS, depth: int = 3, **options) -> LearngenePool:
    return LearngenePool([vit(d, depth, seed) for seed, d in enumerate(widths)], **options).eval()


def images(n: int = 24, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def labelled(n: int = 24, seed: int = 0) -> TensorDataset:
    x = images(n, seed)
    return TensorDataset(x, (x.mean((1, 2, 3)) * 40).long() % 3)
