"""Images under linear maps, and equivariance that is exact up to the resolution."""

# what is refused has the wrong type on purpose
# pyright: reportArgumentType=false

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.shapes.lie_decomposition import (
    GLnPlus,
    GroupSamples,
    LieConv2d,
    LieLift2d,
    PolarGroup,
    SLn,
    equivariance_error,
    invariance_error,
    rotation,
    transform_image,
)
from shapes.lie_decomposition.cases import QUARTERS, drawn, images, seeded

SHEAR = torch.tensor([[1.1, 0.3], [-0.2, 0.9]], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [7, 8, 40])
def test_quarter_turns_are_rot90_to_the_bit(dtype: torch.dtype, size: int) -> None:
    x = images(2, 3, size, size).to(dtype)
    for k in range(-3, 4):
        h = rotation(torch.tensor(-k * math.pi / 2, dtype=dtype))
        assert torch.equal(transform_image(x, h), torch.rot90(x, k, (-2, -1)))
    assert torch.equal(transform_image(x, torch.eye(2, dtype=dtype)), x)


@pytest.mark.parametrize("shape", [(9, 9), (8, 12)])
def test_agrees_with_scipys_interpolation(shape: tuple[int, int]) -> None:
    x, (height, width) = images(*shape), shape
    shift = torch.tensor([0.1, -0.3], dtype=torch.float64)
    inverse = torch.linalg.inv(SHEAR).numpy()
    y = np.arange(height) * 2 / height + 1 / height - 1
    z = np.arange(width) * 2 / width + 1 / width - 1
    places = (np.stack(np.meshgrid(z, y), -1) - shift.numpy()) @ inverse.T
    rows, columns = ((places[..., 1] + 1) * height - 1) / 2, ((places[..., 0] + 1) * width - 1) / 2
    expected = scipy.ndimage.map_coordinates(np.pad(x.numpy(), 1), [rows + 1, columns + 1], order=1, cval=0.0)
    np.testing.assert_allclose(transform_image(x, SHEAR, shift).numpy(), expected, atol=1e-12)


def test_a_shift_by_pixels_moves_pixels() -> None:
    x = images(1, 6, 6)
    moved = transform_image(x, torch.eye(2), (2 / 6, -4 / 6))  # one to the right, two up
    expected = torch.zeros_like(x)
    expected[:, :4, 1:] = x[:, 2:, :5]
    assert torch.equal(moved, expected)


def test_gradients_reach_images_and_maps() -> None:
    x, h = images(1, 5, 5).requires_grad_(), (SHEAR + 0.013 * images(2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, h: transform_image(x, h), (x, h))
    assert transform_image(images(2, 4, 4).half(), SHEAR).dtype == torch.float16


def test_invariance_error_is_its_definition() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.Dropout(0.5)).double().train()
    x, elements = images(4, 1, 6, 6), torch.stack([SHEAR, torch.eye(2, dtype=torch.float64)])
    error = invariance_error(net, x, elements)
    assert net[2].training
    net.eval()
    z, moved = net(x).detach(), net(transform_image(x, SHEAR)).detach()
    assert error == pytest.approx(float(((moved - z).norm(dim=1) / z.norm(dim=1)).mean()) / 2)
    assert invariance_error(lambda x: x.sum((2, 3)), x, QUARTERS) < 1e-12


def gaussians(n: int, h_inv: Tensor) -> Tensor:
    """f(h^-1 z) in closed form on n x n pixels, f a sum of three Gaussians well inside of the square."""
    centres = (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1
    z = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1) @ h_inv.mT
    peaks = torch.tensor([[0.1, -0.15], [-0.2, 0.1], [0.05, 0.2]], dtype=torch.float64)
    heights = torch.tensor([1.0, -0.7, 0.5], dtype=torch.float64)
    return (heights * torch.exp(-((z.unsqueeze(-2) - peaks) ** 2).sum(-1) / 0.02)).sum(-1)[None, None]


def sampled_at(y: Tensor, h: Tensor) -> Tensor:
    """Features of every pixel, moved by cubic splines: the interpolation does not limit the order that is seen."""
    n = y.shape[-1]
    centres = (np.arange(n) * 2 + 1 - n) / 2
    places = np.stack(np.meshgrid(centres, centres), -1) @ torch.linalg.inv(h).numpy().T + (n - 1) / 2
    flat = y.detach().flatten(0, -3).numpy()
    moved = [scipy.ndimage.map_coordinates(one, [places[..., 1], places[..., 0]], order=3) for one in flat]
    return torch.from_numpy(np.stack(moved)).reshape(y.shape)


def lifting_error(group: PolarGroup, n: int, k: int, h: Tensor) -> float:
    layer = LieLift2d(group, 1, 2, k, mask="smooth", hidden=8, w0=2.0, generator=seeded(4)).double()
    original = layer.kernel_net
    layer.kernel_net = nn.Sequential(Window(original))
    s = drawn(group, 3, 1)
    h_inv = torch.linalg.inv(h)
    before = layer(gaussians(n, torch.eye(2, dtype=torch.float64)), s)
    after = layer(gaussians(n, h_inv), s.moved(h, h_inv))
    return float(((after - sampled_at(before, h)).norm() / before.norm()).detach())


class Window(nn.Module):
    """A kernel network times a smooth window, whose transforms stay inside of the kernel's square."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z) * torch.exp(-(z * z).sum(-1, keepdim=True) / 0.05)


@pytest.mark.parametrize("group", [SLn(2), GLnPlus(2)], ids=lambda g: g.name)
def test_the_error_of_continuous_equivariance_goes_to_zero_with_the_resolution(group: PolarGroup) -> None:
    h = SHEAR / torch.linalg.det(SHEAR).sqrt() * (1.0 if group.volume_preserving else 1.1)
    errors = [lifting_error(group, n, k, h) for n, k in ((35, 7), (75, 15), (155, 31))]
    assert errors[1] < 1e-2
    assert errors[2] < errors[1] / 4 < errors[0] / 8


def test_equivariance_error_of_a_lifting() -> None:
    layer = LieLift2d(SLn(2), 1, 3, 5, generator=seeded()).double()
    s = drawn(SLn(2), 3)
    x = F.pad(images(2, 1, 4, 4), (8, 8, 8, 8))
    assert equivariance_error(layer, x, QUARTERS[1], s) < 1e-12
    f = gaussians(41, torch.eye(2, dtype=torch.float64))
    fine = gaussians(101, torch.eye(2, dtype=torch.float64))
    wide = LieLift2d(SLn(2), 1, 3, 15, generator=seeded()).double()
    h = SHEAR / torch.linalg.det(SHEAR).sqrt()
    assert equivariance_error(wide, fine, h, s) < equivariance_error(layer, f, h, s)
    before, h_inv = layer(f, s).detach(), torch.linalg.inv(h)
    moved = GroupSamples(h @ s.g, s.g_inv @ h_inv)
    expected = (layer(transform_image(f, h), moved).detach() - transform_image(before, h)).norm() / before.norm()
    assert equivariance_error(layer, f, h, s) == pytest.approx(float(expected))


def test_group_convolutions_are_equivariant_with_moved_samples_too() -> None:
    """The same integral over g~ for transported sets, with the measure on the input's side."""
    group, h = GLnPlus(2), SHEAR
    h_inv = torch.linalg.inv(h)
    lift = LieLift2d(group, 1, 2, 15, mask="none", hidden=8, w0=2.0, generator=seeded(4)).double()
    conv = LieConv2d(group, 2, 2, 15, mask="none", hidden=8, w0=2.0, generator=seeded(5)).double()
    lift.kernel_net, conv.kernel_net = Window(lift.kernel_net), SpaceWindow(conv.kernel_net)
    s = drawn(group, 3, 1)
    moved = s.moved(h, h_inv)
    before = conv(lift(gaussians(101, torch.eye(2, dtype=torch.float64)), s), s, s)
    after = conv(lift(gaussians(101, h_inv), moved), moved, moved)
    error = float(((after - sampled_at(before, h)).norm() / before.norm()).detach())
    assert error < 2e-2


class SpaceWindow(Window):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * torch.exp(-(x[..., :2] ** 2).sum(-1, keepdim=True) / 0.05)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: transform_image(torch.zeros(4, 4).byte(), torch.eye(2)), TypeError, "x must be floating.*uint8"),
        (lambda: transform_image(torch.zeros(4), torch.eye(2)), ValueError, r"x must be images.*\(4,\)"),
        (lambda: transform_image(torch.zeros(4, 4), torch.eye(3)), ValueError, r"h must be a matrix \(2, 2\)"),
        (lambda: transform_image(torch.zeros(4, 4), torch.ones(2, 2)), ValueError, "h must be.*inverse"),
        (lambda: transform_image(torch.zeros(4, 4), torch.eye(2), (1, 2, 3)), ValueError, "shift must be two"),
        (lambda: transform_image(np.zeros((4, 4)), torch.eye(2)), TypeError, "x must be a tensor, got ndarray"),
        (lambda: transform_image(torch.zeros(4, 4), "turn"), TypeError, r"h must be a matrix \(2, 2\), got 'turn'"),
        (lambda: transform_image(torch.zeros(4, 4), torch.eye(2), "left"), TypeError, "shift must be two"),
        (lambda: invariance_error(lambda x: x, torch.zeros(0, 4), torch.eye(2)[None]), ValueError, "one image or more"),
        (lambda: invariance_error(lambda x: x, torch.zeros(1, 4), torch.eye(2)), ValueError, "elements must be"),
    ],
)
def test_what_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_no_images_are_moved_to_no_images() -> None:
    assert transform_image(torch.zeros(0, 1, 4, 6), torch.eye(2)).shape == (0, 1, 4, 6)
