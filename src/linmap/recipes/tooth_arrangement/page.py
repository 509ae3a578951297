"""The page of a plan: the teeth in three dimensions, stage by stage, with the proposals and their movements as tables.

One file, with no request to anywhere: style, script and meshes are inside, and its policy forbids everything else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from scipy.spatial.transform import Rotation

from linmap.artifacts import write_text
from linmap.pictures import THEME_CSS
from linmap.shapes.tooth_arrangement.movements import JAW, Movement, movement_table, tooth_axes
from linmap.shapes.tooth_arrangement.remeshing import simplified
from linmap.shapes.tooth_arrangement.slots import FDI, slot_of
from linmap.shapes.tooth_arrangement.stages import Stages
from linmap.shapes.tooth_arrangement.tooth_set import ToothSet

HERE = Path(__file__).parent
FACES = 1200
"""Of a tooth on the page."""
GAP_MM = 8.0
"""Jaws whose centres are nearer than this are drawn apart."""
COLUMNS = (
    "tooth",
    "mesial, mm",
    "buccal, mm",
    "extrusion, mm",
    "rotation, °",
    "tip, °",
    "torque, °",
    "shift, mm",
    "turn, °",
    "in words",
)


@dataclass(frozen=True)
class Proposal:
    """One plan, with all that the page tells of it."""

    motions: np.ndarray
    """(32, 4, 4) on columns, mm."""
    movements: list[Movement]
    stages: Stages
    collision: float
    """Deepest contact of neighbours after, mm."""
    deep: int
    """Neighbours that are deeper in each other than tolerated, after."""
    smoothness: float


@dataclass(frozen=True)
class Told:
    """What the page says around the plan."""

    name: str
    summary: str
    training: str
    """What the model learnt from, as a sentence."""
    notes: tuple[str, ...] = ()
    tolerance: float = 0.2


def write_page(
    path: Path, teeth: ToothSet, proposals: Sequence[Proposal], told: Told, fixed: Collection[int] = ()
) -> Path:
    """Write the page, atomically."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    present = [slot for slot in range(32) if teeth.mask[slot]]
    axes = patient_axes(teeth)
    apart = drawn_apart(teeth, axes[1])
    legend = "Teeth that must not move are grey-blue; the places before are shown in blue."
    if apart:
        legend += " The jaws are drawn apart, for the files do not tell how they bite."
    html = environment.get_template("page.html.jinja").render(
        name=told.name,
        summary=told.summary,
        training=told.training,
        notes=told.notes,
        tolerance=f"{told.tolerance:g}",
        legend=legend,
        columns=COLUMNS,
        rows=_rows(proposals[0]),
        proposals=[_line(proposal) for proposal in proposals],
        upper=any(slot < JAW for slot in present),
        lower=any(slot >= JAW for slot in present),
        style=Markup(THEME_CSS + "\n" + (HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "viewer.js").read_text(encoding="utf-8")),
        data=Markup(_inside(_case(teeth, proposals, fixed, axes, apart))),
    )
    write_text(path, html)
    return path


def patient_axes(teeth: ToothSet) -> np.ndarray:
    """Rows left, up and front of the patient in the coordinates of the set, (3, 3)."""
    axes, slots = tooth_axes(teeth), np.flatnonzero(np.asarray(teeth.mask))
    ups = np.where(slots[:, None] < JAW, -axes[slots, 2], axes[slots, 2])
    along = axes[slots, 0] * np.where(slots % JAW < JAW // 2, 1, -1)[:, None]
    up = ups.mean(0) / np.linalg.norm(ups.mean(0))
    left = along.sum(0) - (along.sum(0) @ up) * up
    left /= np.linalg.norm(left)
    return np.stack([left, up, np.cross(left, up)])


def drawn_apart(teeth: ToothSet, up: np.ndarray) -> float:
    """How far each jaw is moved away on the page, mm; 0 where the set tells how the jaws stand to each other."""
    centers, mask = np.asarray(teeth.centroids()), np.asarray(teeth.mask)
    if not mask[:JAW].any() or not mask[JAW:].any():
        return 0.0
    height = float((centers[:JAW][mask[:JAW]].mean(0) - centers[JAW:][mask[JAW:]].mean(0)) @ up)
    return 0.0 if height >= GAP_MM - 4 else (GAP_MM - height) / 2


def _case(
    teeth: ToothSet, proposals: Sequence[Proposal], fixed: Collection[int], axes: np.ndarray, apart: float
) -> dict[str, Any]:
    """Everything the viewer draws, in the patient's axes."""
    slots, centers = [slot for slot in range(32) if teeth.mask[slot]], np.asarray(teeth.centroids())
    held = {slot_of(fdi) for fdi in fixed}
    corners = np.concatenate([np.asarray(vertices) @ axes.T for vertices, _ in teeth.meshes.values()])
    low, high = corners.min(0), corners.max(0)
    drawn = [
        _mesh(*teeth.meshes[FDI[slot]], centers[slot], axes)
        | {"fdi": int(FDI[slot]), "upper": slot < JAW, "fixed": slot in held, "center": _rounded(axes @ centers[slot])}
        for slot in slots
    ]
    return {
        "teeth": drawn,
        "middle": _rounded((low + high) / 2),
        "size": float((high - low).max() / 2),
        "apart": apart,
        "proposals": [_plan(proposal, slots, centers, axes) for proposal in proposals],
    }


def _mesh(vertices: Any, faces: Any, center: np.ndarray, axes: np.ndarray) -> dict[str, Any]:
    """About its centre, in 16-bit steps."""
    points, found = simplified(np.asarray(vertices, dtype=float), np.asarray(faces), FACES)
    points = (points - center) @ axes.T
    scale = float(np.abs(points).max()) / 32000
    pack = lambda values, kind: base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()  # noqa: E731
    return {"vertices": pack(np.rint(points / scale), "<i2"), "faces": pack(found, "<u2"), "scale": scale}


def _plan(proposal: Proposal, slots: Sequence[int], centers: np.ndarray, axes: np.ndarray) -> dict[str, Any]:
    shifts, turns = [], []
    for slot in slots:
        motion = proposal.motions[slot]
        shifts.append(_rounded(axes @ (motion[:3, :3] @ centers[slot] + motion[:3, 3] - centers[slot])))
        turns.append(_rounded(axes @ Rotation.from_matrix(motion[:3, :3]).as_rotvec(), 5))
    return {
        "progress": [_rounded(row, 4) for row in proposal.stages.progress[:, slots]],
        "shifts": shifts,
        "turns": turns,
        "rows": _rows(proposal),
        "collisions": [[one.stage, *one.teeth, round(one.depth_mm, 2)] for one in proposal.stages.collisions],
    }


def _rows(proposal: Proposal) -> list[list[Any]]:
    return [
        [cell.item() if hasattr(cell, "item") else cell for cell in row]
        for row in movement_table(proposal.movements).itertuples(index=False, name=None)
    ]


def _line(proposal: Proposal) -> dict[str, Any]:
    return {
        "collision": proposal.collision,
        "deep": proposal.deep,
        "smoothness": proposal.smoothness,
        "shift": np.mean([one.shift_mm for one in proposal.movements]),
        "turn": np.mean([one.turn_deg for one in proposal.movements]),
        "stages": proposal.stages.count,
        "collisions": len(proposal.stages.collisions),
    }


def _rounded(values: Any, digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in values]


def _inside(value: Any) -> str:
    """JSON that can stand in a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
