"""Filters, copies, templates, bias terms and the comb trick against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.interpret.linearscope import (
    LinearScope,
    ReceptiveFieldError,
    bias_split,
    comb,
    copy_map,
    filter_bank,
    fit_gabor,
    projective_field,
    template_share,
)
from typed import gradient_of


def image(channels: int = 1, side: int = 12) -> Tensor:
    return torch.randn(1, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers).double().eval()


PLANES = {
    "convolutions": lambda: network(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, (5, 3), padding="same")),
    "strides": lambda: network(nn.Conv2d(1, 3, 3, 2, padding=1), nn.PReLU(), nn.Conv2d(3, 2, 3, dilation=2)),
    "skip": lambda: network(
        Function(lambda x: torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1)), nn.Conv2d(2, 1, 3), nn.ReLU6()
    ),
    "pools": lambda: network(nn.MaxPool2d(3, 2, 1), nn.Conv2d(1, 2, 3), nn.AvgPool2d(2, 1)),
    "transposed": lambda: network(nn.Conv2d(1, 4, 1), nn.Tanh(), nn.ConvTranspose2d(4, 1, 4, 2, 1, output_padding=1)),
    "shuffle": lambda: network(
        nn.Conv2d(1, 9, 3, padding=1), nn.LeakyReLU(), nn.PixelShuffle(3), nn.ZeroPad2d((1, 2, 3, 0))
    ),
    "bilinear": lambda: network(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")),
    "bicubic": lambda: network(nn.Upsample(scale_factor=2, mode="bicubic"), nn.Conv2d(1, 1, 3, 2)),
    "instance norm": lambda: network(
        nn.Conv2d(1, 3, 3, padding=1), nn.InstanceNorm2d(3), nn.ReLU(True), nn.Conv2d(3, 1, 1)
    ),
}


@pytest.mark.parametrize("name", PLANES)
def test_comb_finds_the_dense_matrix_with_fewer_probes(name: str):
    interp = LinearScope(PLANES[name]()).at(image(side=16))
    found = comb(interp)
    torch.testing.assert_close(found.matrix, interp.dense(), rtol=0, atol=1e-14)
    assert found.probes == found.period[0] * found.period[1] < interp.in_features


@pytest.mark.parametrize("name", PLANES)
def test_projective_field_holds_every_entry_and_is_tight_for_the_kernel(name: str):
    interp = LinearScope(PLANES[name]()).at(image(side=16))
    rows, columns = projective_field(interp.tape(), tuple(interp.input.shape))
    written = interp.as_output(interp.dense().mT).abs().sum(1) > 0  # (pixel, out_height, out_width)
    for pixel in range(256):
        at = written[pixel].nonzero()
        if len(at):
            low, high = at.amin(0), at.amax(0)
            assert rows.lo[pixel // 16] <= low[0]
            assert high[0] <= rows.hi[pixel // 16]
            assert columns.lo[pixel % 16] <= low[1]
            assert high[1] <= columns.hi[pixel % 16]


def test_projective_field_of_a_plain_kernel_is_exact():
    tape = LinearScope(network(nn.Conv2d(1, 1, (3, 5), padding=(1, 2)))).at(image()).tape()
    rows, columns = projective_field(tape, (1, 1, 12, 12))
    assert (rows.lo[5], rows.hi[5], columns.lo[5], columns.hi[5]) == (4, 6, 3, 7)
    assert (rows.period(), columns.period()) == (3, 5)


@pytest.mark.parametrize(
    "layer", [nn.Flatten(2), nn.AdaptiveAvgPool2d(3), nn.ReflectionPad2d(1), nn.Upsample(size=(17, 17))]
)
def test_comb_refuses_what_it_cannot_prove(layer: nn.Module):
    net = network(
        nn.Conv2d(1, 1, 3, padding=1), layer, *([nn.Unflatten(2, (12, 12))] if isinstance(layer, nn.Flatten) else [])
    )
    with pytest.raises(ReceptiveFieldError, match="no receptive field can be proved"):
        comb(LinearScope(net).at(image()))


def test_filter_bank_holds_the_rows_of_one_pixel():
    net = network(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2))
    interp = LinearScope(net).at(image())
    bank = filter_bank(interp, (5, 6), scale=2)
    kernels = net.get_parameter("0.weight").detach()
    torch.testing.assert_close(bank.filters[:, :, 4:7, 5:8], kernels)
    torch.testing.assert_close(bank.gains, kernels.sum((1, 2, 3)))
    assert float(bank.filters.square().sum() - kernels.square().sum()) == pytest.approx(0, abs=1e-12)
    energy = kernels[:, 0].square()
    rows = (energy.sum(2) * torch.arange(4.0, 7.0)).sum(1) / energy.sum((1, 2))
    torch.testing.assert_close(bank.centres[:, 0], rows)
    torch.testing.assert_close(bank.spectra[:, 0, 6, 6], bank.gains.abs())
    with pytest.raises(ValueError, match="scale=3 does not lead from 12 x 12 to 24 x 24"):
        filter_bank(interp, (5, 6), scale=3)
    with pytest.raises(IndexError, match="outside the input"):
        filter_bank(interp, (5, 12), scale=2)


@pytest.mark.parametrize("degrees", [20.0, 75.0, 140.0])
def test_gabor_fit_recovers_a_gabor(degrees: float):
    rows, columns = torch.meshgrid(torch.arange(24.0) - 12, torch.arange(24.0) - 11, indexing="ij")
    along = columns * math.cos(math.radians(degrees)) + rows * math.sin(math.radians(degrees))
    gabor = fit_gabor(-3 * torch.exp(-(rows**2 + columns**2) / 18) * torch.cos(2 * math.pi * 0.2 * along + 0.5))
    assert gabor.r2 > 0.999
    assert gabor.frequency == pytest.approx(0.2, abs=1e-3)
    assert gabor.orientation == pytest.approx(degrees, abs=0.5)
    assert gabor.sigma == pytest.approx(3, abs=1e-2)


def test_copy_map_finds_a_shift():
    interp = LinearScope(network(Function(lambda x: 2 * x.roll((1, -3), (2, 3))))).at(image(2))
    copies = copy_map(interp)
    inside = (slice(1, None), slice(None, -3))
    assert (copies.offset[0][inside] == -1).all()
    assert (copies.offset[1][inside] == 3).all()
    assert copies.copied.all()
    torch.testing.assert_close(copies.share, torch.ones(12, 12).double())


def test_an_average_over_the_image_is_no_copy():
    blurred = LinearScope(network(Function(lambda x: x.mean((2, 3), keepdim=True).expand_as(x) + 0))).at(image())
    copies = copy_map(blurred)
    assert not copies.copied.any()
    assert float(copies.share.max()) <= 25 / 144 + 1e-12


def test_template_share_is_one_where_the_output_is_painted_from_memory():
    painted = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    painted[..., :6] = True
    interp = LinearScope(network(Function(lambda x: torch.where(painted, torch.full_like(x, 3.0), x)))).at(image())
    assert template_share(interp, painted) == pytest.approx(1)
    assert template_share(interp, ~painted) == 0
    assert template_share(interp) == pytest.approx(interp.bias_share())
    with pytest.raises(ValueError, match="region must mark some"):
        template_share(interp, torch.zeros(3, dtype=torch.bool))


def test_bias_terms_of_a_relu_network_are_bias_times_gradient():
    net = network(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(256, 3)
    )
    interp, x = LinearScope(net).at(image()), image()
    terms = bias_split(interp, 1)
    assert [term.module for term in terms] == ["0", "2", "5"]
    net(x)[0, 1].backward()
    biases = [net.get_parameter(f"{layer}.bias") for layer in (0, 2, 5)]
    expected = [float((bias * gradient_of(bias)).sum()) for bias in biases]
    assert [term.contribution for term in terms] == pytest.approx(expected, abs=1e-12)
    assert sum(expected) == pytest.approx(float(interp.residual[0, 1]), abs=1e-12)


@pytest.mark.parametrize("mode", ["record", "parallel"])
@pytest.mark.parametrize("origin", [None, 0.4])
def test_bias_terms_sum_to_the_residual(mode: Any, origin: float | None):
    net = network(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Sigmoid(), nn.BatchNorm2d(4), nn.Hardtanh())
    interp = LinearScope(net, mode=mode, origin=origin).at(image())
    for output in (0, (2, 3, 4)):
        terms = bias_split(interp, output)
        total = interp.residual.flatten()[interp.output_index(output)]
        assert sum(term.contribution for term in terms) == pytest.approx(float(total), abs=1e-12)
        assert ("origin" in {term.module for term in terms}) == (origin is not None)
