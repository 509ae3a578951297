"""The size that a cloud is divided by: homogeneous of degree one, and the same for all of its copies."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from linmap.shapes.tinvnn.points import Centred

Scale = Literal["rms", "maxdist", "maxnorm", "none"]
AT_ONCE = 2**22
"""Distances that are held at once."""


def size_of(cloud: Centred, scale: Scale) -> Float64[Tensor, " batch"]:
    """The size of clouds in their unit; a cloud without extent has 0.

    Parameters
    ----------
    scale
        "rms": root of the mean squared distance to the mean. "maxdist": largest distance of two points. "maxnorm":
        largest distance to the mean. "none": 1.
    """
    if scale == "rms":
        return cloud.norm / cloud.count.sqrt()
    if scale == "maxnorm":
        return cloud.points.norm(dim=1).amax(1)
    if scale == "none":
        return (cloud.norm > 0).to(cloud.norm.dtype)
    return torch.stack([(a - b).norm() for a, b in farthest_pairs(cloud.points)])


def farthest_pairs(points: Float64[Tensor, "batch d n"]) -> list[tuple[Tensor, Tensor]]:
    """The two points of each centred cloud that are farthest from each other.

    A point whose distance to the mean, plus the largest such distance, is below a distance that has been found is in
    no farther pair, which leaves few points of large clouds. A masked point lies at the mean; it is never farther from
    a point than some point of the cloud is, as these are around the mean.
    """
    pairs = []
    for cloud in points.mT:
        lengths = cloud.norm(dim=-1)
        outermost = cloud[lengths.argmax()]
        found = (cloud - outermost).norm(dim=-1).max()
        outer = cloud[lengths + lengths.max() >= found * (1 - 1e-12)]
        best, pair = cloud.new_tensor(-1.0), (outermost, outermost)
        for part in outer.split(max(1, AT_ONCE // len(outer))):
            distances = torch.cdist(part, outer, compute_mode="donot_use_mm_for_euclid_dist")
            if distances.max() > best:
                best = distances.max()
                row, column = divmod(int(distances.argmax()), len(outer))
                pair = (part[row], outer[column])
        pairs.append(pair)
    return pairs
