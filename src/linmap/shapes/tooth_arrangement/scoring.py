"""What makes one proposal better than another beside contacts: how smooth the arches are."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from linmap.shapes.tooth_arrangement.slots import JAWS

LEAST = 6
"""Teeth of a jaw whose arch is looked at."""


def smoothness(centers: Float[np.ndarray, "32 3"], present: Bool[np.ndarray, " 32"]) -> float:
    """How far tooth centres lie from a smooth arch: the r.m.s. distance in mm from polynomials of degree four in the
    place along the arch, the mean of the jaws."""
    found = []
    for jaw in JAWS.values():
        there = centers[jaw][present[jaw]]
        if len(there) < LEAST:
            continue
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(there, axis=0), axis=1))])
        powers = np.vander(along / max(along[-1], 1e-9) * 2 - 1, 5)
        rest = there - powers @ np.linalg.lstsq(powers, there, rcond=None)[0]
        found.append(float(np.sqrt((rest**2).sum(1).mean())))
    return float(np.mean(found)) if found else 0.0
