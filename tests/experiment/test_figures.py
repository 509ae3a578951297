"""Intervals against SciPy, their coverage, and the words of a verdict."""

import math

import numpy as np
import pytest
from scipy import stats

from linmap.experiment import Metric, Row, beats, capitalized, differ, mean_std, paired, ranking, verdict


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


ACCURACY = Metric("accuracy", "higher", digits=3)


def rows(ours: list[float], theirs: list[float]) -> list[Row]:
    weak = Row("weak", "baseline", {"accuracy": [value - 10 for value in theirs]})
    return [Row("ours", "system", {"accuracy": ours}), weak, Row("theirs", "baseline", {"accuracy": theirs})]


@pytest.mark.parametrize("n", [2, 5, 29])
def test_the_interval_of_few_pairs_is_students(n: int, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, n))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = paired(a, b)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high])
    assert found.wins == np.sum(a > b)


def test_the_interval_of_folds_is_that_of_nadeau_and_bengio(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 10))
    plain, wider = paired(a, b), paired(a, b, overlap=1 / 9)
    assert (wider.high - wider.low) / (plain.high - plain.low) == pytest.approx(math.sqrt(1 + 10 / 9))


@pytest.mark.parametrize("n", [6, 60])
def test_the_interval_holds_the_truth_in_95_of_100(n: int, rng: np.random.Generator) -> None:
    held = [paired(rng.normal(0.3, 1, n), rng.normal(0, 1, n), seed=i) for i in range(400)]
    assert np.mean([gap.low <= 0.3 <= gap.high for gap in held]) == pytest.approx(0.95, abs=0.04)


def test_one_pair_tells_nothing_about_chance() -> None:
    gap = paired([1.0], [0.5])
    assert not gap.certain
    assert gap.text() == "+0.500"
    with pytest.raises(ValueError, match="must be pairs, got 1 and 2"):
        paired([1.0], [1.0, 2.0])


def test_figures_as_text() -> None:
    assert mean_std([]) == "—"
    assert mean_std([0.5]) == "0.500"
    assert mean_std([1.0, 2.0], 1) == "1.5 ± 0.7"
    assert mean_std([1.0, math.nan], 1) == "—"
    assert ranking({"a": 1, "b": math.nan, "c": 0}, "lower") == ["c", "a", "b"]
    assert ranking({"a": 1, "b": math.nan, "c": 0}, "higher") == ["a", "c", "b"]


def test_the_verdict_says_what_to_take() -> None:
    better, worse = [0.9, 0.91, 0.92, 0.9], [0.8, 0.82, 0.81, 0.8]
    assert verdict(rows(better, worse), ACCURACY) == (
        "Take ours: better than theirs, the best of the others (accuracy 0.907 against 0.807; better in 4 of 4 seeds, "
        "difference +0.100 (+0.087 to +0.113), 95 % interval)."
    )
    assert verdict(rows(worse, better), ACCURACY, "folds").startswith("Take theirs: ours is worse here (accuracy 0.807")
    assert verdict(rows([0.9, 0.8, 0.7], [0.8, 0.9, 0.7]), ACCURACY).startswith("No difference between ours and theirs")
    assert "tells nothing about chance" in verdict(rows([0.9], [0.8]), ACCURACY)
    assert verdict(rows([math.nan], [0.8]), ACCURACY) == "Take theirs: ours gave no finite accuracy."
    assert verdict(rows(better, worse)[:1], ACCURACY) == ""
    lower = Metric("accuracy", "lower")
    assert verdict(rows(better, worse)[::2], lower).startswith("Take theirs")


def test_a_method_is_held_against_a_number_as_against_another_method() -> None:
    values = [0.9, 0.91, 0.92]
    assert [differ(values, bar) for bar in (0.8, 0.905, 1)] == [True, False, True]
    assert differ(values, 0.85) == differ(values, [0.85] * 3)
    assert not differ([0.9], 0.1)
    assert not differ([], 0.1)


def test_a_check_for_each_baseline_says_whether_the_system_beats_it() -> None:
    weak, theirs = beats(rows([0.9, 0.8], [0.8, 0.95]), ACCURACY)
    assert weak.passed
    assert not theirs.passed
    assert (weak.certain, theirs.certain) == (True, False)
    assert not any(check.certain for check in beats(rows([1.0], [2.0]), ACCURACY))
    assert theirs.statement == "ours has a higher accuracy than theirs"
    assert theirs.figures.split(" against ") == [
        f"{value:.{ACCURACY.digits}f}{ACCURACY.unit}" for value in (0.85, 0.875)
    ]
    assert theirs.otherwise == "take theirs on data like these"
    assert beats(rows([1.0], [2.0]), Metric("accuracy", "lower"))[1].passed


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        ("training diverged for AdaLoRA", "Training diverged for AdaLoRA"),
        ("nDCG@10 0.513 against 0.421", "nDCG@10 0.513 against 0.421"),
        ("kNN-5", "kNN-5"),
        ("3 seeds, one split", "3 seeds, one split"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_and_keeps_its_names(text: str, begun: str) -> None:
    assert capitalized(text) == begun == capitalized(begun)
