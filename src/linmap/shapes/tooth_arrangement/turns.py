"""A first guess of how a tooth is turned, from the moments of its points.

To first order, the moments of a turned tooth are linear in the angles. So ridge regression of the rotation vector on
them, slot by slot, finds most of a rotation; it is done three times, each on the teeth that the one before has turned.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from linmap.shapes.tooth_arrangement.rotations import from_rotation_vector, rotation_vector
from linmap.shapes.tooth_arrangement.slots import MIRROR, TEETH

STAGES = 3
RIDGE = 1e-2  # over the number of teeth, of standardised moments
RADIUS = 4.0  # mm, to bring coordinates to about 1
MONOMIALS = [axes for order in (2, 3, 4) for axes in combinations_with_replacement(range(3), order)]

Points = Float[Tensor, "cases 32 points 3"]
Mask = Bool[Tensor, "cases 32"]


@dataclass(frozen=True)
class Turns:
    """The regressions of each slot."""

    mean: Float[Tensor, "stages 32 moments"]
    deviation: Float[Tensor, "stages 32 moments"]
    weights: Float[Tensor, "stages 32 moments+1 3"]
    """The last row is the constant."""

    @classmethod
    def fit(cls, points: Points, rotation: Float[Tensor, "cases 32 3 3"], mask: Mask) -> Turns:
        """To points about their centroids and the rotations R that they need; both sides learn from each other."""
        flip = points.new_tensor([-1.0, 1.0, 1.0])
        points = torch.cat([points, points[:, MIRROR] * flip])
        rotation = torch.cat([rotation, rotation[:, MIRROR] * flip[:, None] * flip])
        mask = torch.cat([mask, mask[:, MIRROR]])
        stages = []
        for _ in range(STAGES):
            stage = _regressions(moments(points), rotation_vector(rotation), mask)
            stages.append(stage)
            turn = _turns(points, *stage)
            points, rotation = points @ turn.mT, rotation @ turn.mT
        return cls(*(torch.stack(parts) for parts in zip(*stages, strict=True)))

    def __call__(self, points: Points, mask: Mask) -> Float[Tensor, "cases 32 3 3"]:
        """Rotations of points about their centroids that turn teeth as in set-ups; the identity for absent teeth."""
        whole = torch.eye(3).to(points).expand(*mask.shape, 3, 3)
        for stage in zip(self.mean, self.deviation, self.weights, strict=True):
            turn = _turns(points, *stage)
            points, whole = points @ turn.mT, turn @ whole
        return torch.where(mask[..., None, None], whole, torch.eye(3).to(points))

    def tensors(self) -> dict[str, Tensor]:
        """By the names that `from_tensors` reads."""
        return {f"turns.{name}": value for name, value in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Turns:
        """Takes its own out of `tensors`."""
        return cls(*(tensors.pop(f"turns.{name}") for name in ("mean", "deviation", "weights")))


def moments(points: Points) -> Float[Tensor, "cases 32 moments"]:
    """The means of all products of two, three and four coordinates."""
    x = (points / RADIUS).unbind(-1)
    found = []
    for axes in MONOMIALS:
        product = x[axes[0]]
        for axis in axes[1:]:
            product = product * x[axis]
        found.append(product.mean(-1))
    return torch.stack(found, -1)


def _regressions(values: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation of the moments, and the weights, of each slot; zeros where a slot has no tooth."""
    mean, deviation = torch.zeros_like(values[0]), torch.ones_like(values[0])
    weights = values.new_zeros(TEETH, values.shape[-1] + 1, 3)
    for slot in mask.any(0).nonzero()[:, 0].tolist():
        f, r = values[mask[:, slot], slot], target[mask[:, slot], slot]
        mean[slot], deviation[slot] = f.mean(0), f.std(0, correction=0).clamp_min(1e-6)
        f = (f - mean[slot]) / deviation[slot]
        centred = r - r.mean(0)
        normal = f.T @ f + RIDGE * len(f) * torch.eye(f.shape[1], dtype=f.dtype)
        weights[slot, :-1] = torch.linalg.solve(normal, f.T @ centred)
        weights[slot, -1] = r.mean(0)
    return mean, deviation, weights


def _turns(points: Tensor, mean: Tensor, deviation: Tensor, weights: Tensor) -> Tensor:
    values = (moments(points) - mean) / deviation
    vector = (values[..., None, :] @ weights[:, :-1])[..., 0, :] + weights[:, -1]
    size = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return from_rotation_vector(vector * (1.0 / size.clamp_min(1.0)))  # one radian at most
