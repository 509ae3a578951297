"""One cloud in a text file: `.csv`, `.tsv`, `.txt`, `.xyz`, `.pts`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from linmap.data import require_file
from linmap.data.clouds.point_clouds import GEOGRAPHIC, checked
from linmap.data.compressed import open_bytes
from linmap.errors import DataError

TABLES = (".csv", ".tsv", ".txt", ".xyz", ".pts")
AXES = (("x", "y", "z"), ("x", "y"))
DEGREES = (("lon", "lat"), ("longitude", "latitude"), ("lng", "lat"), ("long", "lat"))
SYMBOL = re.compile(r"[A-Z][a-z]?\d*$")  # of a chemical element


def read_table(path: Path | str) -> tuple[np.ndarray, list[str]]:
    """The points of a text file, one a line, and what was guessed.

    Numbers are divided by commas, semicolons, tabs or blanks. A first line of words names the columns: x, y and z, or
    lon and lat, are taken where they are there, else all. Lines with # or // are comments. An .xyz may begin with its
    number of points and a comment, and each line with a chemical element. Without names, of more than three columns
    the first three are taken, for scanners write colours and normals behind the coordinates.

    Raises
    ------
    DataError
        If it holds no points, or a line that cannot be read; the message names it.
    """
    path = Path(path)
    require_file(path)
    lines = _lines(path)
    notes: list[str] = []
    names: list[str] | None = None
    if _is_count(lines):
        lines = lines[1:] if _is_point(lines[1][1]) else lines[2:]
    elif lines and not any(_numbers([word]) for word in lines[0][1]) and not _is_atom(lines[0][1]):
        names, lines = [word.strip().strip("\"'").lower() for word in lines[0][1]], lines[1:]
    columns = _columns(names, path, notes)
    rows: list[list[float]] = []
    for number, words in lines:
        if names is not None and len(words) != len(names):
            raise DataError(f"{path}, line {number}: {len(words)} values, and the first line names {len(names)}.")
        values = _numbers(words[1:] if _is_atom(words) and names is None else [words[i] for i in columns] or words)
        if values is None:
            raise DataError(f"{path}, line {number}: {' '.join(words)[:60]!r} is no point; expected numbers.")
        if rows and len(values) != len(rows[0]):
            raise DataError(
                f"{path}, line {number}: {len(values)} numbers, where the lines before have {len(rows[0])}."
            )
        rows.append(values)
    if names is None and rows and len(rows[0]) > 3:
        notes.append(f"{path.name}: the first three of {len(rows[0])} columns are the coordinates")
        rows = [row[:3] for row in rows]
    table = np.array(rows, np.float64) if rows else np.zeros((0, 3))
    cloud = checked(table, str(path))
    if names is not None and any(set(pair) <= set(names) for pair in DEGREES):
        notes.append(GEOGRAPHIC.format(name=path.name))
    return cloud, notes


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The words of each line that says something, with its number."""
    with open_bytes(path) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{path}: this is no text; expected a point a line.") from None
    found = []
    divider = next((mark for mark in (";", "\t", ",") if mark in text), None)
    if divider == ";" or (divider == "\t" and path.suffix.lower() != ".csv"):
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)  # 1,5 as it is written where columns are divided by ; or tabs
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].partition("//")[0].strip()
        words = [word.strip() for word in content.split(divider)] if divider else content.split()
        if content:
            found.append((number, words if divider is None else [word for word in words if word] or words))
    return found


def _numbers(words: list[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


def _is_atom(words: list[str]) -> bool:
    """Whether this is a line of a molecule: an element, and its place."""
    return len(words) >= 4 and SYMBOL.match(words[0]) is not None and _numbers(words[1:4]) is not None


def _is_count(lines: list[tuple[int, list[str]]]) -> bool:
    """Whether the first line is the number of points alone."""
    return len(lines) > 2 and len(lines[0][1]) == 1 and lines[0][1][0].isdigit() and len(lines[-1][1]) > 1


def _is_point(words: list[str]) -> bool:
    return _numbers(words) is not None or _is_atom(words)


def _columns(names: list[str] | None, path: Path, notes: list[str]) -> list[int]:
    """The columns that are coordinates by their names; none where the names do not say."""
    wanted = next((axes for axes in (*AXES, *DEGREES) if set(axes) <= set(names or ())), None)
    if names is None or wanted is None:
        return []
    if len(names) > len(wanted):
        notes.append(f"{path.name}: the columns {', '.join(wanted)} of {len(names)} are the coordinates")
    return [names.index(axis) for axis in wanted]
