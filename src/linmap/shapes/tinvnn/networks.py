"""Networks on point sets: PointNet's shared layers and pooling, and DGCNN's convolutions over neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.errors import ArgumentError
from linmap.training import Dropout

TIE_BREAK = {torch.float64: 1e-6}
"""Weight of the position in the order of neighbours, in squared units of the cloud's size: more than what copies of a
cloud differ by, less than what neighbours do; 1e-3 in lower precision."""


class PointNet(nn.Module):
    """Layers on each point alone, then the maximum and the mean over the points (Qi et al. 2017).

    Parameters
    ----------
    dim
        Coordinates of a point.
    classes
        Outputs.
    widths
        Of the layers on points, each with layer normalisation.
    hidden
        Width between pooling and outputs.
    dropout
        Before the last layer.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        widths: Sequence[int] = (64, 128, 256),
        hidden: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (dim, *widths)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(2 * sizes[-1], hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(
        self, H: Float[Tensor, "batch n d"], mask: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        return self.head(pooled(self.points(H), mask))


class EdgeConvNet(nn.Module):
    """DGCNN's edge convolutions (Wang et al. 2019) over the neighbours in H.

    Every layer is max_j LeakyReLU(BN(W [x_j - x_i, x_i])) over the k nearest points j of i. The graph is that of the
    coordinates in all layers: in float64, so that it is the same for all copies of a cloud.

    Parameters
    ----------
    dim
        Coordinates of a point.
    classes
        Outputs.
    k
        Neighbours, the point itself among them.
    widths
        Of the edge convolutions.
    embedding
        Width of the layer that joins them.
    head
        Widths between pooling and outputs.
    dropout
        After each of these.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        k: int = 20,
        widths: Sequence[int] = (64, 64, 128, 256),
        embedding: int = 1024,
        head: Sequence[int] = (512, 256),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if k < 1:
            raise ArgumentError(f"k={k} must be at least 1.")
        self.k = k
        self.convolutions = nn.ModuleList(EdgeConv(a, b) for a, b in zip((dim, *widths[:-1]), widths, strict=True))
        self.join = nn.Linear(sum(widths), embedding, bias=False)
        self.join_norm = nn.BatchNorm1d(embedding)
        layers: list[nn.Module] = []
        for before, after in zip((2 * embedding, *head[:-1]), head, strict=True):
            layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.LeakyReLU(0.2), Dropout(dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(head[-1], classes))

    def forward(
        self, H: Float[Tensor, "batch n d"], mask: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        neighbours, reached = nearest(H, self.k, mask)
        x, kept = H, []
        for convolution in self.convolutions:
            x = convolution(x, neighbours, reached)
            kept.append(x)
        x = F.leaky_relu(normalised(self.join_norm, self.join(torch.cat(kept, -1)), mask), 0.2)
        return self.head(pooled(x, mask))


class EdgeConv(nn.Module):
    """max_j LeakyReLU(BN(W [x_j - x_i, x_i]))."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.difference = nn.Linear(before, after, bias=False)
        self.own = nn.Linear(before, after, bias=False)
        self.norm = nn.BatchNorm1d(after)

    def forward(
        self,
        x: Float[Tensor, "batch n c"],
        neighbours: Int[Tensor, "batch n k"],
        reached: Bool[Tensor, "batch n k"] | None,
    ) -> Float[Tensor, "batch n width"]:
        projected = self.difference(x)  # W (x_j - x_i) = W x_j - W x_i: one product for each point, not for each edge
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        edges = projected[rows, neighbours] + (self.own(x) - projected).unsqueeze(2)
        edges = F.leaky_relu(normalised(self.norm, edges, reached), 0.2)
        if reached is None:
            return edges.amax(2)
        edges = edges.masked_fill(~reached.unsqueeze(-1), -torch.inf).amax(2)
        return edges.masked_fill(~reached.any(2, keepdim=True), 0.0)


def normalised(norm: nn.BatchNorm1d, x: Float[Tensor, "*batch c"], mask: Tensor | None) -> Float[Tensor, "*batch c"]:
    """Batch normalisation whose statistics are those of the entries that there are."""
    if mask is None:
        return norm(x.flatten(0, -2)).view_as(x)
    out = torch.zeros_like(x)
    out[mask] = norm(x[mask])
    return out


def pooled(x: Float[Tensor, "batch n c"], mask: Bool[Tensor, "batch n"] | None) -> Float[Tensor, "batch both"]:
    """Maximum and mean over the points."""
    if mask is None:
        return torch.cat([x.amax(1), x.mean(1)], -1)
    outside = ~mask.unsqueeze(-1)
    mean = x.masked_fill(outside, 0.0).sum(1) / mask.sum(1, keepdim=True)
    return torch.cat([x.masked_fill(outside, -torch.inf).amax(1), mean], -1)


@torch.no_grad()
def nearest(
    H: Float[Tensor, "batch n d"], k: int, mask: Bool[Tensor, "batch n"] | None = None
) -> tuple[Int[Tensor, "batch n k"], Bool[Tensor, "batch n k"] | None]:
    """The nearest points of each, itself among them; also which of them there are, where a mask is given.

    Among points at the same distance their place in the canonical pose decides, never their number: regular shapes
    would otherwise have other neighbours in other orders of their points.
    """
    X = H.double()
    order = torch.arange(1, X.shape[-1] + 1, dtype=X.dtype, device=X.device)
    squares = X.square().sum(-1)
    distances = squares[:, :, None] + squares[:, None] - 2 * X @ X.mT
    distances = distances + TIE_BREAK.get(H.dtype, 1e-3) * (X @ torch.sin(order**1.5))[:, None]
    if mask is not None:
        distances = distances.masked_fill(~mask[:, None], torch.inf)
    found = distances.topk(min(k, X.shape[1]), dim=-1, largest=False)
    if mask is None:
        return found.indices, None
    return found.indices, found.values.isfinite() & mask.unsqueeze(-1)
