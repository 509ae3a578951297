"""Who says where teeth go, from nothing to a diffusion, and how near each comes to the set-up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from linmap.geometry.rigid import rotation_from_six
from linmap.shapes.tooth_arrangement import ToothPairs, ToothSet, apply_motion, metrics, motion_matrices
from linmap.shapes.tooth_arrangement.estimator import TADPM, MotionRegression
from linmap.shapes.tooth_arrangement.frames import mean_arch, registered
from linmap.shapes.tooth_arrangement.neighbours import Neighbours

Motions = Float[Tensor, "cases 32 9"]
CURVES = 30
"""Cases whose arch curves are measured, at most: it is the slowest measure."""
UNTURNED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def identity(pairs: ToothPairs) -> Motions:
    """All teeth stay."""
    return _unturned(pairs.centroid.double())


def to_mean_arch(train: ToothPairs, pairs: ToothPairs) -> Motions:
    """Every tooth goes to its mean place in the training set-ups, laid over the case; none is turned."""
    mean = mean_arch(train.after_centroid, train.mask)
    R, t = registered(pairs.centroid, pairs.mask, mean)
    return _unturned((mean - t[:, None]) @ R)


def sampled(
    model: TADPM | MotionRegression, pairs: ToothPairs, n_samples: int, seed: int
) -> Float[Tensor, "samples cases 32 9"]:
    """What a model draws, before teeth are moved out of each other."""
    return model.predict(pairs, n_samples=n_samples, seed=seed)


def mean_of(samples: Float[Tensor, "samples cases 32 9"]) -> Motions:
    """The mean of several draws: centroids, and the six numbers, which decoding makes a rotation again."""
    return samples.mean(0)


def best_of(samples: Float[Tensor, "samples cases 32 9"], truths: Sequence[ToothPairs]) -> Motions:
    """Of each case, the draw that is nearest to a true set-up: no user can choose so."""
    errors = torch.stack([nearest_errors(y, truths) for y in samples])
    return samples[errors.argmin(0), torch.arange(samples.shape[1])]


def errors(y: Motions, pairs: ToothPairs) -> Float[Tensor, " cases"]:
    """ADD of each case in mm."""
    off = torch.linalg.vector_norm(placed(y, pairs) - pairs.after.double(), dim=-1).mean(-1)
    return (off * pairs.mask).sum(1) / pairs.mask.sum(1)


def nearest_errors(y: Motions, truths: Sequence[ToothPairs]) -> Float[Tensor, " cases"]:
    """ADD of each case to the nearest of its valid set-ups."""
    return torch.stack([errors(y, truth) for truth in truths]).amin(0)


def placed(y: Motions, pairs: ToothPairs) -> Float[Tensor, "cases 32 points 3"]:
    """The points of the teeth where a plan puts them; absent ones at zero."""
    points = apply_motion(pairs.before.double(), pairs.centroid.double(), y.double())
    return points.masked_fill(~pairs.mask[..., None, None], 0)


def measured(pairs: ToothPairs, y: Motions) -> dict[str, float]:
    """ADD, PA-ADD, CSA, ME_rot and FD_cur of plans."""
    found, true = placed(y, pairs), pairs.after.double()
    R = rotation_from_six(y[..., 3:].double()).mT
    cases = range(min(len(pairs), CURVES))
    curves = [
        metrics.arch_frechet(y[case, :, :3], pairs.after_centroid[case].double(), pairs.mask[case])
        for case in cases
        if _has_arch(pairs.mask[case])
    ]
    return {
        "ADD": metrics.add(found, true, pairs.mask),
        "PA-ADD": metrics.pa_add(found, true, pairs.mask),
        "CSA": metrics.csa(pairs.before.double(), found, true, pairs.mask),
        "ME_rot": metrics.me_rot(R, pairs.rotation.double(), pairs.mask),
        "FD_cur": float(np.mean(curves)) if curves else float("nan"),
    }


def contacts(sets: Sequence[ToothSet], y: Motions, apart: bool = False) -> list[float]:
    """The depth in mm of the deepest neighbours of each case, as proposed or (`apart`) after they were moved apart."""
    found = []
    for case, teeth in enumerate(sets):
        neighbours = Neighbours(teeth, reach=1)
        motions = motion_matrices(teeth.centroids(), y[case].double()).numpy()
        motions[~teeth.mask.numpy()] = np.eye(4)
        found.append(neighbours.deepest(neighbours.apart(motions) if apart else motions))
    return found


def _unturned(place: Tensor) -> Motions:
    six = torch.tensor(UNTURNED, dtype=place.dtype).expand(*place.shape[:-1], 6)
    return torch.cat([place, six], -1)


def _has_arch(mask: Tensor) -> bool:
    return any(int(mask[jaw].sum()) >= metrics.LEAST_TEETH for jaw in (slice(0, 16), slice(16, 32)))
