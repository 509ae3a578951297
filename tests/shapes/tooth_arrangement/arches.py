"""Teeth for the tests: the mean crowns in the aligned arch, and disturbed copies."""

from functools import cache

import numpy as np
from scipy.spatial.transform import Rotation

from linmap.data import find
from linmap.shapes.tooth_arrangement import FDI, ToothSet, slot_of

Meshes = dict[int, tuple[np.ndarray, np.ndarray]]


@cache
def mean_meshes(every: int = 1) -> Meshes:
    """The mean crowns, closed, (1500, 3) and (2996, 3); with `every` > 1, hulls of fewer points."""
    from scipy.spatial import ConvexHull

    found = {}
    with np.load(find("tooth_arrangement/dentition_ssm.npz", "Reinstall linmap.")) as file:
        for fdi, points, faces in zip(file["fdi"], file["mean"], file["faces"], strict=True):
            points, faces = points.astype(float), faces.astype(np.int64)
            if every > 1:
                points = points[::every]
                hull = ConvexHull(points)
                used, numbers = np.unique(hull.simplices, return_inverse=True)
                faces = numbers.reshape(-1, 3)
                points = points[used]
                corners = points[faces]
                normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
                inward = np.einsum("ij,ij->i", normals, corners.mean(1) - points.mean(0)) < 0
                faces[inward] = faces[inward][:, ::-1]
            found[int(fdi)] = (points, faces)
    return found


def mean_arch(every: int = 1, bite: float = 0.0) -> ToothSet:
    """The aligned arch; with `bite`, the upper jaw stands so many mm above the lower one."""
    up = np.array([0.0, bite, 0.0])
    meshes = mean_meshes(every)
    return ToothSet({fdi: (points + up * (fdi < 30), faces) for fdi, (points, faces) in meshes.items()})


def moved(teeth: ToothSet, fdi: int, shift: np.ndarray, turn: np.ndarray | None = None) -> np.ndarray:
    """Motions (32, 4, 4) that shift one tooth, and turn it about its centroid by a rotation vector in rad."""
    motions, slot = np.tile(np.eye(4), (32, 1, 1)), slot_of(fdi)
    center = np.asarray(teeth.centroids())[slot]
    R = Rotation.from_rotvec(np.zeros(3) if turn is None else turn).as_matrix()
    motions[slot, :3, :3], motions[slot, :3, 3] = R, center + shift - R @ center
    return motions


def disturbed(teeth: ToothSet, seed: int, degrees: float = 7.0, mm: float = 0.6) -> tuple[ToothSet, np.ndarray]:
    """The set with every tooth shifted and turned at random, and the motions back."""
    rng, centers = np.random.default_rng(seed), np.asarray(teeth.centroids())
    motions = np.tile(np.eye(4), (32, 1, 1))
    for slot in np.flatnonzero(np.asarray(teeth.mask)):
        R = Rotation.from_rotvec(np.radians(degrees) * rng.normal(size=3)).as_matrix()
        motions[slot, :3, :3] = R
        motions[slot, :3, 3] = centers[slot] + mm * rng.normal(size=3) - R @ centers[slot]
    return teeth.apply(motions), np.linalg.inv(motions)


__all__ = ["FDI", "disturbed", "mean_arch", "mean_meshes", "moved"]
