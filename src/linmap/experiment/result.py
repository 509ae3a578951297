"""What a comparison found: a table of methods, pictures, and plain sentences; `result.json` in a folder."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from linmap.artifacts import machine, plain, said, versions, write_json
from linmap.data.door import load_json
from linmap.data.schema import Range, check_fields
from linmap.errors import ArtifactError, DataError

FORMAT = 1
RESULT, FAILURE = "result.json", "failure.json"
Kind = Literal["system", "baseline", "ablation", "reference"]
"""Of a method. A reference is what all others are measured against, such as the model that they compress; it wins
nothing."""


@dataclass(frozen=True)
class Metric:
    """One column: its name, its unit if it has one, and which way is better."""

    name: str
    better: Literal["lower", "higher", "neither"] = "lower"
    unit: str = ""
    digits: Annotated[int, Range(0, 19)] = 4
    """Digits after the decimal point in tables."""


@dataclass(frozen=True)
class Row:
    """One method on the shared task: a value per seed for each metric, and what it cost."""

    name: str
    kind: Kind
    values: dict[str, list[float]]
    parameters: int | None = None
    """Trainable parameters."""
    flops: int | None = None
    """Floating-point operations of one prediction."""
    seconds: float | None = None
    """Wall-clock time for one seed."""
    note: str = ""

    def mean(self, metric: str) -> float:
        """Mean over seeds; NaN where this method has no value, or where a seed failed."""
        values = self.values.get(metric)
        return statistics.fmean(values) if values else math.nan

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
        values = self.values.get(metric, [])
        return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


@dataclass(frozen=True)
class Table:
    """A further table: plain cells under a heading."""

    title: str
    columns: list[str]
    rows: list[list[str | float | int]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image file beside `result.json`."""

    file: str
    title: str
    caption: str
    """What to see in it; also the text for those who cannot."""


@dataclass(frozen=True)
class Check:
    """A statement that the run either bears out or does not, with the figures."""

    statement: str
    passed: bool
    figures: str
    otherwise: str
    """What it would mean if the statement did not hold: a clause without a capital or a full stop."""
    certain: bool = True
    """Whether it is more than chance that the statement holds or does not; otherwise it is shown without colour."""


class Headline(NamedTuple):
    """The first metric that has a better side: the system at its best, and the best of its baselines."""

    metric: Metric
    system: Row
    baseline: Row | None


@dataclass(frozen=True)
class Result:
    """One comparison of a system with its baselines."""

    system: str
    task: str
    """Data, split and budget in one sentence."""
    metrics: list[Metric]
    rows: list[Row]
    shows: str
    """What this run shows, in plain words."""
    limits: str
    """What it does not show."""
    checks: list[Check] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    verdict: str = ""
    """What to take, by how much and how sure, in plain words."""
    overlap: float = 0.0
    """Test samples over training samples where the runs are folds of one cross-validation, as in `paired`."""
    over: str = "runs"
    """What chance is counted over: what the values of a row are, or those of `pairs`."""
    pairs: dict[str, list[float]] = field(default_factory=dict)
    """By method, the first metric for each test image or the like, where chance is counted over these and not over the
    values of a row."""
    command: str = ""
    seeds: list[int] = field(default_factory=list)
    seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)
    machine: str = field(default_factory=machine)
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """When, in UTC (ISO 8601)."""
    format: int = FORMAT

    def best(self, metric: Metric, kind: str | None = None) -> list[Row]:
        """The rows with the best mean, of one kind or of all but references; several where they tie, or none if no
        side is better."""
        of_kind = (row for row in self.rows if row.kind == kind or (kind is None and row.kind != "reference"))
        rows = [row for row in of_kind if math.isfinite(row.mean(metric.name))]
        if metric.better == "neither" or not rows:
            return []
        choose = min if metric.better == "lower" else max
        value = choose(row.mean(metric.name) for row in rows)
        return [row for row in rows if row.mean(metric.name) == value]

    def headline(self) -> Headline | None:
        """The figures for a line about this result; None where the system has no metric with a better side."""
        for metric in self.metrics:
            if systems := self.best(metric, "system"):
                return Headline(metric, systems[0], next(iter(self.best(metric, "baseline")), None))
        return None

    def paired_values(self, row: Row, metric: Metric) -> list[float]:
        """The values of a method by which it is compared with another, pair by pair."""
        return self.pairs.get(row.name, []) if self.pairs and metric == self.metrics[0] else row.values[metric.name]

    def save(self, folder: Path | str) -> Path:
        """Write `result.json` into `folder`, atomically; a measurement that is not finite is written as null."""
        path = Path(folder) / RESULT
        write_json(path, plain(self))
        return path

    @classmethod
    def load(cls, folder: Path | str) -> Result:
        """Read `folder/result.json`.

        Raises
        ------
        ArtifactError
            If there is none, or it cannot be read.
        """
        raw = _read(Path(folder) / RESULT)
        raw.pop("preset", None)  # of earlier versions
        parts = {"metrics": Metric, "rows": Row, "checks": Check, "tables": Table, "pictures": Picture}
        try:
            for check in raw["checks"]:
                check.setdefault("otherwise", "")  # results of earlier versions do not say
            for row in raw["rows"]:
                for values in row["values"].values():
                    values[:] = [math.nan if value is None else value for value in values]
            for name, part in parts.items():
                raw[name] = [part(**item) for item in raw[name]]
        except (KeyError, TypeError, AttributeError) as error:
            raise _unreadable(Path(folder) / RESULT, said(error)) from None
        return _construct(cls, Path(folder) / RESULT, raw)


@dataclass(frozen=True)
class Failure:
    """A comparison that ended with an error; `failure.json` in the folder where `result.json` would be."""

    system: str
    error: str
    """The error in one line."""
    command: str
    seconds: float | None = None
    versions: dict[str, str] = field(default_factory=versions)
    machine: str = field(default_factory=machine)
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    format: int = FORMAT

    def save(self, folder: Path | str) -> Path:
        """Write `failure.json` into `folder`, atomically."""
        path = Path(folder) / FAILURE
        write_json(path, plain(self))
        return path

    @classmethod
    def load(cls, folder: Path | str) -> Failure:
        """Read `folder/failure.json`; raises ArtifactError where it cannot."""
        raw = _read(Path(folder) / FAILURE)
        raw.pop("preset", None)  # of earlier versions
        return _construct(cls, Path(folder) / FAILURE, raw)


Outcome = TypeVar("Outcome", Result, Failure)


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, of a format that this version reads."""
    try:
        raw = load_json(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{path.parent} holds no {path.name}; `linmap compare` writes one.") from None
    except DataError as error:
        raise _unreadable(path, str(error)) from None
    if not isinstance(raw, dict) or type(raw.get("format")) is not int:
        raise _unreadable(path, "it names no format")
    if raw["format"] > FORMAT:
        raise ArtifactError(f"{path} has format {raw['format']}, this linmap reads up to {FORMAT}; upgrade linmap.")
    return raw


def _construct(kind: type[Outcome], path: Path, raw: dict[str, Any]) -> Outcome:
    try:
        outcome = kind(**raw)
        check_fields(outcome)
        datetime.fromisoformat(outcome.finished)
    except (TypeError, ValueError, OverflowError) as error:
        raise _unreadable(path, said(error)) from None
    return outcome


def _unreadable(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be read as the outcome of a comparison ({reason.rstrip('.')}); run the comparison again."
    )
