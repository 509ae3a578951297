"""Slots, motions, sets of teeth and pairs."""

import warnings
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from linmap.shapes.tooth_arrangement import FDI, MIRROR, ToothPairs, ToothSet, apply_motion, motion_matrices, slot_of
from shapes.tooth_arrangement.crowns import arches, ball, on_arch


def test_slots_follow_the_arches():
    assert list(FDI) == [*range(18, 10, -1), *range(21, 29), *range(48, 40, -1), *range(31, 39)]
    assert [slot_of(fdi) for fdi in FDI] == list(range(32))
    assert FDI[MIRROR[slot_of(13)]] == 23
    assert FDI[MIRROR[slot_of(48)]] == 38
    assert np.array_equal(MIRROR[MIRROR], np.arange(32))


@pytest.mark.parametrize(
    ("fdi", "word"),
    [(19, "11-18, 21-28, 31-38, 41-48"), (55, "deciduous"), (85, "deciduous"), (0, "FDI"), ("x", "FDI")],
)
def test_other_numbers_are_refused(fdi, word):
    with pytest.raises(ValueError, match=word):
        slot_of(fdi)


def rotations(*shape: int) -> torch.Tensor:
    n = int(np.prod(shape))
    return torch.from_numpy(Rotation.random(n, np.random.default_rng(0)).as_matrix()).reshape(*shape, 3, 3)


def test_a_motion_is_the_rotation_about_the_centroid():
    R, points = rotations(2, 32), torch.randn(2, 32, 5, 3, dtype=torch.float64)
    c, moved = torch.randn(2, 2, 32, 3, dtype=torch.float64)
    y = torch.cat([moved, R.mT[..., :2, :].flatten(-2)], -1)
    expected = torch.einsum("btij,btpj->btpi", R, points - c[:, :, None]) + moved[:, :, None]
    assert torch.allclose(apply_motion(points, c, y), expected)
    T = motion_matrices(c, y)
    columns = torch.cat([points, torch.ones(2, 32, 5, 1, dtype=torch.float64)], -1)
    assert torch.allclose((columns @ T.mT)[..., :3], expected)


def test_a_set_gives_centroids_points_and_mask():
    teeth = ToothSet(arches())
    assert teeth.mask.tolist() == [True] * 32
    expected = torch.tensor([on_arch(fdi) for fdi in FDI]).double()
    assert torch.allclose(teeth.centroids(), expected, atol=1e-9)
    points = teeth.points(20)
    for fdi, (V, _) in teeth.meshes.items():
        assert all((np.abs(V - p).max(1) < 1e-12).any() for p in points[slot_of(fdi)].numpy())
        assert len(points[slot_of(fdi)].unique(dim=0)) == 20


def test_the_centroid_is_weighted_by_area():
    V, F = ball(4.0)
    mesh = trimesh.Trimesh(V, F)
    upper = np.flatnonzero(mesh.triangles_center[:, 2] > 0)
    lower = np.flatnonzero(mesh.triangles_center[:, 2] <= 0)
    part: Any = mesh.submesh([upper], append=True)
    fine = part.subdivide()  # dense on one side
    both: Any = trimesh.util.concatenate([fine, mesh.submesh([lower], append=True)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teeth = ToothSet({11: (both.vertices, both.faces)})
    assert teeth.centroids()[slot_of(11)].sub(torch.from_numpy(mesh.centroid)).abs().max() < 0.05
    assert abs(both.vertices.mean(0)[2]) > 0.3


def test_a_missing_tooth_is_silent_and_zero():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teeth = ToothSet(arches([fdi for fdi in FDI if fdi not in (18, 14, 38)]))
    assert (~teeth.mask).sum() == 3
    assert not teeth.centroids()[slot_of(14)].any()
    assert not teeth.points(8)[slot_of(14)].any()


def test_small_meshes_are_divided_until_there_are_enough_points():
    V, F = ball(level=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        points = ToothSet({11: (V, F)}).points(100)[slot_of(11)]
    assert len(points.unique(dim=0)) == 100


def test_apply_moves_columns_and_leaves_the_old_set():
    teeth = ToothSet(arches())
    before = {fdi: V.copy() for fdi, (V, _) in teeth.meshes.items()}
    T = np.tile(np.eye(4), (32, 1, 1))
    T[:, :3, :3], T[:, :3, 3] = rotations(32).numpy(), np.arange(96).reshape(32, 3)
    moved = teeth.apply(T)
    for fdi, V in before.items():
        slot = slot_of(fdi)
        expected = (T[slot, :3, :3] @ V.T).T + T[slot, :3, 3]
        assert np.allclose(moved.meshes[fdi][0], expected)
        assert np.array_equal(teeth.meshes[fdi][0], V)
    assert torch.allclose(
        moved.centroids(), torch.from_numpy((T[:, :3, :3] @ teeth.centroids().numpy()[..., None])[..., 0] + T[:, :3, 3])
    )
    still = teeth.apply(torch.eye(4).repeat(32, 1, 1))
    assert all(np.array_equal(still.meshes[fdi][0], V) for fdi, V in before.items())


@pytest.mark.parametrize("change", ["rows", "mirror", "scale", "shape", "nan"])
def test_apply_refuses_what_is_no_rigid_motion_of_columns(change: str):
    T = np.tile(np.eye(4), (32, 1, 1))
    if change == "rows":
        T[3, 3, :3] = 1.0
    elif change == "mirror":
        T[3, 0, 0] = -1
    elif change == "scale":
        T[3, :3, :3] *= 1.2
    elif change == "nan":
        T[3, 0, 3] = np.nan
    with pytest.raises(ValueError, match="motions"):
        ToothSet(arches()).apply(T[:31] if change == "shape" else T)


def test_stl_files_come_back_with_merged_vertices(tmp_path):
    teeth = ToothSet(arches())
    teeth.export(tmp_path / "case")
    assert sorted(path.name for path in (tmp_path / "case").iterdir()) == sorted(f"{fdi}.stl" for fdi in FDI)
    back = ToothSet.from_stl(tmp_path / "case")
    assert torch.allclose(back.centroids(), teeth.centroids(), atol=1e-4)
    assert all(len(back.meshes[fdi][0]) == len(V) for fdi, (V, _) in teeth.meshes.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {}, ("meshes is empty",)),
        (lambda m: {19: m[11]}, ("19", "FDI")),
        (lambda m: {51: m[11]}, ("deciduous",)),
        (lambda m: {11: (m[11][0] / 0, m[11][1])}, ("11", "finite")),
        (lambda m: {11: (m[11][0] / 1000, m[11][1])}, ("11", "mm")),
        (lambda m: {11: (m[11][0] / 25.4, m[11][1])}, ("11", "mm")),
        (lambda m: {11: (m[11][0] * 1000, m[11][1])}, ("11", "mm")),
        (lambda m: {21: (m[21][0] * 3, m[21][1])}, ("21", "20 mm", "gum")),
        (lambda m: {11: (m[11][0], np.concatenate([m[11][1], [[0, 0, 1], [2, 3, 3]]]))}, ("11", "2 zero-area")),
        (lambda m: {11: (m[11][0], m[11][1] + 999)}, ("11", "faces")),
        (lambda m: {11: (m[11][0][:, :2], m[11][1])}, ("11", "vertices")),
        (lambda m: {11: m[11][0]}, ("11", "vertices")),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_meshes_that_are_no_teeth_are_refused_by_number(change, words):
    with pytest.raises(ValueError, match="".join(f"(?=.*{word})" for word in words)):
        ToothSet(change(arches()))


def test_an_open_mesh_is_fine():
    meshes = arches()
    V, F = meshes[11]
    meshes[11] = (V, F[: len(F) // 2])
    assert ToothSet(meshes).mask.all()


def test_one_jaw_and_a_wrong_order_warn():
    with pytest.warns(UserWarning, match="one jaw only"):
        ToothSet(arches(FDI[:16]))
    meshes = arches()
    for a, b in ((14, 24), (15, 14), (11, 21)):
        swapped = meshes | {a: meshes[b], b: meshes[a]}
        with pytest.warns(UserWarning, match=rf"(?=.*order)(?=.*{a})"):
            ToothSet(swapped)


@pytest.mark.parametrize(
    ("name", "content", "word"), [("gum.stl", b"", "gum"), ("11.stl", b"solid\nnothing", "11"), (None, b"", "no .stl")]
)
def test_files_that_are_no_teeth_are_refused(name, content, word, tmp_path):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=word):
        ToothSet.from_stl(tmp_path)


def some_pairs() -> ToothPairs:
    R, before = rotations(2, 32).float(), torch.randn(2, 32, 4, 3)
    c, after_c = torch.randn(2, 2, 32, 3)
    after = (before - c[:, :, None]) @ R.mT + after_c[:, :, None]
    mask = torch.rand(2, 32) < 0.8
    return ToothPairs(before, after, c, after_c, R, mask)


def test_mirroring_keeps_the_motion_and_twice_is_nothing():
    pairs = some_pairs()
    mirrored = pairs.mirrored()
    moved = apply_motion(mirrored.before, mirrored.centroid, mirrored.y)
    assert torch.allclose(moved, mirrored.after, atol=1e-5)
    slot, other = slot_of(13), slot_of(23)
    assert torch.equal(mirrored.before[:, slot], pairs.before[:, other] * torch.tensor([-1.0, 1, 1]))
    assert torch.equal(mirrored.mask[:, slot], pairs.mask[:, other])
    twice = mirrored.mirrored()
    for name in ("before", "after", "centroid", "after_centroid", "rotation", "mask"):
        assert torch.equal(getattr(twice, name), getattr(pairs, name))


def test_pairs_are_frozen_and_checked():
    pairs = some_pairs()
    with pytest.raises(FrozenInstanceError):
        pairs.mask = pairs.mask  # pyright: ignore
    assert len(pairs[1:]) == 1
    assert pairs[-1].points == 4
    parts = {
        name: getattr(pairs, name) for name in ("before", "after", "centroid", "after_centroid", "rotation", "mask")
    }
    for name, value in parts.items():
        with pytest.raises(ValueError, match="must be") as caught:
            ToothPairs(**(parts | {name: value[:, :5]}))
        assert str(caught.value).startswith(name)
