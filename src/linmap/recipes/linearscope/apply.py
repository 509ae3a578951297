"""`linmap apply linearscope`: somebody's network at somebody's photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from linmap.artifacts import write_json
from linmap.data.images import read_image
from linmap.interpret.linearscope import draw_reading, explained
from linmap.interpret.linearscope.words import default_target
from linmap.recipes.job import ApplyJob
from linmap.recipes.linearscope.flags import Apply
from linmap.recipes.linearscope.loading import load_model, model_input, output_names, scope


def apply(settings: Apply, job: ApplyJob) -> dict[str, Any]:
    """Read one photograph's map; write `report.json`, then votes, rows, columns, eigen-inputs and eigen-outputs."""
    out = Path(job.out or "linearscope")
    model, grey = load_model(settings.model)
    x = model_input(settings, read_image(job.data) if job.data else None, grey or settings.grey)
    with Console(stderr=True).status("reading the network"):
        interp = scope(model, settings).at(x)
        target = interp.output_index(settings.target) if settings.target is not None else default_target(interp)
        names = output_names(model, settings.model, interp.out_features)
        report = explained(interp, target, names) | {
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
