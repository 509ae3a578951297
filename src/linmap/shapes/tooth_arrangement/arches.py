"""Teeth in a row: widths along the arch, places at given distances, how deep neighbours reach into each other.

Arrays hold the 28 teeth without third molars in slot order: 14 of the upper arch, 14 of the lower, each from the
patient's right to the left.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.geometry.points import farthest_points
from linmap.shapes.tooth_arrangement.statistics import ShapeStatistics

JAW = 14
FIRST = torch.tensor([jaw * JAW + tooth for jaw in range(2) for tooth in range(JAW - 1)])
"""The tooth before each of the 26 contacts; the tooth after it is `FIRST + 1`."""
MIDLINE = JAW // 2 - 1
FACING = 64  # points of a tooth that look at a neighbour
DENSE = 500  # points of a tooth that these are chosen from


def tangents(centers: Float[Tensor, "*cases 28 3"]) -> Float[Tensor, "*cases 28 3"]:
    """The direction of the arch at each tooth: from the tooth before to the tooth after, in the horizontal plane."""
    rows = centers.unflatten(-2, (2, JAW))
    ahead = torch.cat([rows[..., 1:, :], rows[..., -1:, :]], -2)
    behind = torch.cat([rows[..., :1, :], rows[..., :-1, :]], -2)
    direction = (ahead - behind) * rows.new_tensor([1.0, 0.0, 1.0])
    return torch.nn.functional.normalize(direction, dim=-1).flatten(-3, -2)


def widths(
    points: Float[Tensor, "*cases 28 points 3"], direction: Float[Tensor, "*cases 28 3"]
) -> Float[Tensor, "*cases 28"]:
    """The extent of each tooth along a direction."""
    along = (points @ direction[..., None])[..., 0]
    return along.amax(-1) - along.amin(-1)


def spaced(centers: Float[Tensor, "*cases 28 3"], chords: Float[Tensor, "*cases 26"]) -> Float[Tensor, "*cases 28 3"]:
    """The arch with neighbours at the distances `chords`: each step keeps its direction, the midline its place."""
    rows = centers.unflatten(-2, (2, JAW))
    steps = torch.nn.functional.normalize(rows[..., 1:, :] - rows[..., :-1, :], dim=-1)
    steps = steps * chords.unflatten(-1, (2, JAW - 1))[..., None]
    placed = torch.cat([torch.zeros_like(steps[..., :1, :]), steps.cumsum(-2)], -2)
    middle = slice(MIDLINE, MIDLINE + 2)
    shift = rows[..., middle, :].mean(-2, keepdim=True) - placed[..., middle, :].mean(-2, keepdim=True)
    return (placed + shift).flatten(-3, -2)


def lengths(centers: Float[Tensor, "*cases 28 3"]) -> Float[Tensor, "*cases 26"]:
    """The distances of neighbours."""
    rows = centers.unflatten(-2, (2, JAW))
    return torch.linalg.vector_norm(rows[..., 1:, :] - rows[..., :-1, :], dim=-1).flatten(-2)


class Contacts:
    """The points of each tooth that look at its neighbour, and how deep they reach into it.

    Chosen once on the mean shapes, whose normals stand for those of every shape.
    """

    def __init__(self, statistics: ShapeStatistics) -> None:
        dense = farthest_points(statistics.shape, DENSE)
        self.second = FIRST + 1
        step = statistics.center[self.second] - statistics.center[FIRST]
        self.before = self._facing(statistics.shape, dense, FIRST, step)
        self.after = self._facing(statistics.shape, dense, self.second, -step)
        self.normals_before = statistics.normals[FIRST[:, None], self.before]
        self.normals_after = statistics.normals[self.second[:, None], self.after]

    @staticmethod
    def _facing(shape: Tensor, dense: Tensor, teeth: Tensor, direction: Tensor) -> Tensor:
        chosen = dense[teeth]
        points = shape[teeth[:, None], chosen]
        along = (points * direction[:, None]).sum(-1)
        return chosen.gather(1, along.topk(FACING, dim=-1).indices)

    def depth(
        self,
        shapes: Float[Tensor, "cases 28 vertices 3"],
        rotation: Float[Tensor, "cases 28 3 3"],
        centers: Float[Tensor, "cases 28 3"],
    ) -> Float[Tensor, "cases 26"]:
        """The depth in mm to which neighbours reach into each other, 0 where they do not.

        Parameters
        ----------
        shapes
            About their centroids; each stands at rotation @ shape + center.
        """
        first = self._placed(shapes, rotation, centers, FIRST, self.before)
        second = self._placed(shapes, rotation, centers, self.second, self.after)
        normal_first = self.normals_before @ rotation[:, FIRST].mT
        normal_second = self.normals_after @ rotation[:, self.second].mT
        distances = torch.cdist(first, second)
        into_second = _behind(first, second, normal_second, distances.argmin(-1))
        into_first = _behind(second, first, normal_first, distances.argmin(-2))
        return torch.maximum(into_second, into_first)

    @staticmethod
    def _placed(shapes: Tensor, rotation: Tensor, centers: Tensor, teeth: Tensor, points: Tensor) -> Tensor:
        return shapes[:, teeth[:, None], points] @ rotation[:, teeth].mT + centers[:, teeth, None]


def _behind(points: Tensor, surface: Tensor, normals: Tensor, nearest: Tensor) -> Tensor:
    """How far the deepest point lies behind the plane of its nearest surface point."""
    index = nearest[..., None].expand(*points.shape[:-1], 3)
    behind = -((points - surface.gather(-2, index)) * normals.gather(-2, index)).sum(-1)
    return behind.amax(-1).clamp_min(0)
