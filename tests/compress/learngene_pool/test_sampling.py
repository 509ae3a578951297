"""The draws: pure functions of the step, with the distributions that they are said to have."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.learngene_pool import draw
from typed import of_class

MACS = [10, 12, 13, 30, 55, 56, 110]  # bins of 20: {0, 1, 2}, {3}, {4, 5}, {}, {6}


@given(st.integers(0, 10**6), st.integers(1, 50), st.sampled_from(["uniform", "budget", "sandwich"]), st.integers(0, 9))
def test_a_draw_is_a_pure_function_of_its_arguments(step, n, sampler, seed):
    before, numpy = torch.get_rng_state(), of_class(tuple, np.random.get_state())[1].copy()  # noqa: NPY002
    macs = list(range(n))
    drawn = draw(step, n, sampler=sampler, seed=seed, macs=macs)
    torch.rand(1, generator=torch.Generator())
    assert drawn == draw(step, n, sampler=sampler, seed=seed, macs=macs)
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy == of_class(tuple, np.random.get_state())[1]).all()  # noqa: NPY002
    assert all(type(id) is int and 0 <= id < n for id in drawn)
    assert len(drawn) == (3 if sampler == "sandwich" else 1)


def counts(sampler: str, steps: int = 4000) -> Counter:
    drawn = [draw(step, 7, sampler=sampler, macs=MACS) for step in range(steps)]
    return Counter(ids[-1] for ids in drawn)


def test_uniform_draws_every_id_as_often():
    found = counts("uniform")
    assert all(abs(found[id] / 4000 - 1 / 7) < 0.025 for id in range(7))


def test_budget_is_flat_over_the_bins_that_hold_any():
    found = counts("budget")
    expected = [1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 8, 1 / 8, 1 / 4]
    assert all(abs(found[id] / 4000 - share) < 0.03 for id, share in enumerate(expected))


def test_sandwich_has_the_least_the_most_and_one_at_random():
    drawn = [draw(step, 7, sampler="sandwich", macs=MACS) for step in range(300)]
    assert {ids[:2] for ids in drawn} == {(0, 6)}
    assert {ids[2] for ids in drawn} == set(range(7))


def test_seeds_and_steps_draw_otherwise():
    assert len({tuple(draw(step, 1000, seed=seed) for step in range(5)) for seed in range(20)}) == 20


def test_one_id_or_equal_costs():
    assert draw(3, 1, sampler="sandwich", macs=[5]) == (0, 0, 0)
    assert draw(3, 1, sampler="budget", macs=[5]) == (0,)
    assert {draw(step, 3, sampler="budget", macs=[5, 5, 5])[0] for step in range(50)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sampler": "best"}, "sampler='best'"),
        ({"sampler": "budget"}, "needs macs"),
        ({"sampler": "sandwich", "macs": [1, 2]}, "one of each of the 3 ids"),
        ({"n": 0}, "n=0"),
        ({"step": -1}, "step=-1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        draw(**({"step": 0, "n": 3} | arguments))
