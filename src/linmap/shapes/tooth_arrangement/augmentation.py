"""More training pairs from those there are: malocclusions exchanged between patients, and mirrors."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from linmap.shapes.tooth_arrangement.meshes import MIRRORED
from linmap.shapes.tooth_arrangement.slots import MIRROR

Batch = tuple[Tensor, ...]
SHARE = 0.5  # of the batch that is changed in each of the two ways


def augmented(batch: Batch, generator: Generator) -> Batch:
    """Half of the patients with another one's malocclusion, half of them in a mirror.

    Parameters
    ----------
    batch
        Points about their centroids (B, 32, P, 3), centroids before and after (B, 32, 3), R (B, 32, 3, 3), mask
        (B, 32), and, where there are meshes, numbers of their patches and which there are (`Patches`).
    """
    return _mirrored(_exchanged(batch, generator), generator)


def _exchanged(batch: Batch, generator: Generator) -> Batch:
    """The teeth of a patient shifted as those of another patient of the batch: real neighbours stay together."""
    points, centroid, after, R, mask, *meshes = batch  # points, R and meshes are what a first guess leaves of the pose
    other = torch.randperm(len(mask), generator=generator, device=mask.device)
    change = mask & mask[other] & (torch.rand(len(mask), 1, generator=generator, device=mask.device) < SHARE)
    centroid = torch.where(change[..., None], after + (centroid - after)[other], centroid)
    return points, centroid, after, R, mask, *meshes


def _mirrored(batch: Batch, generator: Generator) -> Batch:
    points, centroid, after, R, mask, *meshes = batch
    flip = points.new_tensor([-1.0, 1.0, 1.0])
    swap = torch.as_tensor(MIRROR, device=mask.device)
    chosen = torch.rand(len(mask), generator=generator, device=mask.device) < SHARE
    mirrored = [
        points[:, swap] * flip,
        centroid[:, swap] * flip,
        after[:, swap] * flip,
        R[:, swap] * flip[:, None] * flip,
        mask[:, swap],
    ]
    if meshes:
        numbers, there = meshes
        mirrored += [numbers[:, swap] * numbers.new_tensor(MIRRORED), there[:, swap]]
    return tuple(torch.where(chosen[(..., *[None] * (a.ndim - 1))], b, a) for a, b in zip(batch, mirrored, strict=True))
