"""The definition against the formula, and the fast path against the definition."""

import itertools
import json
import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.retrieve.mbat import Codebook, JSONVectorizer
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.operators import SignedPermutation
from linmap.retrieve.mbat.options import Options

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
).filter(lambda value: _keys_in_nfc(value))
EXACT: dict[str, Any] = {"strings": "exact", "numbers": "exact", "normalize": "none"}


def _keys_in_nfc(value) -> bool:
    import unicodedata

    return unicodedata.is_normalized("NFC", json.dumps(value, ensure_ascii=False))


def recursive(value, codebook, atoms, arrays: str = "sequence") -> np.ndarray:
    """The formula, written out: objects sum M_key V, arrays M_arr sum M_seq^i V."""
    if isinstance(value, dict) and value:
        parts = [codebook.operator("key", k).apply(recursive(v, codebook, atoms, arrays)) for k, v in value.items()]
        return reduce(np.add, parts)
    if isinstance(value, list) and value:
        total, bag = 0, 0
        for i, item in enumerate(value, 1):
            x = bound = recursive(item, codebook, atoms, arrays)
            for _ in range(i):
                bound = codebook.operator("seq", "").apply(bound)
            total, bag = total + bound, bag + x
        inner = {"sequence": total, "bag": bag, "both": math.sqrt(0.5) * (total + bag)}[arrays]
        return codebook.operator("arr", "").apply(inner)
    return atoms(value)


def exact_atom(codebook: Codebook):
    def atom(value) -> np.ndarray:
        if isinstance(value, str):
            return codebook.atom("str", value).astype(float)
        if isinstance(value, bool) or value is None or isinstance(value, dict | list):
            return codebook.atom("lit", json.dumps(value)).astype(float)
        return codebook.atom("num", str(value)).astype(float)

    return atom


DOCUMENTS = [
    {"a": [5, {"b": None}], "c": "x"},
    [[1], [], [[2, 3], {}]],
    {"": {"": {"": [True, False, None]}}},
    "x",
    7,
    {"é": ["日本", "\u0000"], "a.b": {"c/d": 12345678901234567890}},
]


@pytest.mark.parametrize("arrays", ["sequence", "bag", "both"])
@pytest.mark.parametrize("document", DOCUMENTS, ids=repr)
def test_encodings_follow_the_formula(document, arrays: str) -> None:
    codebook = Codebook(77)
    expected = recursive(document, codebook, exact_atom(codebook), arrays)
    options = EXACT | {"dim": 77, "arrays": arrays, "dtype": "float64"}
    tolerance = 1e-12 if arrays == "both" else 0
    np.testing.assert_allclose(JSONVectorizer(**options).transform([document])[0], expected, atol=tolerance)
    np.testing.assert_allclose(Encoder(Options(**options)).encode(document), expected, atol=tolerance)


class InjectedCodebook:
    """Dense operators and real atoms of somebody else; no more than the two methods."""

    def __init__(self, dim: int) -> None:
        self._rng, self._dim, self._made = np.random.default_rng(0), dim, {}

    def atom(self, kind: str, token: str) -> np.ndarray:
        return self._made.setdefault((kind, token), self._rng.normal(size=self._dim))

    def operator(self, kind: str, token: str) -> np.ndarray:
        if (kind, token) not in self._made:
            self._made[kind, token] = np.linalg.qr(self._rng.normal(size=(self._dim, self._dim)))[0]
        return self._made[kind, token]


@pytest.mark.parametrize("document", DOCUMENTS, ids=repr)
def test_an_injected_codebook_reproduces_the_formula(document) -> None:
    codebook = InjectedCodebook(64)
    vector = JSONVectorizer(64, codebook=codebook, dtype="float64", **EXACT).transform([document])[0]

    class Applied:
        def operator(self, kind: str, token: str):
            M = codebook.operator(kind, token)
            return type("Operator", (), {"apply": staticmethod(lambda x: M @ x)})

    def atom(value) -> np.ndarray:
        if isinstance(value, str):
            return codebook.atom("str", value)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return codebook.atom("num", str(value)) if is_number else codebook.atom("lit", json.dumps(value))

    np.testing.assert_allclose(vector, recursive(document, Applied(), atom), atol=1e-12)


def test_worked_example() -> None:
    vector = JSONVectorizer(10_000, **EXACT).transform([{"a": [5, {"b": None}], "c": "x"}])[0]
    assert set(np.unique(vector)) == {-3, -1, 1, 3}
    assert vector @ vector / 10_000 == pytest.approx(3, abs=0.2)


VARIANTS = [
    {},
    {"strings": "words", "numbers": "thermometer"},
    {"arrays": "bag", "key_presence": 0.5},
    {"arrays": "both", "path_backoff": 0.3, "key_presence": 1.0},
    {"operators": "hadamard", "dates": True},
    {"ignore": ["**.a", "b[*]"], "weights": {"c": 2.0, "**.d": 0.5}, "path_backoff": 0.5, "key_presence": 2},
    {"key_presence": 1.0, "soft_keys": 0.4},
    {"idf": 0.5, "key_presence": 0.7, "soft_keys": 1, "arrays": "both", "path_backoff": 0.3},
    {"idf": 1, "strings": "words", "numbers": "exact", "dates": True},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@settings(max_examples=8)
@given(st.lists(JSON, min_size=1, max_size=6))
def test_fast_path_equals_the_definition(options: dict, documents: list) -> None:
    documents = [*documents, {"a": 1, "b": documents, "c": {"d": documents}}]
    options = {"dim": 64, "dtype": "float64", "normalize": "none"} | options
    vectorizer = JSONVectorizer(**options).fit(documents, parse=False)
    reference = Encoder(Options(**options, rarity=vectorizer.rarity_))
    expected = np.stack([reference.encode(document) for document in documents])
    np.testing.assert_allclose(vectorizer.transform(documents, parse=False), expected, atol=1e-10)


@given(st.lists(JSON, min_size=1, max_size=6))
def test_fast_path_equals_the_definition_bit_by_bit_in_exact_mode(documents: list) -> None:
    reference = Encoder(Options(dim=64, **EXACT))
    expected = np.stack([reference.encode(document) for document in documents])
    assert np.array_equal(expected, np.round(expected))
    for dtype in ("float32", "int32"):
        vectors = JSONVectorizer(64, dtype=dtype, **EXACT).transform(documents, parse=False)
        assert vectors.dtype == dtype
        assert np.array_equal(vectors, expected)


def canonical(value):
    """Equal for equal documents: numbers by value, types kept apart, keys sorted."""
    if isinstance(value, dict):
        return ("object", tuple(sorted((k, canonical(v)) for k, v in value.items())))
    if isinstance(value, list):
        return ("array", tuple(canonical(v) for v in value))
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return (type(value).__name__, str(value))


@given(JSON, JSON)
def test_documents_are_equal_exactly_when_vectors_are(one, two) -> None:
    a, b = JSONVectorizer(1024, **EXACT).transform([one, two], parse=False)
    assert np.array_equal(a, b) == (canonical(one) == canonical(two))


@given(st.dictionaries(TEXT, JSON, min_size=2, max_size=5), st.randoms())
def test_key_order_does_not_matter(document: dict, random) -> None:
    keys = list(document)
    random.shuffle(keys)
    a, b = JSONVectorizer(64, **EXACT).transform([document, {key: document[key] for key in keys}])
    assert np.array_equal(a, b)


def cosine(*documents, **options) -> float:
    a, b = JSONVectorizer(4096, strings="exact", numbers="exact", **options).transform(documents)
    return float(a @ b)


@pytest.mark.parametrize(
    "documents",
    [
        ({"a": {"b": "x"}}, {"b": {"a": "x"}}),
        ([["x"]], ["y", "x"]),
        (["x"], "x"),
        *itertools.combinations([{"a": {}}, {"a": []}, {"a": None}, {"a": False}], 2),
        *itertools.combinations([1, "1", True], 2),
        ({"a": []}, {}),
        ([["x", "y"]], [["x"], ["y"]][1:]),
    ],
    ids=repr,
)
def test_different_documents_are_unrelated(documents) -> None:
    assert abs(cosine(*documents)) < 5 / 64


def test_the_same_number_is_the_same_vector() -> None:
    assert cosine(1, 1.0) == pytest.approx(1)
    assert cosine({"a": -0.0}, {"a": 0}) == pytest.approx(1)
    big = JSONVectorizer(64, **EXACT).transform([2**60, 2.0**60, 2**60])
    assert np.array_equal(big[0], big[2])
    assert not np.array_equal(big[0], big[1])


@pytest.mark.parametrize("operators", ["signed_permutation", "hadamard", "dense"])
def test_depth_changes_no_norm(operators: str) -> None:
    document: object = "x"
    for level in range(200):
        document = {f"k{level % 7}": document} if level % 3 else [document]
    vector = JSONVectorizer(64, operators=operators, **EXACT).transform([document])[0]
    assert np.linalg.norm(vector) == pytest.approx(8, rel=1e-5)
    assert (np.abs(vector) == 1).all() == (operators == "signed_permutation")


@pytest.mark.parametrize("shared", [0, 10, 25, 40])
def test_cosine_is_the_share_of_common_leaves(shared: int) -> None:
    one = {f"k{i}": i for i in range(40)}
    two = {f"k{i}": i if i < shared else -i for i in range(40)}
    assert cosine(one, two) == pytest.approx(shared / 40, abs=4 / 64)


def test_array_modes() -> None:
    codes, shifted = [f"c{i}" for i in range(9)], ["new"] + [f"c{i}" for i in range(9)]
    assert abs(cosine(codes, shifted)) < 5 / 64
    assert cosine(codes, codes[::-1], arrays="bag") == pytest.approx(1)
    assert cosine(codes, shifted, arrays="bag") == pytest.approx(9 / math.sqrt(90), abs=5 / 64)
    assert cosine(codes, shifted, arrays="both") == pytest.approx(0.5 * 9 / math.sqrt(90), abs=5 / 64)


def test_unit_level_norm_keeps_a_long_array_from_drowning_the_rest() -> None:
    one = {"name": "Ada", "codes": [f"a{i}" for i in range(200)]}
    two = {"name": "Ada", "codes": [f"b{i}" for i in range(200)]}
    assert cosine(one, two) == pytest.approx(1 / 201, abs=5 / 64)
    assert cosine(one, two, level_norm="unit") == pytest.approx(1 / 2, abs=5 / 64)
    vector = Encoder(Options(dim=256, level_norm="unit")).encode({"a": {"b": [1, 2, 3]}, "c": 1})
    assert np.linalg.norm(vector) == pytest.approx(16, rel=1e-5)


def test_key_presence_makes_documents_with_the_same_fields_similar() -> None:
    one, two = {"a": 1, "b": {"c": 2}}, {"a": "x", "b": {"c": "y"}}
    assert abs(cosine(one, two)) < 5 / 64
    assert cosine(one, two, key_presence=1.0) == pytest.approx(3 / 5, abs=5 / 64)


def test_keys_with_common_words_are_similar() -> None:
    words = {"key_presence": 1.0, "soft_keys": 0.5}
    one, two, three = {"date_of_birth": 1}, {"birthDate": "x"}, {"birth-date": None}
    # two atoms of weight 1 each in a document: value and key
    assert cosine(one, two, **words) == pytest.approx(0.5 * 0.5 * 2 / math.sqrt(6), abs=5 / 64)
    assert cosine(two, three, **words) == pytest.approx(0.5 * 0.5, abs=5 / 64)
    assert cosine(two, three, key_presence=1.0) == pytest.approx(0, abs=5 / 64)
    assert cosine({"URLParser": 1}, {"url_parser": 2}, key_presence=1.0, soft_keys=1) == pytest.approx(0.5, abs=5 / 64)
    with pytest.raises(ValueError, match="give both"):
        JSONVectorizer(64, soft_keys=0.5)
    with pytest.raises(ValueError, match="soft_keys is a share between 0 and 1"):
        JSONVectorizer(64, key_presence=1.0, soft_keys=1.5)


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_idf_weighs_what_documents_share_by_its_rarity(power: float) -> None:
    documents = [{"same": "all", "kind": "ab"[i % 2], "n": [i]} for i in range(8)]
    rare = (1 + math.log(9 / 5)) ** (2 * power), (1 + math.log(9 / 2)) ** (2 * power)
    vectorizer = JSONVectorizer(1 << 14, strings="exact", numbers="exact", idf=power, dtype="float64").fit(documents)
    vectors = vectorizer.transform([documents[0], documents[2], {"same": "all", "kind": "never seen", "n": [1.5]}])
    norm = 1 + rare[0] + rare[1]
    assert vectors[0] @ vectors[1] == pytest.approx((1 + rare[0]) / norm, abs=5 / 128)
    assert vectors[0] @ vectors[2] == pytest.approx(1 / math.sqrt(norm * (1 + 2 * rare[1])), abs=5 / 128)


def test_path_backoff_keeps_similarity_when_a_field_moves() -> None:
    one, two = {"a": "x"}, {"b": {"c": "x"}}
    assert cosine(one, two, path_backoff=0.5) == pytest.approx(0.25 / 1.25, abs=5 / 64)


def test_ignored_fields_contribute_nothing() -> None:
    one, two = {"id": 1, "a": [{"id": 2, "b": 1}]}, {"id": 3, "a": [{"id": 4, "b": 1}]}
    assert cosine(one, two, ignore=["**.id"]) == pytest.approx(1)
    nothing = JSONVectorizer(64, ignore=["**"]).transform([one, 5])
    assert np.array_equal(nothing, np.zeros((2, 64)))


def test_weights_multiply_leaves() -> None:
    both, heavier = [{"a": 1, "b": 2}], JSONVectorizer(64, **EXACT, weights={"b": 3.0})
    base, heavy = JSONVectorizer(64, **EXACT).transform(both)[0], heavier.transform(both)[0]
    only_b = JSONVectorizer(64, **EXACT).transform([{"b": 2}])[0]
    assert np.array_equal(heavy - base, 2 * only_b)


def test_the_next_power_of_the_sequence_operator_costs_one_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    composed, compose = [], SignedPermutation.compose

    def counted(one: SignedPermutation, other: SignedPermutation) -> SignedPermutation:
        composed.append(one)
        return compose(one, other)

    monkeypatch.setattr(SignedPermutation, "compose", counted)
    encoder = Encoder(Options(dim=64))
    first, expected = encoder.sequence_operator(1), np.eye(64)
    for power in range(1, 12):
        expected = first.apply(expected)
        np.testing.assert_array_equal(encoder.sequence_operator(power).apply(np.eye(64)), expected)
        assert len(composed) == power - 1
