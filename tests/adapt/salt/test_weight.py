"""SALT's weight against its definition entry by entry, and the identities that follow from it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.adapt import salt_core, salt_weight, signed_svd
from typed import other

RELUS = ("all", "diag", "none")


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameters(q, k, r, seed=1):
    """alpha, beta, X, Y of size one, so that every relu has something to cut."""
    return (
        normal(k, seed=seed),
        normal(k, seed=seed + 1),
        normal(q - k, r, seed=seed + 2),
        normal(r, q - k, seed=seed + 3),
    )


def core_by_entries(S, alpha, beta, X, Y, relu):
    q, k = len(S), len(alpha)
    core = np.zeros((q, q))
    for i in range(q):
        for j in range(q):
            if i < k or j < k:
                m = alpha[i] * S[i] + beta[i] if i == j else 0.0
            else:
                m = (S[i] if i == j else 0.0) + sum(X[i - k, n] * Y[n, j - k] for n in range(X.shape[1]))
            core[i, j] = max(m, 0.0) if relu == "all" or (relu == "diag" and i == j) else m
    return core


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.sampled_from(RELUS), st.data())
def test_the_weight_is_its_definition(n_out, n_in, r, relu, data):
    q = min(n_out, n_in)
    k = data.draw(st.integers(0, q))
    U, S, Vt = signed_svd(normal(n_out, n_in))
    tensors = parameters(q, k, r, seed=data.draw(st.integers(0, 99)))
    core = core_by_entries(S.numpy(), *(tensor.numpy() for tensor in tensors), relu=relu)
    np.testing.assert_allclose(salt_core(S, *tensors, relu), core, atol=1e-12)
    np.testing.assert_allclose(salt_weight(U, S, Vt, *tensors, k, relu), U.numpy() @ core @ Vt.numpy(), atol=1e-12)


@pytest.mark.parametrize("relu", RELUS)
def test_a_batch_of_bases_has_a_weight_each(relu):
    W = normal(3, 5, 4)
    U, S, Vt = signed_svd(W)
    tensors = [torch.stack(parts) for parts in zip(*(parameters(4, 1, 2, seed=10 * i) for i in range(3)), strict=True)]
    together = salt_weight(U, S, Vt, *tensors, k=1, relu=relu)
    for i in range(3):
        torch.testing.assert_close(
            together[i], salt_weight(U[i], S[i], Vt[i], *(t[i] for t in tensors), k=1, relu=relu)
        )


@pytest.mark.parametrize("relu", RELUS)
@given(k=st.integers(0, 4))
def test_the_start_is_the_identity(relu, k):
    W = normal(6, 4)
    start = (torch.ones(k).double(), torch.zeros(k).double(), normal(4 - k, 2), torch.zeros(2, 4 - k).double())
    torch.testing.assert_close(salt_weight(*signed_svd(W), *start, k, relu), W, rtol=0, atol=1e-12)


@given(st.floats(-3, 3), st.floats(-2, 2))
def test_with_every_value_tuned_it_is_scale_and_shift(scale, shift):
    W = normal(5, 4)
    U, S, Vt = np.linalg.svd(W.numpy(), full_matrices=False)
    alpha, beta = (torch.full((4,), value, dtype=torch.float64) for value in (scale, shift))
    adapted = salt_weight(*signed_svd(W), alpha, beta, normal(0, 2), normal(2, 0), 4)
    np.testing.assert_allclose(adapted, U * np.maximum(scale * S + shift, 0) @ Vt, atol=1e-12)
    scaled = salt_weight(*signed_svd(W), alpha, torch.zeros(4).double(), normal(0, 2), normal(2, 0), 4)
    torch.testing.assert_close(scaled, max(scale, 0.0) * W, rtol=0, atol=1e-12)


def test_without_relu_the_change_is_the_low_rank_update_in_the_basis():
    W, k, r = normal(7, 5), 2, 2
    U, S, Vt = signed_svd(W)
    _, _, X, Y = parameters(5, k, r)
    change = salt_weight(U, S, Vt, torch.ones(k).double(), torch.zeros(k).double(), X, Y, k, "none") - W
    torch.testing.assert_close(change, U[:, k:] @ X @ Y @ Vt[k:])
    assert torch.linalg.matrix_rank(change) == r
    torch.testing.assert_close(change.norm(), (X @ Y).norm())


def test_flipped_signs_are_met_by_flipped_factors_but_not_under_the_whole_relu():
    W, k = normal(6, 5), 2
    U, S, Vt = signed_svd(W)
    alpha, beta, X, Y = parameters(5, k, 3)
    s = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0]).double()
    flipped = (U * s, S, s[:, None] * Vt)
    for relu in RELUS:
        here = salt_weight(U, S, Vt, alpha, beta, X, Y, k, relu)
        there = salt_weight(*flipped, alpha, beta, s[k:, None] * X, Y * s[k:], k, relu)
        if relu == "all":
            assert (here - there).abs().max() > 0.1
        else:
            torch.testing.assert_close(here, there)


@pytest.mark.parametrize("relu", RELUS)
def test_an_orthogonal_map_of_the_output_passes_through(relu):
    W, k = normal(5, 5), 2
    U, S, Vt = signed_svd(W)
    Q = torch.linalg.qr(normal(5, 5, seed=9)).Q
    tensors = parameters(5, k, 2)
    torch.testing.assert_close(
        salt_weight(Q @ U, S, Vt, *tensors, k, relu), Q @ salt_weight(U, S, Vt, *tensors, k, relu)
    )


@pytest.mark.parametrize("relu", RELUS)
def test_gradients(relu):
    U, S, Vt = signed_svd(normal(4, 5))
    tensors = [tensor.requires_grad_() for tensor in parameters(4, 1, 2, seed=5)]
    core = salt_core(S, *tensors, relu="none")
    assert core[core != 0].abs().min() > 1e-3  # away from the kinks
    assert torch.autograd.gradcheck(lambda *t: salt_weight(U, S, Vt, *t, k=1, relu=relu), tensors)


@pytest.mark.usefixtures("annotations_unchecked")
def test_what_does_not_fit_is_refused():
    U, S, Vt = signed_svd(normal(4, 4))
    alpha, beta, X, Y = parameters(4, 2, 1)
    with pytest.raises(ValueError, match=r"alpha must have k = 3 entries"):
        salt_weight(U, S, Vt, alpha, beta, X, Y, 3)
    with pytest.raises(ValueError, match=r"X the shape \(q - k, r\).* got .*X \(4, 1\)"):
        salt_weight(U, S, Vt, alpha, beta, normal(4, 1), Y, 2)
    with pytest.raises(ValueError, match=r"relu=.* must be one of"):
        salt_weight(U, S, Vt, alpha, beta, X, Y, 2, other("some"))
