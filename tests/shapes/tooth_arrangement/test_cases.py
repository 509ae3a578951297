"""Folders of meshes: what a name must be, what a scan must not be, and pairs from files."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from linmap.errors import DataError
from linmap.shapes.tooth_arrangement import ToothSet, slot_of
from linmap.shapes.tooth_arrangement.cases import load_case
from linmap.shapes.tooth_arrangement.clinical_pairs import UNIVERSAL, load_clinical_cases, load_pairs, register
from shapes.tooth_arrangement.arches import disturbed, mean_arch, mean_meshes


def write(folder: Path, teeth: ToothSet, kind: str = "stl", name: str = "{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for fdi, (vertices, faces) in teeth.meshes.items():
        trimesh.Trimesh(vertices, faces, process=False).export(folder / f"{name.format(fdi)}.{kind}")
    return folder


@pytest.mark.parametrize(("kind", "name"), [("stl", "{}"), ("ply", "tooth_{}"), ("obj", "Tooth-{}"), ("STL", "{}")])
def test_a_folder_is_read_in_every_format(kind: str, name: str, tmp_path: Path) -> None:
    arch = mean_arch(20)
    folder = write(tmp_path / "case", arch, kind.lower(), name)
    if kind == "STL":
        for path in folder.iterdir():
            path.rename(path.with_suffix(".STL"))
    (folder / "notes.txt").write_text("of the clinic")
    found = load_case(folder)
    assert list(found.meshes) == list(arch.meshes)
    for fdi, (vertices, faces) in found.meshes.items():
        assert len(vertices) == len(arch.meshes[fdi][0])
        assert len(faces) == len(arch.meshes[fdi][1])
    np.testing.assert_allclose(np.asarray(found.centroids()), np.asarray(arch.centroids()), atol=1e-4)


def spoiled(folder: Path, how: str) -> None:
    path = folder / "11.stl"
    mesh = trimesh.load(path, process=False)
    if how == "universal":
        path.rename(folder / "UR1.stl")
    elif how == "scan":
        path.rename(folder / "upper_jaw.stl")
    elif how == "third":
        path.rename(folder / "55.stl")
    elif how == "unknown":
        path.rename(folder / "99.stl")
    elif how == "twice":
        mesh.export(folder / "tooth_11.ply")
    elif how == "damaged":
        path.write_bytes(b"solid nothing" * 9)
    elif how == "metres":
        mesh.apply_scale(0.001).export(path)
    elif how == "inches":
        mesh.apply_scale(1 / 25.4).export(path)
    elif how == "gum":
        mesh.apply_scale(2.6).export(path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("universal", "UR1.stl in .* names no tooth; name each file by its FDI number"),
        ("scan", "upper_jaw.stl"),
        ("third", "55.stl.*deciduous"),
        ("unknown", "99.stl.*11-18, 21-28, 31-38, 41-48"),
        ("twice", "tooth 11 twice: 11.stl and tooth_11.ply"),
        ("damaged", "11.stl"),
        ("metres", "tooth 11.* mm"),
        ("inches", "tooth 11.* mm"),
        ("gum", "tooth 11.*gum"),
    ],
)
def test_what_cannot_be_a_tooth_is_named_in_one_line(how: str, words: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "case", mean_arch(20))
    spoiled(folder, how)
    with pytest.raises(DataError, match=words) as raised:
        load_case(folder)
    assert "\n" not in str(raised.value)


def test_no_folder_a_file_and_an_empty_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        load_case(tmp_path / "nowhere")
    (tmp_path / "11.stl").touch()
    with pytest.raises(DataError, match="is a file"):
        load_case(tmp_path / "11.stl")
    (tmp_path / "case").mkdir()
    with pytest.raises(DataError, match="holds no mesh"):
        load_case(tmp_path / "case")


def swapped(teeth: ToothSet, jaws: tuple[int, ...]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    other = {1: 2, 2: 1, 3: 4, 4: 3}
    return {
        (other[fdi // 10] if fdi // 10 in jaws else fdi // 10) * 10 + fdi % 10: mesh
        for fdi, mesh in teeth.meshes.items()
    }


def test_sides_that_are_swapped_are_told(tmp_path: Path) -> None:
    arch = mean_arch(20, bite=9)
    for jaws, words in (((1, 2, 3, 4), "left and right seem to be swapped: by their"), ((1, 2), "in one of the jaws")):
        folder = write(tmp_path / f"swapped{len(jaws)}", ToothSet(swapped(arch, jaws)))
        with pytest.warns(UserWarning, match=words):
            load_case(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_case(write(tmp_path / "right", arch))


def test_one_jaw_and_missing_teeth_are_fine(tmp_path: Path) -> None:
    upper = {fdi: mesh for fdi, mesh in mean_meshes(20).items() if fdi < 30 and fdi not in (14, 24)}
    with pytest.warns(UserWarning, match="one jaw only"):
        found = load_case(write(tmp_path / "case", ToothSet(upper)))
    assert int(np.asarray(found.mask).sum()) == 12


# -- pairs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stl", "obj", "ply"])
def test_the_same_mesh_before_and_after_gives_the_motion_exactly(kind: str, tmp_path: Path) -> None:
    before, back = disturbed(mean_arch(20), 0)
    write(tmp_path / "patient" / "before", before, kind)
    write(tmp_path / "patient" / "after", before.apply(back), kind)
    case = load_clinical_cases(tmp_path / "patient")[0]
    present = np.asarray(before.mask)
    np.testing.assert_allclose(case.motions[present], back[present], atol=2e-4)
    np.testing.assert_array_equal(case.motions[~present], np.tile(np.eye(4), (int((~present).sum()), 1, 1)))


def test_a_folder_of_patients_becomes_pairs(tmp_path: Path) -> None:
    teeth = mean_arch(20)
    for seed in range(2):
        before, back = disturbed(teeth, seed)
        write(tmp_path / f"p{seed}" / "before", before)
        write(tmp_path / f"p{seed}" / "after", before.apply(back))
    (tmp_path / "p1" / "after" / "17.stl").unlink()
    with pytest.warns(UserWarning, match="teeth 17 are only in"):
        pairs = load_pairs(tmp_path, 24)
    assert pairs.before.shape == (2, 32, 24, 3)
    assert pairs.mask[:, slot_of(17)].tolist() == [True, False]
    moved = (pairs.before - pairs.centroid[:, :, None]) @ pairs.rotation.mT + pairs.after_centroid[:, :, None]
    assert float((moved - pairs.after)[pairs.mask].abs().max()) < 1e-3
    goal = np.asarray(teeth.centroids())[np.asarray(teeth.mask)]
    np.testing.assert_allclose(pairs.after_centroid[0, pairs.mask[0]].numpy(), goal, atol=2e-3)
    assert not pairs.before[~pairs.mask].any()


def test_other_meshes_are_registered_by_closest_points_with_a_warning(tmp_path: Path) -> None:
    before, back = disturbed(mean_arch(5), 1, degrees=4, mm=0.4)
    write(tmp_path / "before", before)
    after = before.apply(back)
    rough = mean_arch(6)  # the same teeth, other vertices
    write(tmp_path / "after", rough)
    with pytest.warns(UserWarning, match="registered by closest points"):
        case = load_clinical_cases(tmp_path)[0]
    moved = before.apply(case.motions)
    off = np.asarray(moved.centroids() - after.centroids())[np.asarray(before.mask)]
    assert np.linalg.norm(off, axis=1).mean() < 0.15


def test_registration_of_the_same_corners_in_another_order_still_fits() -> None:
    vertices = mean_meshes(3)[16][0]
    rng = np.random.default_rng(0)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0.1, -0.05, 0.08]).as_matrix()
    motion[:3, 3] = [1.0, 0.3, -0.5]
    after = vertices @ motion[:3, :3].T + motion[:3, 3]
    found, same = register(vertices, after)
    assert same
    np.testing.assert_allclose(found, motion, atol=1e-9)
    found, same = register(vertices, rng.permutation(after))
    assert not same
    np.testing.assert_allclose(found, motion, atol=1e-2)


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no pairs; expected before/ and after/"):
        load_pairs(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        load_pairs(tmp_path / "nowhere")
    arch = mean_arch(20)
    write(tmp_path / "before", ToothSet({fdi: mesh for fdi, mesh in arch.meshes.items() if fdi < 30}))
    write(tmp_path / "after", ToothSet({fdi: mesh for fdi, mesh in arch.meshes.items() if fdi > 30}))
    with pytest.raises(DataError, match="no tooth is both"):
        load_pairs(tmp_path)


# -- TeethAlign3D, by the layout on its page ---------------------------------------------------------------------------


def write_teeth_align(folder: Path, teeth: ToothSet, motions: np.ndarray, missing: tuple[int, ...] = ()) -> Path:
    """`crown/up`, `crown/down` and `target_matrix.txt`; teeth in `missing` (FDI) have a file and no line."""
    lines = []
    for number, fdi in enumerate(UNIVERSAL, 1):
        if fdi not in teeth.meshes:
            continue
        part = folder / "crown" / ("up" if number <= 16 else "down")
        part.mkdir(parents=True, exist_ok=True)
        vertices, faces = teeth.meshes[fdi]
        trimesh.Trimesh(vertices, faces, process=False).export(part / f"{number}.stl")
        rows = motions[slot_of(fdi)].T  # on row vectors, the shift in the last row
        if fdi not in missing:
            lines.append(" ".join([str(number), *(f"{value:.9g}" for value in rows.ravel())]))
    (folder / "target_matrix.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_teeth_align_is_read_by_its_published_layout(tmp_path: Path) -> None:
    before, back = disturbed(mean_arch(20, bite=9), 3)
    write_teeth_align(tmp_path / "data_001", before, back, missing=(27,))
    write_teeth_align(tmp_path / "data_002", before, back)
    pairs = load_pairs(tmp_path, 16)
    assert len(pairs) == 2
    assert pairs.mask.sum(1).tolist() == [27, 28]
    assert not pairs.mask[0, slot_of(27)]
    goal = np.asarray(before.apply(back).centroids())
    present = pairs.mask[1].numpy()
    np.testing.assert_allclose(pairs.after_centroid[1].numpy()[present], goal[present], atol=2e-3)
    np.testing.assert_allclose(pairs.rotation[1].numpy()[present], back[present][:, :3, :3], atol=1e-5)


def test_its_numbers_are_those_of_the_universal_system() -> None:
    assert UNIVERSAL[0] == 18
    assert UNIVERSAL[7:9] == (11, 21)
    assert UNIVERSAL[15:17] == (28, 38)
    assert UNIVERSAL[23:25] == (31, 41)
    assert UNIVERSAL[31] == 48


def column_form(line: str) -> str:
    number, *values = line.split()
    return " ".join([number, *(f"{value:g}" for value in np.array(values, float).reshape(4, 4).T.ravel())])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line + " 7", "16 numbers"),
        (lambda line: line.replace(line.split()[1], "x", 1), "16 numbers"),
        (lambda line: line.split()[0] + " 2" * 16, "no rotation"),
        (column_form, "last row"),
    ],
)
def test_matrices_that_are_none_are_named_with_their_line(
    change: Callable[[str], str], words: str, tmp_path: Path
) -> None:
    before, back = disturbed(mean_arch(20), 3)
    path = write_teeth_align(tmp_path / "data_001", before, back) / "target_matrix.txt"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([*rest, change(first)]))
    with pytest.raises(DataError, match=rf"target_matrix.txt, line {len(rest) + 1}.*{words}"):
        load_pairs(tmp_path)


def test_the_order_of_vertices_does_not_change_with_the_pose(tmp_path: Path) -> None:
    teeth, R = mean_arch(20), Rotation.random(None, np.random.default_rng(0)).as_matrix()
    turned = ToothSet({fdi: (vertices @ R.T, faces) for fdi, (vertices, faces) in teeth.meshes.items()})
    one, other = load_case(write(tmp_path / "one", teeth)), load_case(write(tmp_path / "other", turned))
    for fdi, (vertices, faces) in one.meshes.items():
        np.testing.assert_allclose(other.meshes[fdi][0], vertices @ R.T, atol=1e-5)
        np.testing.assert_array_equal(other.meshes[fdi][1], faces)
