import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.retrieve.mbat import format_path, parse_path
from linmap.retrieve.mbat.paths import PathRules, Place


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 99)), max_size=5))
def test_formatting_is_undone_by_parsing(path: list) -> None:
    steps = parse_path(path)  # in NFC
    assert parse_path(format_path(steps)) == steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("patient.address[0].state", ("patient", "address", 0, "state")),
        ("/patient/address/0/state", ("patient", "address", 0, "state")),
        ("/a~1b/~0", ("a/b", "~")),
        ("/", ("",)),
        ("", ()),
        ("$", ()),
        ("[2][0]", (2, 0)),
        ('a["b.c"]["x\\"y"]', ("a", "b.c", 'x"y')),
        ("e\u0301", ("é",)),
        (["a", 1], ("a", 1)),
    ],
)
def test_notations(text, steps) -> None:
    assert parse_path(text) == steps


@given(st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 99)), min_size=1))
def test_a_leading_dollar_is_the_document(path: list) -> None:
    steps, written = parse_path(path), format_path(parse_path(path))
    assert parse_path(f"${written}" if written.startswith("[") else f"$.{written}") == steps


def test_a_key_that_begins_with_a_dollar_is_a_key() -> None:
    assert parse_path("$ref") == ("$ref",)
    assert parse_path('["$"].a') == ("$", "a")
    assert parse_path("a.$") == ("a", "$")


@pytest.mark.parametrize(
    "text", ["$.", "$..a", "a..b", ".a", "a.", "a[", "a[x]", "a[-1]", "a[*]", 'a["b', "a]", "a[0]b"]
)
def test_unreadable_paths_name_the_position(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read at position"):
        parse_path(text)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("path", [("a", -1), ("a", True), ("a", 1.0)])
def test_steps_are_keys_or_indices(path) -> None:
    with pytest.raises(TypeError, match="a step is a key"):
        parse_path(path)


def ignored(pattern, path) -> bool:
    rules = PathRules(ignore=[pattern])
    place = Place(rules)
    for step in path:
        place = Place(rules, place, step)
    return place.ignored


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("a.b", ("a", "b"), ("a",)),
        ("a.b", ("a", "b", 0, "c"), ("b", "a")),
        ("**.id", ("id",), ("identity",)),
        ("**.id", ("a", 0, "b", "id"), ("a", "b")),
        ("a.*.c", ("a", "b", "c"), ("a", "c")),
        ("a.*.c", ("a", 3, "c"), ("a", "b", "b", "c")),
        ("a[*].c", ("a", 3, "c"), ("a", "b", "c")),
        ("a[1]", ("a", 1), ("a", 0)),
        ("a[1]", ("a", 1, "x"), ("a", "1")),
        ("a.**.z", ("a", "z"), ("z",)),
        ("a.**.z", ("a", "b", "c", "z"), ("b", "z")),
        (("a.b", "*"), ("a.b", "c"), ("a", "b")),
        ("/a/*/c", ("a", "b", "c"), ("a", "c")),
        ("$.a[*]", ("a", 3), ("$", "a", 3)),
        ("$.**.z", ("b", "z"), ("$",)),
    ],
)
def test_patterns(pattern, matching, other) -> None:
    assert ignored(pattern, matching)
    assert not ignored(pattern, other)


def test_the_last_matching_weight_counts_and_is_inherited() -> None:
    rules = PathRules(weights={"a": 2.0, "**.b": 3.0, "a.b.c": 5.0})
    places = {(): Place(rules)}
    for path in [("a",), ("b",), ("a", "x"), ("a", "b"), ("a", "b", "c"), ("a", "b", "d")]:
        places[path] = Place(rules, places[path[:-1]], path[-1])
    assert [place.weight for place in places.values()] == [1, 2, 3, 2, 3, 5, 3]


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(TypeError, match="sequence of path patterns"):
        PathRules(ignore="**.id")
    with pytest.raises(ValueError, match=r"weights\['a'\] must be a finite number"):
        PathRules(weights={"a": float("nan")})
    with pytest.raises(ValueError, match="cannot be read"):
        PathRules(ignore=["a..b"])
