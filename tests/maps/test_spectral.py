"""Against NumPy's SVD, and the identities of scale-and-shift tuning."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.maps import Spectral
from linmap.maps.spectral import signed_svd
from typed import present


def weight(n_out, n_in, seed=0):
    return torch.randn(n_out, n_in, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_from_matrix_is_exact_and_k_counts_the_trainable_values(n_out, n_in, data):
    k = data.draw(st.integers(0, min(n_in, n_out)))
    W = weight(n_out, n_in)
    map = Spectral.from_matrix(W, k=k)
    assert present(map.residual) < 1e-14
    np.testing.assert_allclose(map.singular_values.detach(), np.linalg.svd(W.numpy(), compute_uv=False), atol=1e-12)
    assert sum(p.numel() for p in map.parameters()) == 2 * k


@given(st.floats(-3, 3), st.floats(-1, 1), st.integers(0, 4))
def test_the_leading_values_are_scaled_shifted_and_cut_at_zero(scale, shift, k):
    W = weight(6, 4)
    U, S, Vt = np.linalg.svd(W.numpy(), full_matrices=False)
    S[:k] = np.maximum(scale * S[:k] + shift, 0)
    map = Spectral.from_matrix(W, k=k)
    with torch.no_grad():
        map.scale_minus_one.fill_(scale - 1)
        map.shift.fill_(shift)
    np.testing.assert_allclose(map.matrix().detach(), U * S @ Vt, atol=1e-12)


def test_scaling_every_value_scales_the_matrix():
    W = weight(5, 5)
    for factor in (2.5, -2.5):
        cut, signed = Spectral.from_matrix(W), Spectral.from_matrix(W, nonnegative=False)
        for map in (cut, signed):
            map.scale_minus_one.data.fill_(factor - 1)
        torch.testing.assert_close(signed.matrix().detach(), factor * W)
        torch.testing.assert_close(cut.matrix().detach(), max(factor, 0) * W)


def test_only_scale_and_shift_are_trainable():
    map = Spectral(4, 6, 2)
    assert {name for name, _ in map.named_parameters()} == {"scale_minus_one", "shift"}
    assert {"U", "S", "Vt"} <= set(map.state_dict())


def test_a_random_basis_is_that_of_a_linear_layer(generator):
    map = Spectral(30, 20, generator=generator)
    assert 0.95 / np.sqrt(30) < float(map.matrix().detach().abs().max()) <= 1.001 / np.sqrt(30)
    torch.testing.assert_close(map.U.T @ map.U, torch.eye(20), atol=1e-5, rtol=0)


def test_a_given_basis_is_used_as_it_is():
    U, S, Vt = signed_svd(weight(5, 3))
    map = Spectral(3, 5, 2, basis=(-U, S, -Vt), dtype=torch.float64)
    assert torch.equal(map.U, -U)
    torch.testing.assert_close(map.matrix().detach(), weight(5, 3))


@given(st.integers(1, 7), st.integers(1, 7))
def test_signed_svd_is_an_svd_whose_signs_nobody_else_decides(n_out, n_in):
    W = weight(n_out, n_in)
    U, S, Vt = signed_svd(W)
    torch.testing.assert_close(U * S @ Vt, W)
    assert bool((U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all())
    flips = torch.diag(torch.tensor([(-1.0) ** i for i in range(n_in)], dtype=torch.float64))
    torch.testing.assert_close(signed_svd(W @ flips)[0], U)  # V absorbs the flips of the input alone


def test_signed_svd_keeps_dtype_and_computes_in_float64():
    W = weight(20, 20).bfloat16()
    U, S, _ = signed_svd(W)
    assert U.dtype == S.dtype == torch.bfloat16
    torch.testing.assert_close(S, torch.linalg.svdvals(W.double()).bfloat16())


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("k", [-1, 4, 1.5, True])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=r"k must be an integer from 0 to min\(n_in, n_out\) = 3"):
        Spectral(5, 3, k)


def test_a_basis_of_other_shapes_is_refused():
    U, S, Vt = signed_svd(weight(5, 3))
    with pytest.raises(ValueError, match=r"U of the basis must have shape \(3, 3\).* got \(5, 3\)"):
        Spectral(5, 3, basis=(U, S, Vt), dtype=torch.float64)
