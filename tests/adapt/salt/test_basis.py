"""The singular basis: found once, recognised, turned to the signs of the training, refused where it is another."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.adapt.salt import basis as bases
from linmap.adapt.salt.basis import (
    NEAR_VALUES,
    SAME_VALUES,
    Basis,
    basis_of,
    difference,
    fingerprint,
    has_unique_vectors,
    signs,
)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_values(*values):
    U, _, Vt = torch.linalg.svd(normal(len(values), len(values)))
    return U * torch.tensor(values, dtype=torch.float64) @ Vt


@given(st.integers(1, 8), st.integers(1, 8), st.data())
def test_any_flip_of_signs_is_undone(n_out, n_in, data):
    U, S, _ = basis_of(normal(n_out, n_in))
    s = torch.tensor(data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=len(S), max_size=len(S)))).double()
    trained, found = fingerprint(U * s, S), fingerprint(U, S)
    assert difference(found, trained) == ""
    assert torch.equal(U * signs(found, trained), U * s)


@given(st.integers(2, 8), st.integers(0, 999))
def test_signs_are_those_of_the_large_projections(n, seed):
    """Rounding turns the sign of one that is nearly 0, and makes its quotient huge."""
    U, S, _ = basis_of(normal(n, n, seed=seed))
    trained = fingerprint(U, S)
    small = trained.vectors.abs().argmin(-2, keepdim=True)
    trained = trained._replace(vectors=trained.vectors.scatter(-2, small, torch.ones_like(small, dtype=torch.int32)))
    found = trained._replace(vectors=trained.vectors.scatter(-2, small, torch.full_like(small, -9, dtype=torch.int32)))
    assert (signs(found, trained) == 1).all()
    assert (signs(found._replace(vectors=-found.vectors), trained) == -1).all()


@pytest.mark.parametrize("driver", ["gesdd", "gesvd"])
def test_the_drivers_of_lapack_agree_up_to_signs(driver):
    W = normal(30, 20)
    U, S, _ = scipy.linalg.svd(W.numpy(), full_matrices=False, lapack_driver=driver)
    theirs = Basis(torch.tensor(-U), torch.tensor(S), torch.empty(0))
    ours = basis_of(W)
    trained = fingerprint(theirs.U, theirs.S)
    assert difference(fingerprint(ours.U, ours.S), trained) == ""
    turned = ours.U * signs(fingerprint(ours.U, ours.S), trained)
    np.testing.assert_allclose(turned, theirs.U, atol=1e-12)


def test_another_basis_is_another_fingerprint():
    W = with_values(4, 3, 2, 2, 1)
    U, S, _ = basis_of(W)
    here = fingerprint(U, S)
    turn = torch.eye(5).double()
    turn[2:4, 2:4] = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])  # within the equal values: as good an SVD
    assert "2 of 5 pairs of singular vectors are others" in difference(fingerprint(U @ turn, S), here)
    assert "largest singular values are 4.4, 3.3" in difference(fingerprint(U, 1.1 * S), here)
    assert difference(fingerprint(U[:, :4], S[:4]), here) == "the weight has another size"
    assert difference(fingerprint(U @ turn, 1.001 * S), here, kept=True) == ""
    assert "largest singular values" in difference(fingerprint(U, 1.1 * S), here, kept=True)


def test_a_fingerprint_survives_casts_of_the_model():
    U, S, _ = basis_of(normal(6, 5))
    print = fingerprint(U, S)
    assert {part.dtype for part in print} == {torch.int32}
    assert difference(fingerprint(U.float(), S.float()), print) == ""


def test_a_basis_is_computed_once_a_weight_in_float64(monkeypatch):
    calls = []
    monkeypatch.setattr(bases, "_kept", type(bases._kept)())
    monkeypatch.setattr(bases, "signed_svd", lambda W, svd=bases.signed_svd: calls.append(W.dtype) or svd(W))
    W = normal(5, 4)
    first = basis_of(W)
    assert basis_of(W.clone()) is first
    assert basis_of(W.mT) is not first  # other bytes
    assert basis_of(W.reshape(4, 5)) is not first  # the same bytes in another shape
    assert basis_of(W.bfloat16()).U.dtype == torch.float32
    assert len(calls) == 4
    monkeypatch.setattr(bases, "KEPT_BYTES", 0)
    basis_of(normal(3, 3))
    assert len(bases._kept) == 1


def test_a_basis_found_in_inference_mode_can_be_trained_in():
    with torch.inference_mode():
        U, _, _ = basis_of(normal(4, 4, seed=33))
    x = normal(2, 4).requires_grad_()
    (x @ U).sum().backward()


def test_vectors_are_unique_where_values_differ():
    assert has_unique_vectors(torch.tensor([3.0, 2.0, 1.0]), 0)
    equal = torch.tensor([3.0, 3.0, 2.0, 1.0])
    assert not has_unique_vectors(equal, 0)
    assert has_unique_vectors(equal, 2)
    assert not has_unique_vectors(torch.tensor([[3.0, 2.0], [1.0, 1.0]]), 0)
    assert not has_unique_vectors(torch.tensor([1.0, 1e-9, 0.0]), 1)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("kept", "tolerance"), [(False, SAME_VALUES), (True, NEAR_VALUES)])
def test_singular_values_may_differ_by_a_share_of_the_largest(scale, kept, tolerance):
    U, S = torch.eye(5, 3), torch.tensor([3.0, 2.0, 1.0])
    trained = fingerprint(U, scale * S)
    for share in (0.5, 2.0):
        found = fingerprint(U, scale * (S + torch.tensor([0.0, 3 * share * tolerance, 0.0])))
        assert (difference(found, trained, kept) != "") == (share > 1)
