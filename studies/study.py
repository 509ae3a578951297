"""What a study is: protocols, each a question with a function that answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from linmap.experiment import Check, Picture, Row, Table
from linmap.experiment.figures import mean_std
from linmap.experiment.result import Metric


@dataclass(frozen=True)
class Job:
    """One run of a protocol."""

    out: Path
    """Folder of the protocol: finished runs, pictures."""
    seeds: Sequence[int] = (0, 1, 2)
    tiny: bool = False
    """A few rows, one seed, one epoch: whether it runs at all, as the tests do."""
    resume: bool = True
    """Go on from finished runs in `out`."""


@dataclass
class Findings:
    """What a protocol found."""

    setting: str
    """Data, split and budget in one sentence."""
    tables: list[Table] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    """Files below the folder of the protocol."""


@dataclass(frozen=True)
class Protocol:
    """One question of a paper."""

    name: str
    """On the command line: `python -m studies gbwbn hdm05`."""
    question: str
    run: Callable[[Job], Findings]
    needs: str = ""
    """Data that linmap does not carry, such as "HDM05 whole, in LINMAP_DATA"."""


def table_of(title: str, rows: Sequence[Row], metrics: Sequence[Metric], note: str = "") -> Table:
    """Rows of an experiment as a table of mean ± std."""
    cells: list[list[str | float | int]] = [
        [row.name, *(mean_std(row.values.get(metric.name, []), metric.digits) for metric in metrics), row.note]
        for row in rows
    ]
    headings = [f"{metric.name} ({metric.unit})" if metric.unit else metric.name for metric in metrics]
    return Table(title, ["method", *headings, "note"], cells, note)
