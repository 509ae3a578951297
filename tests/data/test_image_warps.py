"""Affine maps of images: what they do to smooth images, their ranges, and that standard poses forget them."""

import math

import pytest
import torch
from torch import Tensor

from linmap.data.image_sets import embedded_digits
from linmap.data.image_warps import WarpRanges, standard_pose, warp


def blobs(h: Tensor, shift: Tensor, side: int = 60) -> Tensor:
    """Three Gaussian blobs, no two alike, moved by the map in closed form: (1, 1, side, side)."""
    centres = torch.tensor([[0.25, 0.05], [-0.2, 0.15], [-0.05, -0.3]], dtype=torch.float64)
    c = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1
    y, x = torch.meshgrid(c, c, indexing="ij")
    z = (torch.stack([x, y], -1) - shift) @ torch.linalg.inv(h).T
    parts = [a * torch.exp(-((z - m) ** 2).sum(-1) / 0.02) for a, m in zip((1.0, 0.7, 0.4), centres, strict=True)]
    return sum(parts, torch.zeros(side, side, dtype=torch.float64))[None, None]


def some_map(seed: int) -> tuple[Tensor, Tensor]:
    h, shift = WarpRanges(30, 0.3, 0.2, 0.1).draw(1, torch.Generator().manual_seed(seed))
    return h[0].double(), shift[0].double()


NONE = torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_a_warp_moves_what_is_at_z_to_h_z_plus_shift(seed: int) -> None:
    h, shift = some_map(seed)
    torch.testing.assert_close(warp(blobs(*NONE), h, shift), blobs(h, shift), atol=0.03, rtol=0)
    one, two = (float((warp(blobs(*NONE, side), h, shift) - blobs(h, shift, side)).abs().max()) for side in (60, 240))
    assert two < one / 4  # bilinear: of second order


def test_a_quarter_turn_is_exact_and_the_identity_changes_nothing() -> None:
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clockwise = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)  # y is down
    torch.testing.assert_close(warp(x, clockwise), torch.rot90(x, -1, (-2, -1)))
    torch.testing.assert_close(warp(x, NONE[0]), x)


def test_a_shift_of_a_pixel_repeats_the_border() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    moved = warp(x, torch.eye(2), torch.tensor([0.5, 0.0]))  # one of four pixels, to the right
    torch.testing.assert_close(moved, x[..., [0, 0, 1, 2]])


def test_maps_lie_in_their_ranges_and_strength_scales_them() -> None:
    generator = torch.Generator().manual_seed(0)
    ranges = WarpRanges(rotation=20, shear=0, scale=0.2, shift=0.1)
    h, shift = ranges.draw(2000, generator)
    stretches = torch.linalg.svdvals(h)
    assert 0.8 <= float(stretches.min()) < 0.82
    assert 1.18 < float(stretches.max()) <= 1.2 + 1e-6
    assert 0.19 < float(shift.abs().max()) <= 0.2
    turned = torch.atan2(h[:, 1, 0], h[:, 0, 0]).abs().max()
    assert 19.5 < math.degrees(float(turned)) <= 20.001
    assert abs(float(shift.mean())) < 0.01
    h, shift = WarpRanges().times(0).draw(3, generator)
    torch.testing.assert_close(h, torch.eye(2).expand(3, 2, 2))
    assert not shift.any()
    assert WarpRanges().times(2).rotation == 40


def test_the_same_generator_gives_the_same_maps_and_the_global_one_stays() -> None:
    state = torch.get_rng_state()
    first, second = (WarpRanges().draw(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("pose", ["upright", "affine"])
@pytest.mark.parametrize("seed", range(3))
def test_poses_have_standard_moments_whatever_the_map(pose: str, seed: int) -> None:
    image = blobs(*some_map(seed))
    found = standard_pose(image, pose, 0.3)[0, 0]  # pyright: ignore[reportArgumentType]
    c = (2 * torch.arange(60, dtype=torch.float64) + 1) / 60 - 1
    mass = found / found.sum()
    x, y = mass.sum(0) @ c, mass.sum(1) @ c
    assert max(abs(float(x)), abs(float(y))) < 0.01
    covariance = torch.stack([mass.sum(0) @ c**2, mass.sum(1) @ c**2, (mass * c[:, None] * c).sum()])
    torch.testing.assert_close(covariance, torch.tensor([0.09, 0.09, 0.0], dtype=torch.float64), atol=3e-3, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_affine_pose_forgets_every_map_and_the_upright_one_shears_and_scales(seed: int) -> None:
    h, shift = some_map(seed)
    plain = standard_pose(blobs(*NONE), "affine")
    torch.testing.assert_close(standard_pose(blobs(h, shift), "affine"), plain, atol=0.05, rtol=0)
    h[1, 0] = 0.0  # shear along x and scales
    torch.testing.assert_close(
        standard_pose(blobs(h, shift), "upright"), standard_pose(blobs(*NONE), "upright"), atol=0.05, rtol=0
    )
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64))
    assert (
        float((standard_pose(blobs(turn, shift), "upright") - standard_pose(blobs(*NONE), "upright")).abs().max()) > 0.2
    )


def test_brightness_and_background_do_not_matter() -> None:
    image = blobs(*some_map(1))
    torch.testing.assert_close(1 - standard_pose(0.5 - 0.5 * image), 0.5 + 0.5 * standard_pose(image))


def test_an_empty_image_stays_and_a_line_is_not_blown_up_without_end() -> None:
    empty = torch.full((2, 1, 9, 9), 0.3)
    assert torch.equal(standard_pose(empty), empty)
    line = torch.zeros(1, 1, 20, 20)
    line[..., 3:17, 10] = 1
    for pose in ("upright", "affine"):
        assert torch.isfinite(standard_pose(line, pose)).all()  # pyright: ignore[reportArgumentType]


def test_digits_keep_their_matter() -> None:
    x = torch.stack([torch.from_numpy(image[..., 0]) for image in embedded_digits("test").subset(range(20))])[:, None]
    found = standard_pose(torch.nn.functional.pad(x / 255, (6, 6, 6, 6)))
    assert found.min() >= 0
    assert 0.9 < found.max() <= 1
    assert float(found[:, :, 0].max()) < 0.1


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_arguments_are_named() -> None:
    x, eye = torch.zeros(2, 1, 5, 5), torch.eye(2)
    with pytest.raises(TypeError, match=r"images .*uint8"):
        warp(x.to(torch.uint8), eye)
    with pytest.raises(ValueError, match=r"images .*\(2, 5, 5\)"):
        standard_pose(x[:, 0])
    with pytest.raises(ValueError, match=r"h must have shape .*\(3, 2, 2\)"):
        warp(x, eye.expand(3, 2, 2))
    with pytest.raises(ValueError, match="determinant"):
        warp(x, 0 * eye)
    with pytest.raises(ValueError, match="pose must be one of upright, affine"):
        standard_pose(x, "deskewed")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="spread"):
        standard_pose(x, spread=0)
    for name, value in (("rotation", -1), ("scale", 1.0), ("shift", math.nan)):
        with pytest.raises(ValueError, match=name):
            WarpRanges(**{name: value})
    with pytest.raises(ValueError, match="strength"):
        WarpRanges().times(-1)
