"""Proposed set-ups of one patient's teeth, ranked by what can be measured without a dentist."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linmap.shapes.tooth_arrangement.neighbours import Neighbours
from linmap.shapes.tooth_arrangement.scoring import smoothness


@dataclass(frozen=True)
class Arrangement:
    """Proposed set-ups, best first."""

    motions: Tensor
    """(n_samples, 32, 4, 4) float64: act on columns (x, y, z, 1), in mm, in the coordinates of the teeth."""
    scores: dict[str, np.ndarray]
    """(n_samples,) each: "collision", the depth in mm of the deepest neighbours; "smoothness", the r.m.s. distance in
    mm of tooth centres from a smooth arch; "total", their sum, by which proposals are sorted."""


def ranked(motions: np.ndarray, neighbours: Neighbours, present: np.ndarray) -> Arrangement:
    collision = np.array([neighbours.deepest(proposal) for proposal in motions])
    centers = np.einsum("psij,sj->psi", motions[..., :3, :3], neighbours.centers) + motions[..., :3, 3]
    smooth = np.array([smoothness(proposal, present) for proposal in centers])
    scores = {"collision": collision, "smoothness": smooth, "total": collision + smooth}
    order = np.argsort(scores["total"], kind="stable")
    return Arrangement(torch.from_numpy(motions[order]), {name: values[order] for name, values in scores.items()})
