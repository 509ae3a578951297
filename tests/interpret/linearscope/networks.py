"""Small networks that between them hold every unit of the method's table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Lambda(nn.Module):
    """A function between two convolutions of its own, so that it sees a non-trivial input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        return x * gate + x


class Attention(nn.Module):
    """Self-attention over the pixels."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(3, 12), fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).mT).chunk(3, -1)
        if self.fused:
            return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])
        return torch.softmax(q @ k.mT / 2, -1) @ v


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(3, 1, 8, batch_first=True, activation=F.gelu)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).mT)


def inplace_views(x: Tensor) -> Tensor:
    """Writes into views of a buffer."""
    canvas = torch.zeros_like(x)
    canvas[:, :2] = x[:, :2]
    canvas += 0.5
    canvas[x < -1] = 0.7
    canvas[:, :, 1].mul_(2)
    canvas.diagonal(dim1=2, dim2=3)[:, :, 2:4].zero_()
    canvas[:, 1:3, ::2].relu_()
    return canvas


@dataclass(frozen=True)
class Unit:
    """One row (or part of one) of the table."""

    name: str
    function: Callable[[Tensor], Tensor]
    jacobian: bool = False
    """Whether F is the Jacobian: true of piecewise-linear units."""
    taylor: bool = False
    """Whether smooth="taylor" makes F the Jacobian."""
    options: dict[str, Any] = field(default_factory=dict)

    def network(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        torch.manual_seed(1)
        return Lambda(self.function).to(dtype).eval()


def _prelu(x: Tensor) -> Tensor:
    return F.prelu(x, x.new_tensor([0.3, -0.2, 1.5, 0.0]))


PIECEWISE = [
    Unit(name, function, jacobian=True)
    for name, function in {
        "relu": F.relu,
        "relu inplace": lambda x: F.relu(x.clone(), inplace=True) + x,
        "leaky_relu": F.leaky_relu,
        "prelu": _prelu,
        "rrelu": F.rrelu,
        "hardtanh": F.hardtanh,
        "relu6": lambda x: F.relu6(8 * x),
        "hardsigmoid": lambda x: F.hardsigmoid(6 * x),
        "threshold": lambda x: F.threshold(x, 0.1, 2.0),
        "hardshrink": lambda x: F.hardshrink(x, 0.1),
        "softshrink": lambda x: F.softshrink(x, 0.1),
        "abs": torch.abs,
        "clamp": lambda x: x.clamp(-0.3, 0.4) + x.clip(max=0.1) + x.clamp_min(0.2),
        "sign": lambda x: x.sign() * 3 + x,
        "maximum": lambda x: torch.maximum(x, -2 * x) + torch.minimum(x, x.new_tensor(0.1)),
        "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1),
        "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        "max_pool2d dilated": lambda x: F.max_pool2d(x, 2, 1, 0, 3),
        "max_pool3d": lambda x: F.max_pool3d(x[:, None], 2),
        "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x.flatten(2), 5),
        "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 3),
        "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x[:, None], 2),
        "max_unpool": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), [2, 2]),
        "amax": lambda x: x.amax((1, 2)),
        "amin": lambda x: x.amin(1),
        "max": lambda x: x.max() + x.min() + x.max(1).values + x.min(2, keepdim=True).values,
        "topk": lambda x: x.topk(3, 1).values,
        "sort": lambda x: x.sort(2, descending=True).values,
        "median": lambda x: x.median(1).values + x.flatten().kthvalue(5).values,
        "where": lambda x: torch.where(x > 0, x, 0.1 * x).masked_fill(x > 0.8, 1.0),
        "in place": inplace_views,
        "wrapped": lambda x: torch.fmod(x, 0.3) + torch.remainder(x, 0.2) + (3 * x).frac(),
        "fmax": lambda x: torch.fmax(x, -2 * x) + torch.fmin(x, x.new_tensor(0.1)).clamp_max(0.05),
        "nan_to_num": lambda x: torch.nan_to_num(torch.where(x > 0.5, torch.inf, x), posinf=2.0),
        "nansum": lambda x: torch.where(x > 0.5, torch.nan, x).nansum(1),
        "copysign": lambda x: torch.copysign(x, x.flip(1)) + x,
        "cummax": lambda x: x.cummax(2).values + x.cummin(1).values,
        "mode": lambda x: x.mode(1).values + x.nanmedian(1).values,
        "aminmax": lambda x: sum(torch.aminmax(x, dim=2)) + torch.aminmax(x).max,
        "rounded": lambda x: x.floor() * 0.2 + x.ceil() + x,
        "max_unpool3d": lambda x: F.max_unpool3d(*F.max_pool3d(x[:, None], 2, return_indices=True), [2, 2, 2]),
    }.items()
]

SMOOTH = [
    Unit(name, function, taylor=True)
    for name, function in {
        "elu": lambda x: F.elu(x, 1.3),
        "selu": F.selu,
        "celu": lambda x: F.celu(x, 0.7),
        "softplus": lambda x: F.softplus(x, 2.0),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "logsigmoid": F.logsigmoid,
        "tanhshrink": F.tanhshrink,
        "sigmoid in place": lambda x: x.clone().sigmoid_() + x,
        "smooth in place": lambda x: F.elu(x.clone(), 1.3, inplace=True) + x.clone().tanh_() + F.silu(x.clone(), True),
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
        "mish": F.mish,
        "hardswish": lambda x: F.hardswish(4 * x),
    }.items()
]

FROZEN = [
    Unit("swish by hand", lambda x: x * torch.sigmoid(x)),
    Unit("glu", lambda x: F.glu(x, 1)),
    Unit("gated tanh", lambda x: torch.tanh(x) * torch.sigmoid(x.flip(1))),
    Unit("hardsigmoid gate", lambda x: F.hardsigmoid(x.mean((2, 3), keepdim=True)) * x),
    Unit("softmax gate", lambda x: torch.softmax(x, 1) * x),
    Unit("channel attention", lambda x: torch.einsum("bchw,bdhw->bcdh", torch.softmax(x, 1), x)),
    Unit("instance_norm", lambda x: F.instance_norm(x, weight=x.new_ones(4) * 2, bias=x.new_ones(4), eps=1e-3)),
    Unit("group_norm", lambda x: F.group_norm(x, 2, x.new_ones(4) * 2, x.new_ones(4) / 3)),
    Unit("layer_norm", lambda x: F.layer_norm(x, (8,), x.new_ones(8) * 2, x.new_ones(8) / 3)),
    Unit("rms_norm", lambda x: F.rms_norm(x, (8,), x.new_ones(8) * 2)),
    Unit("batch_norm of the batch", lambda x: F.batch_norm(x, None, None, training=True)),
    Unit("normalize", lambda x: F.normalize(x, dim=1)),
    Unit("wrapped by the input", lambda x: torch.remainder(3.0, x + 4) + torch.fmod(x, x.flip(1) + 4)),
    Unit("decided", lambda x: x * 2 + x.sgn() + torch.heaviside(x, x) + x.floor_divide(0.3) + x.round() + x.trunc()),
    Unit("softmaxes", lambda x: aten._safe_softmax(x, 1) * x + torch._masked_softmax(x, x > 1, 3, 0) * x),
    Unit("norms", lambda x: x / aten.norm.ScalarOpt_dim(x, 2, [1], True)),
    Unit(
        "new tensors",
        lambda x: x + x.new_full((8,), 2.0) * torch.full_like(x, 0.5) + x.new_empty_strided((8,), (1,)).zero_(),
    ),
    Unit("log_softmax", lambda x: F.log_softmax(x, 1) * 2),
    Unit("standardised", lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1)),
    Unit("standardised by the variance", lambda x: x / (x.var(1, keepdim=True) + 0.1).sqrt()),
    Unit(
        "standardised at once",
        lambda x: (lambda sm: (x - sm[1]) / sm[0])(torch.std_mean(x, (2, 3), keepdim=True)),
    ),
    Unit(
        "var_mean",
        lambda x: (lambda vm: (x - vm[1]) * torch.rsqrt(vm[0] + 0.1))(torch.var_mean(x, 1, keepdim=True)),
    ),
    Unit(
        "statistics of the batch",
        lambda x: torch.ops.aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 0.1)[0],
    ),
    Unit("squared relu", lambda x: F.relu(x) ** 2, options={"allow_secant": True}),
    Unit("squared by hand", lambda x: (lambda r: r * r)(F.relu(x)), options={"allow_secant": True}),
    Unit("lp_pool of relu", lambda x: F.lp_pool2d(F.relu(x - 0.5), 3.0, 2), options={"allow_secant": True}),
    Unit(
        "logarithms",
        lambda x: (x.abs() + 1).log2() + (x.abs() + 1).log10() + x.abs().log1p(),
        options={"allow_secant": True},
    ),
    Unit("exponentials", lambda x: x.exp2() + x.expm1() + 1.5**x, options={"allow_secant": True}),
    Unit("reciprocal", lambda x: (x.abs() + 1).reciprocal(), options={"allow_secant": True}),
    Unit("sigmoid ratio", torch.sigmoid, options={"sigmoid": "ratio"}),
    Unit("product with a gate on the left", lambda x: x.flip(1) * x, options={"gate": "left"}),
    Unit("product with a gate on the right", lambda x: x.flip(1) * x, options={"gate": "right"}),
    Unit("exp", torch.exp, options={"allow_secant": True}),
    Unit("log", lambda x: torch.log(x.abs() + 1), options={"allow_secant": True}),
    Unit("power", lambda x: x**3 + (x.abs() + 1).sqrt(), options={"allow_secant": True}),
    Unit("division", lambda x: x / (1 + x.abs()) + 1 / (2 + x.abs()), options={"allow_secant": True}),
]

LINEAR = [
    Unit(name, function, jacobian=True)
    for name, function in {
        "shapes": lambda x: torch.cat([x.flip(2).roll(1, 3), x.mT]).permute(1, 0, 2, 3).reshape(2, -1).repeat(1, 2),
        "views": lambda x: torch.stack([x[:, 0], x.select(1, 1), *x.unbind(1)[2:]], 1).mT.squeeze().unsqueeze(0),
        "split": lambda x: torch.cat([part * (i + 1) for i, part in enumerate(x.split([1, 3], 1))], 1),
        "pads": lambda x: sum(F.pad(x, (1, 2, 1, 0), how) for how in ("constant", "reflect", "replicate", "circular")),
        "pad with ones": lambda x: F.pad(x, (1, 1), value=1.0),
        "pools": lambda x: F.avg_pool2d(x, 3, 2, 1) + F.adaptive_avg_pool2d(x, 4) + F.adaptive_avg_pool2d(x, 1),
        "upsample nearest": lambda x: F.interpolate(x, scale_factor=2),
        "upsample bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        "upsample bicubic": lambda x: F.interpolate(x, size=5, mode="bicubic", antialias=True),
        "pixel shuffle": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 4) + x.reshape(1, 16, 4, 4)[:, :, :1, :1],
        "fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1),
        "sums": lambda x: x.sum((1, 2)) - 3 * x.mean((1, 2)) + (2 - x).cumsum(3).sum((1, 2)) + torch.rsub(x, 1.0)[0, 0],
        "indexing": lambda x: x[:, [2, 0], 1:3, ::2] + x.index_select(1, torch.tensor([3, 3]))[:, :, :2, :4],
        "gather": lambda x: x.gather(1, torch.zeros(1, 2, 8, 8, dtype=torch.long)),
        "matrix product": lambda x: x @ torch.ones(8, 3, dtype=x.dtype) + torch.arange(3, dtype=x.dtype),
        "bmm": lambda x: torch.bmm(x[0], torch.ones(4, 8, 2, dtype=x.dtype).cumsum(1)),
        "grid": lambda x: F.grid_sample(x, x.new_ones(1, 5, 5, 2).cumsum(1) * 0.7 - 1.6, align_corners=False),
        "cast": lambda x: x.float().double() if x.dtype == torch.float32 else x.to(torch.float64),
        "division by a constant": lambda x: x / 3 - x / torch.arange(1, 9, dtype=x.dtype) + torch.ones_like(x) * 2,
    }.items()
]

aten = torch.ops.aten

UNITS = [*PIECEWISE, *SMOOTH, *FROZEN, *LINEAR]


def unit_id(unit: Unit) -> str:
    return unit.name


class Twice(nn.Module):
    """One activation object called twice, in place, in a nested container."""

    def __init__(self, act: nn.Module | None) -> None:
        super().__init__()
        self.act = act
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)))

    def forward(self, x: Tensor) -> Tensor:
        act = self.act or F.relu
        return act(self.body[1](act(self.body[0](x))))


def classifier() -> nn.Module:
    torch.manual_seed(2)
    return (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3),
            nn.ReLU6(),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
        .double()
        .eval()
    )
