"""Clouds from archives, tables, surfaces and folders; bad files are named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.clouds import PointClouds, ldraw_shapes, load_clouds
from linmap.data.clouds.point_clouds import geographic
from linmap.data.clouds.surfaces import read_surface
from linmap.errors import ArgumentError, DataError

trimesh = pytest.importorskip("trimesh")


def box(*extents: float) -> Any:
    return trimesh.creation.box(extents)


def saved(folder: Path, name: str, mesh: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(path)
    return path


# -- archives ----------------------------------------------------------------------------------------------------------


def test_an_archive_keeps_points_labels_classes_and_split(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((4, 9, 3)).astype(np.float16)
    np.savez(tmp_path / "a.npz", points=X, label=[1, 0, 1, 1], classes=["cup", "jug"], split=[0, 1, 0, 1])
    found = load_clouds(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.batch(), X.astype(np.float32))
    assert found.batch().dtype == np.float32
    assert found.named_labels().tolist() == ["jug", "cup", "jug", "jug"]
    assert found.test is not None
    assert found.test.tolist() == [False, True, False, True]
    assert (found.dim, len(found), found.notes) == (3, 4, ())
    some = found.take(found.test)
    assert some.names == ("1", "3")
    assert some.named_labels().tolist() == ["cup", "jug"]


def test_labels_may_be_words_and_points_may_be_masked(tmp_path: Path) -> None:
    X = np.full((2, 5, 2), np.nan)
    X[0, :3], X[1] = np.arange(6).reshape(3, 2), 1.5
    X[1, 0] = 0
    mask = np.isfinite(X).all(-1)
    np.savez(tmp_path / "a.npz", X=X, y=["b", "a"], mask=mask, split=["train", "test"])
    found = load_clouds(tmp_path / "a.npz")
    assert found.sizes().tolist() == [3, 5]
    assert found.named_labels().tolist() == ["b", "a"]
    assert found.batch(4).shape == (2, 4, 2)
    np.testing.assert_array_equal(found.batch(4)[0, :3], X[0, :3])
    with pytest.raises(ArgumentError, match="3 to 5 points"):
        found.batch()


@pytest.mark.parametrize("shape", [(7, 3), (2, 7, 3)])
def test_an_npy_holds_one_cloud_or_several(shape: tuple[int, ...], tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal(shape)
    np.save(tmp_path / "a.npy", X)
    np.testing.assert_array_equal(load_clouds(tmp_path / "a.npy").batch(), X.reshape(-1, 7, 3))


def test_modelnet_comes_as_files_for_train_and_test(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    X = np.random.default_rng(0).standard_normal((3, 6, 3)).astype(np.float32)
    for part in ("train", "test"):
        with h5py.File(tmp_path / f"ply_data_{part}0.h5", "w") as file:
            file["data"], file["label"] = X, np.array([[0], [2], [1]], np.uint8)
    (tmp_path / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    found = load_clouds(tmp_path)
    assert found.named_labels().tolist() == ["airplane", "bed", "bathtub"] * 2
    assert found.test is not None
    assert found.test.tolist() == [True] * 3 + [False] * 3
    assert len(load_clouds(tmp_path / "ply_data_test0.h5")) == 3


def archive(**arrays: object) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in arrays.items()}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (archive(q=np.zeros((2, 3, 3))), "no array 'points' .* it holds q"),
        (archive(points=np.zeros((2, 1, 3))), "cloud 0 has one point"),
        (archive(points=np.zeros((0, 4, 3))), r"shape \(0, 4, 3\)"),
        (archive(points=np.full((2, 4, 3), "x")), "must be numbers"),
        (archive(points=np.where(np.arange(24).reshape(2, 4, 3) == 17, np.nan, 0)), "cloud 1: point 1 has a coord"),
        (archive(points=np.ones((2, 4, 3)), label=[0]), "label must hold one number or text for each of 2"),
        (archive(points=np.ones((2, 4, 3)), label=[0, 5], classes=["a"]), "goes from 0 to 5, and classes has 1"),
        (archive(points=np.ones((2, 4, 3)), split=["a", "b"]), "split holds 'a'"),
        (archive(points=np.ones((2, 4, 3)), mask=np.ones((2, 3), bool)), "mask must be"),
        (archive(points=np.ones((2, 4, 3)), mask=np.eye(2, 4) > 0), "cloud 0 has one point"),
        (archive(points=np.array([None, 1], object)), "Python objects"),
    ],
)
def test_a_bad_archive_is_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match=message) as error:
        load_clouds(tmp_path / "a.npz")
    assert "a.npz" in str(error.value)


# -- tables ------------------------------------------------------------------------------------------------------------

POINTS = np.array([[1.5, 2, 3], [4, 5, 6.25], [-7, 8e-1, 9]])
TABLES = {
    "a.csv": "x,y,z\n1.5,2,3\n4,5,6.25\n-7,8e-1,9\n",
    "b.csv": "id,z,y,x\n1,3,2,1.5\n2,6.25,5,4\n3,9,0.8,-7\n",
    "c.csv": "\ufeffx;y;z\n1,5;2;3\n4;5;6,25\n-7;0,8;9\n",
    "d.txt": "# a scan\n1.5 2 3\n\n4 5 6.25  // second\n-7 0.8 9\n",
    "e.xyz": "3\nwater\nO 1.5 2 3\nH 4 5 6.25\nH -7 0.8 9\n",
    "f.xyz": "1.5 2 3 255 0 0\n4 5 6.25 255 0 0\n-7 0.8 9 1 2 3\n",
    "g.pts": "3\n1.5 2 3\n4 5 6.25\n-7 0.8 9\n",
    "h.tsv": "1.5\t2\t3\n4\t5\t6.25\n-7\t0.8\t9\n",
    "pandas.csv": ",x,y,z\n0,1.5,2,3\n1,4,5,6.25\n2,-7,0.8,9\n",
    "unnamed.csv": ",0,1,2\n0,1.5,2,3\n1,4,5,6.25\n2,-7,0.8,9\n",
    "counted.csv": "0,1,2\n1.5,2.0,3.0\n4.0,5.0,6.25\n-7.0,0.8,9.0\n",
    "R.txt": "x y z\n1 1.5 2 3\n2 4 5 6.25\n3 -7 0.8 9\n",
    "quoted.csv": '"x","y","z"\n"1.5","2","3"\n"4","5","6.25"\n"-7","0.8","9"\n',
    "trailing.csv": "x,y,z,\n1.5,2,3,\n4,5,6.25,\n-7,0.8,9,\n",
    "named.csv": "id,a,b,c\n1,1.5,2,3\n2,4,5,6.25\n3,-7,0.8,9\n",
    "numbers.csv": "1,1.5,2,3\n2,4,5,6.25\n3,-7,0.8,9\n",
    "blanks.txt": "1,5 2,0 3,0\n4,0 5,0 6,25\n-7,0 0,8 9,0\n",
    "tabs.csv": "1,5\t2\t3\n4\t5\t6,25\n-7\t0,8\t9\n",
    "windows.csv": "x;y;z\r\n1,5;2;3\r\n4;5;6,25\r\n-7;0,8;9\r\n",
}


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@given(
    names=st.lists(st.sampled_from(sorted(TABLES)), min_size=1, max_size=6, unique=True),
    packed=st.lists(st.sampled_from(["", *PACKED]), min_size=6, max_size=6),
    classes=st.booleans(),
    described=st.booleans(),
)
def test_a_folder_with_compressed_tables_holds_the_clouds_of_the_plain_ones(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], packed: list[str], classes: bool, described: bool
) -> None:
    plain, mixed = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("mixed")
    described = described and not all(name.endswith(".txt") for name in names)
    for number, name in enumerate(names):
        place = f"{'ab'[number % 2]}/{name}" if classes else name
        for folder, end in ((plain, ""), (mixed, packed[number])):
            (folder / place).parent.mkdir(exist_ok=True)
            data = TABLES[name].encode()
            (folder / f"{place}{end}").write_bytes(PACKED[end](data) if end else data)
            (folder / f"._{name}{end}").write_bytes(b"\0")
    if described and not classes:
        (plain / "about.txt").write_text("a scan")
        (mixed / "about.txt.gz").write_bytes(gzip.compress(b"a scan"))
    expected, found = load_clouds(plain), load_clouds(mixed)
    assert [re.sub(r"\.(gz|bz2|xz)$", "", name) for name in found.names] == list(expected.names)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.classes == expected.classes
    for one, other in zip(found.clouds, expected.clouds, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_a_cloud(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    found = load_clouds(tmp_path / name)
    np.testing.assert_array_equal(found.batch()[0], POINTS)
    chosen = {
        "b.csv": "columns x, y, z of 4",
        "f.xyz": "the first three of 6 columns",
        "pandas.csv": "columns x, y, z of 4",
        "R.txt": "columns x, y, z of 4",
        "unnamed.csv": "all coordinates are 0, 1, 2",
        "counted.csv": "all coordinates are 0, 1, 2",
        "named.csv": "all coordinates are a, b, c",
        "numbers.csv": "counts the points and is left out",
    }
    assert [chosen[name] in note for note in found.notes] == [True] * (name in chosen)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("x,y\n", "has no point"),
        ("x,y\n1,2\n", "has one point"),
        ("1,2\n3,a\n", "line 2: '3 a' is no point"),
        ("1,2\n3,4,5\n", "line 2: 3 numbers, where the lines before have 2"),
        ("1,2\n3,nan\n", "point 1 has a coordinate that is not a finite number"),
        ("x,y,z\n1,2\n3,4\n", "line 2: 2 values, and the first line names 3"),
        ("x,y,z\n1,2,3\n4,,6\n", "line 3: .* is no point"),
        ("0,125,1,05\n0,25,2,5\n", "'05' looks like a part of a number with a decimal comma"),
        ('x,y\n"1,234",5\n2,3\n', "line 2: .* is no point"),
        ("x;y\n1.234,5;6\n2;3\n", "line 2: .* is no point"),
    ],
)
def test_a_bad_table_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        load_clouds(tmp_path / "a.csv")
    assert "a.csv" in str(error.value)


def test_longitudes_and_latitudes_are_hinted_at(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,lat,lon\nMunich,48.1,11.5\nBerlin,52.5,13.4\n")
    found = load_clouds(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.clouds[0], [[11.5, 48.1], [13.4, 52.5]])
    assert "project it first" in " ".join(found.notes)
    rng = np.random.default_rng(0)
    assert geographic(rng.uniform((10.3, 47.2), (11.9, 48.9), (40, 2)))
    assert geographic(rng.uniform((-170, -60), (170, 60), (40, 2)))
    assert not geographic(rng.random((40, 2)))
    assert not geographic(rng.standard_normal((40, 2)))
    assert not geographic(np.round(rng.uniform(40, 60, (40, 2))))
    assert not geographic(rng.random((40, 3)))


# -- surfaces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["off", "ply", "stl", "obj", "glb"])
def test_a_surface_gives_points_by_area(suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path, f"box.{suffix}", box(2, 4, 6))
    cloud = load_clouds(path, 4000).clouds[0]
    assert cloud.shape == (4000, 3)
    half = np.array([1, 2, 3])
    on_face = np.isclose(np.abs(cloud), half, atol=1e-5)
    assert (on_face.any(1) & (np.abs(cloud) <= half + 1e-5).all(1)).all()
    np.testing.assert_allclose(on_face.mean(0), np.array([24, 12, 8]) / 44, atol=0.03)
    np.testing.assert_array_equal(cloud, load_clouds(path, 4000).clouds[0])
    assert not np.array_equal(cloud, load_clouds(path, 4000, seed=1).clouds[0])


def test_points_of_a_ply_without_faces_are_taken_as_they_are(tmp_path: Path) -> None:
    X = np.random.default_rng(0).standard_normal((30, 3))
    trimesh.PointCloud(X).export(tmp_path / "a.ply")
    found = load_clouds(tmp_path / "a.ply")
    np.testing.assert_allclose(found.clouds[0], X, atol=1e-6)
    assert "no faces; they are taken as they are" in found.notes[0]


def test_parts_of_a_scene_are_one_shape(tmp_path: Path) -> None:
    far = box(1, 1, 1)
    far.apply_translation((10, 0, 0))
    trimesh.Scene([box(1, 1, 1), far]).export(tmp_path / "a.glb")
    found = load_clouds(tmp_path / "a.glb", 500)
    assert "a scene of 2 parts" in found.notes[0]
    assert 0.4 < (found.clouds[0][:, 0] > 5).mean() < 0.6


def test_modelnet_writes_the_counts_behind_the_word_off(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.off", box(1, 1, 1))
    text = path.read_text().split("\n", 1)
    path.write_text(f"OFF{text[1]}")
    assert load_clouds(path, 10).clouds[0].shape == (10, 3)


OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n{}\n3 0 1 2\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.off", OFF.format("nan 1 0"), "not a finite number"),
        ("a.off", OFF.format("2 0 0"), "its 1 triangles have no area"),
        ("a.off", "OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "vertices and no faces|holds no vertices"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "vertices and no faces|holds no vertices"),
        ("a.stl", "nothing of the kind", "cannot be read as a .stl|holds no vertices"),
        ("a.ply", "nothing of the kind", "cannot be read as a .ply"),
        ("a.obj", "", "is empty"),
        ("a.step", "x", "not read from .step files"),
    ],
)
def test_a_bad_surface_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as error:
        load_clouds(tmp_path / name)
    assert name in str(error.value)


# -- folders -----------------------------------------------------------------------------------------------------------


def test_folders_name_classes_and_the_split(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for i in range(2):
            saved(tmp_path, f"cube/{part}/{i}.off", box(1, 1, 1 + i / 9))
            saved(tmp_path, f"rod/{part}/{i}.stl", box(1, 1, 9))
    found = load_clouds(tmp_path, 64)
    assert found.classes == ("cube", "rod")
    assert found.test is not None
    assert found.test.tolist() == [True, True, False, False] * 2
    assert found.batch().shape == (8, 64, 3)
    assert "64 points were drawn by area from each surface, seed 0" in found.notes
    other_way = tmp_path / "again"
    for name in found.names:
        kind, part, file = name.split("/")
        saved(other_way, f"{part}/{kind}/{file}", trimesh.load(tmp_path / name))
    turned = load_clouds(other_way, 64)
    assert turned.classes == found.classes
    assert turned.test is not None
    assert turned.test.sum() == 4


def test_points_of_a_surface_do_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    path = saved(tmp_path, "a/one.off", box(1, 2, 3))
    alone = load_clouds(tmp_path / "a", 32).clouds[0]
    saved(tmp_path, "a/another.off", box(1, 2, 3))
    np.testing.assert_array_equal(load_clouds(tmp_path / "a", 32).clouds[1], alone)
    assert path.exists()


def test_sizes_that_differ_much_are_hinted_at(tmp_path: Path) -> None:
    saved(tmp_path, "m.off", box(1, 1, 1))
    saved(tmp_path, "mm.off", box(1000, 1000, 1000))
    assert "mm.off is 1" in " ".join(load_clouds(tmp_path, 50).notes)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_clouds(tmp_path / "none")
    with pytest.raises(DataError, match="holds no clouds"):
        load_clouds(tmp_path)
    saved(tmp_path, "a/one.off", box(1, 1, 1))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "flat.csv").write_text("1,2\n3,4\n")
    with pytest.raises(DataError, match=r"points of b/flat.csv have 2 coordinates, those of a/one.off 3"):
        load_clouds(tmp_path)
    (tmp_path / "b" / "flat.csv").write_text("1,2,3\n3,4,3\n")
    (tmp_path / "alone.csv").write_text("1,2,3\n3,4,3\n")
    with pytest.raises(DataError, match=r"alone.csv lies beside folders of clouds \(a, b\)"):
        load_clouds(tmp_path)
    np.save(tmp_path / "a" / "x.npy", np.ones((3, 3)))
    with pytest.raises(DataError, match=r"x.npy is an archive beside single clouds"):
        load_clouds(tmp_path)


# -- what all share ----------------------------------------------------------------------------------------------------


def test_what_is_drawn_depends_on_the_name_and_not_on_the_pose() -> None:
    X = np.random.default_rng(0).standard_normal((50, 3))
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    clouds = PointClouds((X, X @ rotation), ("a", "b"))
    turned = PointClouds((X @ rotation, X), ("a", "b"))
    for n in (20, 70):
        np.testing.assert_allclose(clouds.batch(n)[0] @ rotation, turned.batch(n)[0])
        assert not np.allclose(clouds.batch(n)[0], turned.batch(n)[1])
    assert len(np.unique(clouds.batch(20)[0], axis=0)) == 20
    with pytest.raises(ArgumentError, match="n_points=1"):
        clouds.batch(1)
    with pytest.raises(DataError, match="no classes"):
        clouds.named_labels()


def test_the_shapes_of_the_package() -> None:
    found = ldraw_shapes()
    assert found.batch().shape == (681, 512, 3)
    assert found.test is not None
    assert (found.test.sum(), len(found.classes)) == (204, 14)
    norms = np.linalg.norm(found.batch(), axis=-1).max(1)
    assert 0.9 < norms.min() <= norms.max() < 1.001


@given(
    parts=st.lists(
        st.tuples(st.integers(3, 6), st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=4
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_faces_that_count_back_are_those_that_count_forward(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int, bool, bool]], seed: int
) -> None:
    rng, lines, vertices = np.random.default_rng(seed), {False: [], True: []}, 0
    for new, faces, back, textured in parts:
        points = [f"v {x} {y} {z}" for x, y, z in rng.normal(size=(new, 3)).round(3)]
        vertices += new
        for way in lines:
            lines[way] += [*points, *[f"vt {i} 0" for i in range(new)]]
        for _ in range(faces):
            corners = rng.choice(vertices, 3, replace=False) + 1
            for way in lines:
                said = corners - vertices - 1 if way and back else corners
                lines[way].append("f " + " ".join(f"{n}/{n}" if textured else f"{n}" for n in said))
    folder = tmp_path_factory.mktemp("obj")
    for way, text in lines.items():
        (folder / f"{way}.obj").write_text("\n".join(text))
    expected, found = (read_surface(folder / f"{way}.obj", 50, name="a")[0] for way in lines)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("glued", [False, True])
def test_an_off_file_that_is_cut_off_is_refused_wherever_it_is_cut(glued: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.off", box(1, 2, 3))
    head, rest = path.read_text().rstrip().split("\n", 1)
    lines = (f"{head}{rest}" if glued else f"{head}\n# a box\n\n{rest}").split("\n")
    path.write_text("\n".join(lines) + "\n")
    whole = load_clouds(path, 10).clouds[0]
    path.write_text("\n".join(lines))
    assert np.array_equal(load_clouds(path, 10).clouds[0], whole)
    for kept in range(len(lines) - 20 + 1 + (not glued), len(lines)):  # from the counts on
        path.write_text("\n".join(lines[:kept]))
        with pytest.raises(DataError, match=r"a\.off declares 8 vertices and 12 faces.*cut off"):
            load_clouds(path, 10)
