"""Motions as the networks see them: normalised numbers, in the frame of the mean arch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.geometry.rigid import six_from_rotation
from linmap.shapes.tooth_arrangement.pairs import ToothPairs

Target = Literal["shift", "absolute"]
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Scales:
    """What motions are divided by: standard deviations in the training pairs."""

    target: Target
    place: float
    """mm, of c' less its first guess ("shift") or c' ("absolute")."""
    turn: float
    """Of the six numbers less those of the identity."""

    @classmethod
    def of(cls, target: Target, pairs: ToothPairs, guess: Float[Tensor, "cases 32 3"]) -> Scales:
        """Of pairs whose centroids after treatment are guessed to be `guess`."""
        moved = pairs.after_centroid - guess if target == "shift" else pairs.after_centroid
        turned = six_from_rotation(pairs.rotation.mT) - pairs.rotation.new_tensor(IDENTITY)
        return cls(target, _rms(moved[pairs.mask]), _rms(turned[pairs.mask]))

    def normalised(self, y: Float[Tensor, "*batch 9"], guess: Tensor) -> Float[Tensor, "*batch 9"]:
        """Of y = [c', six numbers] in mm."""
        place = y[..., :3] - guess if self.target == "shift" else y[..., :3]
        return torch.cat([place / self.place, (y[..., 3:] - y.new_tensor(IDENTITY)) / self.turn], -1)

    def motions(self, z: Float[Tensor, "*batch 9"], guess: Tensor) -> Float[Tensor, "*batch 9"]:
        """y of normalised numbers z."""
        place = z[..., :3] * self.place
        place = place + guess if self.target == "shift" else place
        return torch.cat([place.expand_as(z[..., :3]), z[..., 3:] * self.turn + z.new_tensor(IDENTITY)], -1)


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt()) or 1.0
