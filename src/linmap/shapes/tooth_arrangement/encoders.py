"""What the denoiser is told of the teeth: a transformer over mesh patches, PointNet++ over both jaws, their joint."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.geometry.points import ball_query, farthest_points
from linmap.shapes.tooth_arrangement.blocks import Block, expect_shape, present
from linmap.shapes.tooth_arrangement.features import PATCH
from linmap.shapes.tooth_arrangement.slots import TEETH

MESH, GLOBAL = 768, 1024


class MeshEncoder(nn.Module):
    """A tooth's mesh as one vector: patches of 64 faces are the tokens of a transformer (MeshMAE).

    Parameters
    ----------
    width, depth, heads
        Of the transformer.
    drop_path
        Share of the samples that leave out a branch in training.
    """

    def __init__(self, width: int = MESH, depth: int = 12, heads: int = 12, drop_path: float = 0.1) -> None:
        super().__init__()
        self.width = width
        self.embed = nn.Sequential(nn.Linear(10 * PATCH, width), nn.LayerNorm(width))
        self.position = nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))
        self.blocks = nn.ModuleList(Block(width, heads, bias=True, drop_path=drop_path) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def tokens(
        self, features: Tensor, centers: Tensor, mask: Tensor | None = None
    ) -> Float[Tensor, "batch patches width"]:
        """Of the patches, before the maximum."""
        x = self.embed(features.flatten(2)) + self.position(centers.mean(2))
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)

    def forward(
        self,
        features: Float[Tensor, "batch patches 64 10"],
        centers: Float[Tensor, "batch patches 64 3"],
        mask: Bool[Tensor, "batch patches"] | None = None,
    ) -> Float[Tensor, "batch width"]:
        """The maximum over the patches; those that the mask leaves out do not count, and a mesh without any gives 0.

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        expect_shape("features", features, "B", "patches", PATCH, 10)
        expect_shape("centers", centers, *features.shape[:2], PATCH, 3)
        mask = present("mask", mask, *features.shape[:2])
        if mask is None:
            return self.tokens(features, centers).amax(1)
        absent = ~mask[..., None]
        features, centers = features.masked_fill(absent[..., None], 0), centers.masked_fill(absent[..., None], 0)
        x = self.tokens(features, centers, mask).masked_fill(absent, -torch.inf).amax(1)
        return x.masked_fill(~mask.any(1, keepdim=True), 0)


class PointEncoder(nn.Module):
    """Both jaws as one vector of 1,024 numbers: PointNet++ with multi-scale grouping (Qi, Yi, Su, Guibas 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            [
                _Level(512, (0.1, 0.2, 0.4), (16, 32, 128), 3, ((32, 32, 64), (64, 64, 128), (64, 96, 128))),
                _Level(128, (0.2, 0.4, 0.8), (32, 64, 128), 323, ((64, 64, 128), (128, 128, 256), (128, 128, 256))),
            ]
        )
        self.whole = _shared_mlp(643, (256, 512, GLOBAL))

    def forward(
        self, points: Float[Tensor, "batch 32 points 3"], mask: Bool[Tensor, "batch 32"]
    ) -> Float[Tensor, "batch 1024"]:
        """Of the points in network units (mm / 40); points of absent teeth are left out.

        Raises
        ------
        ValueError
            If a shape does not fit, or a case has no tooth.
        """
        expect_shape("points", points, "B", TEETH, "P", 3)
        expect_shape("mask", mask, len(points), TEETH)
        mask = mask.bool()
        if not mask.any(1).all():
            raise ArgumentError(f"mask leaves case {int(mask.any(1).long().argmin())} without teeth.")
        there = mask[..., None].expand(points.shape[:3]).flatten(1)
        xyz = points.flatten(1, 2).masked_fill(~there[..., None], 0)
        xyz, features = self.levels[0](xyz, None, there)
        xyz, features = self.levels[1](xyz, features, None)
        grouped = torch.cat([xyz, features], -1).movedim(-1, 1)[..., None]
        return self.whole(grouped).amax((-2, -1))


class _Level(nn.Module):
    """One set abstraction: centres by farthest-point sampling, each with the maxima of its balls."""

    def __init__(
        self, centers: int, radii: Sequence[float], neighbours: Sequence[int], width: int, mlps: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.centers, self.radii, self.neighbours = centers, radii, neighbours
        self.mlps = nn.ModuleList(_shared_mlp(width, widths) for widths in mlps)

    def forward(self, xyz: Tensor, features: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        centers = _taken(xyz, farthest_points(xyz, self.centers, mask=mask))
        found = []
        for radius, k, mlp in zip(self.radii, self.neighbours, self.mlps, strict=True):
            index = ball_query(xyz, centers, radius, k, mask)
            grouped = _taken(xyz, index) - centers[:, :, None]
            grouped = grouped if features is None else torch.cat([_taken(features, index), grouped], -1)
            found.append(mlp(grouped.movedim(-1, 1)).amax(-1).movedim(1, -1))
        return centers, torch.cat(found, -1)


def _shared_mlp(width: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide in widths:
        layers += [nn.Conv2d(width, wide, 1), nn.BatchNorm2d(wide), nn.ReLU()]
        width = wide
    return nn.Sequential(*layers)


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """Entries (B, ..., c) of values (B, n, c) by indices (B, ...)."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, index.shape[1:])


class ToothContext(nn.Module):
    """Each tooth among the others: a transformer over the 32 slots, joined with the vector of both jaws.

    Parameters
    ----------
    depth, heads
        Of the transformer.
    """

    def __init__(self, depth: int = 12, heads: int = 8) -> None:
        super().__init__()
        width = MESH + 32
        self.position = nn.Linear(3, 32)
        self.slots = nn.Parameter(torch.randn(1, TEETH, width))
        self.blocks = nn.ModuleList(Block(width, heads, bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(GLOBAL + width + 3)

    def forward(
        self,
        mesh: Float[Tensor, "batch 32 768"],
        jaws: Float[Tensor, "batch 1024"],
        centroid: Float[Tensor, "batch 32 3"],
        mask: Bool[Tensor, "batch 32"] | None = None,
    ) -> Float[Tensor, "batch 32 1827"]:
        """The context of each slot. With a mask, absent teeth are no keys, and their inputs count as zeros.

        Raises
        ------
        ValueError
            If a shape does not fit.
        """
        expect_shape("mesh", mesh, "B", TEETH, MESH)
        expect_shape("global (the second argument)", jaws, len(mesh), GLOBAL)
        expect_shape("centroid", centroid, len(mesh), TEETH, 3)
        mask = present("mask", mask, len(mesh), TEETH)
        if mask is not None:
            mesh, centroid = mesh.masked_fill(~mask[..., None], 0), centroid.masked_fill(~mask[..., None], 0)
        x = torch.cat([self.position(centroid), mesh], -1) + self.slots
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(torch.cat([jaws[:, None].expand(-1, TEETH, -1), x, centroid], -1))
