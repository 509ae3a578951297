"""Images with masks: what is read, what is refused, and augmentation that keeps pairs together."""

import numpy as np
import pytest
import torch
from PIL import Image

from linmap.data.masks import (
    Augmented,
    MaskedImages,
    augment,
    embedded_ultrasound,
    load_images,
    load_masked_images,
    min_max,
    resized,
)
from linmap.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Three images of two sizes with a square each, marked 255."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    random = np.random.default_rng(0)
    for i, side in enumerate((40, 40, 60)):
        mask = np.zeros((side, side + 4), np.uint8)
        mask[5:15, 8:20] = 255
        Image.fromarray(random.integers(0, 99, mask.shape, dtype=np.uint8)).save(tmp_path / f"images/scan{i}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/scan{i}.png")
    return tmp_path


def test_a_folder_is_read_in_order_at_one_size(folder):
    data = load_masked_images(folder, 32)
    assert data.names == ("scan0", "scan1", "scan2")
    assert data.images.shape == data.masks.shape == (3, 1, 32, 32)
    assert torch.equal(data.masks.unique(), torch.tensor([0.0, 1.0]))
    assert torch.equal(data.images.amin((1, 2, 3)), torch.zeros(3))
    assert torch.equal(data.images.amax((1, 2, 3)), torch.ones(3))
    share = 10 * 12 / (40 * 44)
    assert abs(float(data.masks[0].mean()) - share) < 0.02
    assert len(data[1:]) == 2
    assert data[[2, 0]].names == ("scan2", "scan0")


def test_the_embedded_ultrasound():
    train, test = embedded_ultrasound("train", 64), embedded_ultrasound("test", 64)
    assert (len(train), len(test)) == (120, 40)
    vessel, nerve = (embedded_ultrasound("test", 64, label).masks.mean() for label in (2, 1))
    assert 0.03 < float(vessel) < 0.06
    assert 0.02 < float(nerve) < 0.05
    with pytest.raises(ValueError, match="part must be 'train' or 'test'"):
        embedded_ultrasound("validation")


def test_an_archive_and_its_labels(tmp_path):
    image, mask = np.arange(2 * 32 * 32).reshape(2, 32, 32), np.zeros((2, 32, 32), int)
    mask[0, :4], mask[1, :8] = 1, 3
    np.savez(tmp_path / "a.npz", image=image, mask=mask, filename=np.array(["x", "y"]))
    assert float(load_masked_images(tmp_path / "a.npz", 32, 3).masks.mean()) == 0.125
    with pytest.raises(DataError, match=r"the masks hold the values 0, 1, 3 .*\(label=1\)"):
        load_masked_images(tmp_path / "a.npz", 32)
    with pytest.raises(DataError, match="no mask holds the value 2; they hold 0, 1, 3"):
        load_masked_images(tmp_path / "a.npz", 32, 2)
    np.savez(tmp_path / "b.npz", image=image, mask=mask[:, :5])
    with pytest.raises(DataError, match=r"one shape \(samples, height, width\), got \(2, 32, 32\) and \(2, 5, 32\)"):
        load_masked_images(tmp_path / "b.npz", 32)
    np.savez(tmp_path / "c.npz", image=image)
    with pytest.raises(DataError, match="has no array 'mask'"):
        load_masked_images(tmp_path / "c.npz", 32)


def test_masks_are_whole_numbers_and_images_real_ones(tmp_path):
    image, mask = np.random.default_rng(0).random((2, 32, 32)), np.zeros((2, 32, 32))
    mask[:, :9] = 0.5
    np.savez(tmp_path / "a.npz", image=image, mask=mask)
    with pytest.raises(DataError, match=r"the masks hold 0\.5, and whole numbers mark what is to be found"):
        load_masked_images(tmp_path / "a.npz", 32)
    np.savez(tmp_path / "b.npz", image=image, mask=mask > 0)
    assert abs(float(load_masked_images(tmp_path / "b.npz", 32).masks.mean()) - 9 / 32) < 1e-6
    np.savez(tmp_path / "c.npz", image=image + 1j, mask=mask > 0)
    for load in (load_masked_images, load_images):
        with pytest.raises(DataError, match="the array 'image' holds complex numbers"):
            load(tmp_path / "c.npz", 32)
    np.savez(tmp_path / "d.npz", image=image[..., None])
    with pytest.raises(DataError, match=r"shape \(samples, height, width\), got \(2, 32, 32, 1\)"):
        load_images(tmp_path / "d.npz", 32)


@pytest.mark.parametrize("form", ["uint16.png", "uint16.tif", "int32.tif", "float32.tif"])
def test_images_of_more_than_8_bits_keep_their_values(tmp_path, form):
    """Those of scanners; Pillow's own way to 8 bits makes all above 255 white."""
    dtype, _, end = form.partition(".")
    values = np.random.default_rng(0).integers(0, 40_000, (32, 32)).astype(dtype)
    for part, pixels in (("images", values), ("masks", (values > 20_000).astype(np.uint8))):
        (tmp_path / part).mkdir()
        Image.fromarray(pixels).save(tmp_path / part / f"a.{end}")
    data = load_masked_images(tmp_path, 32)
    assert torch.equal(data.images[0, 0] > 0.5, torch.from_numpy(values) > (int(values.max()) + int(values.min())) / 2)
    expected = (values.astype(float) - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(data.images[0, 0], expected, atol=1e-6)
    assert torch.equal(load_images(tmp_path, 32)[0], data.images)


@pytest.mark.parametrize("name", ["images/scan1.png", "masks/scan1.png", "a.npz"])
def test_an_empty_file_is_refused_as_everywhere(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name} is empty; there is nothing to read"):
        load_masked_images(folder / "a.npz" if name == "a.npz" else folder, 32)
    if name != "masks/scan1.png":
        with pytest.raises(DataError, match=f"{name} is empty; there is nothing to read"):
            load_images(folder / "a.npz" if name == "a.npz" else folder, 32)


def test_a_file_that_is_no_archive_is_named_without_advice_to_run_it(tmp_path):
    (tmp_path / "a.npz").write_text("hello")
    complaint = r"a\.npz cannot be read as a plain \.npz archive; write it with numpy\.savez\.$"
    with pytest.raises(DataError, match=complaint):
        load_masked_images(tmp_path / "a.npz", 32)
    np.savez(tmp_path / "b.npz", image=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"holds Python objects; save numbers or text"):
        load_images(tmp_path / "b.npz", 32)


def test_empty_masks_are_samples_too(folder):
    Image.new("L", (44, 40)).save(folder / "masks/scan0.png")
    data = load_masked_images(folder, 32)
    assert not bool(data.masks[0].any())
    assert bool(data.masks[1].any())
    for i, side in enumerate((40, 40, 60)):
        Image.new("L", (side + 4, side)).save(folder / f"masks/scan{i}.png")
    with pytest.raises(DataError, match="no mask holds the value 1; they hold 0"):
        load_masked_images(folder, 32)


def test_palettes_are_read_as_indices(folder):
    mask = Image.new("P", (44, 40))
    mask.putpalette([0, 0, 0, 255, 0, 0])
    mask.paste(1, (0, 0, 22, 40))
    mask.save(folder / "masks/scan0.png")
    data = load_masked_images(folder, 32, label=1)
    assert abs(float(data.masks[0].mean()) - 0.5) < 0.05


def test_folders_that_do_not_pair_are_refused(folder):
    (folder / "masks/scan1.png").unlink()
    with pytest.raises(DataError, match=r"images/scan1.png has no mask; expected images/NAME.png.*1 unpaired"):
        load_masked_images(folder, 32)
    (folder / "images/scan1.png").unlink()
    (folder / "images/scan0.png").unlink()
    with pytest.raises(DataError, match=r"masks/scan0.png has no image"):
        load_masked_images(folder, 32)
    with pytest.raises(DataError, match="has no folder 'images'"):
        load_masked_images(folder / "masks", 32)
    (folder / "images/scan2.png").unlink()
    with pytest.raises(DataError, match="images holds no image"):
        load_masked_images(folder, 32)


def test_an_image_and_its_mask_must_agree_in_size(folder):
    Image.new("L", (20, 20)).save(folder / "masks/scan1.png")
    with pytest.raises(DataError, match=r"scan1\.png has 40 x 44 pixels and its mask 20 x 20"):
        load_masked_images(folder, 32)


def test_what_is_no_image_is_named(folder):
    (folder / "masks/scan2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"scan2.png: this is not an image"):
        load_masked_images(folder, 32)
    (folder / "images/scan0.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="have one name"):
        load_masked_images(folder, 32)


def test_images_alone_are_prepared_alike(folder):
    images, shapes = load_images(folder, 32)
    assert torch.equal(images, load_masked_images(folder, 32).images)
    assert shapes == {"scan0": (40, 44), "scan1": (40, 44), "scan2": (60, 64)}
    assert torch.equal(load_images(folder / "images/scan1.png", 32)[0], images[1:2])
    assert torch.equal(load_images(folder / "images", 32)[0], images)


def test_a_constant_image_is_zero():
    assert torch.equal(min_max(torch.full((1, 1, 4, 4), 7.0)), torch.zeros(1, 1, 4, 4))


def test_nearest_pixels_keep_values():
    mask = (torch.rand(9, 13) < 0.5).float()
    assert torch.equal(resized(mask, (9, 13), nearest=True)[0], mask)
    assert set(resized(mask, 32, nearest=True).unique().tolist()) == {0.0, 1.0}


def test_augmentation_moves_an_image_with_its_mask():
    torch.manual_seed(0)
    masks = torch.zeros(64, 1, 48, 48)
    masks[:, :, 10:30, 6:20] = 1
    images, moved = augment(masks, masks)
    assert torch.equal(moved.unique(), torch.tensor([0.0, 1.0]))
    inside = (images > 0.4 * images.amax((1, 2, 3), keepdim=True)).float()
    overlap = 2 * (inside * moved).sum((1, 2, 3)) / (inside + moved).sum((1, 2, 3))
    assert float(overlap.min()) > 0.9
    unchanged = (moved == masks).flatten(1).all(1).float().mean()
    assert 0.02 < float(unchanged) < 0.4  # each change happens half of the time
    left = (moved[..., :24].sum((1, 2, 3)) > moved[..., 24:].sum((1, 2, 3))).float().mean()
    assert 0.3 < float(left) < 0.7  # mirrored half of the time
    assert float(images.amax()) <= 1
    assert len({round(float(image.amax()), 3) for image in images}) > 10  # brightness


def test_augmented_batches_come_from_the_global_generator():
    data = MaskedImages(torch.rand(5, 1, 8, 8), torch.ones(5, 1, 8, 8), tuple("abcde"))
    samples = Augmented(data)
    torch.manual_seed(1)
    first, again = samples.__getitems__([0, 3]), samples.__getitems__([0, 3])
    torch.manual_seed(1)
    assert torch.equal(samples.__getitems__([0, 3])[0], first[0])
    assert not torch.equal(first[0], again[0])
    assert samples[2][0].shape == (1, 8, 8)
    assert len(samples) == 5
