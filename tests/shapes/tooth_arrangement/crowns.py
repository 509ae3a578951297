"""Made-up crowns: ellipsoids on an arch."""

from __future__ import annotations

import numpy as np

from linmap.shapes.tooth_arrangement import FDI


def ball(radius: float = 3.5, center: tuple[float, float, float] = (0, 0, 0), level: int = 2):
    """An icosphere, with vertices and faces."""
    import trimesh

    mesh = trimesh.creation.icosphere(level, radius)
    return np.asarray(mesh.vertices) + np.array(center), np.asarray(mesh.faces)


def on_arch(fdi: int) -> tuple[float, float, float]:
    """A place on a half ellipse, right to left, the lower jaw below."""
    slot = FDI.index(fdi)
    angle = np.pi * (1 - (slot % 16 + 0.5) / 16)
    return 28 * np.cos(angle), 4.0 if slot < 16 else -4.0, 40 * np.sin(angle)


def arches(numbers=FDI, level: int = 2):
    """Meshes by FDI number: longer than wide, so that turning them shows."""
    V, F = ball(level=level)
    return {fdi: (V * [0.7, 1.1, 0.9] + on_arch(fdi), F) for fdi in numbers}
