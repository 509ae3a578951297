"""Merging by thresholds (ATM, ALGM), which takes more from plain images, beside fixed counts at the same cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from statistics import fmean
from typing import Any

from linmap.compress.token_transforming import (
    AdaptiveMerging,
    LocalGlobalMerging,
    TokenTransform,
    compress,
    solve_stages,
)
from linmap.compress.token_transforming.encoder_handle import CompressedEncoder
from linmap.compress.token_transforming.evaluation.images import Images
from linmap.compress.token_transforming.evaluation.measuring import SAVED, extend
from linmap.compress.token_transforming.evaluation.subject import plain_macs
from linmap.data.image_preparation import read_preparation
from linmap.data.models import load_pretrained
from linmap.data.pretrained import bundled_model
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Runs, Table, Trial, paired
from studies.study import Findings, Job
from studies.token_transforming.common import OURS
from studies.token_transforming.photographs import CORRELATION, Saliency, photographs

WAYS = {"ATM": AdaptiveMerging, "ALGM": LocalGlobalMerging}
THRESHOLDS = {"ATM": (0.9, 0.8, 0.7, 0.6), "ALGM": (0.88, 0.8, 0.7, 0.6)}
LEAST = 2
"""Tokens that a threshold leaves at least."""


def run(job: Job) -> Findings:
    """One photograph at a time, so that nothing waits for the richest of a batch."""
    images, side = (photographs().subset([0, 1]), 42) if job.tiny else (photographs(), 224)
    folder = bundled_model("dinov2-small")
    model = load_pretrained(folder, "encoder", "float32").eval()
    subject = Saliency(model, images, read_preparation(folder).at(side), 1)
    before = [subject.features(number) for number in range(len(subject))]
    experiment = Experiment("token transforming thresholds", job.out / "runs", {"images": images.names}, job.resume)
    runs: dict[str, Runs] = {}
    for name, thresholds in THRESHOLDS.items():
        parts = [Part(f"{value:g}", value) for value in thresholds[: 1 if job.tiny else None]]
        arms = [Arm(name, "baseline", partial(beside, subject, before, name), seeded=False)]
        runs[name] = experiment.run(arms, parts, [0])
    setting = (
        f"DINOv2-small at {side} x {side}, float32, one photograph at a time: {', '.join(images.names)}. ATM merges in "
        f"every block, ALGM in blocks 0 and 4; {OURS} in three blocks with the share that costs as much on average: "
        "3, 6 and 9, or earlier where each had to keep less than a third (`solve_stages`)."
    )
    return Findings(setting, [table(subject, runs)], checks(runs))


def beside(subject: Saliency, before: list[dict[str, Any]], name: str, trial: Trial) -> Outcome:
    """One threshold, and fixed counts at its mean cost."""
    n, depth = subject.tokens, subject.depth
    layers = range(depth) if name == "ATM" else (0, 4)
    transform, full = WAYS[name](threshold=trial.data), plain_macs(subject.model, n)
    with compress(subject.model, schedule=dict.fromkeys(layers, LEAST), transform=transform) as handle:
        theirs, costs = scored(subject, before, handle)
    keep, at = stages_of(subject, fmean(costs) / full)
    with compress(subject.model, stages=(keep, at), transform=TokenTransform()) as handle:
        ours, own = scored(subject, before, handle)
    values = {SAVED: 1 - fmean(costs) / full, f"{SAVED}, {OURS}": 1 - fmean(own) / full, "keep": keep, "first": at[0]}
    values |= {measure: fmean(numbers) for measure, numbers in theirs.items()}
    values |= {f"{measure}, {OURS}": fmean(numbers) for measure, numbers in ours.items()}
    details: Mapping[str, Any] = {"theirs": theirs, "ours": ours, "saved": [1 - cost / full for cost in costs]}
    return Outcome(values, details=details)


def scored(
    subject: Saliency, before: list[dict[str, Any]], handle: CompressedEncoder
) -> tuple[dict[str, list[float]], list[int]]:
    """The scores of every photograph, and its multiply-adds by the tokens that were left."""
    found: dict[str, list[float]] = {}
    costs = []
    for number, one in enumerate(before):
        extend(found, subject.scores(one, subject.features(number, handle), number))
        left = {layer: transform.shape[1] for layer, transform in handle.transforms.items()}
        costs.append(handle.size.macs(subject.tokens, left))
    return found, costs


def stages_of(subject: Images, target: float) -> tuple[float, tuple[int, ...]]:
    """Three stages that cost this part of the plain model's multiply-adds."""
    with compress(subject.model, schedule={}) as handle:
        size = handle.size
    sizes = {"hidden": size.hidden, "patch_features": size.patch_features, "feature_dim": size.feature_dim}
    return solve_stages(target, subject.tokens, size.dim, size.depth, **sizes, protect=size.prefix)


def table(subject: Saliency, runs: Mapping[str, Runs]) -> Table:
    """A line for each way and threshold."""
    rows: list[list[str | float | int]] = []
    measures = [(measure.name, measure.digits) for measure in subject.measures]
    for name, part, run in lines(runs):
        least, most = min(run.details["saved"]), max(run.details["saved"])
        pairs = [
            f"{run.values[one]:.{digits}f} / {run.values[f'{one}, {OURS}']:.{digits}f}" for one, digits in measures
        ]
        gap = paired(run.details["ours"][CORRELATION.name], run.details["theirs"][CORRELATION.name])
        cost = f"-{run.values[SAVED]:.1%} ({least:.0%} to {most:.0%}) / -{run.values[f'{SAVED}, {OURS}']:.1%}"
        at = f"{run.values['keep']:.2f} from block {run.values['first']:.0f}"
        rows.append([name, part, cost, at, *pairs, gap.text()])
    columns = ["way", "threshold", "MACs (least and most of a photograph)", "share that stays"]
    columns += [*(name for name, _ in measures), f"{CORRELATION.name}, difference"]
    note = f"Each cell: the way by thresholds / {OURS} at the same mean cost; the difference with its 95 % interval."
    return Table("Thresholds beside fixed counts", columns, rows, note)


def checks(runs: Mapping[str, Runs]) -> list[Check]:
    """Ahead at the same cost, threshold by threshold."""
    found = []
    for name, part, run in lines(runs):
        ours, theirs = run.values[f"{CORRELATION.name}, {OURS}"], run.values[CORRELATION.name]
        statement = f"{name} at {part} (-{run.values[SAVED]:.0%}): {OURS} keeps at least as much of the saliency map"
        found.append(Check(statement, ours >= theirs, f"{ours:.4f} against {theirs:.4f}", f"{name} is better there"))
    return found


def lines(runs: Mapping[str, Runs]) -> Iterator[tuple[str, str, Any]]:
    """Way, threshold and run."""
    for name, of_way in runs.items():
        for part in of_way.parts:
            yield name, part, of_way.of(name, part)[0]
