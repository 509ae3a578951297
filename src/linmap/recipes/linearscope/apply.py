"""`linmap apply linearscope`: somebody's network at somebody's photograph or text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from linmap.artifacts import write_json
from linmap.data.images import embedded_image, read_image
from linmap.errors import UsageError
from linmap.interpret.linearscope import AffineInterpreter, draw_reading, explained
from linmap.interpret.linearscope.page import Figure, Page, embedded_file, write_page
from linmap.interpret.linearscope.words import default_target
from linmap.pictures import illustrated
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope.apply_text import PAGE, apply_text
from linmap.recipes.linearscope.flags import Apply
from linmap.recipes.linearscope.kinds import is_network, named, reads_text, refuse_folder
from linmap.recipes.linearscope.loading import load_model, model_input, output_names, scope, taken
from linmap.recipes.linearscope.vision import SALIENT, load_vision, pixels_of, refuse_preparation, seen_point

CAPTIONS = {
    "votes.svg": ("Votes", "The picture above; below, what every pixel adds to the output: red for, blue against."),
    "rows.svg": ("What outputs look at", "Rows of F: the filter with which each output reads the picture."),
    "columns.svg": ("What the strongest voter writes", "A column of F: what one pixel adds to every output."),
    "eigen_inputs.svg": (
        "Eigen-inputs of the whole network",
        "The patterns that the network, frozen at this picture, amplifies most (right singular vectors of F).",
    ),
    "eigen_outputs.svg": ("Eigen-outputs", "What the network makes of each of these patterns (left singular vectors)."),
}
LIMITS = (
    "The network was read as one affine map from the pixels to its output, y = F x + r, exact at this picture and held "
    "against the network before this page was written; so the votes and the residual add up.",
    "The map is frozen at this picture: masks, gates, norms and attention keep the values that they took. It does not "
    "say what decided these values, and so not what the network would make of another picture. Votes count from the "
    "input that is zero after normalisation.",
)


def apply(settings: Apply, job: ApplyJob) -> dict[str, Any]:
    """Read one input's map. Of a photograph: page.html, report.json, and votes, rows, columns, eigen-inputs and
    eigen-outputs as pictures. Of a text: page.html, reading.json and tables of tokens and layers."""
    refuse_folder(job.data)
    settings = named(settings, job.data)
    if reads_text(settings, job.data):
        return apply_text(settings, job)
    out = Path(job.out or "linearscope")
    image = read_image(job.data) if job.data else None
    if settings.at is not None and settings.model != SALIENT:
        raise UsageError(f"--at is for {SALIENT}, whose saliency it asks for; use --target.")
    with Console(stderr=True).status("reading the network"):
        photo = photo_of(settings, image)
        interp = scope(photo.model, settings).at(taken(photo.model, photo.x, settings))
        target = target_of(settings, interp, photo)
        names = output_names(photo.model, str(settings.model), interp.out_features)
        report = explained(interp, target, names) | {
            "model": settings.model,
            "image": str(job.data or "embedded photograph"),
            "pictures": [],
        }
        write_json(out / "report.json", report)
        summary: dict[str, Any] = {"answer": report["answer"], "biases": report["biases"]}
        keys = ("exactness", "bias_share", "target", "target_name", "target_value", "target_residual")
        summary |= {key: report[key] for key in keys if report[key] is not None}
        if image is not None:
            summary["image"] = _as_read(image, photo.x)
        report["pictures"] = draw_reading(interp, target, settings.singular, names, out, summary)
        files = ["report.json", *report["pictures"]]
        with illustrated(summary, out / PAGE) as path:
            write_page(page_of(report, photo, out), path)
            files.insert(0, PAGE)
        write_json(out / "report.json", report | {"notes": summary.get("notes", [])})
    return summary | {"out": str(out), "files": files}


# -- the photograph ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Photo:
    """A network with what it is given, and the output that a point of the photograph stands for."""

    model: nn.Module
    x: Tensor
    point: tuple[int, int] | None = None
    """(row, column) in what the model sees."""
    salient: bool = False
    """Whether the most salient point is meant where none is given."""


def photo_of(settings: Apply, image: np.ndarray | None) -> Photo:
    """The network that is named, with an image as it takes it."""
    if is_network(str(settings.model)):
        model, grey = load_model(str(settings.model))
        return Photo(model, model_input(settings, image, grey or settings.grey))
    refuse_preparation(settings)
    model, preparation = load_vision(str(settings.model), settings.side)
    image = embedded_image("chelsea") if image is None else image
    point = None if settings.at is None else seen_point(preparation, image, settings.at)
    return Photo(model, pixels_of(preparation, image), point, settings.model == SALIENT)


def _as_read(image: np.ndarray, x: Tensor) -> str:
    """How many pixels an image of the user's has, and how many the network is given."""
    (height, width), (rows, columns) = image.shape[:2], x.shape[-2:]
    return f"{width} x {height} pixels, read as {columns} x {rows}"


def target_of(settings: Apply, interp: AffineInterpreter, photo: Photo) -> int:
    """The flat index of the output that is explained.

    Raises
    ------
    UsageError
        If --target is no whole number, or stands beside --at.
    """
    if settings.target is not None:
        if photo.point is not None:
            raise UsageError("--target and --at both say which output is meant; give one.")
        if not str(settings.target).lstrip("-").isdecimal():
            raise UsageError(f"--target {settings.target}: an output of this network is named by its flat index.")
        return interp.output_index(int(settings.target))
    if photo.point is not None:
        return interp.output_index((0, *photo.point))
    return int(interp.output.flatten().argmax()) if photo.salient else default_target(interp)


def page_of(report: dict[str, Any], photo: Photo, out: Path) -> Page:
    """The page: the answer, then the pictures that lie in `out`."""
    name = Path(str(report["model"])).name
    what = report["target_name"] or f"output {report['target']}"
    lead = report["answer"][:1].upper() + report["answer"][1:] + "."
    if photo.x.ndim == 4 and photo.salient:
        row, column = divmod(report["target"], photo.x.shape[-1])
        what = f"the saliency at ({column}, {row})"
        value = torch.sigmoid(torch.tensor(report["target_value"])).item()
        lead = lead.replace(f"Output {report['target']}", "Its logit", 1)
        lead = f"The saliency at column {column}, row {row} of what the model sees is {value:.2f}. {lead}"
    figures = [Figure(*CAPTIONS[file], embedded_file(out / file)) for file in report["pictures"]]
    facts = {
        "Model": str(report["model"]),
        "Picture": f"{report['image']}, read as {' x '.join(map(str, photo.x.shape[1:]))}",
        "Exactness": f"max |F x + r − y| / max |y| = {report['exactness']:.1e}",
        "Biases": report["biases"],
        "Held at this picture": ", ".join(f"{count} {unit}" for unit, count in report["units"].items()),
    }
    headline = f"What made {name} say “{what}”" if report["target_name"] else f"What {name} sees: {what}"
    return Page(headline, headline, lead, name, LIMITS, facts, figures=figures)
