"""What a plan does to each tooth, in the words of orthodontics.

Every tooth has three axes of its own, taken from the arch before treatment: mesial (along the arch, towards the
midline), buccal (outwards, labial for front teeth) and occlusal (towards the other jaw). A shift is told along them in
mm and a turn about them in degrees, with signs that mean the same on both sides and in both jaws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.slots import FDI
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet, rigid_motions

if TYPE_CHECKING:
    import pandas as pd

JAW = 16
"""Slots of one jaw; the upper one is first."""
CURVE = 4
"""Degree of the polynomial through the tooth centres."""
WORDS = {
    "mesial_mm": ("mesial", "distal", "mm"),
    "buccal_mm": ("buccal", "lingual", "mm"),
    "extrusion_mm": ("extrusion", "intrusion", "mm"),
    "rotation_deg": ("rotation mesial-out", "rotation mesial-in", "°"),
    "tip_deg": ("tip mesial", "tip distal", "°"),
    "torque_deg": ("torque buccal", "torque lingual", "°"),
}
"""By column: what a positive and what a negative value is called, and the unit."""


@dataclass(frozen=True)
class Movement:
    """What happens to one tooth; shifts are of the crown's centroid, turns of its occlusal end about it."""

    fdi: int
    mesial_mm: float
    """Towards the midline along the arch; negative: distal."""
    buccal_mm: float
    """Outwards (labial for front teeth); negative: lingual or palatal."""
    extrusion_mm: float
    """Out of the jaw; negative: intrusion."""
    rotation_deg: float
    """About the long axis, the mesial side turning outwards; negative: inwards."""
    tip_deg: float
    """In the plane of the arch curve, the crown leaning mesially; negative: distally."""
    torque_deg: float
    """Across the arch, the crown leaning outwards; negative: inwards."""
    shift_mm: float
    """Length of the whole shift."""
    turn_deg: float
    """Angle of the whole turn."""

    def words(self, least_mm: float = 0.1, least_deg: float = 1.0) -> str:
        """Such as "0.8 mm mesial, 12° rotation mesial-out"; "stays" where nothing is worth a word."""
        said = []
        for name, (positive, negative, unit) in WORDS.items():
            value, least = getattr(self, name), least_mm if unit == "mm" else least_deg
            if abs(value) >= least:
                size = f"{abs(value):.1f} mm" if unit == "mm" else f"{abs(value):.0f}°"
                said.append(f"{size} {positive if value > 0 else negative}")
        return ", ".join(said) or "stays"


def tooth_axes(teeth: ToothSet) -> np.ndarray:
    """The axes of every tooth: rows mesial, buccal, occlusal, orthonormal, (32, 3, 3); NaN for absent teeth.

    The tangent is that of a polynomial through the centres of a jaw in arch order. The vertical is the normal of the
    jaw's plane; which way is up follows from the order of the teeth, which run from the patient's right to the left.

    Raises
    ------
    ValueError
        If a jaw with teeth has fewer than three, or they lie on a line, and the other jaw cannot stand in.
    """
    return axes_of(np.asarray(teeth.centroids()), np.asarray(teeth.mask))


def axes_of(centers: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`tooth_axes` of centres (32, 3) and present teeth (32,)."""
    centers, axes = np.asarray(centers, dtype=float), np.full((32, 3, 3), np.nan)
    jaws = [np.flatnonzero(mask[:JAW]), JAW + np.flatnonzero(mask[JAW:])]
    ups = [up_of(centers[slots]) for slots in jaws]
    for number, slots in enumerate(jaws):
        up = ups[number] if ups[number] is not None else ups[1 - number]
        if not len(slots):
            continue
        if up is None:
            raise ArgumentError(
                "teeth: neither jaw has three teeth that do not stand on a line, and fewer do not tell what is up; "
                "give more teeth of a jaw."
            )
        tangents = _tangents(centers[slots], slots % JAW, up)
        mesial = tangents * np.where(slots % JAW < JAW // 2, 1, -1)[:, None]
        buccal = np.cross(tangents, up)
        axes[slots] = np.stack([mesial, buccal, np.broadcast_to(-up if number == 0 else up, mesial.shape)], axis=1)
    return axes


def up_of(centers: np.ndarray) -> np.ndarray | None:
    """The vertical of one jaw, from tooth centres (n, 3) in arch order; None where they fix none.

    The centres turn to the left as seen from above, on their way from the right over the front to the left.
    """
    if len(centers) < 3:
        return None
    middle = centers - centers.mean(0)
    _, sizes, directions = np.linalg.svd(middle, full_matrices=True)
    if sizes[1] < 0.05 * sizes[0]:
        return None
    area = np.cross(middle[:-1], middle[1:]).sum(0) + np.cross(middle[-1], middle[0])
    return directions[2] if directions[2] @ area > 0 else -directions[2]


def _tangents(centers: np.ndarray, places: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Unit directions of the arch at its teeth, from right to left, in the jaw's plane, (n, 3)."""
    if len(places) < 3:
        along = np.broadcast_to(centers[-1] - centers[0], centers.shape)
    else:
        x = (places - 7.5) / 7.5
        powers = np.arange(min(CURVE, len(places) - 1) + 1)
        weights = np.linalg.lstsq(x[:, None] ** powers, centers, rcond=None)[0]
        slopes = powers * x[:, None] ** np.maximum(powers - 1, 0)
        along = slopes @ weights
    flat = along - (along @ up)[:, None] * up
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def movements(teeth: ToothSet, motions: np.ndarray) -> list[Movement]:
    """What motions do to the teeth of a set, tooth by tooth in the order of the slots.

    Parameters
    ----------
    teeth
        Before treatment.
    motions
        (32, 4, 4), on columns, mm, as `TADPM.arrange` gives them.

    Raises
    ------
    ValueError
        If the motions have another shape, or are no rigid motions.
    """
    motions = rigid_motions(motions)
    centers, axes = np.asarray(teeth.centroids()), tooth_axes(teeth)
    found = []
    for slot in np.flatnonzero(np.asarray(teeth.mask)):
        center, frame = centers[slot], axes[slot]
        shift = motions[slot, :3, :3] @ center + motions[slot, :3, 3] - center
        turn = Rotation.from_matrix(motions[slot, :3, :3]).as_rotvec()
        mesial, buccal, occlusal = frame
        about = np.stack([np.cross(mesial, buccal), np.cross(occlusal, mesial), np.cross(occlusal, buccal)])
        angles = np.degrees(about @ turn)
        values = [*(frame @ shift), *angles, np.linalg.norm(shift), np.degrees(np.linalg.norm(turn))]
        found.append(Movement(int(FDI[slot]), *(float(value) for value in values)))
    return found


def movement_table(found: list[Movement]) -> pd.DataFrame:
    """A row for each tooth: numbers rounded to 0.01 mm and 0.1 degree, and the same in words."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for one in found:
        numbers = {name: round(getattr(one, name), 2 if name.endswith("mm") else 1) for name in WORDS}
        sizes = {"shift_mm": round(one.shift_mm, 2), "turn_deg": round(one.turn_deg, 1)}
        rows.append({"tooth": one.fdi} | numbers | sizes | {"in words": one.words()})
    return pd.DataFrame(rows)
