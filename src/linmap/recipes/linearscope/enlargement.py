"""Super-resolution networks beside bicubic interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.data.images import embedded_image, luminance, window
from linmap.data.pretrained import fsrcnn
from linmap.interpret.linearscope import AffineInterpreter, LinearScope
from linmap.maps.implicit import SVD
from linmap.pictures import figure, save_svg
from linmap.recipes.linearscope.pictures import show, signed
from linmap.recipes.linearscope.settings import Settings

CROP = 24
CROPS = {
    "camera, flat": ("camera", 80, 56),
    "camera, edge": ("camera", 152, 152),
    "camera, texture": ("camera", 440, 320),
    "coffee, cup": ("coffee", 190, 300),
    "coffee, table": ("coffee", 40, 60),
}


class Bicubic(nn.Module):
    """Bicubic enlargement, the same matrix for every image."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bicubic", antialias=True)


@dataclass(frozen=True)
class Enlargement:
    """What one super-resolution network is on one crop."""

    network: str
    crop: str
    interp: AffineInterpreter
    gains: list[float]
    """Mean row sum of each output phase, 8 input pixels away from the border."""
    similarity: list[float]
    """Cosine between the centre rows and bicubic's."""
    singular: SVD


def read_enlargement(network: str, crop: str, settings: Settings) -> Enlargement:
    model = fsrcnn(2, small=network == "fsrcnn-small-x2").double()
    name, top, left = CROPS[crop]
    x = torch.from_numpy(luminance(window(embedded_image(name), top, left, CROP, CROP)))[None, None]
    interp, bicubic = LinearScope(model).at(x), LinearScope(Bicubic().eval()).at(x)
    response = interp.matvec(torch.ones_like(x))[0, 0, 16:-16, 16:-16]
    gains = [float(response[a::2, b::2].mean()) for a in range(2) for b in range(2)]
    middle = [interp.output_index((0, CROP + dy, CROP + dx)) for dy in range(-2, 2) for dx in range(-2, 2)]
    similarity = F.cosine_similarity(interp.rows(middle), bicubic.rows(middle)).tolist()
    return Enlargement(network, crop, interp, gains, similarity, interp.svd(settings.singular))


def draw_filters(readings: list[Enlargement], path: Path) -> None:
    """Rows at the four phases of the centre pixel, per crop, bicubic's below."""
    shown = [r for r in readings if r.network == "fsrcnn-x2"][:3]
    bicubic = LinearScope(Bicubic().eval()).at(shown[0].interp.input)
    lines = [(r.crop, r.interp) for r in shown] + [("bicubic", bicubic)]
    with figure(7.2, 6.6, nrows=len(lines), ncols=5) as (fig, axes):
        for line, (title, interp) in zip(axes, lines, strict=True):
            show(line[0], interp.input[0, 0].numpy(), "" if title == "bicubic" else title, cmap="gray", vmin=0, vmax=1)
            if title == "bicubic":
                line[0].clear()
                line[0].axis("off")
                line[0].text(0.5, 0.5, "bicubic\n(any image)", ha="center", va="center")
            places = [interp.output_index((0, CROP + dy, CROP + dx)) for dy in range(2) for dx in range(2)]
            for ax, (phase, row) in zip(line[1:], enumerate(interp.as_input(interp.rows(places))), strict=True):
                part = row[0, 4:20, 4:20]
                show(ax, part.numpy(), f"phase {phase // 2}, {phase % 2}", **signed(part))
        fig.suptitle(
            "Filters that write one pixel's four sub-pixels (fsrcnn-x2; red positive, blue negative)", fontsize=11
        )
        save_svg(fig, path)


def draw_eigen(reading: Enlargement, path: Path) -> None:
    with figure(7.2, 3.8, nrows=2, ncols=min(5, len(reading.singular.S)), squeeze=False) as (fig, axes):
        for j, (top, bottom) in enumerate(axes.T):
            v, u = reading.singular.Vh[j].reshape(CROP, CROP), reading.singular.U[:, j].reshape(2 * CROP, 2 * CROP)
            show(top, v.numpy(), f"σ = {float(reading.singular.S[j]):.3f}", **signed(v))
            show(bottom, u.numpy(), **signed(u))
        axes[0, 0].set_ylabel("eigen-input", fontsize=9)
        axes[1, 0].set_ylabel("eigen-output", fontsize=9)
        fig.suptitle(f"Patterns that {reading.network} amplifies most on {reading.crop!r}", fontsize=11)
        save_svg(fig, path)
