"""Published methods as transformations, against loops over tokens that were written from their definitions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.compress.token_transforming import references

from linmap.compress.token_transforming import (
    attention_pooling,
    average_pool,
    clusters,
    evit,
    kth_bipartite,
    pitome,
    prune,
    tome,
)
from typed import other, present


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def check_groups(transform, metric, reference, **options):
    """Outputs are the groups of the reference, in the order of the tokens that they grew around."""
    for b, sample in enumerate(metric):
        groups = reference(sample.numpy(), **options)
        order = sorted(groups)
        assert transform.centres[b].tolist() == order
        np.testing.assert_array_equal(
            transform.P[b], references.groups_to_P([groups[i] for i in order], metric.shape[1])
        )


seeds = st.integers(0, 2**16)


@given(st.integers(4, 14), st.booleans(), st.booleans(), seeds, st.data())
def test_tome_merges_even_tokens_into_odd_ones(N, class_token, distill_token, seed, data):
    metric = normal(2, N, 3, seed=seed)
    r = data.draw(st.integers(1, (N - class_token - distill_token) // 2))
    options = {"r": r, "class_token": class_token, "distill_token": distill_token}
    transform = tome(metric, **options)
    assert transform.P.shape == (2, N - r, N)
    check_groups(transform, metric, references.tome, **options)


def test_tome_takes_the_first_of_equals():
    metric = torch.ones(1, 8, 2)
    assert present(tome(metric, 2).centres).tolist() == [[1, 3, 4, 5, 6, 7]]
    assert tome(metric, 2).P[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert present(tome(metric, 2, class_token=True).centres).tolist() == [[0, 1, 3, 5, 6, 7]]


def test_tome_says_that_it_merges_at_most_half():
    with pytest.warns(UserWarning, match="r = 9"):
        assert tome(normal(1, 8, 3), 9, class_token=True).P.shape == (1, 5, 8)


@given(st.integers(2, 14), st.integers(2, 5), seeds)
def test_kth_bipartite_drops_the_rest(N, k, seed):
    metric = normal(2, max(N, k), 3, seed=seed)
    transform = kth_bipartite(metric, k)
    check_groups(transform, metric, references.kth_bipartite, k=k)
    assert transform.mass_out.sum(-1).tolist() == [metric.shape[1] // k * k] * 2


@given(st.integers(5, 16), st.floats(0.5, 0.99), st.floats(-0.5, 0.9), st.booleans(), seeds)
def test_pitome_merges_the_tokens_of_high_energy(N, ratio, margin, class_token, seed):
    metric = normal(2, N, 3, seed=seed)
    options = {"ratio": ratio, "margin": margin, "class_token": class_token}
    check_groups(pitome(metric, **options), metric, references.pitome, **options)


def test_pitome_says_that_it_merges_at_most_half():
    with pytest.warns(UserWarning, match="at most half"):
        assert pitome(normal(1, 9, 3), 0.25).P.shape == (1, 5, 9)


@given(st.integers(3, 12), st.floats(0.01, 0.95), st.booleans(), seeds)
def test_evit_keeps_what_the_class_token_attends_to(n, keep, normalize, seed):
    a = normal(2, n, seed=seed).softmax(-1)
    K = math.ceil(keep * n)
    x = normal(2, n + 1, 5, seed=seed + 1)
    y = evit(a, keep, fuse=True, normalize=normalize).apply(x)
    for b in range(2):
        if n == K:
            assert torch.equal(y, x)
            continue
        order = a[b].argsort(descending=True)
        kept, dropped = sorted(order[:K].tolist()), order[K:]
        weights = a[b, dropped] / (a[b, dropped].sum() if normalize else 1)
        torch.testing.assert_close(y[b, :-1], x[b, [0, *(i + 1 for i in kept)]])
        torch.testing.assert_close(y[b, -1], weights @ x[b, dropped + 1])


def test_evit_gives_the_fused_token_the_mass_of_the_dropped_ones():
    a = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    mass = torch.tensor([[1.0, 2.0, 1.0, 3.0, 1.0]])
    fused = evit(a, 0.5, fuse=True, mass=mass)
    assert fused.mass_out.tolist() == [[1, 1, 1, 5]]
    assert present(fused.centres).tolist() == [[0, 2, 4, -1]]
    assert evit(a, 0.5, mass=mass).mass_out.tolist() == [[1, 1, 1]]


def test_prune_keeps_the_first_of_equals_and_the_protected():
    a = torch.tensor([[0.0, 0.5, 0.9, 0.5, 0.5]])
    assert present(prune(a, 3).centres).tolist() == [[0, 1, 2]]
    assert present(prune(a, 2, protect=0).centres).tolist() == [[1, 2]]
    assert present(prune(a, 3, mass=torch.tensor([[1.0, 0, 1, 1, 1]])).centres).tolist() == [[0, 2, 3]]


def test_prune_knows_the_most_similar_of_the_kept():
    features = torch.tensor([[[1.0, 0], [0, 1], [1, 1], [0.1, 1], [1, 0.9]]])
    transform = prune(torch.tensor([[0.0, 3, 2, 1, 0]]), 3, features=features)
    assert present(transform.nearest).tolist() == [[0, 1, 2, 1, 2]]
    y = normal(1, 3, 2)
    assert torch.equal(transform.restore(y, pruned="nearest")[0], y[0, [0, 1, 2, 1, 2]])
    assert torch.equal(transform.restore(y, pruned="zero")[0, 3:], torch.zeros(2, 2, dtype=y.dtype))
    with pytest.raises(ValueError, match="pruned"):
        transform.restore(y)


@pytest.mark.parametrize("window", [(2, 2), (1, 3), (4, 1)])
def test_average_pooling_is_that_of_pytorch_and_a_kronecker_product(window):
    H, W, (h, w) = 4, 6, window
    x = normal(2, H * W, 3)
    transform = average_pool((H, W), window, batch=2, dtype=torch.float64)
    pooled = F.avg_pool2d(x.mT.reshape(2, 3, H, W), window)
    torch.testing.assert_close(transform.apply(x), pooled.flatten(2).mT)
    rows, columns = torch.eye(H // h).repeat_interleave(h, 1), torch.eye(W // w).repeat_interleave(w, 1)
    assert torch.equal(transform.P[0], torch.kron(rows, columns).double())
    assert (transform.mass_out == h * w).all()


def test_clusters_are_means_by_mass():
    x, mass = normal(1, 4, 3), torch.tensor([[1.0, 3.0, 2.0, 5.0]], dtype=torch.float64)
    y = clusters(torch.tensor([[1, 1, 0, 3]]), 4, mass=mass).apply(x)[0]
    torch.testing.assert_close(y, torch.stack([x[0, 2], (x[0, 0] + 3 * x[0, 1]) / 4, 0 * x[0, 0], x[0, 3]]))


def test_attention_pooling_is_a_softmax_with_masses():
    logits, x = normal(2, 3, 5), normal(2, 5, 4)
    mass = torch.tensor([[1.0, 2, 3, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.float64)
    transform = attention_pooling(logits, mass=mass)
    torch.testing.assert_close(transform.apply(x), (logits + mass.log().unsqueeze(1)).softmax(-1) @ x)
    torch.testing.assert_close(attention_pooling(logits).P, logits.softmax(-1))


@given(st.integers(6, 9), st.integers(1, 6), seeds)
def test_padding_changes_nothing_for_real_tokens(N, n_pads, seed):
    x = torch.cat([normal(2, N, 4, seed=seed), 100 * normal(2, n_pads, 4, seed=seed + 1)], dim=1)
    mass = torch.ones(2, N + n_pads, dtype=torch.float64)
    mass[:, N:] = 0
    a = normal(2, N + n_pads, seed=seed).exp()
    keep = 1.99 / (N + n_pads - 1)
    pairs = [
        (tome(x, 2, mass=mass, class_token=True), tome(x[:, :N], 2, class_token=True)),
        (evit(a[:, 1:], keep, fuse=True, mass=mass), evit(a[:, 1:N], 1.99 / (N - 1), fuse=True)),
        (prune(a, 4, mass=mass), prune(a[:, :N], 4)),
    ]
    for padded, plain in pairs:
        n = plain.P.shape[1]
        assert (padded.P[..., N:] == 0).all()
        assert torch.equal(padded.P[:, :n, :N], plain.P)
        torch.testing.assert_close(padded.apply(x)[:, :n], plain.apply(x[:, :N]))


@given(st.integers(6, 9), st.integers(1, 6), seeds)
def test_real_tokens_do_not_merge_into_padding(N, n_pads, seed):
    x = normal(2, N + n_pads, 4, seed=seed)
    mass = torch.ones(2, N + n_pads, dtype=torch.float64)
    mass[:, 3 : 3 + n_pads] = 0
    for transform in (pitome(x, 0.8, mass=mass), kth_bipartite(x, 2, mass=mass), tome(x, 2, mass=mass)):
        onto_padding = mass.gather(1, present(transform.centres)) == 0
        assert (transform.mass_out[onto_padding] == 0).all()


BAD = [
    (lambda: tome(normal(1, 6, 2), -1), "r must be a whole number of at least 0"),
    (lambda: tome(normal(6, 2), 1), "metric must have the shape"),
    (lambda: tome(normal(1, 6, 2), 1, mass=torch.ones(1, 5)), "mass must have the shape"),
    (lambda: kth_bipartite(normal(1, 6, 2), 0), "k must be a whole number of at least 1"),
    (lambda: kth_bipartite(normal(1, 6, 2), 7), "k = 7 leaves no token"),
    (lambda: pitome(normal(1, 6, 2), 0.0), r"ratio must lie in \(0, 1\]"),
    (lambda: pitome(normal(1, 6, 2), 1.5), r"ratio must lie in \(0, 1\]"),
    (lambda: evit(normal(1, 6), 0.0), r"keep must lie in \(0, 1\]"),
    (lambda: prune(normal(1, 6), 0), "M must be a whole number of at least 1"),
    (lambda: prune(normal(1, 6), 1), "protect = 1"),
    (lambda: prune(normal(1, 6), 3, features=normal(1, 5, 2)), "features must have the shape"),
    (lambda: clusters(torch.tensor([[0, 3]]), 3), "ids must lie in"),
    (lambda: average_pool((4, 6), (3, 2)), "does not divide"),
]


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_cannot_be_done_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


WRONG_KINDS = [
    lambda: tome(other([[1.0]]), 1),
    lambda: tome(torch.ones(1, 4, 2, dtype=torch.int64), 1),
    lambda: tome(normal(1, 6, 2), other(1.5)),
    lambda: clusters(torch.tensor([[0.0]]), 1),
    lambda: average_pool(other(4), (2, 2)),
    lambda: average_pool((4, 4), (2, 2), dtype=torch.int64),
    lambda: pitome(normal(1, 6, 2), other("half")),
]


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("call", WRONG_KINDS)
def test_wrong_kinds_are_refused(call):
    with pytest.raises(TypeError):
        call()
