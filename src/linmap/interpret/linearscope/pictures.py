"""Pictures of a reading: votes over the input, rows, columns and singular vectors, as SVG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linmap.interpret.linearscope.interpreter import AffineInterpreter
from linmap.pictures import DIVERGING, SYSTEM, figure, illustrated, save_svg


def show(ax: Any, image: np.ndarray, title: str = "", **options: Any) -> None:
    """One image in a panel without axes."""
    ax.imshow(image, **options)
    ax.set_title(title, fontsize=9)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def as_photo(x: Tensor) -> np.ndarray:
    """An input stretched to [0, 1], (height, width, 3); grey where it has not three channels."""
    image = x[0].detach().cpu().double()
    image = image if len(image) == 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp_min(1e-12)).permute(1, 2, 0).numpy()


def signed(image: Tensor) -> dict[str, Any]:
    """A diverging scale around zero that the largest 0.1 % of the values saturate."""
    reach = float(image.abs().flatten().double().quantile(0.999)) or 1.0
    return {"cmap": DIVERGING, "vmin": -reach, "vmax": reach}


def plane(image: Tensor) -> Tensor:
    """Channels added up: (C, H, W) -> (H, W)."""
    return image.detach().cpu().reshape(-1, *image.shape[-2:]).sum(0)


def smoothed(image: Tensor) -> Tensor:
    """A Gaussian blur by a hundredth of the image, for votes drawn over a photograph."""
    sigma = max(image.shape) / 100
    reach = torch.arange(-6, 7).to(image)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    blurred = F.conv2d(image[None, None], kernel.reshape(1, 1, -1, 1), padding=(6, 0))
    return F.conv2d(blurred, kernel.reshape(1, 1, 1, -1), padding=(0, 6))[0, 0]


def draw_votes(panels: list[tuple[str, Tensor, Tensor]], path: Path | str) -> None:
    """Inputs above, votes over the grey input below.

    Parameters
    ----------
    panels
        A title, an input (1, C, H, W) and its votes (C, H, W) each.
    path
        Of the SVG file.
    """
    with figure(2.3 * max(len(panels), 2), 4.9, nrows=2, ncols=len(panels), squeeze=False) as (fig, axes):
        for (top, bottom), (title, x, votes) in zip(axes.T, panels, strict=True):
            photo, heat = as_photo(x), smoothed(plane(votes).float())
            show(top, photo, title)
            show(bottom, overlaid(photo, heat.numpy()))
            bottom.set_xlabel("votes: red for, blue against", fontsize=8)
        _save(fig, path, 54)


def overlaid(photo: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A signed map in colour over the pale grey photograph, (height, width, 3)."""
    import matplotlib

    reach = float(np.quantile(np.abs(heat), 0.995)) or 1.0
    colour = matplotlib.colormaps[DIVERGING](heat / reach / 2 + 0.5)[..., :3]
    strength = np.clip(np.abs(heat) / reach, 0, 1)[..., None]
    return (1 - strength) * (photo.mean(2, keepdims=True) * 0.5 + 0.5) + strength * colour


def draw_signed(panels: list[tuple[str, Tensor]], path: Path | str, title: str) -> None:
    """Signed images (C, H, W) with their names side by side, channels added up: red positive, blue negative."""
    with figure(2.0 * max(len(panels), 2), 2.5, ncols=len(panels), squeeze=False) as (fig, axes):
        for ax, (name, image) in zip(axes[0], panels, strict=True):
            show(ax, plane(image).numpy(), name, **signed(plane(image)))
        fig.suptitle(title, fontsize=11)
        _save(fig, path, 80 if max(panels[0][1].shape[-2:]) > 100 else 100)


def draw_outputs(
    interp: AffineInterpreter, panels: list[tuple[str, Tensor]], path: Path | str, title: str, names: Mapping[int, str]
) -> None:
    """Vectors of outputs with their names, as images where the output is one; else as lines, the strongest entries
    called as `names` says."""
    if interp.output.ndim == 4:
        draw_signed([(name, interp.as_output(u)) for name, u in panels], path, title)
        return
    with figure(7.2, 1.6 * len(panels) + 0.6, nrows=len(panels), squeeze=False) as (fig, axes):
        for ax, (name, u) in zip(axes[:, 0], panels, strict=True):
            values = u.detach().cpu().flatten().numpy()
            ax.plot(values, color=SYSTEM, linewidth=0.6)
            for i in np.abs(values).argsort()[-3:]:
                ax.annotate(names.get(int(i), str(i)), (i, values[i]), fontsize=8, ha="center")
            ax.set_ylabel(name, fontsize=8)
        axes[-1, 0].set_xlabel("output")
        fig.suptitle(title, fontsize=11)
        save_svg(fig, path)


def _save(fig: Any, path: Path | str, dots: int) -> None:
    """As SVG, with so many dots an inch for the images in it."""
    import matplotlib

    with matplotlib.rc_context({"savefig.dpi": dots}):
        save_svg(fig, path)


# -- a whole reading ---------------------------------------------------------------------------------------------------


def draw_reading(
    interp: AffineInterpreter, target: int, k: int, names: Mapping[int, str], out: Path, summary: dict[str, Any]
) -> list[str]:
    """Draw votes, rows, columns, eigen-inputs and eigen-outputs of a reading.

    Parameters
    ----------
    interp, target
        The reading, and the flat index of the output to explain.
    k
        How many singular triplets; none for 0.
    names
        Names of the outputs by index.
    out
        Folder of the SVG files.
    summary
        Receives as `notes` why a picture could not be drawn.

    Returns
    -------
    list[str]
        The files that could be drawn.
    """
    found = cache(lambda: interp.svd(min(k, interp.in_features, interp.out_features)))
    drawings: dict[str, Callable[[Path], None]] = {
        "votes.svg": lambda path: draw_votes(
            [(f"{_title('output', target, names)}: votes", interp.input, interp.votes(target))], path
        ),
        "rows.svg": lambda path: _draw_rows(interp, target, names, path),
        "columns.svg": lambda path: _draw_column(interp, target, names, path),
        "eigen_inputs.svg": lambda path: draw_signed(
            [(f"σ = {s:.3g}", interp.as_input(v)) for s, v in zip(found().S.tolist(), found().Vh, strict=True)],
            path,
            "Eigen-inputs (right singular vectors)",
        ),
        "eigen_outputs.svg": lambda path: draw_outputs(
            interp,
            [(f"σ = {s:.3g}", u) for s, u in zip(found().S.tolist(), found().U.mT, strict=True)],
            path,
            "Eigen-outputs (left singular vectors)",
            names,
        ),
    }
    drawn = []
    for name, draw in drawings.items():
        if k < 1 and name.startswith("eigen"):
            continue
        with illustrated(summary, out / name) as path:
            draw(path)
            drawn.append(name)
    return drawn


def _title(what: str, index: int, names: Mapping[int, str]) -> str:
    return f"{what} {index} ({names[index]})" if index in names else f"{what} {index}"


def _draw_rows(interp: AffineInterpreter, target: int, names: Mapping[int, str], path: Path) -> None:
    """What the target and the strongest other outputs look at; in an image, the sub-pixel phases beside the target."""
    strongest = interp.output.flatten().topk(min(4, interp.out_features)).indices.tolist()
    rows = [target, *(i for i in strongest if i != target)][:4]
    if interp.output.ndim == 4:
        width = interp.output.shape[-1]
        rows = [i for i in (target, target + 1, target + width, target + width + 1) if i < interp.out_features]
    images = interp.as_input(interp.rows(rows))
    draw_signed(
        [(_title("row", i, names), image) for i, image in zip(rows, images, strict=True)], path, "What outputs look at"
    )


def _draw_column(interp: AffineInterpreter, target: int, names: Mapping[int, str], path: Path) -> None:
    strongest = int(interp.votes(target).abs().flatten().argmax())
    column = interp.columns([strongest]).mT[0]
    draw_outputs(interp, [(f"column {strongest}", column)], path, "What the strongest voter writes", names)
