"""TSPLIB files: instances of the travelling salesman problem, tours, and their lengths as TSPLIB counts them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int, Int64

from linmap.artifacts import write_text
from linmap.data import require_file
from linmap.data.door import read_bytes, read_text, understood
from linmap.errors import DataError

EARTH = 6378.388
"""Kilometres, as TSPLIB has it (GEO)."""
OPTIMA = "optimal.csv"
LARGEST = 1e12
"""Between coordinates, up to which float64 counts lengths of tours in whole units."""
KEYWORD = re.compile("[A-Z0-9_]+")
EXPLICIT = (
    "{path}: EDGE_WEIGHT_TYPE EXPLICIT gives distances and no coordinates, and points are wanted; embed the matrix "
    "first, by multi-dimensional scaling."
)


@dataclass(frozen=True, eq=False)
class TspInstance:
    """Cities, and how TSPLIB measures between them."""

    name: str
    points: Float64[np.ndarray, "n d"]
    kind: str = "EUC_2D"
    """EDGE_WEIGHT_TYPE."""

    def __len__(self) -> int:
        return len(self.points)

    def distances(self) -> Float64[np.ndarray, "n n"]:
        """Between all cities, rounded as the type says."""
        return KINDS[self.kind](self.points[:, None], self.points[None])

    def length(self, tour: Int[np.ndarray, " n"] | Sequence[int]) -> int:
        """Of a closed tour, as TSPLIB counts it.

        Raises
        ------
        DataError
            If the tour does not visit every city once.
        """
        tour = np.asarray(tour)
        if sorted(tour.tolist()) != list(range(len(self))):
            raise DataError(f"{self.name}: a tour visits each of {len(self)} cities once; this one does not.")
        return int(KINDS[self.kind](self.points[tour], self.points[np.roll(tour, -1)]).sum())


def read_tsp(path: Path | str) -> TspInstance:
    """A `.tsp` file with coordinates: EUC_2D, EUC_3D, CEIL_2D, MAN_2D, MAX_2D, ATT or GEO.

    Cities are in the order of their numbers, whatever the order of the lines, so that city i of a tour is number i + 1.

    Raises
    ------
    DataError
        If the file is cut off, of another kind (a vehicle routing problem, distances in place of coordinates), its
        cities are not numbered from 1 to n, or a coordinate is no finite number or too large to count with.
    """
    path = Path(path)
    head, sections = _parts(path)
    kind = head.get("EDGE_WEIGHT_TYPE", "").upper()
    if (problem := head.get("TYPE", "TSP").upper().split() or [""])[0] not in ("TSP", "STSP"):
        raise DataError(f"{path}: TYPE {problem[0] or '(empty)'} is no symmetric travelling salesman problem (TSP).")
    if kind == "EXPLICIT":
        raise DataError(EXPLICIT.format(path=path))
    if kind not in KINDS:
        raise DataError(f"{path}: EDGE_WEIGHT_TYPE {kind or 'is missing'}; these are read: {', '.join(KINDS)}.")
    lines = sections.get("NODE_COORD_SECTION")
    if not lines:
        raise DataError(f"{path} has no NODE_COORD_SECTION with cities.")
    try:
        table = [[float(word) for word in line.split()] for line in lines]
        points = np.array([row[1:] for row in table], np.float64)
    except ValueError:
        raise DataError(
            f"{path}: a line below NODE_COORD_SECTION is not a number of a city and its coordinates."
        ) from None
    points = points[_order([row[0] for row in table], path)]
    wanted = 3 if kind.endswith("3D") else 2
    if points.ndim != 2 or points.shape[1] != wanted:
        raise DataError(f"{path}: {kind} has {wanted} coordinates a city; a line below NODE_COORD_SECTION has not.")
    if not np.isfinite(points).all():
        raise DataError(f"{path}: city {int((~np.isfinite(points).all(1)).argmax()) + 1} has no finite coordinates.")
    if np.ptp(points, axis=0).max() > LARGEST:
        raise DataError(
            f"{path}: its cities are over {LARGEST:g} apart, too far for lengths in whole units; rescale them."
        )
    said = head.get("DIMENSION", "")
    if said.isdecimal() and said.lstrip("0") != str(len(points)):
        raise DataError(f"{path}: DIMENSION is {said}, and {len(points)} cities are there; the file may be cut off.")
    if len(points) < 3:
        raise DataError(f"{path}: {len(points)} cities; a tour needs three at least.")
    return TspInstance(head.get("NAME", "").removesuffix(".tsp") or path.stem, points, kind)


def _order(numbers: Sequence[float], path: Path) -> Int64[np.ndarray, " n"]:
    """The lines of cities 1 to n."""
    order = np.argsort(numbers, kind="stable")
    wrong = np.flatnonzero(np.array(numbers)[order] != np.arange(1, len(order) + 1))
    if len(wrong):
        raise DataError(
            f"{path}: cities must be numbered from 1 to {len(order)}, each once, as tours name them; in place of "
            f"{wrong[0] + 1} there is {numbers[int(order[wrong[0]])]:g}."
        )
    return order


def read_tour(path: Path | str) -> Int64[np.ndarray, " n"]:
    """The cities of a `.tour` file in their order, numbered from 0.

    Raises
    ------
    DataError
        If it holds no tour, or one that does not visit each city once.
    """
    path = Path(path)
    _, sections = _parts(path)
    try:
        numbers = [int(word) for line in sections.get("TOUR_SECTION", []) for word in line.split()]
    except ValueError:
        raise DataError(f"{path}: TOUR_SECTION holds something other than numbers of cities.") from None
    if -1 in numbers:
        numbers = numbers[: numbers.index(-1)]
    if not numbers or sorted(numbers) != list(range(1, len(numbers) + 1)):
        raise DataError(f"{path} has no TOUR_SECTION that visits the cities from 1 to n once each.")
    return np.array(numbers, np.int64) - 1


def write_tour(path: Path | str, name: str, tour: Int[np.ndarray, " n"], length: float) -> Path:
    """Write a tour (cities from 0) as TSPLIB does, atomically."""
    lines = [f"NAME : {name}.tour", f"COMMENT : length {length:g}", "TYPE : TOUR", f"DIMENSION : {len(tour)}"]
    lines += ["TOUR_SECTION", *(str(int(city) + 1) for city in tour), "-1", "EOF", ""]
    write_text(Path(path), "\n".join(lines))
    return Path(path)


def known_optimum(path: Path | str) -> int | None:
    """The optimal length of a `.tsp` file: of `optimal.csv` beside it (columns name and optimal_length), or of the tour
    in `NAME.opt.tour`; None where neither is there."""
    path = Path(path)
    table = path.with_name(OPTIMA)
    if table.is_file():
        with understood(table, "a table of optimal lengths"):
            for row in csv.DictReader(io.StringIO(read_text(table), newline="")):
                if row.get("name") == path.stem and (row.get("optimal_length") or "").isdecimal():
                    return int(row["optimal_length"])
    tour = path.with_name(f"{path.stem}.opt.tour")
    return read_tsp(path).length(read_tour(tour)) if tour.is_file() else None


def _parts(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The head of a file by keyword, and the lines of its sections."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file.")
    require_file(path)
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # a name with an umlaut; what is no text has no keywords either
    head: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    inside: list[str] | None = None
    for line in map(str.strip, text.splitlines()):
        word, colon, value = line.partition(":")
        word = word.strip().upper()  # files of other programs write keywords in small letters, too
        if word == "EOF":
            break
        if word.endswith("_SECTION"):
            inside = sections.setdefault(word, [])
        elif colon and KEYWORD.fullmatch(word):
            head[word], inside = value.strip(), None
        elif inside is not None and line:
            inside.append(line)
    if not head and not sections:
        raise DataError(f"{path}: this is no TSPLIB file; expected lines such as TYPE : TSP.")
    return head, sections


# -- distances, as TSPLIB 95 defines them ------------------------------------------------------------------------------


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.floor(np.linalg.norm(a - b, axis=-1) + 0.5)


def _ceiling(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.ceil(np.linalg.norm(a - b, axis=-1))


def _manhattan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.floor(np.abs(a - b).sum(-1) + 0.5)


def _maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.floor(np.abs(a - b) + 0.5).max(-1)


def _pseudo_euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.ceil(np.sqrt(((a - b) ** 2).sum(-1) / 10))


def _geographical(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Coordinates are degrees and minutes, DDD.MM: first the latitude, then the longitude."""
    (lat_a, lon_a), (lat_b, lon_b) = (np.moveaxis(_radians(points), -1, 0) for points in (a, b))
    q1, q2, q3 = np.cos(lon_a - lon_b), np.cos(lat_a - lat_b), np.cos(lat_a + lat_b)
    arc = np.arccos(np.clip(0.5 * ((1 + q1) * q2 - (1 - q1) * q3), -1, 1))
    return np.where((a == b).all(-1), 0, np.floor(EARTH * arc + 1))


def _radians(points: np.ndarray) -> np.ndarray:
    degrees = np.trunc(points)
    return 3.141592 * (degrees + 5 * (points - degrees) / 3) / 180


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "EUC_2D": _euclidean,
    "EUC_3D": _euclidean,
    "CEIL_2D": _ceiling,
    "MAN_2D": _manhattan,
    "MAX_2D": _maximum,
    "ATT": _pseudo_euclidean,
    "GEO": _geographical,
}
