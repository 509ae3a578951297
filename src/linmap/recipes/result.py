"""What a comparison found: a table of methods, pictures, and plain sentences; `result.json` in a folder."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from linmap.artifacts import versions, write_json
from linmap.errors import ArtifactError

FORMAT = 1


@dataclass(frozen=True)
class Metric:
    """One column: its name, its unit if it has one, and which way is better."""

    name: str
    better: Literal["lower", "higher", "neither"] = "lower"
    unit: str = ""
    digits: int = 4
    """Digits after the decimal point in tables."""


@dataclass(frozen=True)
class Row:
    """One method on the shared task: a value per seed for each metric, and what it cost."""

    name: str
    kind: Literal["system", "baseline", "ablation"]
    values: dict[str, list[float]]
    parameters: int | None = None
    """Trainable parameters."""
    flops: int | None = None
    """Floating-point operations of one prediction."""
    seconds: float | None = None
    """Wall-clock time for one seed."""
    note: str = ""

    def mean(self, metric: str) -> float:
        return statistics.fmean(self.values[metric])

    def std(self, metric: str) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
        values = self.values[metric]
        return statistics.stdev(values) if len(values) > 1 else None


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
    preset: str = "quick"
    command: str = ""
    seeds: list[int] = field(default_factory=list)
    seconds: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)
    format: int = FORMAT

    def save(self, folder: Path | str) -> Path:
        """Write `result.json` into `folder`, atomically."""
        path = Path(folder) / "result.json"
        write_json(path, _finite(asdict(self)))
        return path

    @classmethod
    def load(cls, folder: Path | str) -> Result:
        """Read `folder/result.json`.

        Raises
        ------
        ArtifactError
            If there is none, or it cannot be read.
        """
        path = Path(folder) / "result.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            if raw["format"] > FORMAT:
                raise ArtifactError(f"{path} has format {raw['format']}, this linmap reads up to {FORMAT}; upgrade it.")
            parts = {"metrics": Metric, "rows": Row, "checks": Check, "tables": Table, "pictures": Picture}
            for name, part in parts.items():
                raw[name] = [part(**item) for item in raw[name]]
            return cls(**raw)
        except FileNotFoundError:
            raise ArtifactError(f"{folder} holds no result.json; `linmap compare` writes one.") from None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} cannot be read as a result ({error}); run the comparison again.") from None


def _finite(value: Any) -> Any:
    """JSON has no NaN: a measurement that failed is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
