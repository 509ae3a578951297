"""How near a set-up comes to another one, and how well its teeth stand together; mm in, mm out.

Points are (B, 32, P, 3), or (32, P, 3) of one case. Absent teeth never count, whatever stands in their place.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.rigid import floating, geodesic_angle, kabsch
from linmap.shapes.tooth_arrangement import curves
from linmap.shapes.tooth_arrangement.curves import Curve, frechet_distance
from linmap.shapes.tooth_arrangement.slots import FDI, JAWS, TEETH, slot_of
from linmap.shapes.tooth_arrangement.surfaces import depth, distance, surface

__all__ = [
    "Bolton",
    "add",
    "arch_frechet",
    "bolton",
    "collision_depth",
    "csa",
    "frechet_distance",
    "gap",
    "irregularity_index",
    "me_rot",
    "pa_add",
    "tooth_widths",
]

Convention = Literal["present", "official"]
LEAST_TEETH = 5  # of a jaw, for a quartic through it


def add(pred: Any, true: Any, mask: Any, convention: Convention = "present") -> float:
    """Average distance of points of the teeth, ADD.

    Parameters
    ----------
    pred, true
        (B, 32, P, 3): the points in the two set-ups.
    mask
        (B, 32): present teeth.
    convention
        "present": the mean over the present teeth of the batch. "official": over all slots, which the authors' code
        takes and which is smaller by the share of missing teeth.

    Raises
    ------
    ValueError
        If a shape does not fit, no tooth is present, or the convention is unknown.
    """
    pred, true, mask = _points(pred=pred, true=true, mask=mask)
    if convention not in get_args(Convention):
        raise ArgumentError(f"convention must be one of {', '.join(get_args(Convention))}, got {convention!r}.")
    teeth = torch.linalg.vector_norm(pred[mask] - true[mask], dim=-1).mean(-1)
    return float(teeth.mean() if convention == "present" else teeth.sum() / mask.numel())


def pa_add(pred: Any, true: Any, mask: Any, per_jaw: bool = False) -> float:
    """ADD after each case has been registered to its truth, by one rotation and shift, or one for each jaw.

    Parameters
    ----------
    pred, true, mask
        As in `add`.
    per_jaw
        Register the jaws by themselves.

    Raises
    ------
    ValueError
        As `add`.
    """
    pred, true, mask = _points(pred=pred, true=true, mask=mask)
    errors = []
    for case in range(len(mask)):
        for jaw in JAWS.values() if per_jaw else (slice(None),):
            here = mask[case, jaw]
            if not here.any():
                continue
            a, b = pred[case, jaw][here], true[case, jaw][here]
            R, t = kabsch(a.flatten(0, 1), b.flatten(0, 1))
            errors.append(torch.linalg.vector_norm(a @ R.mT + t - b, dim=-1).mean(-1))
    return float(torch.cat(errors).mean())


def csa(before: Any, pred: Any, true: Any, mask: Any, threshold: float = 0.1) -> float:
    """Cosine similarity accuracy: the mean cosine between predicted and true motions of points.

    Teeth whose points truly move by less than `threshold` mm in the mean are left out; a point that the prediction
    leaves where it is counts 0.

    Returns
    -------
    float
        NaN, with a warning, where no tooth moves.

    Raises
    ------
    ValueError
        As `add`.
    """
    before, pred, true, mask = _points(before=before, pred=pred, true=true, mask=mask)
    if not 0 <= threshold < math.inf:
        raise ArgumentError(f"threshold must be a number of mm of at least 0, got {threshold}.")
    moved, meant = pred[mask] - before[mask], true[mask] - before[mask]
    sizes = torch.linalg.vector_norm(meant, dim=-1)
    counts = sizes.mean(-1) >= threshold
    if not counts.any():
        warnings.warn(f"no tooth truly moves by {threshold:g} mm; csa is undefined (nan).", stacklevel=2)
        return math.nan
    moved, meant, sizes = moved[counts], meant[counts], sizes[counts]
    lengths = torch.linalg.vector_norm(moved, dim=-1) * sizes
    cosine = torch.where(lengths > 0, (moved * meant).sum(-1) / lengths.clamp_min(1e-300), 0)
    return float(cosine[sizes > 0].mean())


def me_rot(R_pred: Any, R_true: Any, mask: Any) -> float:
    """The mean angle in degrees between predicted and true rotations (B, 32, 3, 3) of the present teeth.

    Raises
    ------
    ValueError
        As `add`.
    """
    pred, true = floating("R_pred", R_pred), floating("R_true", R_true)
    if pred.shape != true.shape or pred.shape[-3:] != (TEETH, 3, 3) or pred.ndim not in (3, 4):
        raise ArgumentError(
            f"R_pred and R_true must be (B, {TEETH}, 3, 3), got {tuple(pred.shape)} and {tuple(true.shape)}."
        )
    mask = _mask(mask, pred.shape[:-2])
    for name, values in (("R_pred", pred), ("R_true", true)):
        _check_finite(name, values, mask)
    return float(torch.rad2deg(geodesic_angle(pred[mask].double(), true[mask].double())).mean())


def arch_frechet(
    pred_centers: Any, true_centers: Any, mask: Any, curve: Curve = "quartic", samples: int = 200
) -> float:
    """The Fréchet distance of the predicted arch from the true one, FD_cur: the mean of the jaws of 5 teeth or more.

    The curves run through the tooth centres in the occlusal plane of the true jaw (its two main axes); heights do not
    count.

    Parameters
    ----------
    pred_centers, true_centers
        (32, 3).
    mask
        (32,).
    curve
        "quartic": y(x) of degree four by least squares. "beta": Braun's beta function. "spline": a cubic spline through
        the centres.
    samples
        Points of each curve, at equal distances along it.

    Raises
    ------
    ValueError
        If a shape does not fit, the curve is unknown, or no jaw has 5 teeth.
    """
    pred, true = (floating(n, v).double() for n, v in (("pred_centers", pred_centers), ("true_centers", true_centers)))
    for name, value in (("pred_centers", pred), ("true_centers", true)):
        if value.shape != (TEETH, 3):
            raise ArgumentError(f"{name} must be ({TEETH}, 3), got shape {tuple(value.shape)}.")
    if curve not in get_args(Curve):
        raise ArgumentError(f"curve must be one of {', '.join(get_args(Curve))}, got {curve!r}.")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise ArgumentError(f"samples must be a whole number of at least 2, got {samples!r}.")
    mask = _mask(mask, (TEETH,))
    found = []
    for jaw in JAWS.values():
        here = mask[jaw]
        if int(here.sum()) >= LEAST_TEETH:
            parts = [curves.flattened(centers[jaw][here].numpy(), true[jaw][here].numpy()) for centers in (pred, true)]
            found.append(frechet_distance(*(curves.arch(part, curve, samples) for part in parts)))
    if not found:
        raise ArgumentError(f"mask leaves no jaw of {LEAST_TEETH} teeth or more, which an arch needs.")
    return float(np.mean(found))


def collision_depth(first: Any, second: Any) -> float:
    """How deep two meshes (V, F) reach into each other, in mm: 0 where they are apart.

    It is the largest depth inside one mesh of a point on the surface of the other, and symmetric. Faces are divided
    until points are about 0.5 mm apart. Inside is behind the outward normal at the nearest surface point.

    Raises
    ------
    ValueError
        If an argument is no mesh.
    """
    return depth(surface("first", first), surface("second", second))


def gap(first: Any, second: Any) -> float:
    """The distance between two meshes (V, F) in mm: 0 where they touch or overlap; symmetric.

    Raises
    ------
    ValueError
        If an argument is no mesh.
    """
    return distance(surface("first", first), surface("second", second))


def irregularity_index(contacts: Any) -> float:
    """Little's irregularity index in mm: how far the contact points of neighbouring front teeth miss each other.

    Parameters
    ----------
    contacts
        (6, 2, 3): of the teeth 43, 42, 41, 31, 32, 33, the contact point towards the tooth before and towards the
        tooth after.

    Raises
    ------
    ValueError
        If the shape is another or a value is not finite.
    """
    contacts = floating("contacts", contacts).double()
    if contacts.shape != (6, 2, 3) or not contacts.isfinite().all():
        raise ArgumentError(f"contacts must be (6, 2, 3) finite numbers, got shape {tuple(contacts.shape)}.")
    return float(torch.linalg.vector_norm(contacts[:-1, 1] - contacts[1:, 0], dim=-1).sum())


class Bolton(NamedTuple):
    """Sums of lower tooth widths over upper ones, in per cent."""

    overall: float
    """First molar to first molar; 91.3 in the mean of good occlusions."""
    anterior: float
    """Canine to canine; 77.2."""


def bolton(widths: Mapping[int, float]) -> Bolton:
    """Bolton's ratios of mesiodistal widths in mm by FDI number.

    Raises
    ------
    ValueError
        If one of the twelve teeth of each jaw is missing (all are named), or a width is not positive.
    """
    widths = {FDI[slot_of(fdi)]: float(width) for fdi, width in dict(widths).items()}
    needed = [fdi for fdi in FDI if fdi % 10 <= 6]
    if missing := [fdi for fdi in needed if fdi not in widths]:
        raise ArgumentError(f"widths lack the teeth {', '.join(map(str, missing))}.")
    if bad := [fdi for fdi in needed if not (widths[fdi] > 0 and math.isfinite(widths[fdi]))]:
        raise ArgumentError(f"widths must be positive; that of tooth {bad[0]} is {widths[bad[0]]}.")

    def ratio(last: int) -> float:
        lower, upper = (
            sum(widths[fdi] for fdi in needed if fdi % 10 <= last and fdi // 10 in quadrants)
            for quadrants in ((3, 4), (1, 2))
        )
        return 100 * lower / upper

    return Bolton(ratio(6), ratio(3))


def tooth_widths(points: Any, mask: Any) -> dict[int, float]:
    """Mesiodistal widths of one case by FDI number: the extent of the points (32, P, 3) along the arch at each tooth.

    The direction of the arch is that from the tooth before to the tooth after. A jaw needs two teeth.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    points = floating("points", points).double()
    if points.ndim != 3 or points.shape[0] != TEETH or points.shape[2] != 3:
        raise ArgumentError(f"points must be ({TEETH}, P, 3), got shape {tuple(points.shape)}.")
    mask = _mask(mask, (TEETH,))
    found: dict[int, float] = {}
    for jaw in JAWS.values():
        slots = [slot for slot in range(jaw.start, jaw.stop) if mask[slot]]
        centers = points[slots].mean(1)
        for i, slot in enumerate(slots if len(slots) > 1 else []):
            along = centers[min(i + 1, len(slots) - 1)] - centers[max(i - 1, 0)]
            extent = points[slot] @ (along / torch.linalg.vector_norm(along))
            found[FDI[slot]] = float(extent.max() - extent.min())
    return found


def _points(*, mask: Any, **named: Any) -> list[Tensor]:
    """Batches in float64, and the mask."""
    batches: list[Tensor] = []
    for name, values in named.items():
        points = floating(name, values).double()
        points = points[None] if points.ndim == 3 else points
        if points.ndim != 4 or points.shape[1] != TEETH or points.shape[3] != 3:
            raise ArgumentError(f"{name} must be (B, {TEETH}, P, 3), got shape {tuple(points.shape)}.")
        if batches and points.shape != batches[0].shape:
            first = next(iter(named))
            raise ArgumentError(
                f"{name} must be of the shape of {first}, {tuple(batches[0].shape)}, got {tuple(points.shape)}."
            )
        batches.append(points)
    mask = torch.as_tensor(mask)
    mask = _mask(mask[None] if mask.ndim == 1 else mask, batches[0].shape[:2])
    for name, points in zip(named, batches, strict=True):
        _check_finite(name, points, mask)
    return [*batches, mask]


def _check_finite(name: str, values: Tensor, mask: Tensor) -> None:
    if not values[mask].isfinite().all():
        raise ArgumentError(f"{name} holds values that are not finite for a tooth that is there; take it off the mask.")


def _mask(values: Any, shape: Any) -> Tensor:
    mask = torch.as_tensor(values).bool()
    if tuple(mask.shape) != tuple(shape):
        raise ArgumentError(f"mask must be {tuple(shape)}, one value a tooth, got shape {tuple(mask.shape)}.")
    if not mask.any():
        raise ArgumentError("mask has no present tooth; there is nothing to measure.")
    return mask
