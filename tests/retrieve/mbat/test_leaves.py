import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.retrieve.mbat import Codebook
from linmap.retrieve.mbat.leaves import (
    LeafCoder,
    asinh_position,
    canonical_number,
    character_trigrams,
    date_position,
    empirical_position,
    word_tokens,
)
from linmap.retrieve.mbat.options import Options
from linmap.retrieve.mbat.paths import PathRules, Place

TOP = Place(PathRules())
NUMBERS = st.one_of(st.integers(-(10**7), 10**7), st.floats(-1e7, 1e7))


def coder(dim: int = 1024, **options) -> LeafCoder:
    return LeafCoder(Options(dim=dim, dtype="float64", **options), Codebook(dim))


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (1, "1"),
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e22, "1e+22"),
        (2.0**53, "9007199254740992.0"),
        (2**53 - 1, "9007199254740991"),
        (float(2**53 - 1), "9007199254740991"),
        (10**30, "1" + "0" * 30),
        (-5, "-5"),
    ],
)
def test_canonical_numbers(value, token) -> None:
    assert canonical_number(value) == token


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_must_be_finite(value) -> None:
    with pytest.raises(ValueError, match="is not JSON"):
        coder().vector(value, TOP)


@given(NUMBERS, NUMBERS, st.sampled_from([64, 77, 1000]))
def test_level_identity(v, w, dim: int) -> None:
    levels = coder(dim, number_exact=0)
    m = [math.floor(min(max((math.asinh(x) + 14.5) / 29, 0), 1) * dim / 2 + 0.5) for x in (v, w)]
    assert levels.vector(v, TOP) @ levels.vector(w, TOP) == dim - 2 * abs(m[0] - m[1])


def test_extreme_levels_are_orthogonal_and_similarity_falls_with_distance() -> None:
    levels = coder(number_exact=0)
    assert levels.level(0.0) @ levels.level(1.0) == 0
    similarity = [levels.level(0.3) @ levels.level(0.3 + d) for d in np.linspace(0, 0.7, 30)]
    assert np.all(np.diff(similarity) < 0)


def test_correlations_with_all_levels_at_once() -> None:
    levels = coder(64, number_exact=0)
    x = np.random.default_rng(0).normal(size=64)
    expected = [x @ levels.level(m / 32) for m in range(33)]
    np.testing.assert_allclose(levels.level_correlations(x), expected, atol=1e-12)


def test_number_exact_blends_in_quadrature() -> None:
    codes = coder(number_exact=0.2)
    level = coder(number_exact=0).vector(100, TOP)
    atom = Codebook(1024).atom("num", "100")
    np.testing.assert_allclose(codes.vector(100, TOP), math.sqrt(0.8) * level + math.sqrt(0.2) * atom)
    assert cosine(codes.vector(100, TOP), codes.vector(101, TOP)) < 0.9
    assert cosine(codes.vector(100, TOP), codes.vector(10**6, TOP)) < 0.7


def test_linear_scale() -> None:
    codes = coder(number_exact=0, number_scale=(10.0, 20.0))
    assert codes.vector(15, TOP) @ codes.vector(10, TOP) == 512
    assert codes.vector(99, TOP) @ codes.vector(20, TOP) == 1024


def test_thermometer_cosine() -> None:
    # levels j <= k: sqrt((1 + j) / (1 + k)) in expectation
    codes = coder(8192, numbers="thermometer", number_exact=0, thermometer_levels=11, number_scale=(0, 10))
    for j, k in [(0, 0), (0, 10), (3, 7), (9, 10)]:
        expected = math.sqrt((1 + j) / (1 + k))
        assert cosine(codes.vector(j, TOP), codes.vector(k, TOP)) == pytest.approx(expected, abs=5 / math.sqrt(8192))


def test_huge_integers_sit_at_the_ends_of_the_scale() -> None:
    assert asinh_position(10**400) == 1
    assert asinh_position(-(10**400)) == 0
    assert asinh_position(0) == 0.5


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.floats(-6, 6), st.floats(-6, 6))
def test_empirical_position_is_monotone_and_halves_ties(values: list[int], v: float, w: float) -> None:
    knots = np.sort(np.array(values, float))
    low, high = sorted((v, w))
    assert 0 <= empirical_position(low, knots) <= empirical_position(high, knots) <= 1
    for value in values:
        expected = (np.mean(knots < value) + np.mean(knots <= value)) / 2
        assert empirical_position(float(value), knots) == pytest.approx(expected)


def test_words_of_a_string() -> None:
    assert word_tokens("Straße, STRASSE 2") == ["strasse", "strasse", "2"]
    codebook = Codebook(1024)
    a, b = codebook.atom("word", "a").astype(int), codebook.atom("word", "b").astype(int)
    np.testing.assert_allclose(coder(strings="words").vector("A b, a", TOP), (2 * a + b) / math.sqrt(3))


def test_mixed_strings_are_half_exact_half_words() -> None:
    exact = Codebook(1024).atom("str", "Old town")
    words = coder(strings="words").vector("Old town", TOP)
    np.testing.assert_allclose(coder().vector("Old town", TOP), (exact + words) * math.sqrt(0.5))
    assert 0.3 < cosine(coder().vector("Old town", TOP), coder().vector("old Town", TOP)) < 0.7


def test_a_string_without_words_is_its_exact_atom() -> None:
    for strings in ("words", "mixed"):
        assert np.array_equal(coder(strings=strings).vector("--", TOP), Codebook(1024).atom("str", "--"))


def test_trigrams_forgive_typos() -> None:
    assert character_trigrams("ab") == ["^ab", "ab$"]
    assert character_trigrams("") == []
    codes = coder(strings="ngrams")
    assert cosine(codes.vector("metformin", TOP), codes.vector("metformine", TOP)) > 0.6
    assert abs(cosine(codes.vector("metformin", TOP), codes.vector("ibuprofen", TOP))) < 5 / 32


def test_embeddings_keep_their_cosines() -> None:
    vectors = {"a": [1.0, 0.0, 0.0], "b": [0.6, 0.8, 0.0], "c": [0.0, 0.0, 2.0]}
    codes = coder(4096, strings=vectors.__getitem__)
    a, b, c = (codes.vector(text, TOP) for text in "abc")
    assert np.linalg.norm(c) == pytest.approx(64)
    assert cosine(a, b) == pytest.approx(0.6, abs=5 / 64)
    assert cosine(a, c) == pytest.approx(0, abs=5 / 64)
    with pytest.raises(ValueError, match="expected a finite vector"):
        coder(strings=lambda text: [float("nan")]).vector("a", TOP)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("1900-01-01", 0),
        ("1970-01-02", 25_568),
        ("2016-01-03T12:00:00+00:00", 42_370.5),
        ("2016-01-03T12:00Z", 42_370.5),
    ],
)
def test_dates_as_points_in_time(text: str, days: float) -> None:
    assert date_position(text) == pytest.approx(days / 73_049)


@pytest.mark.parametrize("text", ["2016-13-01", "2016-1-3", "born 2016-01-03", "20160103", ""])
def test_what_is_no_date(text: str) -> None:
    assert date_position(text) is None


def test_near_dates_are_similar() -> None:
    codes = coder(4096, dates=True)
    one, near, far = (codes.vector(text, TOP) for text in ("2016-01-03", "2016-03-03", "1930-01-03"))
    assert cosine(one, near) > 0.75 > cosine(one, far)


def test_unicode_forms_are_one_string() -> None:
    assert np.array_equal(coder().vector("e\u0301", TOP), coder().vector("é", TOP))
