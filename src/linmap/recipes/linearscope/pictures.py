"""The pictures of `linmap apply linearscope` and `linmap compare linearscope`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from linmap.interpret.linearscope import AffineInterpreter, draw_outputs, draw_signed, draw_votes
from linmap.pictures import BASELINE, SERIES, SYSTEM, figure, illustrated, save_svg


def draw_deletion(methods: Mapping[str, Sequence[float]], images: Sequence[str], path: Path) -> None:
    """Bars of each method, "before" first, by image."""
    colours = [BASELINE, SYSTEM, *SERIES[1:]]
    with figure(7.2, 3.2) as (fig, ax):
        for m, (method, values) in enumerate(methods.items()):
            places = np.arange(len(images)) + (m - (len(methods) - 1) / 2) * 0.16
            ax.bar(places, values, 0.15, label=method, color=colours[m])
        ax.set_xticks(range(len(images)), images)
        ax.set_ylabel("probability of the top class")
        ax.set_title("Deleting the pixels with the highest scores (lower: the score found what mattered)")
        ax.legend(ncols=3, fontsize=8)
        save_svg(fig, path)


def draw_reading(
    interp: AffineInterpreter, target: int, k: int, names: Mapping[int, str], out: Path, summary: dict[str, Any]
) -> list[str]:
    """Draw votes, rows, columns, eigen-inputs and eigen-outputs into `out`; the names of those that could be drawn."""
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
