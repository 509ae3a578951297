"""The rules of growth, as functions of numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.adapt.triadaptlora.growth import (
    grown_ranks,
    importance,
    is_due,
    layers_to_grow,
    normalised_norm,
    progress,
    ranking,
)
from typed import other


@given(st.integers(1, 500), st.floats(0.001, 1))
def test_the_number_of_layers_follows_the_two_laws(remaining, m):
    assert layers_to_grow(remaining, m, "linear", 10**6) == max(1, math.floor(remaining * m))
    assert layers_to_grow(remaining, m, "nonlinear", 10**6) == max(1, math.floor(remaining**m))


@given(st.integers(1, 500), st.integers(1, 20))
def test_at_the_end_both_laws_ask_for_all_that_remains(remaining, n_layers):
    for growth in ("linear", "nonlinear"):
        assert layers_to_grow(remaining, 1.0, growth, 10**6) == remaining
        assert layers_to_grow(remaining, 1.0, growth, n_layers) == min(remaining, n_layers)


@pytest.mark.usefixtures("annotations_unchecked")
def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match=r"growth=.* must be 'linear' or 'nonlinear'"):
        layers_to_grow(4, 0.5, other("exponential"), 4)


def test_progress_runs_from_the_end_of_the_warmup_to_one():
    assert progress(11, 10, 20) == pytest.approx(0.1)
    assert progress(20, 10, 20) == progress(25, 10, 20) == 1
    assert [step for step in range(1, 13) if is_due(step, 4, 3)] == [6, 9, 12]


def test_ties_go_by_name():
    assert ranking({"b": 1.0, "c": 2.0, "a": 1.0}) == ["c", "a", "b"]


def test_the_last_growth_is_clipped_to_the_budget_and_each_layer_to_its_limit():
    ranks, limits = {"a": 1, "b": 2, "c": 1}, {"a": 9, "b": 3, "c": 9}
    assert grown_ranks(ranks, ["b", "a", "c"], 2, limits, 8) == {"a": 3, "b": 3, "c": 2}
    assert grown_ranks(ranks, ["a"], 9, limits, 6) == {"a": 3, "b": 2, "c": 1}


def test_a_layer_that_has_grown_scores_low_at_the_next_check():
    assert importance({"a": normalised_norm(6.0, 3)}, {"a": normalised_norm(6.0, 2)}) == {"a": -1.0}
