"""Groups, samples and small networks for the tests of this folder."""

import math

import torch
from torch import Generator, Tensor, nn

from linmap.shapes.lie_decomposition import SO2, GLnPlus, GroupSamples, HaarSampler, PolarGroup, SLn, rotation

GROUPS: list[PolarGroup] = [SO2(), SLn(2), GLnPlus(2)]
QUARTERS = torch.stack([rotation(torch.tensor(k * math.pi / 2, dtype=torch.float64)) for k in range(4)]).round()


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def drawn(group: PolarGroup, N: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> GroupSamples:
    return HaarSampler(group).sample(N, seeded(seed), dtype=dtype)


def quarters(group: PolarGroup, seed: int = 0, count: int = 2) -> GroupSamples:
    """{Rot(k pi / 2) b_j}, k outermost."""
    b = drawn(group, count, seed)
    g = (QUARTERS[:, None] @ b.g).flatten(0, 1)
    return GroupSamples(g, (b.g_inv @ QUARTERS.mT[:, None]).flatten(0, 1))


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


class Recorder(nn.Module):
    """A kernel network that keeps what it sees."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.sum(-1, keepdim=True).expand(*x.shape[:-1], self.out_features)


class Ones(nn.Module):
    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(*x.shape[:-1], self.out_features)
