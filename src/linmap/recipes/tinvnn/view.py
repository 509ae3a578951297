"""A cloud that is turned by hand, and its canonical pose, which stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from linmap.data.clouds import ldraw_shapes, load_clouds
from linmap.errors import UsageError
from linmap.recipes.tinvnn.flags import POINTS, Canonical, of_cities
from linmap.recipes.view import Asked, Seen, number, numbers, whole
from linmap.shapes.tinvnn import tinv_frame

SHOWN = 1200
"""Points that are drawn; the pose is that of all."""
NAMED = 200
"""Clouds that can be chosen."""
BANDS = 4
"""Colours, by the first canonical coordinate, so that a point has the same one on both sides."""
NEAR_ORTHOGONAL = 1e-3
UNMOVED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class PoseView:
    """Clouds of a run, or the LDraw shapes of the package."""

    def __init__(self, seen: Seen) -> None:
        if of_cities(seen.data):
            raise UsageError("This run is about cities; poses are shown of shapes.")
        unfitted = seen.verb == "apply" and not any(word == "../model" for word in seen.words)
        settings = seen.settings(Canonical) if unfitted else Canonical()
        self.options = settings.options() if unfitted else {}
        self.clouds = (
            ldraw_shapes()
            if seen.data is None
            else load_clouds(seen.data, getattr(settings, "points", POINTS), seen.seed)
        )
        self._rest: tuple[int, np.ndarray] | None = None  # of the latest cloud
        if self.clouds.dim not in (2, 3):
            raise UsageError(
                f"These points have {self.clouds.dim} coordinates; clouds of the plane and of space are shown."
            )

    def start(self) -> dict[str, Any]:
        """The names, and the first cloud."""
        names = list(self.clouds.names[:NAMED])
        if self.clouds.labels is not None:
            names = [f"{label}, {name}" for label, name in zip(self.clouds.named_labels(), names, strict=False)]
        return {"names": names, "flat": self.clouds.dim == 2, **self.answer({"cloud": 0})}

    def answer(self, asked: Asked) -> dict[str, Any]:
        """The canonical pose of a cloud (`cloud`) that is turned (`turn`, a matrix row by row), mirrored, resized and
        moved (in its own radii); and how far that is from the pose that it has as it lies in the file."""
        cloud = whole(asked, "cloud", min(len(self.clouds), NAMED))
        X = self.clouds.clouds[cloud]
        if self._rest is None or self._rest[0] != cloud:
            self._rest = cloud, self._canonical(X)
        rest = self._rest[1]
        centre = X.mean(0)
        radius = float(np.linalg.norm(X - centre, axis=1).max()) or 1.0
        moved = radius * np.array(numbers(asked, "shift", (0.0, 0.0, 0.0), 1e3)[: self.clouds.dim])
        T = number(asked, "size", 0.01, 100, 1) * _turn(asked, self.clouds.dim)
        found = self._canonical(((X - centre) @ T.T + centre + moved).astype(X.dtype))
        few = np.linspace(0, len(X) - 1, min(len(X), SHOWN)).astype(int)
        return {
            "points": (X[few] - centre) / radius,
            "canonical": found[few],
            "size": float(np.abs(rest).max()) or 1.0,
            "bands": _bands(rest[:, 0])[few],
            "difference": float(np.abs(found - rest).max()),
            "count": len(X),
        }

    def _canonical(self, X: np.ndarray) -> np.ndarray:
        cloud = torch.as_tensor(X)
        return tinv_frame(cloud, **self.options).to_canonical(cloud).numpy()


def _turn(asked: Asked, dim: int) -> np.ndarray:
    """The orthogonal matrix nearest to the one that is asked for."""
    given = np.array(numbers(asked, "turn", UNMOVED, 2)).reshape(3, 3)[:dim, :dim]
    if np.abs(given @ given.T - np.eye(dim)).max() > NEAR_ORTHOGONAL:
        raise UsageError("turn is no rotation: its rows are not orthonormal.")
    U, _, V = np.linalg.svd(given)
    mirror = np.ones(dim)
    mirror[0] = -1.0 if whole(asked, "mirrored", 2) else 1.0
    return (U @ V) * mirror


def _bands(values: np.ndarray) -> np.ndarray:
    edges = np.quantile(values, np.linspace(0, 1, BANDS + 1)[1:-1])
    return np.searchsorted(edges, values)
