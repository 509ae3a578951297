"""The frame in which the networks see a model: its teeth laid over the mean arch, whatever pose the scan has."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.rigid import kabsch


def registered(
    centroid: Float[Tensor, "cases 32 3"], mask: Bool[Tensor, "cases 32"], mean: Float[Tensor, "32 3"]
) -> tuple[Float[Tensor, "cases 3 3"], Float[Tensor, "cases 3"]]:
    """The rigid motion q = R p + t that lays the present centroids of each case over the mean arch (Kabsch).

    Fewer than three teeth, or teeth on a line, are shifted only.
    """
    R = torch.eye(3, dtype=torch.float64).expand(len(mask), 3, 3).clone()
    t = torch.zeros(len(mask), 3, dtype=torch.float64)
    for case, here in enumerate(mask):
        a, b = centroid[case, here].double(), mean[here].double()
        try:
            R[case], t[case] = kabsch(a, b)
        except ArgumentError:
            t[case] = b.mean(0) - a.mean(0)
    return R, t


def fixes_pose(centroid: Float[Tensor, "teeth 3"]) -> bool:
    """Whether tooth centres say how a model is turned: three or more, not on a line."""
    try:
        kabsch(centroid, centroid)
    except ArgumentError:
        return False
    return True


def mean_arch(centroid: Float[Tensor, "cases 32 3"], mask: Bool[Tensor, "cases 32"]) -> Float[Tensor, "32 3"]:
    """The mean place of each tooth about the middle of its model, of the cases that have it.

    Two rounds: once with models centred, and once registered to the mean of the first.
    """
    weight = mask[..., None].double()
    centers = torch.where(mask[..., None], centroid.double(), 0)
    centers = (centers - centers.sum(1, keepdim=True) / weight.sum(1, keepdim=True)) * weight
    mean = centers.sum(0) / weight.sum(0).clamp_min(1)
    R, t = registered(centers, mask, mean)
    moved = (centers @ R.mT + t[:, None]) * weight
    return moved.sum(0) / weight.sum(0).clamp_min(1)
