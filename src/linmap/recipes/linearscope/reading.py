"""`linmap apply linearscope`: somebody's network at somebody's photograph."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from linmap.artifacts import write_json
from linmap.data.images import embedded_image, luminance, read_image, square, window
from linmap.data.pretrained import efficientnet_lite0, fsrcnn
from linmap.errors import UsageError
from linmap.interpret.linearscope import AffineInterpreter, LinearScope, bias_split
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope.pictures import draw_outputs, draw_signed, draw_votes
from linmap.recipes.linearscope.settings import LABELS, SIDE, ApplySettings


def apply(settings: ApplySettings, job: ApplyJob) -> dict[str, Any]:
    """Read one photograph's map and draw votes, rows, columns, eigen-inputs and eigen-outputs."""
    out = Path(job.out or "linearscope")
    model, grey = load_model(settings.model)
    x = input_image(settings, job.data, grey or settings.grey)
    with Console(stderr=True).status("reading the network"):
        scope = LinearScope(
            model,
            mode=settings.mode,
            smooth=settings.smooth,
            gate=settings.gate,
            allow_secant=settings.allow_secant,
            strict=settings.strict,
        )
        interp = scope.at(x)
        target = interp.output_index(settings.target) if settings.target is not None else default_target(interp)
        files = draw_reading(interp, target, settings.singular, out)
    terms = sorted(bias_split(interp, target), key=lambda term: -abs(term.contribution))
    report = interp.report() | {
        "model": settings.model,
        "image": str(job.data or "embedded photograph"),
        "target": target,
        "target_value": float(interp.output.flatten()[target]),
        "target_residual": float(interp.residual.flatten()[target]),
        "target_votes": float(interp.votes(target).sum()),
        "largest_bias_terms": [asdict(term) for term in terms[:10]],
        "pictures": files,
    }
    write_json(out / "report.json", report)
    return {key: report[key] for key in ("exactness", "bias_share", "target", "target_value", "target_residual")} | {
        "out": str(out),
        "files": [*files, "report.json"],
    }


def load_model(name: str) -> tuple[nn.Module, bool]:
    """A network by name or by import path, and whether it takes one luminance channel.

    Raises
    ------
    UsageError
        If the name is unknown, the import fails, or what it gives is no `nn.Module`.
    """
    if name == "efficientnet-lite0":
        return efficientnet_lite0(), False
    if known := re.fullmatch(r"fsrcnn-(small-)?x([234])", name):
        if known[1] and known[2] != "2":
            raise UsageError("--model: the small FSRCNN is there at x2 only: fsrcnn-small-x2.")
        return fsrcnn(int(known[2]), small=bool(known[1])), True
    if name.endswith((".pt2", ".pt", ".pth", ".pkl", ".bin")):
        raise UsageError(
            f"--model {name}: such files are read through pickle, which can run any code in them. Write a function "
            "that builds the network and loads its weights, and give --model package.module:function."
        )
    if not re.fullmatch(r"[\w.]+:\w+", name):
        raise UsageError(
            f"--model {name!r}: there are efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2, and "
            "package.module:function."
        )
    return _import_model(name), False


def _import_model(name: str) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # the user's own module, as `python -m` would find it
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--model {name}: {error}.") from error
    finally:
        sys.path.pop(0)
    model = function()
    if not isinstance(model, nn.Module):
        raise UsageError(f"--model {name}: the function returned a {type(model).__name__}, not an nn.Module.")
    return model


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


def draw_reading(interp: AffineInterpreter, target: int, k: int, out: Path) -> list[str]:
    """votes, rows, columns, eigen_inputs, eigen_outputs as SVG files in `out`."""
    singular = interp.svd(min(k, interp.in_features, interp.out_features))
    votes = interp.votes(target)
    strongest = int(interp.as_input(votes.flatten()).abs().flatten().argmax())
    photo, name = interp.input, LABELS.get(target, "") if interp.out_features == 1000 else ""
    title = f"output {target}{f' ({name})' if name else ''}"
    draw_votes([(f"{title}: votes", photo, votes)], out / "votes.svg")
    rows = [target, *(int(i) for i in interp.output.flatten().topk(min(4, interp.out_features)).indices if i != target)]
    if interp.output.ndim == 4:  # the sub-pixel phases beside the target
        width = interp.output.shape[-1]
        rows = [i for i in (target, target + 1, target + width, target + width + 1) if i < interp.out_features]
    images = interp.as_input(interp.rows(rows[:4]))
    names = [f"row {i} {LABELS.get(i, '') if interp.out_features == 1000 else ''}" for i in rows]
    draw_signed(list(zip(names, images, strict=False)), out / "rows.svg", "What outputs look at")
    column = interp.columns([strongest]).mT
    draw_outputs(interp, [(f"column {strongest}", column[0])], out / "columns.svg", "What the strongest voter writes")
    inputs = [(f"σ = {s:.3g}", interp.as_input(v)) for s, v in zip(singular.S.tolist(), singular.Vh, strict=True)]
    draw_signed(inputs, out / "eigen_inputs.svg", "Eigen-inputs (right singular vectors)")
    outputs = [(f"σ = {s:.3g}", u) for s, u in zip(singular.S.tolist(), singular.U.mT, strict=True)]
    draw_outputs(interp, outputs, out / "eigen_outputs.svg", "Eigen-outputs (left singular vectors)")
    return ["votes.svg", "rows.svg", "columns.svg", "eigen_inputs.svg", "eigen_outputs.svg"]
