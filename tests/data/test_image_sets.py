from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linmap.data.image_sets import embedded_digits, embedded_photographs, image_set_of, read_image_set
from linmap.data.images import read_image
from linmap.errors import DataError, OutOfRangeError

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, values: np.ndarray | None = None) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pixels(4, 5, 3) if values is None else values
    Image.fromarray(values).save(path)
    return values


def test_a_folder_of_photographs_is_read_by_name_and_only_when_asked(tmp_path: Path):
    wanted = {name: write(tmp_path / name) for name in ("b.png", "a.png", "trip/c.png")}
    write(tmp_path / ".hidden.png")
    write(tmp_path / ".thumbnails" / "d.png")
    write(tmp_path / "__MACOSX" / "e.png")
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "z.png").write_bytes(b"broken")
    found = read_image_set(tmp_path)
    assert found.names == ("a.png", "b.png", "trip/c.png", "z.png")
    assert found.labels is None
    assert found.classes == ()
    for name, image in zip(found.names[:3], map(found.__getitem__, range(3)), strict=True):
        assert (image == wanted[name]).all()
    with pytest.raises(DataError, match=r"z\.png: this is not an image"):
        found[-1]
    with pytest.raises(OutOfRangeError, match="there are 4 images"):
        found[4]
    part = found.subset([2, 0])
    assert part.names == ("trip/c.png", "a.png")
    assert (part[1] == wanted["a.png"]).all()


def test_class_folders_and_what_is_unclear_about_them(tmp_path: Path):
    for name in ("dog/2.png", "cat/1.png", "cat/more/3.png"):
        write(tmp_path / name)
    found = read_image_set(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found.labels is not None
    assert dict(zip(found.names, found.labels, strict=True)) == {"cat/1.png": 0, "cat/more/3.png": 0, "dog/2.png": 1}
    assert found.subset([2]).labels == [1]
    assert read_image_set(tmp_path, labelled=False).labels is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: this folder of a class holds no images"):
        read_image_set(tmp_path)
    write(tmp_path / "empty" / "4.png")
    write(tmp_path / "5.png")
    with pytest.raises(DataError, match=r"5\.png lies beside folders of images \(cat, dog, empty\)"):
        read_image_set(tmp_path)
    with pytest.raises(DataError, match="its images have no labels"):
        read_image_set(tmp_path / "cat", labelled=True)
    write(tmp_path / "kinds" / "cat" / "1.png")
    write(tmp_path / "kinds" / "cat" / "2.png")
    with pytest.raises(DataError, match="all images lie in one folder, 'cat'; expected one for each class"):
        read_image_set(tmp_path / "kinds", labelled=True)
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"table\.csv: this is not an image"):
        read_image_set(tmp_path / "table.csv", labelled=True)
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_image_set(tmp_path / "none")


@pytest.mark.parametrize("values", [pixels(3, 4, 5), pixels(3, 4, 5, 3), pixels(3, 4, 5, 1), pixels(3, 4, 5, 4)])
def test_archives_give_what_files_of_the_same_images_give(tmp_path: Path, values: np.ndarray):
    np.savez(tmp_path / "a.npz", images=values, labels=np.array(["b", "a", "b"]))
    found = read_image_set(tmp_path / "a.npz")
    assert found.classes == ("a", "b")
    assert found.labels is not None
    assert found.labels.tolist() == [1, 0, 1]
    for number, image in enumerate(values):
        write(tmp_path / "one.png", image.squeeze())
        file = read_image(tmp_path / "one.png")
        assert np.abs(found[number].astype(int) - file).max() <= 1  # of alpha, Pillow rounds in integers
        assert np.array_equal(found[number], file) or values.shape[-1] == 4


def test_archives_of_other_values(tmp_path: Path):
    wide = RNG.integers(256, 65536, (2, 3, 3)).astype(np.uint16)
    assert (image_set_of(wide)[0][..., 0] == np.round(wide[0] / 257)).all()
    assert (image_set_of(np.full((1, 2, 2), 0.5))[0] == 128).all()
    assert (image_set_of(np.full((1, 2, 2), 77, np.int64))[0] == 77).all()
    for values, message in (
        (np.zeros((2, 3, 8, 8)), r"got \(2, 3, 8, 8\); move the channels to the end"),
        (np.zeros((8, 8)), r"got \(8, 8\)\."),
        (np.full((1, 2, 2), 200.0), "go from 200 to 200"),
        (np.full((1, 2, 2), -1), "go from -1 to -1"),
        (np.full((1, 2, 2), 200, np.uint16), "16 bits .uint16., and none of their values is above 255"),
        (np.full((1, 2, 2), 0.5j), "images must be real numbers, got complex128"),
    ):
        with pytest.raises(DataError, match=message):
            image_set_of(values)
    with pytest.raises(DataError, match=r"labels holds 0\.5; classes are whole numbers"):
        image_set_of(pixels(2, 3, 3), np.array([0.5, 1]))
    assert image_set_of(pixels(2, 3, 3), np.array([1.0, 0.0])).classes == ("0", "1")
    np.savez(tmp_path / "b.npz", image=pixels(2, 3, 3))
    with pytest.raises(DataError, match="has no array 'images'; it holds image\\."):
        read_image_set(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", images=pixels(2, 3, 3))
    with pytest.raises(DataError, match="has no array 'labels'"):
        read_image_set(tmp_path / "b.npz", labelled=True)


def test_embedded_sets():
    photographs, digits = embedded_photographs(), embedded_digits("test")
    assert len(photographs) == 5
    assert all(image.shape[2] == 3 for image in photographs)
    assert len(digits) == 500
    assert digits.classes == tuple("0123456789")
    with pytest.raises(ValueError, match="part must be"):
        embedded_digits("all")
