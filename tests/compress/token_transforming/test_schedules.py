"""Schedules and the cost of a compressed encoder."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from linmap.compress.token_transforming import (
    ratio_schedule,
    removals_to_schedule,
    solve_removals,
    solve_stages,
    stage_schedule,
    tome_removals,
    transformer_macs,
)
from linmap.compress.token_transforming.cost import LEAST_KEEP
from linmap.compress.token_transforming.schedules import stage_layers
from typed import other


def test_removals_of_tome():
    """Values of the official parse_r."""
    assert tome_removals(12, 13) == [13] * 12
    assert tome_removals(4, 8, 1.0) == [0, 5, 10, 16]
    assert tome_removals(4, 8, -1.0) == [16, 10, 5, 0]
    assert tome_removals(3, 5, 0.5) == [2, 5, 8]
    assert tome_removals(1, 5, 0.5) == [2]


@given(st.integers(1, 12), st.integers(0, 20), st.floats(-1, 1))
def test_removals_are_r_on_average(depth, r, inflection):
    removals = tome_removals(depth, r, inflection)
    assert all(0 <= n <= 2 * r for n in removals)
    if depth > 1:
        assert abs(sum(removals) - r * depth) <= depth


def test_schedules():
    assert removals_to_schedule([13, 0, 200, 5], 197) == {0: 184, 1: 184, 2: 2, 3: 2}
    assert removals_to_schedule([9], 10, protect=0) == {0: 1}
    assert stage_schedule(197, 0.65, (3, 6, 9)) == {3: 129, 6: 85, 9: 56}
    assert stage_schedule(197, 0.65, (9, 3, 6)) == {3: 129, 6: 85, 9: 56}
    assert stage_schedule(6, 0.01, (0, 1), protect=5) == {0: 6, 1: 6}
    assert ratio_schedule(10, 3, 0.5) == {0: 6, 1: 4, 2: 3}


@given(st.integers(2, 300), st.floats(0.01, 1), st.integers(1, 12), st.integers(0, 1))
def test_a_ratio_is_a_stage_at_every_layer_and_never_empties(n, keep, depth, protect):
    schedule = ratio_schedule(n, depth, keep, protect=protect)
    assert schedule == stage_schedule(n, keep, range(depth), protect=protect)
    left = n - protect
    for M in schedule.values():
        left = math.ceil(keep * left)
        assert M == left + protect > protect


def test_published_costs():
    """GMACs of DeiT-S at 224 x 224, as in the papers' tables."""
    deit = partial(transformer_macs, 197, 384, 12, patch_features=768, n_classes=1000)
    assert round(deit() / 1e9, 3) == 4.599
    thirteen = removals_to_schedule(tome_removals(12, 13), 197)
    assert round(deit(schedule=thirteen) / 1e9, 3) == 2.703
    stages = stage_schedule(197, 0.65, (3, 6, 9))
    assert round(deit(schedule=stages) / 1e9, 3) == 2.799


@given(st.integers(3, 9), st.integers(1, 3), st.integers(1, 6), st.data())
def test_costs_are_what_pytorch_counts(n, depth, hidden, data):
    C, c, classes, patch = 6, 4, 5, 7
    schedule = {layer: data.draw(st.integers(2, 12)) for layer in range(depth)}
    cost = partial(transformer_macs, hidden=hidden, patch_features=patch, n_classes=classes, feature_dim=c)

    def forward():
        torch.mm(torch.ones(n - 1, patch), torch.ones(patch, C))
        count = n
        for layer in range(depth):
            x, m = torch.ones(count, C), min(schedule[layer], count)
            for _ in range(4):
                torch.mm(x, torch.ones(C, C))
            torch.mm(x @ x.T, x)
            if m < count:
                torch.mm(torch.ones(count, c), torch.ones(c, count))
                x = torch.ones(m, count) @ x
            torch.mm(x @ torch.ones(C, hidden), torch.ones(hidden, C))
            count = m
        torch.mm(torch.ones(1, C), torch.ones(C, classes))

    with FlopCounterMode(display=False) as counter:
        forward()
    assert cost(n, C, depth, schedule=schedule) * 2 == counter.get_total_flops()


@given(st.floats(0.3, 1.0), st.booleans())
def test_the_solved_r_is_the_smallest(target, with_transforms):
    feature_dim = 64 if with_transforms else None

    def share(r):
        schedule = removals_to_schedule(tome_removals(6, r), 50)
        return transformer_macs(50, 64, 6, schedule=schedule, feature_dim=feature_dim) / transformer_macs(50, 64, 6)

    r = solve_removals(target, 50, 64, 6, feature_dim=feature_dim)
    assert share(r) <= target
    assert all(share(less) > target for less in range(r))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tome_removals(0, 3), "depth must be a whole number of at least 1"),
        (lambda: tome_removals(3, -1), "r must be a whole number of at least 0"),
        (lambda: tome_removals(3, 3, 1.5), "inflection"),
        (lambda: removals_to_schedule([3], 1), "n_tokens = 1 holds no token"),
        (lambda: removals_to_schedule([-3], 9), r"removals\[0\] must be a whole number of at least 0"),
        (lambda: stage_schedule(9, 0.0, (1,)), r"keep must lie in \(0, 1\]"),
        (lambda: stage_schedule(9, 1.1, (1,)), r"keep must lie in \(0, 1\]"),
        (lambda: stage_schedule(9, 0.5, (1, 1)), "twice"),
        (lambda: stage_schedule(9, 0.5, (-1,)), "at must be a whole number of at least 0"),
        (lambda: transformer_macs(9, 4, 3, schedule={3: 2}), "layer 3 of a model with depth 3"),
        (lambda: transformer_macs(9, 4, 3, schedule={1: 0}), "M must be a whole number of at least 1"),
        (lambda: solve_removals(0.01, 50, 64, 6), r"smallest share .* is 0\.\d+"),
        (lambda: solve_removals(1.5, 50, 64, 6), r"target must lie in \(0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("annotations_unchecked")
def test_wrong_kinds_are_refused():
    with pytest.raises(TypeError, match="takes none"):
        solve_removals(0.5, 50, 64, 6, schedule={})
    with pytest.raises(TypeError, match="whole number"):
        stage_schedule(9, 0.5, other((1.5,)))


@given(st.integers(30, 400), st.integers(2, 14), st.floats(0.05, 1))
def test_stages_that_reach_a_target_stand_as_late_as_they_can(n, depth, target):
    cost = partial(transformer_macs, n, 64, depth, feature_dim=64, patch_features=48)
    solve = partial(solve_stages, target, n, 64, depth, feature_dim=64, patch_features=48)
    full = transformer_macs(n, 64, depth, patch_features=48)

    def part(keep, layers):
        return cost(schedule=stage_schedule(n, keep, layers)) / full

    last = tuple(layer - stage_layers(depth)[0][0] for layer in stage_layers(depth)[0])
    if part(0.001, last) > target:
        with pytest.raises(ValueError, match="cannot be reached by three stages"):
            solve()
        return
    keep, layers = solve()
    assert part(keep, layers) <= target
    assert keep == 1 or part(keep + 0.001, layers) > target
    if layers != stage_layers(depth)[0]:
        assert part(LEAST_KEEP, tuple(layer + 1 for layer in layers)) > target
    if layers[0] > 0:
        assert keep >= LEAST_KEEP - 0.001


def test_stages_move_forward_for_strong_compression():
    solve = partial(solve_stages, n_tokens=257, dim=384, depth=12, hidden=1536, feature_dim=384, patch_features=588)
    found = {target: solve(target) for target in (0.61, 0.5, 0.42, 0.33)}
    assert [layers for _, layers in found.values()] == [(3, 6, 9), (3, 6, 9), (3, 6, 9), (1, 4, 7)]
    assert all(keep >= LEAST_KEEP for keep, _ in found.values())
    with pytest.raises(ValueError, match=r"smallest part of the \d+ MACs of the plain model is 0\.0"):
        solve(0.01)
    with pytest.raises(TypeError, match="finds the schedule"):
        solve_stages(0.5, 257, 384, 12, schedule={})
