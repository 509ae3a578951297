"""One cloud in a text file: `.csv`, `.tsv`, `.txt`, `.xyz`, `.pts`."""

from __future__ import annotations

import csv
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
NUMBERING = ("", "id", "index", "no", "nr", "number", "point", "point_id", "row", "unnamed: 0", "#")
"""Names of columns that number the points."""
COMMA = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?", re.IGNORECASE)
"""A number whose decimals stand behind a comma."""


def read_table(path: Path | str) -> tuple[np.ndarray, list[str]]:
    """The points of a text file, one a line, and what was guessed.

    Numbers are divided by commas, semicolons, tabs or blanks, and may have their decimals behind a comma unless commas
    divide them. A first line of words names the columns: x, y and z, or lon and lat, are taken where they are there,
    else all but one that numbers the points. pandas writes such a column without a name, R without a place in the first
    line, and both are understood. Lines with # or // are comments. An .xyz may begin with its number of points and a
    comment, and each line with a chemical element. Without names, of more than three columns the first three are taken,
    for scanners write colours and normals behind the coordinates; a first column of four or more that counts the points
    is left out.

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
    elif lines and _are_names(lines):
        names, lines = [word.lower() for word in lines[0][1]], lines[1:]
        if lines and all(len(words) == len(names) + 1 for _, words in lines):
            names = ["", *names]
    if names is None:
        _check_decimals(lines, path)
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
        rows = _without_numbers(rows, path, notes)
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
    plain = [(number, line.partition("#")[0].partition("//")[0]) for number, line in enumerate(text.splitlines(), 1)]
    plain = [(number, line.rstrip("\r\n ").lstrip(" ")) for number, line in plain if line.strip()]
    divider = next((mark for mark in (";", "\t", ",") if any(mark in line for _, line in plain)), None)
    last = plain[-1][1].split() if plain else []
    if divider == "," and len(last) > 1 and all(COMMA.fullmatch(word) for word in last):
        divider = None  # blanks divide, and commas are decimal ones
    found = [(number, _words(line, divider)) for number, line in plain]
    if divider in (",", ";") and all(words[-1] == "" for _, words in found):
        found = [(number, words[:-1]) for number, words in found]
    return [(number, words) for number, words in found if words]  # quotation marks alone say nothing


def _words(line: str, divider: str | None) -> list[str]:
    """The cells of a line without quotation marks, decimals behind a point."""
    if divider is None:
        words = line.split()
    elif '"' in line:
        words = next(csv.reader([line], delimiter=divider, skipinitialspace=True))
    else:
        words = line.split(divider)
    if divider == "\t":
        words = [word for word in words if word.strip()]  # tabs in a row are there to align
    words = [word.strip().strip("\"'") for word in words]
    if divider == ",":  # within quotation marks a comma may divide thousands as well
        return words
    return [word.replace(",", ".") if COMMA.fullmatch(word) else word for word in words]


def _check_decimals(lines: list[tuple[int, list[str]]], path: Path) -> None:
    """Refuse decimal commas between columns that are divided by commas: 0,05,-0,3 would be four numbers."""
    if any("." in word for _, words in lines for word in words):
        return
    for number, words in lines:
        if odd := [word for word in words[1:] if re.fullmatch(r"0\d+", word)]:
            raise DataError(
                f"{path}, line {number}: {odd[0]!r} looks like a part of a number with a decimal comma, where commas "
                "divide the columns; divide them by semicolons, or write decimal points."
            )


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
    return len(lines) > 2 and len(lines[0][1]) == 1 and lines[0][1][0].isdecimal() and len(lines[-1][1]) > 1


def _is_point(words: list[str]) -> bool:
    return _numbers(words) is not None or _is_atom(words)


def _are_names(lines: list[tuple[int, list[str]]]) -> bool:
    """Whether the first line names the columns: no number in it, or 0, 1, 2, ... as pandas numbers columns."""
    words = lines[0][1]
    if _is_atom(words):
        return False
    named = words[1:] if words[0] == "" else words
    if named == [str(i) for i in range(len(named))] and len(named) > 1:
        return words[0] == "" or not any(word.isdecimal() for _, others in lines[1:] for word in others)
    return not any(_numbers([word]) for word in words)


def _without_numbers(rows: list[list[float]], path: Path, notes: list[str]) -> list[list[float]]:
    """Without a first column that counts the points, from 0 or 1."""
    if len(rows) < 3 or [row[0] for row in rows] not in (list(range(len(rows))), list(range(1, len(rows) + 1))):
        return rows
    notes.append(f"{path.name}: the first of {len(rows[0])} columns counts the points and is left out")
    return [row[1:] for row in rows]


def _columns(names: list[str] | None, path: Path, notes: list[str]) -> list[int]:
    """The columns that are coordinates by their names, else those that do not number the points; none without names."""
    wanted = next((axes for axes in (*AXES, *DEGREES) if set(axes) <= set(names or ())), None)
    if names is None:
        return []
    if wanted is None:
        kept = [i for i, name in enumerate(names) if name not in NUMBERING]
        notes.append(f"{path.name}: all coordinates are {', '.join(names[i] for i in kept)}")
        return kept
    if len(names) > len(wanted):
        notes.append(f"{path.name}: the columns {', '.join(wanted)} of {len(names)} are the coordinates")
    return [names.index(axis) for axis in wanted]
