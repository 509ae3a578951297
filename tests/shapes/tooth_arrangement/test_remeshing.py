"""Subdivision connectivity: the layout that the mesh encoder reads, near the surface, with and without a library."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.data import find
from linmap.shapes.tooth_arrangement import remeshing
from linmap.shapes.tooth_arrangement.remeshing import closest_points, collapsed, remesh
from shapes.tooth_arrangement.arches import mean_meshes


def check(vertices: np.ndarray, faces: np.ndarray, parts: int, coarse: np.ndarray) -> None:
    """Row j * n + p is a part of coarse face p: its areas sum up to that face's where nothing was moved."""
    n = len(faces) // parts
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    np.testing.assert_allclose(areas.reshape(parts, n).sum(0), coarse, rtol=1e-9)
    np.testing.assert_allclose(areas.reshape(parts, n), coarse / parts * np.ones((parts, 1)), rtol=1e-9)


def test_the_parts_of_a_face_stand_in_its_column() -> None:
    mesh = trimesh.creation.icosphere(1, 4.0)
    vertices, faces = remesh(mesh.vertices, mesh.faces, 256, 3, project=False)
    assert faces.shape == (64 * 80, 3)
    check(vertices, faces, 64, np.asarray(mesh.area_faces))
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight


@pytest.mark.parametrize("library", [True, False])
def test_a_tooth_becomes_256_patches_near_its_surface(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not library:
        spec = importlib.util.find_spec
        monkeypatch.setattr(remeshing.importlib.util, "find_spec",
                            lambda name: None if name == "fast_simplification" else spec(name))  # fmt: skip
    vertices, faces = mean_meshes(3)[16]
    found, parts = remesh(vertices, faces)
    assert len(parts) % 64 == 0
    assert 240 * 64 <= len(parts) <= 256 * 64
    assert trimesh.Trimesh(found, parts, process=False).is_watertight
    assert np.abs(closest_points(found, vertices, faces) - found).max() < 0.25
    assert np.abs(closest_points(vertices, found, parts) - vertices).max() < (0.25 if library else 0.4)
    volume = abs(trimesh.Trimesh(found, parts, process=False).volume)
    assert volume == pytest.approx(abs(trimesh.Trimesh(vertices, faces, process=False).volume), rel=0.02)


def test_the_closest_point_is_that_of_all_faces_also_where_they_differ_in_size() -> None:
    vertices, faces = mean_meshes(8)[16]
    rng = np.random.default_rng(0)
    queries = vertices.mean(0) + 6 * rng.normal(size=(40, 3))
    each = [closest_points(queries, vertices, faces[i : i + 1]) for i in range(len(faces))]
    brute = np.min([np.linalg.norm(one - queries, axis=1) for one in each], axis=0)
    found = np.linalg.norm(closest_points(queries, vertices, faces) - queries, axis=1)
    np.testing.assert_allclose(found, brute, atol=1e-12)


def test_an_open_scan_stays_one_surface() -> None:
    try:
        path = find("tooth_arrangement/human_ui1_enamel.npz", "It is test data.")
    except FileNotFoundError:
        pytest.skip("the scan is not at hand")
    with np.load(Path(path)) as file:
        vertices, faces = remesh(file["V"], file["F"])
    assert 200 * 64 <= len(faces) <= 256 * 64
    assert (
        np.abs(closest_points(file["V"][::50] if False else vertices[::40], *_scan(path)) - vertices[::40]).max() < 0.3
    )


def _scan(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as file:
        return file["V"].astype(float), file["F"]


def test_collapsing_keeps_a_closed_surface_closed_and_an_open_one_open() -> None:
    ball = trimesh.creation.icosphere(3, 4.0)
    vertices, faces = collapsed(np.asarray(ball.vertices), np.asarray(ball.faces), 100)
    assert len(faces) <= 100
    small = trimesh.Trimesh(vertices, faces, process=False)
    assert small.is_watertight
    assert small.is_winding_consistent
    assert small.volume == pytest.approx(ball.volume, rel=0.2)
    cap = np.asarray(ball.faces)[np.asarray(ball.triangles_center)[:, 2] > 0]
    vertices, faces = collapsed(np.asarray(ball.vertices), cap, 100)
    assert trimesh.Trimesh(vertices, faces, process=False).euler_number == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_closest_points_of_a_triangle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners, queries = rng.normal(size=(3, 3)), 2 * rng.normal(size=(5, 3))
    found = closest_points(queries, corners, np.array([[0, 1, 2]]))
    s = np.linspace(0, 1, 120)
    a, b = (grid.ravel() for grid in np.meshgrid(s, s))
    a, b = a[a + b <= 1], b[a + b <= 1]
    dense = corners[0] + a[:, None] * (corners[1] - corners[0]) + b[:, None] * (corners[2] - corners[0])
    brute = np.sqrt(((queries[:, None] - dense) ** 2).sum(-1).min(1))
    mine = np.linalg.norm(found - queries, axis=1)
    assert (mine <= brute + 1e-9).all()
    assert (brute - mine < 0.06).all()


@pytest.mark.parametrize(
    ("vertices", "faces", "base", "message"),
    [
        (np.zeros((3, 2)), np.array([[0, 1, 2]]), 256, "vertices"),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]]), 256, "vertices"),
        (np.eye(3), np.zeros((0, 3), int), 256, "faces"),
        (np.eye(3), np.array([[0, 1, 2]]), 2, "base"),
    ],
)
def test_what_is_no_surface_is_refused(vertices: np.ndarray, faces: np.ndarray, base: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        remesh(vertices, faces, base)
