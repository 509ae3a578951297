"""How figures read, in the terminal and on the page alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from linmap.experiment.figures import mean_std
from linmap.experiment.result import Metric, Row

NOTHING = "—"
PREFIXES = ("", " k", " M", " G", " T", " P")


def number(value: float | int | None, digits: int = 4) -> str:
    """`value` with a fixed number of digits after the decimal point; a dash where it was not measured."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return _minus(f"{value:,.{digits}f}")


def mean_and_spread(row: Row, metric: Metric) -> str:
    """Mean ± sample standard deviation over seeds; the mean alone with one seed."""
    return _minus(mean_std(row.values.get(metric.name, []), metric.digits))


def count(value: float | int | None) -> str:
    """Three significant digits with an SI prefix: 4518944 is "4.52 M"."""
    if value is None or not math.isfinite(value):
        return NOTHING
    step = 0
    while abs(value) >= 999.5 and step < len(PREFIXES) - 1:
        value, step = value / 1000, step + 1
    return _minus(f"{_three(value) if step else f'{value:.3g}'}{PREFIXES[step]}")


def _three(value: float) -> str:
    """Three significant digits below 1000, the last ones even where they are 0."""
    return f"{value:#.3g}".removesuffix(".") if value else "0"


def duration(seconds: float | int | None) -> str:
    """Seconds in the unit that a reader would choose."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 0.9995:
        return f"{_three(seconds * 1000)} ms"
    if seconds < 99.5:
        return f"{_three(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def any_value(value: object) -> str:
    """A plain cell: text as it is, whole numbers in full, others to four significant digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING if value is None else str(value)
    if isinstance(value, int):
        return _minus(f"{value:,}")
    if not math.isfinite(value):
        return NOTHING
    return _minus(f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:.4g}")


def aligned(values: Sequence[Any]) -> list[str]:
    """The cells of a column: as `any_value`, with the same digits after the decimal point throughout."""
    places = [_places(value) for value in values]
    digits = max((n for n in places if n is not None), default=0)
    return [any_value(value) if n is None else number(value, digits) for value, n in zip(values, places, strict=True)]


def _places(value: object) -> int | None:
    """Digits after the decimal point of a float; None for text, whole numbers, and floats that need an exponent."""
    text = any_value(value)
    return len(text.partition(".")[2]) if isinstance(value, float) and text != NOTHING and "e" not in text else None


def _minus(text: str) -> str:
    """The minus sign is as wide as the digits; the hyphen is not."""
    return text.replace("-", "−")
