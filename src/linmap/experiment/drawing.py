"""The pictures of a comparison, drawn once everything else of it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from linmap.experiment.result import Picture, Result
from linmap.pictures import illustrated

Drawing = tuple[Path, Callable[[Path], Picture]]


def with_pictures(result: Result, drawings: Iterable[Drawing]) -> Result:
    """The result with its pictures.

    Parameters
    ----------
    result
        Of a comparison, without pictures.
    drawings
        Where each picture goes, and what draws it there. One that cannot be drawn is left out, and the limits of the
        result say why.
    """
    pictures, notes = draw_all(drawings)
    return replace(result, pictures=pictures, limits=" ".join([result.limits, *notes]).strip())


def draw_all(drawings: Iterable[Drawing]) -> tuple[list[Picture], list[str]]:
    """The pictures that could be drawn, and a sentence for each that could not."""
    pictures: list[Picture] = []
    summary: dict[str, Any] = {}
    for target, draw in drawings:
        with illustrated(summary, target) as path:
            pictures.append(draw(path))
    return pictures, summary.get("notes", [])
