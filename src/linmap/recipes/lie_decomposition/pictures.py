"""Pictures of group networks: kernels over the group, invariance along orbits, accuracy against deformation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linmap.experiment import Picture
from linmap.experiment.charts import KINDS, Styles
from linmap.pictures import DIVERGING, SERIES, figure, save_svg
from linmap.shapes.lie_decomposition import GroupSamples, LieResNet, rotation, transform_image

FINE = 41  # pixels of a side of a drawn kernel
SHOWN = 4  # kernels
ANGLES = np.linspace(-180, 180, 25)  # degrees
STRETCHES = np.linspace(0, 0.6, 13)

Logits = Callable[[Tensor], Tensor]


def draw_kernels(model: LieResNet, path: Path) -> Picture:
    """The first kernels of the lifting at each sample of the group, finer than the network sees them."""
    samples = _samples(model)
    layer, count = model.lift, min(SHOWN, model.lift.out_channels)
    values = _kernels(layer, samples)[:count, :, 0]
    g = samples.g
    order = torch.atan2(g[:, 1, 0] - g[:, 0, 1], g[:, 0, 0] + g[:, 1, 1]).argsort().tolist()
    with figure(1.0 * len(samples) + 0.6, 1.0 * count + 0.6, nrows=count, ncols=len(samples), squeeze=False) as (
        fig,
        axes,
    ):
        for row, kernel in zip(axes, values, strict=True):
            most = float(kernel.abs().max())
            for ax, number in zip(row, order, strict=True):
                image = kernel[number].clone()
                image[image == 0] = math.nan
                ax.imshow(image.numpy(), cmap=DIVERGING, vmin=-most, vmax=most, interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                ax.grid(False)
                ax.spines[:].set_visible(False)
        for ax, number in zip(axes[0], order, strict=True):
            ax.set_title(_named(samples.g[number]), fontsize=7.5)
        save_svg(fig, path)
    return Picture(
        path.name,
        "Kernels over the group",
        "Each row is one kernel of the lifting, each column a sample of the group: the same function, turned and "
        "stretched. Above: the angle, and the largest and smallest stretch.",
    )


def _samples(model: LieResNet) -> GroupSamples:
    """Those that are fixed, or some."""
    if model.deterministic:
        return model.first(torch.zeros(1))
    return model.sampler.sample(model.num_samples, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _kernels(layer: Any, samples: GroupSamples) -> Tensor:
    """Kernels (out, N, in, FINE, FINE) on a fine grid."""
    size, layer.kernel_size = layer.kernel_size, FINE
    try:
        return layer._kernel(samples).detach()
    finally:
        layer.kernel_size = size


def _named(g: Tensor) -> str:
    """The angle and the stretches of an element."""
    u, s, vt = torch.linalg.svd(g.double())
    turn = u @ vt
    angle = math.degrees(math.atan2(float(turn[1, 0]), float(turn[0, 0])))
    return f"{angle:.0f}°\n{float(s[0]):.2f}, {float(s[1]):.2f}"


def orbits() -> dict[str, tuple[np.ndarray, list[Tensor]]]:
    """Rotations by angle, and stretches e^r along an axis and e^-r across it, over four axes each."""
    turned = [rotation(torch.tensor(math.radians(angle))) for angle in ANGLES]
    stretched = []
    for r in STRETCHES:
        scale = torch.diag(torch.tensor([math.exp(r), math.exp(-r)], dtype=torch.float32))
        axes = [rotation(torch.tensor(turn * math.pi / 4)).float() for turn in range(4)]
        stretched.append(torch.stack([axis @ scale @ axis.mT for axis in axes]))
    return {
        "rotation in degrees": (ANGLES, [turn[None].float() for turn in turned]),
        "stretch r (by e^r and e^-r)": (STRETCHES, stretched),
    }


@torch.no_grad()
def errors_along(logits: Logits, x: Tensor, elements: Sequence[Tensor]) -> list[float]:
    """|z(L_h f) - z(f)| / |z(f)|, the mean over images and the elements of each place."""
    before = logits(x)
    size = before.norm(dim=1)

    def error(h: Tensor) -> float:
        moved = transform_image(x - x.amin(), h) + x.amin()  # the background is the least value, not 0
        return float(((logits(moved) - before).norm(dim=1) / size).mean())

    return [float(np.mean([error(h) for h in of])) for of in elements]


def errors_of(logits: Logits, x: Tensor) -> dict[str, list[float]]:
    """Along all orbits."""
    return {label: errors_along(logits, x, elements) for label, (_, elements) in orbits().items()}


def draw_errors(errors: Mapping[str, Mapping[str, Any]], path: Path, styles: Styles | None = None) -> Picture:
    """How far logits are from invariant: by network, along each of `orbits`; `styles` of the lines, as `Runs` has."""
    found = orbits()
    with figure(8.6, 3.4, ncols=len(found), sharey=True) as (fig, axes):
        for ax, (label, (places, _)) in zip(axes, found.items(), strict=True):
            for number, (name, along) in enumerate(errors.items()):
                style = (styles or {}).get(name, {"color": SERIES[number % len(SERIES)]})
                ax.plot(places, along[label], label=name, **style)
            ax.set(xlabel=label)
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("|z(moved) - z| / |z|")
        axes[0].set_xticks([-180, -90, 0, 90, 180])
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8.5)
        save_svg(fig, path)
    return Picture(
        path.name,
        "Invariance along orbits",
        "The change of the logits when test images are turned, or stretched along an axis and squeezed across it, "
        "relative to their size; the mean over images. 0 would be invariant.",
    )


def draw_deformation(curves: Mapping[str, Any], strengths: Sequence[float], path: Path, styles: Styles) -> Picture:
    """Accuracy against the strength of the warps; curves are (runs, strengths) by method, with the style of each."""
    with figure(7.2, 3.9) as (fig, ax):
        for name, runs in curves.items():
            values, style = 100 * np.asarray(runs, float), styles[name]
            ax.plot(strengths, values.mean(0), marker="o", markersize=3.5, label=name, **style)
            if len(values) > 1:
                low, high = values.min(0), values.max(0)
                ax.fill_between(strengths, low, high, color=style["color"], alpha=0.14, linewidth=0)
        ax.set(xlabel="strength of the warps", ylabel="accuracy on test images, %")
        fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=8.5)
        save_svg(fig, path)
    return Picture(
        path.name,
        "Accuracy against deformation",
        "All ranges of the random affine maps times the strength: 0 leaves images as they are, 1 is what the table "
        "shows. Bands: the seeds. " + KINDS,
    )
