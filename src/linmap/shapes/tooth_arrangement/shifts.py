"""A first guess of how a tooth moves, from where all teeth stand and how wide they are.

To first order the set-up follows from the places of all teeth and their sizes: the place of one tooth is noisy, the
arch that all of them share is not. So ridge regression of the shift c' - c, slot by slot, on what all slots show finds
most of it. Its strength is the one with the smallest leave-one-out error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from linmap.shapes.tooth_arrangement.slots import MIRROR, TEETH

STRENGTHS = torch.logspace(-8, 2, 21, dtype=torch.float64)  # over the number of cases, of standardised features
LEAST = 1e-6  # mm: what varies less tells nothing

Points = Float[Tensor, "cases 32 points 3"]
Places = Float[Tensor, "cases 32 3"]
Mask = Bool[Tensor, "cases 32"]


@dataclass(frozen=True)
class Shifts:
    """The regressions of each slot."""

    mean: Float[Tensor, "32 7"]
    """Of the numbers of each tooth: centroid, extents, and 1 for a tooth that is there."""
    deviation: Float[Tensor, "32 7"]
    weights: Float[Tensor, "32 225 3"]
    """The last row is the constant."""

    @classmethod
    def fit(cls, points: Points, centroid: Places, after: Places, mask: Mask) -> Shifts:
        """To teeth that are laid over the mean arch, their points about their centroids; both sides learn from each
        other."""
        flip = points.new_tensor([-1.0, 1.0, 1.0])
        shift = torch.cat([after - centroid, (after - centroid)[:, MIRROR] * flip])
        points = torch.cat([points, points[:, MIRROR] * flip])
        centroid = torch.cat([centroid, centroid[:, MIRROR] * flip])
        mask = torch.cat([mask, mask[:, MIRROR]])
        shown = _shown(points, centroid, mask)
        mean, deviation = _moments(shown, mask)
        x = _features(shown, mask, mean, deviation)
        weights = shown.new_zeros(TEETH, x.shape[1] + 1, 3)
        for slot in mask.any(0).nonzero()[:, 0].tolist():
            weights[slot] = _ridge(x[mask[:, slot]], shift[mask[:, slot], slot])
        return cls(mean, deviation, weights)

    def __call__(self, points: Points, centroid: Places, mask: Mask) -> Places:
        """Guessed places of the teeth in the set-up, in mm; zeros for absent teeth."""
        mean, deviation, weights = (part.to(points) for part in (self.mean, self.deviation, self.weights))
        x = _features(_shown(points, centroid, mask), mask, mean, deviation)
        shift = torch.einsum("nf,tfc->ntc", x, weights[:, :-1]) + weights[:, -1]
        return torch.where(mask[..., None], centroid + shift, 0)

    def tensors(self) -> dict[str, Tensor]:
        """By the names that `from_tensors` reads."""
        return {f"shifts.{name}": value for name, value in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Shifts:
        """Take what `tensors` gave out of the dictionary."""
        return cls(*(tensors.pop(f"shifts.{name}") for name in cls.__dataclass_fields__))


def _shown(points: Points, centroid: Places, mask: Mask) -> Float[Tensor, "cases 32 7"]:
    """What a slot shows: where its tooth stands, how far it reaches along each axis, and that it is there."""
    extent = points.amax(-2) - points.amin(-2)
    return torch.cat([centroid, extent, torch.ones_like(centroid[..., :1])], -1).masked_fill(~mask[..., None], 0)


def _moments(shown: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what each slot shows, of the teeth that are there; of presence, of all cases."""
    there = mask[..., None].to(shown)
    count = there.sum(0).clamp_min(1)
    mean = shown.sum(0) / count
    deviation = (((shown - mean) * there).square().sum(0) / count).sqrt()
    share = there.mean(0)
    mean[:, -1:], deviation[:, -1:] = share, (share * (1 - share)).sqrt()
    return mean, torch.where(deviation > LEAST, deviation, torch.inf)


def _features(shown: Tensor, mask: Mask, mean: Tensor, deviation: Tensor) -> Float[Tensor, "cases 224"]:
    """Standardised; a missing tooth stands at the mean."""
    x = (shown - mean) / deviation
    known = mask[..., None] | (torch.arange(x.shape[-1], device=x.device) == x.shape[-1] - 1)
    return torch.where(known, x, 0).flatten(1)


def _ridge(x: Float[Tensor, "cases 224"], y: Float[Tensor, "cases 3"]) -> Float[Tensor, "225 3"]:
    """Weights and constant, of the strength whose leave-one-out errors, in closed form, are smallest."""
    middle, constant = x.mean(0), y.mean(0)
    values, axes = torch.linalg.eigh((x - middle).T @ (x - middle))
    values, rotated = values.clamp_min(0), (x - middle) @ axes
    along = rotated.T @ (y - constant)
    best, found = torch.inf, along
    for strength in STRENGTHS.tolist():
        kept = 1 / (values + strength * len(x))
        solved = kept[:, None] * along
        leverage = (rotated.square() @ kept + 1 / len(x)).clamp_max(1 - 1e-9)
        error = float(((y - constant - rotated @ solved) / (1 - leverage)[:, None]).square().mean())
        if error < best:
            best, found = error, solved
    weights = axes @ found
    return torch.cat([weights, (constant - middle @ weights)[None]])
