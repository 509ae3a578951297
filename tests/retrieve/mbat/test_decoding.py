import itertools
import math
from typing import Any

import numpy as np
import pytest

from linmap.errors import DataError
from linmap.retrieve.mbat import JSONVectorizer, capacity
from typed import present

EXACT: dict[str, Any] = {"strings": "exact", "numbers": "exact"}
PATIENT = {
    "patient": {"name": "Ada", "address": [{"state": "MA", "zip": 2139}, {"state": "NY"}]},
    "tags": [],
    "x": None,
}
STATES = ["CA", "MA", "NY", "TX", None, 2139]


def read(answer: Any) -> Any:
    """The value that was found, if any."""
    return answer and answer.value


@pytest.fixture(scope="module")
def vectorizer() -> JSONVectorizer:
    return JSONVectorizer(2048, **EXACT)


@pytest.mark.parametrize(
    ("path", "candidates", "value"),
    [
        ("patient.address[0].state", STATES, "MA"),
        ("/patient/address/1/state", STATES, "NY"),
        (("patient", "address", 0, "zip"), STATES, 2139),
        ("tags", [[], {}, None, "x"], []),
        ("x", [True, False, None], None),
        ("patient.address[1]", [{"state": "MA"}, {"state": "NY"}], {"state": "NY"}),
        ("patient.address[2].state", STATES, None),
        ("nothing", STATES, None),
    ],
)
def test_values_are_read_back_by_path(vectorizer: JSONVectorizer, path, candidates, value) -> None:
    answer = vectorizer.get(vectorizer.transform([PATIENT])[0], path, candidates)
    assert (answer and answer.value) == value
    assert (answer is None) == (path in ("patient.address[2].state", "nothing"))


def test_score_margin_and_z(vectorizer: JSONVectorizer) -> None:
    raw = JSONVectorizer(2048, **EXACT, normalize="none").transform([PATIENT])[0]
    answer = vectorizer.get(raw, "patient.address[0].state", STATES)
    value, score, margin, z = present(answer)
    assert value == "MA"
    assert score == pytest.approx(1, abs=5 * math.sqrt(5 / 2048))
    assert 0.5 < margin < 1.5
    assert z == pytest.approx(score * 2048 / np.linalg.norm(raw))
    unit = vectorizer.get(raw / np.linalg.norm(raw), "patient.address[0].state", STATES)
    assert present(unit).z == pytest.approx(z)


def test_absent_values_are_rejected() -> None:
    vectorizer = JSONVectorizer(512, **EXACT)
    vectors = vectorizer.transform([{"a": {"b": i}, "c": [i, i]} for i in range(300)])
    candidates = [f"s{i}" for i in range(50)]
    alarms = sum(vectorizer.get(vector, "a.z", candidates) is not None for vector in vectors)
    assert alarms <= 3


@pytest.mark.parametrize(
    "options", [{"arrays": "bag"}, {"arrays": "both"}, {"operators": "hadamard"}, {"strings": "words"}]
)
def test_other_encodings_are_read_back_as_well(options: dict) -> None:
    vectorizer = JSONVectorizer(2048, **(EXACT | options))
    vector = vectorizer.transform([{"a": [{"b": "one two"}], "c": 1, "d": "x"}])[0]
    assert present(vectorizer.get(vector, "a[0].b", ["one two", "three", "x", 1])).value == "one two"


def test_recall_follows_the_capacity_formula() -> None:
    D, L, N, documents = 512, 40, 50, 60
    rng = np.random.default_rng(0)
    vectorizer = JSONVectorizer(D, **EXACT, normalize="none")
    values = [f"v{i}" for i in range(N)]
    asked = [{f"k{i}": values[rng.integers(N)] for i in range(L)} for _ in range(documents)]
    right = total = 0
    for document, vector in zip(asked, vectorizer.transform(asked), strict=True):
        for key in ("k0", "k7", "k13", "k29", "k39"):
            answer = vectorizer._state().decoder.get(vector, key, values)
            best = answer.value if answer else best_without_rejection(vectorizer, vector, key, values)
            right, total = right + (best == document[key]), total + 1
    p = capacity(D, L, N)
    assert abs(right / total - p) < 3 * math.sqrt(p * (1 - p) / total) + 0.01


def best_without_rejection(vectorizer: JSONVectorizer, vector: np.ndarray, key: str, values: list) -> str:
    bound = JSONVectorizer(vectorizer.dim, **EXACT).transform([{key: value} for value in values])
    return values[int(np.argmax(bound @ vector))]


def test_explaining_away_reads_more_than_asking_one_by_one() -> None:
    rng = np.random.default_rng(0)
    vectorizer = JSONVectorizer(512, **EXACT)
    values = [f"v{i}" for i in range(20)]
    alone = together = 0
    for _ in range(10):
        document = {f"k{i}": values[rng.integers(20)] for i in range(30)}
        vector = vectorizer.transform([document])[0]
        found = vectorizer.decode(vector, dict.fromkeys(document, values))
        together += sum(read(found[key]) == value for key, value in document.items())
        singly = {key: vectorizer.get(vector, key, values) for key in document}
        alone += sum(read(singly[key]) == value for key, value in document.items())
    assert together > 1.2 * alone
    assert together > 270


def test_numbers_are_read_without_candidates() -> None:
    vectorizer = JSONVectorizer(4096)
    vector = vectorizer.transform([{"a": {"height": 173.45}, "b": [20, -3000.0], "c": "x"}])[0]
    assert present(vectorizer.get_number(vector, "a.height")).value == pytest.approx(173.45, rel=0.1)
    assert present(vectorizer.get_number(vector, "b[1]")).value == pytest.approx(-3000, rel=0.1)
    assert vectorizer.get_number(vector, "zzz") is None
    linear = JSONVectorizer(4096, number_scale=(0.0, 200.0))
    assert present(linear.get_number(linear.transform([{"h": 173.4}])[0], "h")).value == pytest.approx(173.4, abs=2)
    with pytest.raises(ValueError, match="reads level codes"):
        JSONVectorizer(64, numbers="exact").get_number(np.ones(64), "a")


def test_presence_of_keys_and_lengths_of_arrays() -> None:
    vectorizer = JSONVectorizer(2048, **EXACT, key_presence=1.0)
    vector = vectorizer.transform([{"a": {"b": 5}, "items": ["x", "y", "x"]}])[0]
    assert present(vectorizer.has(vector, "a.b")).value is True
    assert vectorizer.has(vector, "a.c") is None
    assert vectorizer.array_length(vector, "items", ["x", "y", "z"]) == 3
    assert vectorizer.array_length(vector, "a", ["x", "y", "z"]) == 0
    with pytest.raises(ValueError, match="must end in a key"):
        vectorizer.has(vector, "items[0]")
    with pytest.raises(ValueError, match="encode with key_presence=1"):
        JSONVectorizer(64).has(np.ones(64), "a")


def test_rarity_does_not_decide_what_is_read() -> None:
    constant = {f"k{i}": str(i) for i in range(20)}
    kinds = [f"rare{i}" for i in range(20)]
    documents = [{"kind": kind, **constant} for kind in ["common"] * 1000 + kinds]
    vectorizer = JSONVectorizer(2048, strings="exact", idf=2).fit(documents)
    for document in (documents[0], documents[-1]):
        (vector,) = vectorizer.transform([document])
        assert present(vectorizer.get(vector, "kind", ["common", *kinds])).value == document["kind"]


BREAKDOWNS = [
    {},
    {"arrays": "bag"},
    {"arrays": "both"},
    {"key_presence": 0.5, "path_backoff": 0.3},
    {"key_presence": 0.5, "soft_keys": 0.5, "idf": 0.5},
    {"weights": {"b": 3.0}},
]


@pytest.mark.parametrize("options", BREAKDOWNS, ids=str)
def test_the_breakdown_adds_up_to_the_cosine(options: dict) -> None:
    one = {"a": {"n": 100}, "b": "old town", "codes": ["x", "y"], "only": 1}
    two = {"a": {"n": 101}, "b": "new town", "codes": ["y", "x"], "c": None}
    vectorizer = JSONVectorizer(1024, dtype="float64", **options).fit([one, two])
    a, b = vectorizer.transform([one, two])
    breakdown = vectorizer.similarity_breakdown(one, two)
    assert breakdown.cosine == pytest.approx(a @ b, abs=1e-9)
    assert sum(part.share for part in breakdown.contributions) + breakdown.crosstalk == pytest.approx(breakdown.cosine)
    shares = {part.path: part.share for part in breakdown.contributions}
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert not {"only", "c"} & set(shares)
    assert abs(breakdown.crosstalk) < 0.25


def test_shares_of_equal_leaves_are_their_number_over_the_norms() -> None:
    one, two = {"a": 1, "b": 2, "c": 3, "d": 4}, {"a": 1, "b": 2, "c": 5, "e": 6}
    breakdown = JSONVectorizer(8192, **EXACT).similarity_breakdown(one, two)
    shares = {part.path: part.share for part in breakdown.contributions}
    assert shares["a"] == pytest.approx(0.25, abs=0.02)
    assert shares["b"] == pytest.approx(0.25, abs=0.02)
    assert shares["c"] == pytest.approx(0, abs=0.02)
    part = next(part for part in breakdown.contributions if part.path == "c")
    assert (part.left, part.right) == ([3], [5])


def test_bad_questions_are_refused(vectorizer: JSONVectorizer) -> None:
    vector = vectorizer.transform([PATIENT])[0]
    with pytest.raises(ValueError, match="candidates for 'x' are empty"):
        vectorizer.get(vector, "x", [])
    with pytest.raises(TypeError, match="must be a list of values"):
        vectorizer.get(vector, "x", "MA")
    with pytest.raises(ValueError, match="cannot be read at position"):
        vectorizer.get(vector, "x..y", ["MA"])
    with pytest.raises(ValueError, match=r"shape \(2048,\)"):
        vectorizer.get(vector[:-1], "x", ["MA"])
    with pytest.raises(ValueError, match="NaN"):
        vectorizer.get(vector * np.nan, "x", ["MA"])
    unit = JSONVectorizer(64, level_norm="unit")
    for question in (lambda: unit.decode(np.ones(64), {"a": [1]}), lambda: unit.similarity_breakdown({}, {})):
        with pytest.raises(ValueError, match="level_norm='none'"):
            question()
    with pytest.raises(DataError, match="has no cosine"):
        JSONVectorizer(64, ignore=["**"]).similarity_breakdown({"a": 1}, {"a": 1})


def test_depth_costs_no_accuracy() -> None:
    vectorizer = JSONVectorizer(1024, **EXACT)
    for depth in (1, 16):
        document = {f"x{i}": i for i in range(20)}
        inner: object = "target"
        for level in itertools.repeat("k", depth):
            inner = {level: inner}
        vector = vectorizer.transform([document | {"deep": inner}])[0]
        answer = vectorizer.get(vector, ("deep", *["k"] * depth), ["target", *map(str, range(50))])
        assert read(answer) == "target"
