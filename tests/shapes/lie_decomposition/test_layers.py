"""The layers against kernels written out place by place, their exact symmetries, and what they refuse."""

# PyTorch declares what modules hold as Tensor | Module; what is refused has the wrong type on purpose
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportIndexIssue=false
# pyright: reportOperatorIssue=false, reportOptionalSubscript=false, reportOptionalMemberAccess=false

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.shapes.lie_decomposition import (
    SO2,
    GLnPlus,
    GroupSamples,
    LieConv2d,
    LieGlobalPool,
    LieLift2d,
    LiePool2d,
    LieProject2d,
    PolarGroup,
    Siren,
    SLn,
    kernel_grid,
    rotation,
)
from shapes.lie_decomposition.cases import GROUPS, QUARTERS, Ones, Recorder, drawn, images, quarters, seeded

by_group = pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)
MASKS = ("auto", "disc", "smooth", "none")


def test_the_grid_has_pixel_centres_x_along_the_width() -> None:
    grid = kernel_grid(4, torch.float64)
    for i, j in itertools.product(range(4), repeat=2):
        assert grid[i, j].tolist() == [(2 * j + 1) / 4 - 1, (2 * i + 1) / 4 - 1]
    assert kernel_grid(1).tolist() == [[[0, 0]]]
    assert kernel_grid(3).dtype == torch.float32


def test_siren_is_its_formula_with_the_initial_values_of_the_spec() -> None:
    net = Siren(5, 7, hidden=60, w0=10.0, fan=100, generator=seeded()).double()
    x = images(3, 5)
    y = x.numpy()
    for layer in list(net.layers)[:-1]:
        y = np.sin(10 * (y @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()))
    y = y @ net.layers[-1].weight.detach().numpy().T + net.layers[-1].bias.detach().numpy()
    np.testing.assert_allclose(net(x).detach().numpy(), y, atol=1e-12)
    bounds = [1 / 5, math.sqrt(6 / 60) / 10, math.sqrt(6 / 60) / 10, math.sqrt(6 / 60) / 10]
    assert len(net.layers) == 4
    for layer, bound in zip(net.layers, bounds, strict=True):
        assert 0.9 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert float(net.layers[0].bias.detach().abs().max()) <= 5**-0.5
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in list(net.layers)[1:])
    state = torch.get_rng_state().clone()
    again = Siren(5, 7, hidden=60, w0=10.0, fan=100, generator=seeded()).double()
    assert torch.equal(net(x), again(x))
    assert torch.equal(torch.get_rng_state(), state)


# -- kernels, place by place -------------------------------------------------------------------------------------------


def coordinates(group: PolarGroup, h: np.ndarray) -> tuple[list[float], int]:
    """Coordinates with the angle in [0, 2 pi), and where it stands; by scipy."""
    R, P = scipy.linalg.polar(h, side="left")
    X = scipy.linalg.logm(P).real
    angle = math.atan2(R[1, 0], R[0, 0]) % (2 * math.pi)
    off, difference = math.sqrt(2) * X[0, 1], (X[0, 0] - X[1, 1]) / math.sqrt(2)
    if isinstance(group, SO2):
        return [angle], 0
    return ([off, angle, difference], 1) if isinstance(group, SLn) else ([X[0, 0], off, X[1, 1], angle], 3)


def mask_of(mask: str, group: PolarGroup, z: np.ndarray, seen: list[float]) -> float:
    if mask == "auto":
        mask = "smooth" if isinstance(group, GLnPlus) else "disc"
    if mask == "disc":
        return float(np.hypot(*z) <= 1)
    return 1.0 if mask == "none" else 1 / (1 + math.exp(-2 * (1 - math.sqrt(z @ z + sum(v * v for v in seen)))))


def value(layer: nn.Module, x: list[float], o: int, c: int) -> float:
    """Of the kernel network."""
    return float(layer.kernel_net(torch.tensor(x, dtype=torch.float64))[o * layer.in_channels + c])


@by_group
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("angle", ["cos_sin", "radians"])
@pytest.mark.parametrize("side", ["input", "output"])
def test_the_group_kernel_place_by_place(group: PolarGroup, mask: str, angle: str, side: str) -> None:
    layer = LieConv2d(group, 2, 3, 3, mask=mask, angle=angle, measure_side=side, hidden=5, generator=seeded()).double()
    s_in, s_out = drawn(group, 3, 1), drawn(group, 2, 2)
    kernel = layer.kernel(s_in, s_out)
    assert kernel.shape == (3, 2, 2, 3, 3, 3)
    assert s_in.weight is not None
    for o, n, c, m, i, j in [(0, 0, 0, 0, 0, 0), (2, 1, 1, 2, 0, 1), (1, 0, 1, 1, 2, 1), (2, 1, 0, 0, 1, 1)]:
        z = s_out.g_inv[n].numpy() @ kernel_grid(3, torch.float64)[i, j].numpy()
        v, place = coordinates(group, np.linalg.inv(s_out.g[n].numpy()) @ s_in.g[m].numpy())
        theta = v[place]
        wrapped = theta if angle == "radians" or theta <= math.pi else theta - 2 * math.pi
        seen = [*v[:place], wrapped, *v[place + 1 :]]
        angles = [theta] if angle == "radians" else [math.cos(theta), math.sin(theta)]
        expected = value(layer, [*z, *v[:place], *angles, *v[place + 1 :]], o, c) * mask_of(mask, group, z, seen)
        det = np.linalg.det((s_in.g[m] if side == "input" else s_out.g[n]).numpy())
        expected *= float(s_in.weight[m]) / det
        assert float(kernel[o, n, c, m, i, j]) == pytest.approx(expected, abs=1e-9)


@by_group
@pytest.mark.parametrize("mask", MASKS)
def test_the_kernels_of_lifting_and_projection_place_by_place(group: PolarGroup, mask: str) -> None:
    s = drawn(group, 3, 1)
    lift = LieLift2d(group, 2, 3, 4, mask=mask, hidden=5, generator=seeded()).double()
    project = LieProject2d(group, 2, 3, 4, mask=mask, hidden=5, generator=seeded()).double()
    lifted, projected = lift.kernel(s), project.kernel(s)
    assert lifted.shape == (3, 3, 2, 4, 4)
    assert projected.shape == (3, 2, 3, 4, 4)
    assert s.weight is not None
    for o, n, c, i, j in [(0, 0, 0, 0, 0), (2, 1, 1, 0, 2), (1, 2, 0, 3, 1)]:
        z = np.linalg.inv(s.g[n].numpy()) @ kernel_grid(4, torch.float64)[i, j].numpy()
        expected = mask_of(mask, group, z, []) / np.linalg.det(s.g[n].numpy())
        assert float(lifted[o, n, c, i, j]) == pytest.approx(expected * value(lift, list(z), o, c), abs=1e-9)
        expected *= float(s.weight[n]) * value(project, list(z), o, c)
        assert float(projected[o, c, n, i, j]) == pytest.approx(expected, abs=1e-9)


@by_group
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_is_the_sum_over_samples_channels_and_pixels(group: PolarGroup, separable: bool, bias: bool) -> None:
    layer = LieConv2d(group, 2, 3, 3, separable=separable, padding=1, bias=bias, hidden=5, generator=seeded()).double()
    if bias:
        nn.init.normal_(layer.bias)
    s_in, s_out = drawn(group, 4, 1), drawn(group, 5, 2)
    x = images(2, 2, 4, 6, 7)
    K = layer.kernel(s_in, s_out)
    expected = sum(F.conv2d(x[:, :, m], K[:, :, :, m].flatten(0, 1), padding=1).unflatten(1, (3, 5)) for m in range(4))
    if bias:
        expected = expected + layer.bias[:, None, None, None]
    torch.testing.assert_close(layer(x, s_in, s_out), expected)
    lift = LieLift2d(group, 2, 3, 3, bias=bias, generator=seeded()).double()
    planar = torch.stack([F.conv2d(x[:, :, 0], lift.kernel(s_in)[:, n]) for n in range(4)], 2)
    torch.testing.assert_close(lift(x[:, :, 0], s_in), planar)
    project = LieProject2d(group, 2, 3, 3, generator=seeded()).double()
    summed = sum(F.conv2d(x[:, :, m], project.kernel(s_in)[:, :, m]) for m in range(4))
    torch.testing.assert_close(project(x, s_in), summed)


@by_group
@pytest.mark.parametrize("mask", MASKS)
def test_a_separable_kernel_is_a_product(group: PolarGroup, mask: str) -> None:
    layer = LieConv2d(group, 2, 3, 3, separable=True, mask=mask, hidden=5, generator=seeded()).double()
    K = layer.kernel(drawn(group, 4, 1), drawn(group, 5, 2)).detach()
    flat = K.flatten(4).permute(0, 1, 4, 2, 3).flatten(3)  # out, N_out, places, (in, N_in)
    singular = torch.linalg.svdvals(flat)
    assert float(singular[..., 1].max()) < 1e-12
    assert float(singular[..., 0].min()) > 1e-6


def test_weights_and_normalisation() -> None:
    s = drawn(SLn(2), 4)
    bare = GroupSamples(s.g, s.g_inv)
    for separable in (False, True):
        for make in (LieConv2d, LieProject2d):
            more = {"separable": separable} if make is LieConv2d else {}
            plain = make(SLn(2), 2, 2, 3, generator=seeded(), **more).double()
            divided = make(SLn(2), 2, 2, 3, normalize_samples=True, generator=seeded(), **more).double()
            both = (lambda x: (x, x)) if make is LieConv2d else (lambda x: (x,))
            torch.testing.assert_close(plain.kernel(*both(bare)) / 4, divided.kernel(*both(bare)))
            torch.testing.assert_close(plain.kernel(*both(s)), divided.kernel(*both(s)))
            w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
            weighted = GroupSamples(s.g, s.g_inv, w)
            expected = plain.kernel(*both(bare)) * w[:, None, None]
            torch.testing.assert_close(plain.kernel(*both(weighted)), expected)


# -- exact symmetries --------------------------------------------------------------------------------------------------


@by_group
@pytest.mark.parametrize("angle", ["cos_sin", "radians"])
def test_kernels_see_the_same_group_coordinates_after_a_left_translation(group: PolarGroup, angle: str) -> None:
    s_in, s_out, h = drawn(group, 3, 1), drawn(group, 4, 2), drawn(group, 1, 3)
    layer = LieConv2d(group, 1, 1, 1, mask="none", angle=angle).double()
    layer.kernel_net = net = Recorder(1)
    layer.kernel(s_in, s_out)
    layer.kernel(*(s.moved(h.g[0], h.g_inv[0]) for s in (s_in, s_out)))
    torch.testing.assert_close(net.seen[0], net.seen[1], atol=1e-12, rtol=0)


@by_group
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("size", [8, 11])
def test_quarter_turns_are_exact(group: PolarGroup, separable: bool, size: int) -> None:
    s = quarters(group)
    x = images(2, 1, size, size)
    lift = LieLift2d(group, 1, 3, 5, generator=seeded()).double()
    conv = LieConv2d(group, 3, 2, 3, separable=separable, padding=1, generator=seeded()).double()
    project = LieProject2d(group, 2, 2, 3, generator=seeded()).double()
    y = lift(x, s)
    z = conv(y, s, s)
    # rot90 turns by -90 degrees where y points down: Rot(-90) g_k = g_{k-1}
    turned = lift(x.rot90(1, (-2, -1)), s)
    shifted = y.unflatten(2, (4, 2)).roll(-1, 2).flatten(2, 3).rot90(1, (-2, -1))
    torch.testing.assert_close(turned, shifted, atol=1e-12, rtol=0)
    shifted = z.unflatten(2, (4, 2)).roll(-1, 2).flatten(2, 3).rot90(1, (-2, -1))
    torch.testing.assert_close(conv(turned, s, s), shifted, atol=1e-12, rtol=0)
    expected = project(z, s).rot90(1, (-2, -1))
    torch.testing.assert_close(project(conv(turned, s, s), s), expected, atol=1e-12, rtol=0)


def test_so2_with_four_samples_is_the_regular_convolution_of_c4() -> None:
    s = GroupSamples(QUARTERS, QUARTERS.mT)
    layer = LieConv2d(SO2(), 2, 3, 5, generator=seeded()).double()
    base = layer.kernel(s, s)[:, 0]  # (out, in, 4, 5, 5)
    filters = torch.stack([base.roll(k, 2).rot90(-k, (-2, -1)) for k in range(4)], 1)
    x = images(2, 2, 4, 9, 9)
    expected = F.conv2d(x.flatten(1, 2), filters.flatten(0, 1).flatten(1, 2)).unflatten(1, (3, 4))
    torch.testing.assert_close(layer(x, s, s), expected, atol=1e-12, rtol=0)


def test_one_sample_at_the_identity_is_a_plain_convolution() -> None:
    one = GroupSamples(torch.eye(2).double()[None], torch.eye(2).double()[None])
    layer = LieConv2d(SLn(2), 2, 3, 5, mask="none", generator=seeded()).double()
    at = torch.cat([kernel_grid(5, torch.float64), torch.tensor([0.0, 1, 0, 0]).double().expand(5, 5, 4)], -1)
    kernel = layer.kernel_net(at).permute(2, 0, 1).reshape(3, 2, 5, 5)
    x = images(2, 2, 9, 8)
    torch.testing.assert_close(layer(x.unsqueeze(2), one, one), F.conv2d(x, kernel).unsqueeze(2))


@by_group
@pytest.mark.parametrize("separable", [False, True])
def test_permuting_samples_permutes_their_axis_alone(group: PolarGroup, separable: bool) -> None:
    s, order = drawn(group, 5), torch.tensor([3, 1, 4, 0, 2])
    assert s.weight is not None
    permuted = GroupSamples(s.g[order], s.g_inv[order], s.weight[order])
    layer = LieConv2d(group, 2, 3, 3, separable=separable, generator=seeded()).double()
    x = images(2, 2, 5, 6, 6)
    y = layer(x, s, s)
    torch.testing.assert_close(layer(x, s, permuted), y[:, :, order])
    torch.testing.assert_close(layer(x[:, :, order], permuted, s), y)


def test_a_lifting_counts_the_area() -> None:
    layer = LieLift2d(GLnPlus(2), 1, 1, 5, mask="none").double()
    layer.kernel_net = Ones(1)
    x = torch.ones(1, 1, 5, 5, dtype=torch.float64)
    s = drawn(GLnPlus(2), 4)
    torch.testing.assert_close(layer(x, s).flatten(), 25 / torch.linalg.det(s.g))
    double = GroupSamples(2 * s.g, s.g_inv / 2)
    torch.testing.assert_close(layer(x, double), layer(x, s) / 4)


# -- types, gradients, kept kernels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("separable", [False, True])
def test_float32_follows_float64_and_half_precision_comes_back(separable: bool) -> None:
    layer = LieConv2d(GLnPlus(2), 2, 3, 3, separable=separable, generator=seeded()).double()
    s, x = drawn(GLnPlus(2), 4), images(2, 2, 4, 6, 6)
    wide = layer(x, s, s)
    narrow = layer.float()(x.float(), s.to(torch.float32), s.to(torch.float32))
    torch.testing.assert_close(narrow.double(), wide, atol=1e-5, rtol=1e-4)
    half = layer(x.bfloat16(), s.to(torch.float32), s.to(torch.float32))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), wide, atol=0.05, rtol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.kernel(s, s).double(), layer.double().kernel(s, s), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("separable", [False, True])
def test_weights_of_half_precision_give_kernels_in_float32(dtype: torch.dtype, separable: bool) -> None:
    layer = LieConv2d(SLn(2), 2, 3, 3, separable=separable, bias=True, generator=seeded()).to(dtype)
    s, x = drawn(SLn(2), 4, dtype=torch.float32), images(2, 2, 4, 6, 6).to(dtype)
    assert layer.kernel(s, s).dtype == torch.float32
    torch.testing.assert_close(layer.kernel(s, s), copy.deepcopy(layer).float().kernel(s, s))
    y = layer(x, s, s)
    assert y.dtype == dtype
    torch.testing.assert_close(y, copy.deepcopy(layer).float()(x.float(), s, s).to(dtype))
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)
def test_gradients_reach_samples_at_the_identity(group: PolarGroup) -> None:
    v = torch.zeros(2, group.dim, dtype=torch.float64, requires_grad=True)
    layer = LieConv2d(group, 1, 1, 3, mask="smooth", generator=seeded()).double()

    def kernel(v: Tensor) -> Tensor:
        g = group.from_coords(v)
        s = GroupSamples(g, torch.linalg.inv(g))
        return layer.kernel(s, s)

    assert torch.autograd.gradcheck(kernel, v, atol=1e-5)


@pytest.mark.parametrize("separable", [False, True])
def test_kept_kernels_are_never_stale(separable: bool) -> None:
    layer = LieConv2d(SLn(2), 2, 2, 3, separable=separable, generator=seeded()).double().eval()
    s, other = drawn(SLn(2), 3), drawn(SLn(2), 3, 1)
    x = images(1, 2, 3, 5, 5)

    def fresh(*samples: GroupSamples) -> Tensor:
        return copy.deepcopy(layer).train()(x, *samples)

    with torch.no_grad():
        first = layer(x, s, s)
        assert layer._kept is not None
        kept = layer._kept[1]
        assert torch.equal(layer(x, s, s), first)
        assert layer._kept[1] is kept
        changes: list[Callable[[], object]] = [
            lambda: layer.kernel_net.layers[0].weight.data.mul_(1.5),
            lambda: setattr(layer.kernel_net, "w0", 3.0),
            lambda: setattr(layer, "mask", "smooth"),
            lambda: setattr(layer, "normalize_samples", True),
            lambda: setattr(layer, "kernel_net", Ones(4)),
        ]
        assert not torch.equal(layer(x, other, s), first)
        bare = GroupSamples(s.g, s.g_inv)
        for change in changes:
            before = layer(x, bare, bare)
            change()
            after = layer(x, bare, bare)
            assert not torch.equal(before, after)
            torch.testing.assert_close(after, fresh(bare, bare))
    pickle.loads(pickle.dumps(layer))


def test_a_kernel_that_was_given_away_is_not_the_one_that_is_kept() -> None:
    s, x = drawn(SLn(2), 3), images(1, 2, 3, 5, 5)
    layers: list[tuple[Any, tuple[GroupSamples, ...], Tensor]] = [
        (LieLift2d(SLn(2), 2, 2, 3), (s,), x[:, :, 0]),
        (LieConv2d(SLn(2), 2, 2, 3), (s, s), x),
        (LieConv2d(SLn(2), 2, 2, 3, separable=True), (s, s), x),
        (LieProject2d(SLn(2), 2, 2, 3), (s,), x),
    ]
    for layer, samples, inputs in layers:
        layer.double().eval()
        with torch.inference_mode():
            first = layer(inputs, *samples)
        with torch.no_grad():
            kernel = layer.kernel(*samples)
            kernel.zero_()
            assert torch.equal(layer(inputs, *samples), first)
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        (scale * kernel).sum().backward()  # what inference mode built, autograd could not save


@pytest.mark.parametrize("before", [False, True])
def test_kernels_of_networks_with_hooks_are_not_kept(before: bool) -> None:
    layer = LieLift2d(SLn(2), 1, 2, 3, generator=seeded()).double().eval()
    factor = [1.0]
    inner = layer.kernel_net.layers[1]
    if before:
        inner.register_forward_pre_hook(lambda _, given: (factor[0] * given[0],))
    else:
        inner.register_forward_hook(lambda _, given, found: factor[0] * found)
    with torch.no_grad():
        first = layer.kernel(drawn(SLn(2), 3))
        factor[0] = 2.0
        assert not torch.equal(layer.kernel(drawn(SLn(2), 3)), first)


# -- pools -------------------------------------------------------------------------------------------------------------


def test_pools() -> None:
    x = images(2, 3, 4, 6, 7)
    for mode, reduce in (("max", torch.amax), ("mean", torch.mean)):
        y = LiePool2d(2, mode)(x)
        assert y.shape == (2, 3, 4, 3, 3)
        torch.testing.assert_close(y[1, 2, 3, 1, 2], reduce(x[1, 2, 3, 2:4, 4:6], (0, 1)))
        torch.testing.assert_close(LieGlobalPool(mode)(x), reduce(x, (2, 3, 4)))
        torch.testing.assert_close(LieGlobalPool(mode, "group")(x), reduce(x, (2,)))


# -- refusals ----------------------------------------------------------------------------------------------------------

S3 = drawn(SLn(2), 3, dtype=torch.float32)
LIFT = LieLift2d(SLn(2), 2, 3, 5)
CONV = LieConv2d(SLn(2), 2, 3, 5)
PROJECT = LieProject2d(SLn(2), 2, 3, 5)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LIFT(torch.zeros(2, 9, 9), S3), ValueError, r"x must be images .*\(2, 9, 9\)"),
        (lambda: LIFT(torch.zeros(1, 1, 9, 9), S3), ValueError, "x has 1 channels.*in_channels=2"),
        (lambda: LIFT(torch.zeros(1, 2, 4, 9), S3), ValueError, "4 x 9.*kernel_size=5"),
        (lambda: LIFT(torch.zeros(1, 2, 9, 9).byte(), S3), TypeError, "x must be floating point, got torch.uint8"),
        (lambda: LIFT(torch.zeros(1, 2, 9, 9), S3.g), TypeError, "samples must be GroupSamples, got Tensor"),
        (lambda: CONV(torch.zeros(1, 2, 9, 9), S3, S3), ValueError, r"x must be features .*\(1, 2, 9, 9\)"),
        (lambda: CONV(torch.zeros(1, 4, 3, 9, 9), S3, S3), ValueError, "x has 4 channels.*in_channels=2"),
        (lambda: CONV(torch.zeros(1, 2, 7, 9, 9), S3, S3), ValueError, "x has 7 group samples.*samples_in has 3"),
        (lambda: CONV(torch.zeros(1, 2, 3, 9, 4), S3, S3), ValueError, "kernel_size=5"),
        (lambda: CONV(torch.zeros(1, 2, 3, 9, 9).long(), S3, S3), TypeError, "int64"),
        (lambda: CONV(torch.zeros(1, 2, 3, 9, 9), S3, None), TypeError, "samples_out must be GroupSamples"),
        (lambda: PROJECT(torch.zeros(1, 2, 9, 9), S3), ValueError, "x must be features"),
        (lambda: PROJECT(torch.zeros(1, 2, 2, 9, 9), S3), ValueError, "x has 2 group samples.*has 3"),
        (lambda: CONV.kernel(S3, GroupSamples(2 * S3.g, S3.g_inv / 2)), ValueError, r"samples_out.g\[0\].*SL\(2\)"),
        (lambda: LieLift2d("sl2", 1, 1, 3), TypeError, "group must be a PolarGroup"),
        (lambda: LieConv2d("sl2", 1, 1, 3), TypeError, "group must be a PolarGroup"),
        (lambda: LieConv2d(SLn(3), 1, 1, 3), ValueError, "group must act on the plane.*n = 3"),
        (lambda: LieProject2d(GLnPlus(4), 1, 1, 3), ValueError, "group must act on the plane"),
        (lambda: LieConv2d(SLn(2), 0, 1, 3), ValueError, "in_channels must be"),
        (lambda: LieConv2d(SLn(2), 1, 1.5, 3), TypeError, "out_channels must be"),
        (lambda: LieConv2d(SLn(2), 1, 1, 0), ValueError, "kernel_size must be"),
        (lambda: LieConv2d(SLn(2), 1, 1, 3, padding=-1), ValueError, "padding must be"),
        (lambda: LieLift2d(SLn(2), 1, 1, 3, mask="hard"), ValueError, "mask must be one of.*'disc'.*'hard'"),
        (lambda: LieConv2d(SLn(2), 1, 1, 3, angle="degrees"), ValueError, "angle must be one of.*'radians'"),
        (lambda: LieConv2d(SLn(2), 1, 1, 3, measure_side="both"), ValueError, "measure_side must be one of 'input'"),
        (lambda: LieConv2d(SLn(2), 1, 1, 3, hidden=0), ValueError, "hidden must be"),
        (lambda: LieConv2d(SLn(2), 1, 1, 3, w0=0), ValueError, "w0 must be positive"),
        (lambda: Siren(2, 3, depth=0), ValueError, "depth must be"),
        (lambda: Siren(2, 3, fan=-1.0), ValueError, "fan must be positive"),
        (lambda: kernel_grid(0), ValueError, "k must be"),
        (lambda: LiePool2d(2, "sum"), ValueError, "mode must be one of 'max', 'mean', got 'sum'"),
        (lambda: LieGlobalPool("sum"), ValueError, "mode must be one of"),
        (lambda: LieGlobalPool("max", "space"), ValueError, "over must be one of 'all', 'group'"),
        (lambda: LiePool2d(4)(torch.zeros(1, 1, 1, 3, 9)), ValueError, "kernel_size=4"),
        (lambda: LieGlobalPool()(torch.zeros(1, 1, 3, 9)), ValueError, "x must be features"),
    ],
)
def test_what_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_kernel_network_of_another_width_is_named() -> None:
    layer = LieConv2d(SLn(2), 2, 3, 3)
    layer.kernel_net = Ones(5)
    with pytest.raises(TypeError, match=r"kernel_net gives 5 values.*= 6"):
        layer.kernel(S3, S3)


def test_rotations_alone_do_not_stretch() -> None:
    R = rotation(torch.linspace(0, 6, 4))
    layer = LieConv2d(SO2(), 1, 1, 3)
    layer.kernel_net = net = Recorder(1)
    layer.kernel(GroupSamples(R, R.mT), GroupSamples(R, R.mT))
    torch.testing.assert_close(net.seen[0][..., :2].norm(dim=-1)[0], kernel_grid(3).norm(dim=-1).expand(4, 3, 3))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_kernels_start_as_small_as_what_a_place_sums_is_large(k: int) -> None:
    """The weights of the last layer lie within sqrt(6 / hidden) / sqrt(fan), and fill that range."""
    whole, parts = (LieConv2d(SLn(2), 2, 9, k, separable=s, hidden=40, generator=seeded()) for s in (False, True))
    for net, fan in ((whole.kernel_net, 2 * k * k), (parts.kernel_net, 2), (parts.space_net, k * k)):
        largest = net.layers[-1].weight.detach().abs().max() * math.sqrt(fan * 40 / 6)
        assert 0.95 < float(largest) <= 1.0 + 1e-6
