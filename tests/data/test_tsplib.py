"""TSPLIB files: what is read, lengths as the format counts them, tours there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linmap.data import find
from linmap.data.tsplib import TspInstance, known_optimum, read_tour, read_tsp, write_tour
from linmap.errors import DataError

HEAD = "NAME : four\nTYPE : TSP\nDIMENSION : 4\nEDGE_WEIGHT_TYPE : {kind}\nNODE_COORD_SECTION\n"
SQUARE = "1 0 0\n2 3e0 0\n3 3.0 4\n4 0 4\nEOF\n"


def write(folder: Path, text: str, name: str = "four.tsp") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("kind", "length"), [("EUC_2D", 14), ("CEIL_2D", 14), ("MAN_2D", 14), ("MAX_2D", 14), ("ATT", 6)]
)
def test_lengths_of_a_rectangle(kind: str, length: int, tmp_path: Path) -> None:
    found = read_tsp(write(tmp_path, HEAD.format(kind=kind) + SQUARE))
    np.testing.assert_array_equal(found.points, [[0, 0], [3, 0], [3, 4], [0, 4]])
    assert (found.name, found.length([0, 1, 2, 3])) == ("four", length)
    np.testing.assert_array_equal(found.distances(), found.distances().T)
    assert not found.distances().diagonal().any()


def test_keywords_in_small_letters(tmp_path: Path) -> None:
    text = HEAD.format(kind="EUC_2D") + SQUARE
    found, other = (read_tsp(write(tmp_path, some)) for some in (text.lower(), text))
    assert (found.kind, found.name) == (other.kind, other.name)
    np.testing.assert_array_equal(found.points, other.points)


def test_cities_have_the_numbers_of_the_file_in_any_order_of_lines(tmp_path: Path) -> None:
    lines = "3 3.0 4\n1 0 0\n4 0 4\n2 3e0 0\nEOF\n"
    found = read_tsp(write(tmp_path, HEAD.format(kind="EUC_2D") + lines))
    np.testing.assert_array_equal(found.points, [[0, 0], [3, 0], [3, 4], [0, 4]])


def test_a_comment_in_latin_1_and_an_empty_name(tmp_path: Path) -> None:
    text = HEAD.format(kind="EUC_2D").replace("NAME : four", "NAME :\nCOMMENT : Zürich") + SQUARE
    (tmp_path / "four.tsp").write_bytes(text.encode("latin-1"))
    assert read_tsp(tmp_path / "four.tsp").name == "four"
    (tmp_path / "b.tsp").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="no TSPLIB file"):
        read_tsp(tmp_path / "b.tsp")


def test_distances_are_rounded_as_the_type_says() -> None:
    points = np.array([[0, 0], [1, 1], [4, 1.5]])
    between = {
        kind: TspInstance("x", points, kind).distances()[[0, 0], [1, 2]].tolist()
        for kind in ("EUC_2D", "CEIL_2D", "MAN_2D", "MAX_2D", "ATT")
    }
    assert between == {
        "EUC_2D": [1, 4],
        "CEIL_2D": [2, 5],
        "MAN_2D": [2, 6],
        "MAX_2D": [1, 4],
        "ATT": [1, 2],
    }


def test_geographical_distances_are_those_on_the_earth() -> None:
    """A degree of the meridian is 111 km; coordinates are degrees and minutes."""
    points = np.array([[10.0, 20.0], [11.0, 20.0], [10.30, 20.0], [-10.0, 20.0], [0.0, 0.0], [0.0, 90.0]])
    found = TspInstance("x", points, "GEO").distances()
    quarter = 6378.388 * np.pi / 2
    np.testing.assert_allclose(found[[0, 0, 0, 4], [1, 2, 3, 5]], [111.3, 55.7, 2226.4, quarter], atol=1.1)
    assert not found.diagonal().any()


def test_tours_there_and_back(tmp_path: Path) -> None:
    tour = np.random.default_rng(0).permutation(30)
    write_tour(tmp_path / "a.tour", "a", tour, 12.5)
    np.testing.assert_array_equal(read_tour(tmp_path / "a.tour"), tour)
    assert "COMMENT : length 12.5" in (tmp_path / "a.tour").read_text()
    write(tmp_path, "TOUR_SECTION\n3 1\n2 -1\n", "b.tour")
    assert read_tour(tmp_path / "b.tour").tolist() == [2, 0, 1]


def test_an_optimum_is_that_of_the_table_or_of_the_tour(tmp_path: Path) -> None:
    path = write(tmp_path, HEAD.format(kind="EUC_2D") + SQUARE)
    assert known_optimum(path) is None
    write_tour(tmp_path / "four.opt.tour", "four", np.arange(4), 14)
    assert known_optimum(path) == 14
    write(tmp_path, "name,optimal_length\nfive,5\nfour,13\n", "optimal.csv")
    assert known_optimum(path) == 13


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("x\ny\n", "no TSPLIB file"),
        (HEAD.format(kind="EXPLICIT"), "EXPLICIT gives distances and no coordinates"),
        (HEAD.format(kind="XRAY1") + SQUARE, "EDGE_WEIGHT_TYPE XRAY1; these are read: EUC_2D"),
        (HEAD.format(kind="EUC_2D").replace("TYPE : TSP", "TYPE : CVRP") + SQUARE, "TYPE CVRP is no symmetric"),
        (HEAD.format(kind="EUC_2D"), "no NODE_COORD_SECTION with cities"),
        (HEAD.format(kind="EUC_2D") + SQUARE.replace("4 0 4\n", ""), "DIMENSION is 4, and 3 cities"),
        (HEAD.format(kind="EUC_2D").replace("4", "9" * 5000) + SQUARE, "DIMENSION is 9.*, and 4 cities"),
        (HEAD.format(kind="EUC_2D") + SQUARE.replace("3 3.0 4", "3 nan 4"), "city 3 has no finite"),
        (HEAD.format(kind="EUC_2D") + SQUARE.replace("3 3.0 4", "3 x 4"), "is not a number of a city"),
        (HEAD.format(kind="EUC_3D") + SQUARE, "EUC_3D has 3 coordinates a city"),
        (HEAD.format(kind="EUC_2D").replace("4", "2") + "1 0 0\n2 1 1\n", "2 cities; a tour needs three"),
        (HEAD.format(kind="EUC_2D").replace("TYPE : TSP", "TYPE :") + SQUARE, r"TYPE \(empty\) is no symmetric"),
        (HEAD.format(kind="EUC_2D") + SQUARE.replace("3 3.0 4", "2 3.0 4"), "in place of 3 there is 2"),
        (HEAD.format(kind="EUC_2D") + "0 0 0\n1 3 0\n2 3 4\n3 0 4\n", "numbered from 1 to 4.* of 1 there is 0"),
        (HEAD.format(kind="EUC_2D") + SQUARE.replace("3e0", "3e200"), "too far for lengths in whole units"),
    ],
)
def test_a_bad_instance_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as error:
        read_tsp(path)
    assert "four.tsp" in str(error.value)


@pytest.mark.parametrize(
    "text", ["TOUR_SECTION\n1 1 2\n-1\n", "TOUR_SECTION\nx\n", "NAME : a\n", "TOUR_SECTION\n2 3\n"]
)
def test_a_bad_tour_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="TOUR_SECTION"):
        read_tour(write(tmp_path, text))
    with pytest.raises(DataError, match="visits each of 3 cities once"):
        TspInstance("x", np.eye(3, 2)).length([0, 1, 1])


def test_published_tours_have_their_published_lengths() -> None:
    try:
        folder = find("tsplib/optimal.csv", "").parent
    except FileNotFoundError:
        pytest.skip("TSPLIB is not in LINMAP_DATA")
    names = [path.name.removesuffix(".opt.tour") for path in sorted(folder.glob("*.opt.tour"))]
    assert len(names) > 10
    for name in names:
        instance = read_tsp(folder / f"{name}.tsp")
        assert instance.length(read_tour(folder / f"{name}.opt.tour")) == known_optimum(folder / f"{name}.tsp"), name
