"""The pool: what its configurations compute, and what it refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from compress.learngene_pool.models import images, pool_of, vit
from linmap.compress.learngene_pool import Config, LearngenePool, StitchLayer
from typed import of_class


def by_hand(pool: LearngenePool, config: Config, x: torch.Tensor) -> torch.Tensor:
    """The spec's forward pass, block after block."""
    members: Any = pool.members
    x = members[config.members[0]].embed(x)
    begin = 0
    for number, (e, f) in enumerate(config.points):
        a, b = config.members[number], config.members[number + 1]
        for j in range(begin, e + 1):
            x = members[a].blocks[j](x)
        stitch = pool.stitch(a, b, config.layers[number])
        x = torch.einsum("oi,bni->bno", stitch.weight, x) + stitch.bias
        begin = f
    last = members[config.members[-1]]
    for j in range(begin, len(last.blocks)):
        x = last.blocks[j](x)
    return last.head(last.norm(x)[:, 0])


def test_every_configuration_computes_the_path_of_the_spec():
    pool, x = pool_of(), images(3)
    for id, config in enumerate(pool.configs):
        expected = by_hand(pool, config, x)
        torch.testing.assert_close(pool(x, config=id), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(pool(x, config=config), pool(x, config=id))


def test_a_member_alone_is_the_member():
    pool, x = pool_of(), images(3)
    for m, member in enumerate(pool.members):
        assert torch.equal(pool(x, config=m), member(x))


@pytest.mark.parametrize("depth", [3, 4])
def test_a_model_stitched_to_itself_is_itself(depth):
    model, x = vit(depth=depth), images(4)
    pool = LearngenePool([model, vit(depth=depth)]).eval()
    pool.init_stitches("identity")
    for id, config in enumerate(pool.configs):
        if config.points and config.points[0][1] == config.points[0][0] + 1:
            assert torch.equal(pool(x, config=id), model(x))


def test_the_active_configuration_and_that_of_a_call():
    pool, x = pool_of(), images(2)
    assert pool.active == 0
    assert torch.equal(pool(x), pool(x, config=0))
    pool.set_config(20)
    assert pool.active == 20
    assert torch.equal(pool(x), pool(x, config=20))
    assert torch.equal(pool(x, config=0), pool.members[0](x))
    assert pool.active == 20


def test_stitches_are_shared_by_the_pairs_of_a_window_and_by_triples():
    pool = pool_of()
    assert set(pool.stitches) == {"0-1", "0-2", "1-2"}
    assert all(len(of_class(nn.ModuleList, layers)) == 2 for layers in pool.stitches.values())
    alone = pool_of(share_stitch=False)
    assert all(len(of_class(nn.ModuleList, layers)) == 7 for layers in alone.stitches.values())
    assert isinstance(pool.stitch(0, 2, 1), StitchLayer)
    assert set(pool_of(combos=[(0,), (2,), (0, 2)]).stitches) == {"0-2"}
    assert set(pool_of(nearest=True).stitches) == {"0-1", "1-2"}


def test_making_a_pool_leaves_global_generators_alone():
    members = [vit(8), vit(12)]
    before = torch.get_rng_state()
    one, two = LearngenePool(members), LearngenePool(members)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.stitch(0, 1, 0).weight, two.stitch(0, 1, 0).weight)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "members is empty"),
        ([vit(8), vit(12, classes=4)], "classes of members differ: 3 of member 0 and 4 of member 1"),
        ([vit(12), vit(8)], r"\[12, 8\]"),
        ([vit(8, depth=3), vit(12, depth=4)], r"\[3, 4\].*unequal=True"),
    ],
)
def test_members_that_do_not_go_together_are_refused(members, words):
    with pytest.raises(ValueError, match=words):
        LearngenePool(members)


def test_other_patches_and_token_counts_are_refused():
    from linmap.compress.learngene_pool import VisionTransformer

    base = vit(8)
    with pytest.raises(ValueError, match=r"token counts of members differ: 5 of member 0 and 17 of member 1"):
        LearngenePool([base, VisionTransformer(16, 4, 1, 3, 12, 3, 2)])
    with pytest.raises(ValueError, match=r"patch sizes .* differ: 16 of member 0 and 64 of member 1"):
        LearngenePool([base, VisionTransformer(16, 8, 1, 3, 12, 3, 2)])


def test_what_is_no_member_is_refused():
    with pytest.raises(TypeError, match="embed, blocks, norm, head"):
        LearngenePool([vit(8), torch.nn.Linear(3, 3)])


@pytest.mark.parametrize("id", [57, -1])
def test_ids_out_of_range_are_refused(id):
    pool = pool_of()
    for call in (lambda: pool(images(1), config=id), lambda: pool.set_config(id), lambda: pool.cost(id)):
        with pytest.raises(ValueError, match=f"config id {id} is out of range: the pool has ids 0..56"):
            call()


def test_configurations_and_stitches_of_other_pools_are_refused():
    pool = pool_of(combos=[(0,), (1,), (0, 1)])
    with pytest.raises(ValueError, match="no configuration of this pool"):
        pool(images(1), config=Config((0, 2), ((0, 0),), (0,)))
    with pytest.raises(ValueError, match="no stitch leads from member 0 to member 2"):
        pool.stitch(0, 2, 0)
    with pytest.raises(ValueError, match="layer=2"):
        pool.stitch(0, 1, 2)
