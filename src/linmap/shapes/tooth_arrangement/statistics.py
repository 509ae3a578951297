"""The statistics of real tooth shapes and poses that the simulator draws from; NOTICE names their source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from linmap.data import EMBEDDED
from linmap.data.arrays import read_as_they_are
from linmap.data.door import understood
from linmap.errors import DataError
from linmap.shapes.tooth_arrangement.normals import vertex_normals
from linmap.shapes.tooth_arrangement.slots import SLOT

DEFAULT = EMBEDDED / "dentition_ssm.npz"
ARRAYS = ("fdi", "mean", "faces", "modes", "mode_var", "pose_cov", "scale_cov")


@dataclass(frozen=True)
class ShapeStatistics:
    """A statistical shape model of 28 teeth, in slot order; mm, x to the patient's left, y up, z forward."""

    slots: Int64[Tensor, " teeth"]
    faces: Int64[Tensor, "teeth faces 3"]
    shape: Float[Tensor, "teeth vertices 3"]
    """The mean crown about its area-weighted centroid."""
    center: Float[Tensor, "teeth 3"]
    """That centroid in the aligned arch."""
    modes: Float[Tensor, "teeth modes vertices 3"]
    """Orthonormal."""
    mode_deviation: Float[Tensor, "teeth modes"]
    pose_root: Float[Tensor, "teeth 6 6"]
    """Symmetric square root of the covariance of a pose: translation in mm, rotation vector in rad."""
    scale_root: Float[Tensor, "teeth teeth"]

    @classmethod
    def read(cls, path: Path | str | None = None) -> ShapeStatistics:
        """Of a file `dentition_ssm.npz`; the one of the package without.

        Raises
        ------
        DataError
            If the file is not there or is no .npz file, or an array is missing.
        """
        path = DEFAULT if path is None else Path(path)
        arrays = read_as_they_are(path, ARRAYS)
        if missing := [name for name in ARRAYS if name not in arrays]:
            raise DataError(f"path: {path} is no file of tooth statistics: it lacks {', '.join(missing)}.")
        with understood(path, "a file of tooth statistics"):
            return cls._of(arrays)

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray]) -> ShapeStatistics:
        slots = np.array([SLOT[int(fdi)] for fdi in arrays["fdi"]])
        order = np.argsort(slots)
        part = {
            name: torch.from_numpy(arrays[name][order].astype(np.float32)) for name in ("mean", "modes", "mode_var")
        }
        faces = torch.from_numpy(arrays["faces"][order].astype(np.int64))
        modes = part["modes"] / torch.linalg.vector_norm(part["modes"], dim=-1, keepdim=True)
        center = area_centroids(part["mean"], faces)
        scale = arrays["scale_cov"][np.ix_(order, order)]
        return cls(
            torch.from_numpy(slots[order]),
            faces,
            part["mean"] - center[:, None],
            center,
            modes.reshape(*modes.shape[:2], -1, 3),
            part["mode_var"].sqrt(),
            torch.from_numpy(np.stack([_root(pose) for pose in arrays["pose_cov"][order]])).float(),
            torch.from_numpy(_root(scale)).float(),
        )

    @cached_property
    def normals(self) -> Float[Tensor, "teeth vertices 3"]:
        """Unit normals of the mean shapes at their vertices."""
        return torch.stack([vertex_normals(V, F) for V, F in zip(self.shape, self.faces, strict=True)])


def area_centroids(
    vertices: Float[Tensor, "*batch teeth vertices 3"], faces: Int64[Tensor, "teeth faces 3"]
) -> Float[Tensor, "*batch teeth 3"]:
    """The area-weighted centroid of each mesh: the mean of its faces' centres by their areas."""
    found = [_area_centroid(vertices[..., tooth, :, :], faces[tooth]) for tooth in range(len(faces))]
    return torch.stack(found, -2)


def _area_centroid(vertices: Tensor, faces: Tensor) -> Tensor:
    """Coordinate by coordinate, each an array of its own: several times as fast as vectors of three."""
    a, b, c = (vertices.movedim(-1, 0).contiguous().index_select(-1, corner) for corner in faces.unbind(-1))
    middle = a + b + c
    (ux, uy, uz), (vx, vy, vz) = b.sub_(a), c.sub_(a)
    x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    areas = x.square_().add_(y.square_()).add_(z.square_()).sqrt_()
    return ((middle * areas).sum(-1) / (3 * areas.sum(-1))).movedim(0, -1)


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
