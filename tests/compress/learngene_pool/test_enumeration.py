"""Which configurations there are: the tables, closed forms, and a second enumeration written otherwise."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.learngene_pool import Config, enumerate_configs, paired_windows, unpaired_pairs

depths = st.integers(1, 14)


@pytest.mark.parametrize("depth", [3, 6, 9, 12])
def test_windows_of_two_give_3d_minus_2_pairs_and_d_minus_1_layers(depth):
    pairs, n_layers = paired_windows(depth)
    assert len(pairs) == 3 * depth - 2
    assert n_layers == depth - 1
    assert {layer for *_, layer in pairs} == set(range(depth - 1))


def test_the_table_of_depth_3():
    assert paired_windows(3) == ([(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 2, 1), (2, 1, 1), (2, 2, 1)], 2)


@given(depths, st.integers(1, 5), st.integers(1, 4))
def test_a_pair_has_the_layer_of_the_first_window_that_holds_both_blocks(depth, kernel, stride):
    # written from the definition: windows as sets, the first that holds a pair, windows without a new pair not counted
    windows = [{i for i in range(start, start + kernel) if i < depth} for start in range(0, depth, stride)]
    first = {}
    for e, f in product(range(depth), repeat=2):
        holding = [w for w, blocks in enumerate(windows) if e in blocks and f in blocks]
        if holding:
            first[e, f] = holding[0]
    used = sorted(set(first.values()))
    pairs, n_layers = paired_windows(depth, kernel, stride)
    assert {(e, f): layer for e, f, layer in pairs} == {pair: used.index(w) for pair, w in first.items()}
    assert [(layer, e, f) for e, f, layer in pairs] == sorted((layer, e, f) for e, f, layer in pairs)
    assert n_layers == len(used)


@given(st.integers(1, 12), st.integers(1, 24))
def test_unpaired_blocks_answer_to_the_nearest_in_relative_depth(front, back):
    pairs, end_map = unpaired_pairs(front, back)
    exact = [i * front // back for i in range(back)]
    scale = np.float32(front / back)  # PyTorch's nearest index in single precision, which the published tables have
    single = [min(int(np.floor(np.float32(i) * scale)), front - 1) for i in range(back)]
    assert end_map == single
    assert sum(a != b for a, b in zip(single, exact, strict=True)) <= 1
    assert pairs == sorted((e, i) for i, e in enumerate(end_map) if e < i)


def test_the_unpaired_table_of_2_and_4():
    assert unpaired_pairs(2, 4) == ([(0, 1), (1, 2), (1, 3)], [0, 0, 1, 1])


@pytest.mark.parametrize(("depth", "count"), [(3, 57), (6, 201), (9, 426)])
def test_counts_of_three_members(depth, count):
    assert len(enumerate_configs(depth, 3)) == count


@pytest.mark.parametrize(("depth", "count"), [(6, 18), (9, 27)])
def test_counts_of_the_official_pools(depth, count):
    assert len(enumerate_configs(depth, 3, combos=[(0,), (2,), (0, 2)])) == count


def test_sn_nets_71():
    configs = enumerate_configs(12, 3, nearest=True)
    assert len(configs) == 71
    assert {config.members for config in configs} == {(0,), (1,), (2,), (0, 1), (1, 2)}
    # of its published results: 3 is small's neighbourhood at the front, 37 is the first of small -> base
    assert configs[3] == Config((0, 1), ((0, 0),), (0,))
    assert configs[37] == Config((1, 2), ((0, 0),), (0,))
    assert configs[70] == Config((1, 2), ((11, 11),), (10,))


@given(st.integers(1, 5), st.integers(1, 4))
def test_the_order_and_the_stitches_of_triples(depth, n_members):
    configs = enumerate_configs(depth, n_members)
    pairs, _ = paired_windows(depth)
    expected = [Config((a,), (), ()) for a in range(n_members)]
    for combo in combinations(range(n_members), 2):
        expected += [Config(combo, ((e, f),), (layer,)) for e, f, layer in pairs]
    for combo in combinations(range(n_members), 3):
        for (e1, f1, l1), (e2, f2, l2) in product(pairs, pairs):
            if e2 >= f1:
                expected.append(Config(combo, ((e1, f1), (e2, f2)), (l1, l2)))
    assert configs == expected
    assert len(set(configs)) == len(configs)


def test_combos_keep_the_order_of_the_enumeration():
    every = enumerate_configs(3, 3)
    kept = enumerate_configs(3, 3, combos=[(0, 2), (0,)])
    assert kept == [config for config in every if config.members in ((0,), (0, 2))]


def test_stitches_of_their_own_count_the_pairs():
    configs = enumerate_configs(3, 2, share_stitch=False)
    assert [config.layers for config in configs[2:]] == [(k,) for k in range(7)]


def test_unequal_depths_have_a_stitch_for_each_front_block():
    configs = enumerate_configs([2, 4, 8], 3, unequal=True)
    assert configs[:3] == [Config((a,), (), ()) for a in range(3)]
    assert [c.points[0] for c in configs if c.members == (0, 1)] == [(0, 1), (1, 2), (1, 3)]
    assert all(c.layers == (c.points[0][0],) for c in configs[3:])
    assert max(len(c.members) for c in configs) == 2
    near = enumerate_configs([2, 4, 8], 3, unequal=True, nearest=True)
    assert near == [c for c in configs if c.members != (0, 2)]
    with pytest.warns(UserWarning, match="members 1 and 2 have depths 4 and 4"):
        enumerate_configs([2, 4, 4], 3, unequal=True)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((3, 0), {}, "n_members=0"),
        ((0, 2), {}, "depth=0"),
        (([3, 4], 2), {}, "unequal=True"),
        ((3, 2), {"unequal": True}, "a depth for each"),
        (([3, 4], 2), {"unequal": True, "kernel": 3}, "unequal=True has no windows"),
        (([3, 4], 2), {"unequal": True, "share_stitch": False}, "unequal=True has no windows"),
        (([3, 4], 3), {"unequal": True}, "a depth for each"),
        ((3, 2), {"combos": [(0, 2)]}, r"\(0, 2\)"),
        ((3, 2), {"combos": []}, "combos is empty"),
        ((3, 2), {"kernel": 0}, "kernel=0"),
        ((3, 2), {"stride": 0}, "stride=0"),
    ],
)
def test_what_cannot_be_enumerated_is_refused(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        enumerate_configs(*arguments, **options)


def test_global_generators_are_left_alone():
    before = torch.get_rng_state()
    enumerate_configs(3, 3)
    unpaired_pairs(3, 6)
    assert torch.equal(before, torch.get_rng_state())
