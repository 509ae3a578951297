"""Parameters and MACs: closed forms, the modules themselves, PyTorch's counter, and published tables."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compress.learngene_pool.models import pool_of
from linmap.compress.learngene_pool import Config, Descendant, LearngenePool, VisionTransformer, descendant_cost

DIMS = (192, 384, 768)
deit_cost = partial(descendant_cost, dims=DIMS, n_tokens=197, patch_features=768, n_classes=1000)


def counted_macs(model: torch.nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def test_every_configuration_costs_what_its_model_has_and_what_pytorch_counts():
    pool = pool_of()
    for id, config in enumerate(pool.configs):
        model = pool.build(id, share=True)
        closed = descendant_cost(config, dims=(8, 12, 16), depth=3, n_tokens=5, patch_features=16, n_classes=3)
        assert pool.cost(id) == model.cost == closed
        assert closed.params == sum(p.numel() for p in model.parameters())
        if id % 6 == 0:
            assert closed.macs == counted_macs(model, torch.zeros(1, 1, 8, 8))


@given(st.sampled_from([1.0, 2.0, 3.5]), st.integers(1, 3), st.integers(0, 56))
def test_other_widths_of_mlps_and_numbers_of_heads(ratio, heads, id):
    widths = (6, 12, 18)
    members = [VisionTransformer(8, 4, 2, 7, d, 3, heads, mlp_ratio=ratio) for d in widths]
    pool = LearngenePool(members)
    closed = descendant_cost(
        pool.configs[id], dims=widths, depth=3, n_tokens=5, patch_features=32, n_classes=7, mlp_ratio=ratio
    )
    assert pool.cost(id) == closed
    assert closed.params == sum(p.numel() for p in pool.build(id).parameters())


def test_unequal_depths():
    members = [VisionTransformer(8, 4, 1, 3, d, depth, 2) for d, depth in ((8, 2), (12, 4))]
    pool = LearngenePool(members, unequal=True)
    closed = partial(descendant_cost, dims=(8, 12), depth=(2, 4), n_tokens=5, patch_features=16, n_classes=3)
    for id, config in enumerate(pool.configs):
        assert pool.cost(id) == closed(config)
        assert counted_macs(pool.build(id), torch.zeros(1, 1, 8, 8)) == pool.cost(id).macs


@pytest.mark.parametrize(
    ("depth", "config", "params", "macs"),
    [  # millions and thousands of millions, as the spec gives them from the official counting
        (6, Config((0,), (), ()), 3.05, 0.64),
        (6, Config((1,), (), ()), 11.40, 2.33),
        (6, Config((2,), (), ()), 44.04, 8.84),
        (6, Config((0, 2), ((4, 5),), (4,)), 10.38, 2.02),
        (6, Config((0, 2), ((1, 0),), (0,)), 44.48, 8.99),
        (9, Config((0,), (), ()), 4.38, 0.95),
        (9, Config((2,), (), ()), 65.30, 13.20),
        (9, Config((0, 2), ((7, 8),), (7,)), 11.71, 2.33),
        (9, Config((0, 2), ((1, 0),), (0,)), 65.75, 13.35),
    ],
)
def test_the_pools_of_the_paper(depth, config, params, macs):
    cost = deit_cost(config, depth=depth)
    first = DIMS[config.members[0]]
    omitted = 198 * first if len(config.members) > 1 else 0  # CLS token and positions, which its code leaves out
    assert (cost.params - omitted) / 1e6 == pytest.approx(params, abs=0.0051)
    assert cost.macs / 1e9 == pytest.approx(macs, abs=0.0155)  # fvcore also counts 5 operations an entry of LayerNorm


@pytest.mark.parametrize(
    ("config", "flops", "params"),
    [  # of SN-Net's published results, by fvcore
        (Config((0,), (), ()), 1258411200, 5717416),
        (Config((1,), (), ()), 4608338304, 22050664),
        (Config((2,), (), ()), 17582740224, 86567656),
        (Config((0, 1), ((0, 0),), (0,)), 4696010496, 22345960),
        (Config((0, 1), ((11, 11),), (10,)), 1652086272, 7720360),
        (Config((1, 2), ((1, 0),), (0,)), 18340574208, 89964904),
        (Config((1, 2), ((11, 11),), (10,)), 6121909248, 29742952),
    ],
)
def test_the_published_table_of_sn_net(config, flops, params):
    cost = deit_cost(config, depth=12)
    first = DIMS[config.members[0]]
    stitched = len(config.members) > 1
    assert cost.params - (198 * first if stitched else 0) == params
    blocks = [(config.points[0][0] + 1, 12 - config.points[0][1])] if stitched else [(12,)]
    norms = sum(2 * n * DIMS[m] for m, n in zip(config.members, blocks[0], strict=True))
    norms += 0 if stitched else first  # its stitched models leave out the final norm
    assert cost.macs + 5 * 197 * norms == flops


def test_a_configuration_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="members up to 3"):
        deit_cost(Config((3,), (), ()), depth=12)
    with pytest.raises(ValueError, match="runs blocks"):
        deit_cost(Config((0, 1), ((12, 0),), (0,)), depth=12)


def test_a_loaded_descendant_costs_the_same(tmp_path):
    built = pool_of().build(40)
    built.save(tmp_path)
    assert Descendant.load(tmp_path).cost == built.cost
