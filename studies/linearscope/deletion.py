"""The deletion test on EfficientNet-lite0, with many random masks."""

from __future__ import annotations

from linmap.experiment import Check, Result
from linmap.recipes.job import CompareJob
from linmap.recipes.linearscope.compare import CHANCE, METRIC, NORM, PHOTOS, VOTES, compare
from linmap.recipes.linearscope.flags import Compare
from studies.study import Findings, Job, table_of

TELLING = PHOTOS[:3]
"""On the fourth the class falls whatever is deleted."""


def run(job: Job) -> Findings:
    """As `linmap compare linearscope`, with 50 random masks a photograph."""
    settings = Compare(random_masks=2, side=64) if job.tiny else Compare(random_masks=50)
    result = compare(settings, CompareJob(out=job.out, seed=job.seeds[0], resume=job.resume))
    methods = table_of("The deletion test, mean ± standard deviation over photographs", result.rows, [METRIC])
    tables = [methods, *result.tables]
    checks = [*result.checks, _lowest(result)]
    return Findings(result.task, tables, checks, [result.verdict, result.shows], result.pictures)


def _lowest(result: Result) -> Check:
    rows = {row.name: dict(zip(PHOTOS, row.values[METRIC.name], strict=True)) for row in result.rows}
    lowest = all(rows[VOTES][photo] < min(rows[NORM][photo], rows[CHANCE][photo]) for photo in TELLING)
    figures = [
        f"{photo} {rows[VOTES][photo]:.3f} ({NORM} {rows[NORM][photo]:.3f}, {CHANCE} {rows[CHANCE][photo]:.3f})"
        for photo in TELLING
    ]
    statement = f"deleting by votes lowers the top class most on each of {', '.join(TELLING)}"
    return Check(statement, lowest, "; ".join(figures), "a simpler attribution names the deciding pixels as well")
