"""What a column and a row of F cost on EfficientNet-lite0."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from linmap.data.images import embedded_image, square
from linmap.data.pretrained import efficientnet_lite0
from linmap.experiment import Arm, Check, Experiment, Metric, Outcome, Part, Trial
from linmap.interpret.linearscope import LinearScope
from linmap.recipes.linearscope.loading import SIDE, normalised
from studies.study import Findings, Job, table_of

BAR = 1.5
"""Forward passes that a column may cost."""


def run(job: Job) -> Findings:
    """Medians of turns, as many times as there are seeds."""
    side, batch, repeats = (64, 2, 1) if job.tiny else (SIDE, 16, 3)
    settings = {"side": side, "batch": batch, "repeats": repeats}
    experiment = Experiment("linearscope cost", job.out / "runs", settings, job.resume)
    metrics = [Metric(name, "lower", "ms", digits=1) for name in ("forward pass", "column of a batch", "column", "row")]
    arm = Arm("LinearScope", "system", lambda trial: _measured(trial, side, batch, repeats))
    runs = experiment.run([arm], [Part("", None)], job.seeds)
    means = {metric.name: runs.mean(arm.name, metric.name) for metric in metrics}
    ratios = {name: value / means["forward pass"] for name, value in means.items() if name != "forward pass"}
    figures = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    check = Check(f"a column of a batch costs at most {BAR} forward passes", ratios["column of a batch"] <= BAR,
                  figures, "columns are too dear to read many of them")  # fmt: skip
    setting = f"EfficientNet-lite0 at {side} x {side}, batches of {batch} columns, medians of {repeats} turns."
    return Findings(setting, [table_of("Milliseconds", runs.rows(metrics), metrics)], [check])


def _measured(trial: Trial, side: int, batch: int, repeats: int) -> Outcome:
    """Milliseconds of each kind of work, `batch` of it in turns with the others."""
    model, x = efficientnet_lite0(), normalised(square(embedded_image("chelsea"), side))
    interp = LinearScope(model).at(x)
    work: dict[str, Callable[[], object]] = {
        "forward pass": lambda: [model(x) for _ in range(batch)],
        "column of a batch": lambda: interp.columns(range(batch), batch),
        "column": lambda: [interp.columns([i]) for i in range(batch)],
        "row": lambda: [interp.row(i) for i in range(batch)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    with torch.no_grad():
        interp.row(0)  # builds the graph that all rows share
        for _ in range(repeats):
            for name, function in work.items():
                start = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - start)
    return Outcome({name: 1000 * float(np.median(samples)) / batch for name, samples in seconds.items()})
