"""A comparison's result, with the verdict and the report counting the same chances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from linmap.experiment.drawing import Drawing, with_pictures
from linmap.experiment.result import Metric, Result, Row
from linmap.experiment.verdict import verdict


def conclude(
    system: str,
    rows: Sequence[Row],
    metrics: Sequence[Metric],
    settings: Any,
    *,
    over: str = "seeds",
    overlap: float = 0.0,
    pairs: Mapping[str, Sequence[float]] | None = None,
    drawings: Iterable[Drawing] = (),
    **fields: Any,
) -> Result:
    """The result of a comparison that the first metric decides.

    Parameters
    ----------
    system, rows, metrics
        Of the result.
    settings
        A dataclass of flags.
    over, overlap
        What the values of a row are, and what folds share, as in `verdict`.
    pairs
        By method, a value of the first metric for each test image or the like, where chance is counted over these.
    drawings
        The pictures.
    **fields
        What else the result says: `task`, `shows`, `limits`, `seeds`, and perhaps checks, tables, another verdict.
    """
    counted = (
        [replace(row, values={metrics[0].name: list(pairs[row.name])}) for row in rows if row.name in pairs]
        if pairs
        else rows
    )
    said: dict[str, Any] = {"verdict": verdict(counted, metrics[0], over, overlap)} | fields
    found = Result(
        system=system,
        rows=list(rows),
        metrics=list(metrics),
        settings=asdict(settings),
        over=over,
        overlap=overlap,
        pairs={name: list(values) for name, values in (pairs or {}).items()},
        **said,
    )
    return with_pictures(found, drawings)
