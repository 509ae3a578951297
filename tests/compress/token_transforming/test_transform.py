"""Laws of transformations: what is kept, what is restored, what composes."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.token_transforming import (
    TokenTransform,
    Transform,
    attention_pooling,
    clusters,
    compose,
    evit,
    prune,
    tome,
)
from typed import gradient_of, other

seeds = st.integers(0, 2**16)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def stochastic(B, M, N, seed=0):
    """A random assignment with columns that sum to 1, and random masses."""
    P = normal(B, M, N, seed=seed).softmax(1)
    return Transform(P, normal(B, N, seed=seed + 1).exp())


@given(st.integers(1, 5), st.integers(1, 7), seeds)
def test_outputs_are_means_by_mass(M, N, seed):
    transform, x = stochastic(2, M, N, seed), normal(2, N, 3, seed=seed + 2)
    P, s = transform.P, transform.mass
    for b in range(2):
        for m in range(M):
            weights = P[b, m] * s[b]
            torch.testing.assert_close(transform.mass_out[b, m], weights.sum())
            torch.testing.assert_close(transform.apply(x)[b, m], weights @ x[b] / weights.sum())
    torch.testing.assert_close(transform.matrix() @ x, transform.apply(x))
    torch.testing.assert_close(transform.recovery(), P.mT)
    y = normal(2, M, 4, seed=seed)
    torch.testing.assert_close(transform.restore(y), P.mT @ y)
    torch.testing.assert_close(transform.restore(y, hard=True), transform.recovery(hard=True) @ y)
    assert torch.equal(transform.recovery(hard=True).argmax(-1), P.argmax(1))


@given(st.integers(2, 6), st.integers(0, 5), seeds)
def test_a_hard_assignment_is_inverted_by_its_transpose(M, extra, seed):
    """With masses of one: W^+ = P^T, R W is a projector onto what is constant within the groups."""
    ids = torch.cat([torch.arange(M), torch.randint(M, (extra,), generator=torch.Generator().manual_seed(seed))])
    transform = clusters(ids.unsqueeze(0), M)
    W, R = transform.matrix(), transform.recovery()
    torch.testing.assert_close(transform.pinv(), R)
    torch.testing.assert_close(R @ W @ R @ W, R @ W)
    torch.testing.assert_close(transform.restore(torch.full((1, M, 2), 3.0)), torch.full((1, M + extra, 2), 3.0))


@given(st.integers(2, 5), st.integers(5, 7), seeds)
def test_the_pseudo_inverse_is_that_of_moore_and_penrose(M, N, seed):
    W, X = stochastic(1, M, N, seed).matrix(), stochastic(1, M, N, seed).pinv()
    torch.testing.assert_close(W @ X @ W, W, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(X @ W, (X @ W).mT, atol=1e-6, rtol=1e-6)


def test_an_output_without_mass_is_a_row_of_zeros():
    transform = clusters(torch.tensor([[0, 0, 2]]), 3)
    assert transform.matrix()[0].tolist() == [[0.5, 0.5, 0], [0, 0, 0], [0, 0, 1]]
    assert transform.pinv()[0, :, 1].tolist() == [0, 0, 0]
    assert transform.apply(torch.ones(1, 3, 1))[0, :, 0].tolist() == [1, 0, 1]
    dense = Transform(transform.P, transform.mass)
    assert torch.equal(dense.matrix(), transform.matrix())


def test_identity_returns_the_very_tensor():
    mass = torch.tensor([[1.0, 2, 0]])
    transform, x = Transform.identity(mass), normal(1, 3, 2)
    assert transform.apply(x) is x
    assert transform.restore(x) is x
    assert transform.mass_out is transform.mass
    assert TokenTransform().build(x, M=3).apply(x) is x
    assert tome(x, 0).apply(x) is x
    assert evit(torch.ones(1, 2), 1.0, fuse=True).apply(x) is x
    assert prune(torch.ones(1, 3), 5).apply(x) is x


@given(st.integers(1, 4), seeds)
def test_transformations_compose(depth, seed):
    sizes = [9, 6, 4, 3, 2][: depth + 1]
    transforms, x = [], normal(2, 9, 3, seed=seed)
    mass = normal(2, 9, seed=seed + 1).exp()
    y = x
    for M in sizes[1:]:
        transform = TokenTransform(tau=0.5).build(y, M=M, importance=y[..., 0], mass=mass)
        y, mass = transform.apply(y), transform.mass_out
        transforms.append(transform)
    W, R = compose(transforms)
    torch.testing.assert_close(W @ x, y)
    torch.testing.assert_close(W.sum(-1), torch.ones_like(W[..., 0]))
    torch.testing.assert_close(R.sum(-1), torch.ones_like(R[..., 0]))
    product = (
        torch.linalg.multi_dot([t.recovery()[0] for t in transforms]) if depth > 1 else transforms[0].recovery()[0]
    )
    torch.testing.assert_close(R[0], product)
    torch.testing.assert_close(R.mT @ transforms[0].mass.unsqueeze(-1), mass.unsqueeze(-1))


def test_composition_passes_over_identities_and_dropped_tokens():
    first = prune(torch.tensor([[3.0, 2, 1, 0]]), 2)
    W, R = compose([Transform.identity(torch.ones(1, 4)), first, Transform.identity(torch.ones(1, 2))])
    assert torch.equal(W, first.matrix())
    assert torch.equal(R, first.recovery())


@given(st.sampled_from(["soft", "hard"]), seeds)
def test_permuting_tokens_permutes_what_is_restored(assign, seed):
    x, a = normal(1, 9, 4, seed=seed), normal(1, 9, seed=seed + 1)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(8)])
    whole, permuted = (
        TokenTransform(assign=assign).build(x[:, i], M=5, importance=a[:, i]) for i in (torch.arange(9), order)
    )
    restored = whole.restore(whole.apply(x))
    torch.testing.assert_close(permuted.restore(permuted.apply(x[:, order])), restored[:, order])


@given(st.sampled_from(["informative", "importance", "bipartite", "energy", "random"]), seeds)
def test_samples_do_not_see_each_other(select, seed):
    x, a = normal(3, 9, 4, seed=seed), normal(3, 9, seed=seed + 1)
    way = TokenTransform(select=select, assign="soft" if seed % 2 else "hard")
    together = way.build(x, M=6, importance=a)
    for b in range(3):
        alone = way.build(x[b : b + 1], M=6, importance=a[b : b + 1])
        torch.testing.assert_close(together.P[b], alone.P[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tokens_keep_their_type_and_all_else_is_precise(dtype):
    x, a = normal(2, 9, 4).to(dtype), normal(2, 9).to(dtype)
    precise = torch.promote_types(dtype, torch.float32)
    for assign in ("soft", "hard", "prune"):
        for autocast in (False, True):
            with torch.autocast("cpu", enabled=autocast):
                transform = TokenTransform(assign=assign).build(x, M=5, importance=a)
                y = transform.apply(x)
                restored = transform.restore(y, pruned="zero" if assign == "prune" else "error")
            assert y.dtype == restored.dtype == dtype
            assert transform.P.dtype == transform.matrix().dtype == transform.mass_out.dtype == precise
            torch.testing.assert_close(y, (transform.matrix() @ x.to(precise)).to(dtype))


def test_large_sums_of_half_precision_do_not_overflow():
    x = torch.full((1, 4000, 1), 60.0, dtype=torch.float16)
    assert clusters(torch.zeros(1, 4000, dtype=torch.int64), 1).apply(x).item() == 60


def test_gradients_flow_through_shares_and_tokens():
    a = normal(1, 7)
    transform = TokenTransform(tau=0.5, keep_self=True, topk=3)

    def outputs(x):
        built = transform.build(x, M=4, importance=a)
        y = built.apply(x)
        return y, built.restore(y), built.mass_out

    assert torch.autograd.gradcheck(outputs, normal(1, 7, 3).requires_grad_())


def test_gradients_are_finite_beside_padding():
    x = normal(2, 7, 3).requires_grad_()
    mass = torch.ones(2, 7)
    mass[0, 2:] = 0
    way = TokenTransform(min_sim=0.1)
    built = way.build(x, M=4, importance=torch.rand(2, 7), mass=mass)
    (built.apply(x).sum() + built.mass_out.square().sum()).backward()
    assert torch.isfinite(gradient_of(x)).all()


def test_duplicates_stand_for_what_they_repeat():
    """Distinct tokens with masses go through attention as their repetitions do, exactly."""
    from linmap.compress.token_transforming import proportional_attention

    distinct = normal(1, 5, 8)
    repeats = torch.tensor([1, 3, 1, 2, 4])
    x = distinct.repeat_interleave(repeats, 1)
    built = TokenTransform(assign="hard").build(x, M=5, importance=x.norm(dim=-1))
    y = built.apply(x)
    assert sorted(built.mass_out[0].tolist()) == sorted(repeats.tolist())
    weights = normal(3, 8, 8, seed=4)

    def attend(tokens, mass):
        q, k, v = ((tokens @ w).unflatten(-1, (2, 4)).transpose(1, 2) for w in weights)
        return tokens + proportional_attention(q, k, v, mass).transpose(1, 2).flatten(2)

    full, few = x, y
    for _ in range(3):
        full, few = attend(full, None), attend(few, built.mass_out)
    torch.testing.assert_close(built.restore(few), full, atol=1e-12, rtol=1e-12)


def test_transformations_are_pickled():
    x = normal(1, 7, 3)
    for assign in ("soft", "hard", "prune"):
        transform = TokenTransform(assign=assign).build(x, M=4, importance=x[..., 0])
        again = pickle.loads(pickle.dumps(transform))
        assert torch.equal(again.P, transform.P)
        assert torch.equal(again.apply(x), transform.apply(x))


@pytest.mark.usefixtures("annotations_unchecked")
def test_what_does_not_fit_is_refused():
    P, mass = torch.ones(1, 2, 3) / 2, torch.ones(1, 3)
    with pytest.raises(TypeError, match="P must be a tensor"):
        Transform(other([[1.0]]), mass)
    with pytest.raises(TypeError, match="int64"):
        Transform(P, mass, torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"mass must have the shape \(1, 3\)"):
        Transform(P, torch.ones(1, 2))
    with pytest.raises(ValueError, match="W must have the shape"):
        Transform(P, mass, W=torch.ones(1, 3, 3))
    transform = Transform(P, mass)
    with pytest.raises(ValueError, match=r"x must have the shape \(1, 3, C\)"):
        transform.apply(torch.ones(1, 2, 4))
    with pytest.raises(ValueError, match=r"y must have the shape \(1, 2, C\)"):
        transform.restore(torch.ones(1, 3, 4))
    with pytest.raises(ValueError, match="pruned='best'"):
        transform.restore(torch.ones(1, 2, 4), pruned=other("best"))
    with pytest.raises(ValueError, match="pruned='nearest' needs"):
        prune(torch.ones(1, 4), 2).restore(torch.ones(1, 2, 4), pruned="nearest")
    with pytest.raises(ValueError, match="at least one"):
        compose([])
    with pytest.raises(TypeError, match=r"transforms\[0\]"):
        compose([other(P)])
    with pytest.raises(ValueError, match=r"transforms\[1\] takes 3 tokens"):
        compose([transform, transform])


def test_dropped_tokens_are_told_apart_from_padding():
    P = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.5, 0.0]]])
    y = torch.tensor([[[1.0], [3.0]]])
    padding = Transform(P, torch.tensor([[1.0, 1, 0]]))
    assert padding.restore(y)[0, :, 0].tolist() == [1, 2, 0]
    dropped = Transform(P, torch.ones(1, 3), nearest=torch.tensor([[0, 0, 1]]))
    with pytest.raises(ValueError, match="1 tokens with mass were dropped"):
        dropped.restore(y)
    assert dropped.restore(y, pruned="nearest")[0, :, 0].tolist() == [1, 2, 3]


def test_pools_restore_by_their_transpose():
    transform = attention_pooling(normal(1, 2, 4))
    y = normal(1, 2, 3)
    torch.testing.assert_close(transform.restore(y), transform.P.mT @ y)


@pytest.mark.slow
def test_one_graph_holds_it_all():
    """In a process of its own, as in a user's program: Dynamo does not trace the run-time check of a dataclass."""
    script = Path(__file__).with_name("one_graph.py")
    outcome = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
