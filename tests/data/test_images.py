from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linmap.data.images import embedded_image, image_files, luminance, read_image, square, window
from linmap.errors import DataError


def test_reads_what_was_written(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == pixels).all()
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png") == pixels).all()
    assert read_image(tmp_path / "a.png", channels=1).shape == (5, 7)


def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path):
    pixels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    grey = read_image(tmp_path / "a.png", channels=1)
    assert grey.ravel().tolist() == list(range(256))
    assert (read_image(tmp_path / "a.png") == grey[..., None]).all()


def test_numbers_that_are_no_brightnesses_are_refused(tmp_path: Path):
    for values, message in (
        (np.full((3, 3), 0.5), "go from 0.5 to 0.5"),
        (np.full((3, 3), -7.0), "go from -7 to -7"),
        (np.full((3, 3), 70_000.0), "go from 70000 to 70000"),
    ):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(DataError, match=f"a.tif: its values {message}; save it with 8 or 16 bits a pixel"):
            read_image(tmp_path / "a.tif")
    Image.fromarray(np.full((3, 3), 77, np.float32)).save(tmp_path / "a.tif")
    assert (read_image(tmp_path / "a.tif") == 77).all()


@pytest.mark.parametrize("name", ["chelsea", "coffee", "camera", "china", "flower"])
def test_photographs_of_the_package(name: str):
    assert embedded_image(name).ndim == 3
    assert embedded_image(name, channels=1).ndim == 2
    assert embedded_image(name).std() > 10


def test_square_keeps_the_middle():
    image = np.zeros((4, 8), dtype=np.uint8)
    image[:, 2:6] = 200
    assert (square(image, 4) == 200).all()
    assert square(image, 2).shape == (2, 2)


def test_window_cuts_and_refuses():
    image = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert window(image, 1, 2, 2, 3).tolist() == [[7, 8, 9], [12, 13, 14]]
    with pytest.raises(DataError, match=r"4 x 3 pixels at \(1, 2\) does not lie inside an image of 4 x 5"):
        window(image, 1, 2, 4, 3)


def test_luminance_is_studio_range():
    black, white = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)
    assert luminance(black)[0, 0] * 255 == pytest.approx(16)
    assert luminance(white)[0, 0] * 255 == pytest.approx(235)
    assert luminance(white[..., 0])[0, 0] == luminance(white)[0, 0]


def test_the_images_of_a_folder_are_those_below_it_by_name(tmp_path: Path):
    with pytest.raises(DataError, match="this folder holds no images"):
        image_files(tmp_path)
    for name in ("b.PNG", "a/c.jpg", "a/b.webp", "note.txt", "png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [str(file.relative_to(tmp_path)) for file in image_files(tmp_path)] == ["a/b.webp", "a/c.jpg", "b.PNG"]
    assert image_files(tmp_path / "note.txt") == [tmp_path / "note.txt"]


def test_bad_files(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(DataError, match="not an image that Pillow can read"):
        read_image(tmp_path / "text.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(DataError, match="cannot be read"):
        read_image(tmp_path / "half.png")
    with pytest.raises(ValueError, match="channels must be 1"):
        read_image(tmp_path / "whole.png", channels=4)
    with pytest.raises(ValueError, match="there is no photograph 'lena'"):
        embedded_image("lena")
    with pytest.raises(ValueError, match="side must be a positive"):
        square(embedded_image("camera"), 0)


def test_transparency_shows_white_and_notes_of_the_camera_are_followed(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert (found[0] == 255).all()
    assert (found[1] == pixels[1, :, :3]).all()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "b.png", transparency=0)
    assert read_image(tmp_path / "b.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = Image.fromarray(np.rot90(upright))  # lies as a camera on its side saves it
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "c.png", exif=exif)
    assert (read_image(tmp_path / "c.png", channels=1) == upright).all()


def test_animations_and_pages_are_refused(tmp_path: Path):
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (0, 90, 200)]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=rf"{name}: it holds 3 images"):
            read_image(tmp_path / name)
