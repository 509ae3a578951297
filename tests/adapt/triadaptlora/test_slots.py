"""A grown piece is trained as a parameter of its own would be: the authors' layout is the reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, nn
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from adapt.triadaptlora.problem import adapted, dense, train, trainable
from linmap.adapt import RankAllocator
from linmap.adapt.triadaptlora.slots import _pieces_from


def trajectories(make, dtype=torch.float64, **options):
    """dW of every layer after each step, in both layouts."""
    traces = []
    for storage in ("prealloc", "append"):
        model, allocator = adapted(dtype, storage=storage, incre_interval=2, total_step=20, **options)
        if storage == "append":  # the same start
            other, _ = adapted(dtype, incre_interval=2, total_step=20, **options)
            model.load_state_dict(other.state_dict(), strict=False)
            allocator = RankAllocator(model, allocator.config)
        optimizer = make(trainable(model))
        trace = []
        for step in range(1, 31):
            train(model, allocator, optimizer, [step])
            trace.append(torch.stack([dense(adapter).norm() for adapter in allocator.adapters.values()]).detach())
        traces.append((torch.stack(trace), allocator.ranks()))
    return traces


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd with momentum and decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam with l2": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3, fused=True),
    "amsgrad, maximised": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, maximize=True),
    "adam, short memory": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.6)),
}


PUBLISHED = {"scaling": "rank", "grow_init": "paper"}


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(name, {}) for name in OPTIMIZERS] + [(name, PUBLISHED) for name in ("sgd", "adam", "adamw")],
    ids=[*OPTIMIZERS, "published, sgd", "published, adam", "published, adamw"],
)
def test_both_layouts_have_the_same_trajectory(optimizer, options):
    (ours, ranks), (theirs, their_ranks) = trajectories(OPTIMIZERS[optimizer], **options)
    assert ranks == their_ranks
    assert max(ranks.values()) > 2
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_without_the_correction_young_pieces_would_move_too_far():
    model, allocator = adapted(total_step=40, incre_interval=20)
    optimizer = torch.optim.Adam(trainable(model), lr=0.01)
    train(model, allocator, optimizer, range(1, 21))
    grown = allocator.adapters[allocator.history[-1].grown[0]]
    assert not grown.map.B[:, 1].any()
    train(model, allocator, optimizer, [21])
    moved = grown.map.B[:, 1].abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=0)  # a first step of Adam: lr


def test_weight_decay_skips_what_is_not_in_use():
    model, allocator = adapted()
    optimizer = torch.optim.AdamW(trainable(model), lr=0.1, weight_decay=0.5)
    train(model, allocator, optimizer, range(1, 9))
    for adapter in allocator.adapters.values():
        map, R = adapter.map, adapter.rank
        assert not any(part.any() for part in (map.A[R:], map.B[:, R:], map.lower[R:], map.upper[:, R:]))


def test_an_optimiser_that_began_anew_is_left_alone():
    model, allocator = adapted()
    train(model, allocator, torch.optim.Adam(trainable(model), lr=0.01), range(1, 9))
    fresh = torch.optim.Adam(trainable(model), lr=0.01)
    before = {name: parameter.clone() for name, parameter in model.named_parameters() if parameter.requires_grad}
    train(model, allocator, fresh, [9])
    for name, parameter in model.named_parameters():
        if name in before:
            moved = (parameter - before[name]).abs()
            assert moved.max() <= 0.01 * (1 + 1e-6)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 10))
def test_of_sharded_pieces_each_process_has_its_own(processes, pieces, first):
    """Those of all processes, one after the other, are those of the whole; each knows how many are before its own."""
    whole, found = torch.arange(2.0 * pieces).view(pieces, 2), []
    for rank in range(processes):
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)
        try:
            named = (f"seen by {rank}",)  # DTensor keeps what it worked out for an equal mesh
            mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=named)
            chunks = whole.chunk(processes)
            own = chunks[rank] if rank < len(chunks) else whole[:0]
            shard = DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())
            mine, before = _pieces_from(nn.Parameter(shard), shard, 0, first)
        finally:
            distributed.destroy_process_group()
        assert before == sum(map(len, found)) or not len(mine)
        found.append(mine)
    assert torch.equal(torch.cat(found), whole[first:])
