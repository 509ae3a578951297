"""Samples of a stream from lines of text, each as soon as it is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from linmap.errors import DataError

BYTE_ORDER_MARKS = ("\ufeff", "ï»¿")
EMPTY_CELL = re.compile(r"^\s*,|,\s*,")
MISSING = {"", "-", "?", "na", "n/a", "#n/a", "nan", "nil", "none", "null"}


def read_samples(lines: Iterable[str], channels: int, source: str = "standard input") -> Iterator[np.ndarray]:
    """The samples of a stream, one a line, each as soon as its line is there.

    Parameters
    ----------
    lines
        A line holds one number for each channel, separated by commas or spaces; a byte order mark, lines that are empty
        or begin with #, and a header (a first line of names) are passed over.
    channels
        Channels of a sample.
    source
        For messages.

    Raises
    ------
    DataError
        If a line is not a sample; the message names it.
    """
    began = False
    for number, line in enumerate(lines, start=1):
        line = _without_mark(line) if number == 1 else line
        cells = line.replace(",", " ").split()
        if not cells or cells[0].startswith("#"):
            continue
        try:
            values = np.array(cells, np.float64)
        except ValueError:
            if not began and all(map(_is_name, cells)):
                began = True
                continue
            hint = " (separate the numbers of a sample by commas, with points in them)" if ";" in line else ""
            raise DataError(f"{source}, line {number}: {line.strip()!r} is no list of numbers{hint}.") from None
        began = True
        if len(values) != channels or not np.isfinite(values).all() or EMPTY_CELL.search(line):
            raise DataError(
                f"{source}, line {number}: a sample has {channels} finite numbers, got {line.strip()!r}; correct it "
                "and go on from there."
            )
        yield values


def _without_mark(line: str) -> str:
    """A first line without the byte order mark, whether it was decoded as UTF-8 or byte by byte."""
    for mark in BYTE_ORDER_MARKS:
        line = line.removeprefix(mark)
    return line


def _is_name(cell: str) -> bool:
    """Whether a cell of the first line can be the name of a channel: it has a letter, and is no number, nor what stands
    for a missing one, since the line is passed over then."""
    bare = cell.strip("\"'").lower()
    try:
        float(bare)
    except ValueError:
        return bare not in MISSING and any(map(str.isalpha, bare))
    return False
