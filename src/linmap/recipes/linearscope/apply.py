"""`linmap apply linearscope`: somebody's network at somebody's photograph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from linmap.artifacts import write_json
from linmap.data.images import read_image
from linmap.interpret.linearscope import AffineInterpreter, bias_share_in_words, bias_split, output_in_words
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope.flags import Apply
from linmap.recipes.linearscope.loading import load_model, model_input, output_names, scope
from linmap.recipes.linearscope.pictures import draw_reading


def apply(settings: Apply, job: ApplyJob) -> dict[str, Any]:
    """Read one photograph's map; write `report.json`, then votes, rows, columns, eigen-inputs and eigen-outputs."""
    out = Path(job.out or "linearscope")
    model, grey = load_model(settings.model)
    x = model_input(settings, read_image(job.data) if job.data else None, grey or settings.grey)
    with Console(stderr=True).status("reading the network"):
        interp = scope(model, settings).at(x)
        target = interp.output_index(settings.target) if settings.target is not None else default_target(interp)
        names = output_names(model, settings.model, interp.out_features)
        report = _report(interp, target, names) | {
            "model": settings.model,
            "image": str(job.data or "embedded photograph"),
            "pictures": [],
        }
        write_json(out / "report.json", report)
        summary: dict[str, Any] = {"answer": report["answer"], "biases": report["biases"]}
        keys = ("exactness", "bias_share", "target", "target_name", "target_value", "target_residual")
        summary |= {key: report[key] for key in keys if report[key] is not None}
        report["pictures"] = draw_reading(interp, target, settings.singular, names, out, summary)
        write_json(out / "report.json", report | {"notes": summary.get("notes", [])})
    return summary | {"out": str(out), "files": ["report.json", *report["pictures"]]}


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


def default_target(interp: AffineInterpreter) -> int:
    if interp.output.ndim == 4:
        return interp.output_index((0, interp.output.shape[2] // 2, interp.output.shape[3] // 2))
    return int(interp.output.flatten().argmax())
