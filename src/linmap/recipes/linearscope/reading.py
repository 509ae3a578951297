"""`linmap apply linearscope`: somebody's network at somebody's photograph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from linmap.artifacts import write_json
from linmap.data.images import embedded_image, luminance, read_image, square, window
from linmap.interpret.linearscope import AffineInterpreter, LinearScope, bias_split
from linmap.pictures import illustrated
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope.loading import class_names, load_model
from linmap.recipes.linearscope.pictures import draw_outputs, draw_signed, draw_votes
from linmap.recipes.linearscope.settings import SIDE, ApplySettings
from linmap.recipes.linearscope.wording import bias_share_in_words, output_in_words


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Read one photograph's map; write `report.json`, then votes, rows, columns, eigen-inputs and eigen-outputs."""
    out = Path(job.out or "linearscope")
    model, grey = load_model(settings.model)
    x = input_image(settings, job.data, grey or settings.grey)
    with Console(stderr=True).status("reading the network"):
        interp = _scope(model, settings).at(x)
        target = interp.output_index(settings.target) if settings.target is not None else default_target(interp)
        names = class_names(model, settings.model, interp.out_features)
        report = _report(interp, target, names) | {
            "model": settings.model, "image": str(job.data or "embedded photograph"), "pictures": []
        }  # fmt: skip
        write_json(out / "report.json", report)
        summary: dict[str, Any] = {"answer": report["answer"], "biases": report["biases"]}
        summary |= {key: report[key] for key in ("exactness", "bias_share", "target", "target_name")}
        summary |= {key: report[key] for key in ("target_value", "target_residual")}
        report["pictures"] = draw_reading(interp, target, settings.singular, names, out, summary)
        write_json(out / "report.json", report | {"notes": summary.get("notes", [])})
    return summary | {"out": str(out), "files": ["report.json", *report["pictures"]]}


def _scope(model: nn.Module, settings: ApplySettings) -> LinearScope:
    return LinearScope(
        model,
        mode=settings.mode,
        smooth=settings.smooth,
        gate=settings.gate,
        allow_secant=settings.allow_secant,
        strict=settings.strict,
    )


def _report(interp: AffineInterpreter, target: int, names: Mapping[int, str]) -> dict[str, Any]:
    """The answer for one output, as plain JSON values."""
    terms = sorted(bias_split(interp, target), key=lambda term: -abs(term.contribution))
    report = interp.report()
    return report | {
        "answer": output_in_words(interp, target, names.get(target, "")),
        "biases": bias_share_in_words(report["bias_share"]),
        "target": target,
        "target_name": names.get(target),
        "target_value": float(interp.output.flatten()[target]),
        "target_residual": float(interp.residual.flatten()[target]),
        "target_votes": float(interp.votes(target).sum()),
        "largest_bias_terms": [asdict(term) for term in terms[:10]],
    }


def input_image(settings: ApplySettings, path: Path | None, grey: bool) -> Tensor:
    """The photograph as (1, 3, side, side), (pixel - mean) / std, or as (1, 1, side, side) luminance."""
    side = settings.side or (32 if grey else SIDE)
    if grey:
        image = read_image(path) if path else window(embedded_image("camera"), 60, 200, 128, 128)
        return torch.from_numpy(luminance(square(image, side)))[None, None].float()
    return normalised(
        square(read_image(path) if path else embedded_image("chelsea"), side), settings.mean, settings.std
    )


def normalised(image: np.ndarray, mean: float = 127.0, std: float = 128.0) -> Tensor:
    """(height, width, 3) 8-bit values as (1, 3, height, width), (pixel - mean) / std."""
    return (torch.from_numpy(image.copy()).float().permute(2, 0, 1)[None].contiguous() - mean) / std


def default_target(interp: AffineInterpreter) -> int:
    if interp.output.ndim == 4:
        return interp.output_index((0, interp.output.shape[2] // 2, interp.output.shape[3] // 2))
    return int(interp.output.flatten().argmax())


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
    draw_signed([(_title("row", i, names), image) for i, image in zip(rows, images, strict=True)], path,
                "What outputs look at")  # fmt: skip


def _draw_column(interp: AffineInterpreter, target: int, names: Mapping[int, str], path: Path) -> None:
    strongest = int(interp.votes(target).abs().flatten().argmax())
    column = interp.columns([strongest]).mT[0]
    draw_outputs(interp, [(f"column {strongest}", column)], path, "What the strongest voter writes", names)
