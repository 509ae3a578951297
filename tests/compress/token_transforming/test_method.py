"""Importance, informativeness, centres and assignment against loops over tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.compress.token_transforming import references

from linmap.compress.token_transforming import (
    TokenTransform,
    assignment,
    importance,
    informativeness,
    select_centres,
)
from linmap.compress.token_transforming.similarity import Similarities
from typed import present

seeds = st.integers(0, 2**16)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def some_masses(N, seed, padding=True):
    """Masses from 0 (padding) on; two samples, each with at least two real tokens."""
    mass = torch.randint(0 if padding else 1, 4, (2, N), generator=torch.Generator().manual_seed(seed)).double()
    mass[:, :2] = 1
    return mass


@given(st.integers(2, 9), st.sampled_from(["cls", "received"]), st.booleans(), seeds)
def test_importance_is_attention(N, kind, with_mass, seed):
    q, k = normal(2, 3, N, 4, seed=seed), normal(2, 3, N, 4, seed=seed + 1)
    mass = some_masses(N, seed) if with_mass else None
    a = importance(q, k, kind=kind, mass=mass, scale=0.7)
    for b in range(2):
        s = np.ones(N) if mass is None else mass[b].numpy()
        A = references.attention(q[b].numpy(), k[b].numpy(), s, 0.7).mean(0)
        np.testing.assert_allclose(a[b], A[0] if kind == "cls" else s @ A / s.sum(), atol=1e-12)
        assert (a[b].numpy()[s == 0] == 0).all()


@given(st.integers(2, 12), st.integers(0, 2), seeds)
def test_informativeness_is_its_definition(N, protect, seed):
    f, mass = normal(2, N, 3, seed=seed), some_masses(N, seed)
    a = torch.randint(0, 4, (2, N), generator=torch.Generator().manual_seed(seed)).double()  # with ties
    c = informativeness(f, a, mass=mass, protect=protect)
    for b in range(2):
        expected = references.informativeness(f[b].numpy(), a[b].numpy(), mass[b].numpy(), protect)
        np.testing.assert_allclose(c[b], expected, atol=1e-12)


def test_blocks_of_rows_are_the_whole():
    f = torch.nn.functional.normalize(normal(1, 600, 5), dim=-1)
    whole = (f @ f.mT).masked_fill(torch.ones(600, 600, dtype=torch.bool).triu(), -torch.inf).amax(-1)
    order = torch.arange(600).expand(1, -1)
    torch.testing.assert_close(Similarities(f, order).largest_before(), whole)


def test_centres_are_the_largest_in_their_order_ties_to_the_lower():
    inf = torch.inf
    c = torch.tensor([[inf, 0.5, 0.7, 0.5, 0.5, -inf], [inf, -inf, -inf, 1.0, 2.0, 3.0]])
    assert select_centres(c, 4).tolist() == [[0, 1, 2, 3], [0, 3, 4, 5]]


@given(st.integers(3, 10), st.integers(0, 2), st.data(), seeds)
def test_assignment_is_its_definition(N, protect, data, seed):
    f, mass = normal(2, N, 3, seed=seed), some_masses(N, seed)
    M = data.draw(st.integers(protect + 1, N))
    options = {
        "tau": data.draw(st.sampled_from([0.02, 0.3, 5.0])),
        "hard": data.draw(st.booleans()),
        "topk": data.draw(st.sampled_from([None, 1, 2, 50])),
        "keep_self": data.draw(st.booleans()),
        "min_sim": data.draw(st.sampled_from([None, 0.0, 0.8])),
        "causal": data.draw(st.booleans()),
    }
    scores = normal(2, N, seed=seed + 1)
    scores[:, :protect] = torch.inf
    centres = select_centres(scores, M)
    P = assignment(f, centres, mass=mass, protect=protect, **options)
    for b in range(2):
        expected = references.assignment(
            f[b].numpy(), centres[b].tolist(), s=mass[b].numpy(), protect=protect, **options
        )
        np.testing.assert_allclose(P[b], expected, atol=1e-10)


def test_small_tau_is_hard_and_large_tau_uniform():
    f = normal(1, 9, 4)
    centres = torch.tensor([[0, 2, 3, 7]])
    for tau in (1e-4, 1e-40):
        torch.testing.assert_close(assignment(f, centres, tau=tau), assignment(f, centres, hard=True))
    uniform = assignment(f, centres, tau=1e9)
    torch.testing.assert_close(uniform[:, 1:, 1:], torch.full((1, 3, 8), 1 / 3).double())


WAYS = [
    {},
    {"assign": "hard"},
    {"select": "importance", "assign": "hard"},
    {"select": "bipartite"},
    {"select": "bipartite", "assign": "hard"},
    {"select": "energy", "assign": "hard"},
    {"select": "random"},
    {"topk": 2},
    {"keep_self": True},
    {"select": "importance", "causal": True},
]


@given(st.sampled_from(WAYS), st.integers(4, 12), seeds, st.data())
def test_mass_is_kept_and_constants_stay(way, N, seed, data):
    x, a, mass = normal(2, N, 5, seed=seed), normal(2, N, seed=seed + 1), some_masses(N, seed)
    M = data.draw(st.integers(N - (N - 1) // 2, N - 1))
    transform = TokenTransform(**way).build(x, M=M, importance=a, mass=mass)
    assert transform.P.shape == (2, M, N)
    torch.testing.assert_close(transform.P.sum(-2), (mass > 0).double())
    torch.testing.assert_close(transform.mass_out.sum(-1), mass.sum(-1))
    torch.testing.assert_close(transform.matrix().sum(-1), (transform.mass_out > 0).double())
    torch.testing.assert_close(transform.apply(x), transform.matrix() @ x)
    assert torch.equal(transform.P[:, 0, 0], torch.ones(2).double())
    assert transform.P[:, 0].sum() == transform.P[:, :, 0].sum() == 2
    centres = present(transform.centres)
    assert (centres[:, 1:] > centres[:, :-1]).all()
    ones = torch.ones(2, M, 1, dtype=torch.float64)
    torch.testing.assert_close(transform.restore(ones)[..., 0], (mass > 0).double())


@given(st.integers(4, 12), st.integers(0, 3), seeds)
def test_before_padding_the_last_real_token_is_a_centre_for_those_that_merge_into_later_ones(N, n_pads, seed):
    mass = torch.ones(2, N + n_pads, dtype=torch.float64)
    mass[:, N:] = 0
    x, a = normal(2, N + n_pads, 5, seed=seed), normal(2, N + n_pads, seed=seed + 1)
    transform = TokenTransform(select="importance", causal=True).build(x, M=N // 2, importance=a, mass=mass)
    assert (present(transform.centres) == N - 1).any(-1).all()
    torch.testing.assert_close(transform.P.sum(-2), mass.clamp(max=1))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0}, "tau"),
        ({"tau": -1.0}, "tau"),
        ({"tau": float("nan")}, "tau"),
        ({"topk": 0}, "topk"),
        ({"min_sim": 2.0}, "min_sim"),
        ({"protect": -1}, "protect"),
        ({"select": "best"}, "select='best' must be one of"),
        ({"assign": "fuzzy"}, "assign"),
        ({"feature": "q"}, "feature"),
        ({"score": "loud"}, "score"),
        ({"select": "energy", "causal": True}, "causal"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenTransform(**options)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"M": 0}, "M must be a whole number of at least 1"),
        ({"M": 1}, "protect = 1"),
        ({"M": 3}, "needs the importance"),
        ({"M": 3, "importance": torch.ones(1, 5)}, "importance must have the shape"),
        ({"M": 3, "importance": torch.ones(1, 6), "mass": torch.ones(6)}, "mass must have the shape"),
    ],
)
def test_building_without_what_it_needs_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenTransform().build(torch.ones(1, 6, 2), **options)
    with pytest.raises(ValueError, match="needs the keys"):
        TokenTransform(feature="k").build(torch.ones(1, 6, 2), M=3, importance=torch.ones(1, 6))
