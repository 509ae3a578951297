import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.interpret.householder_projector import householder_product, reflectors
from typed import other

pytestmark = pytest.mark.usefixtures("annotations_unchecked")
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def explicit(V: torch.Tensor) -> torch.Tensor:
    """The product of dense reflections, in column order."""
    Q = torch.eye(len(V), dtype=V.dtype)
    for v in V.mT:
        Q = Q @ (torch.eye(len(V), dtype=V.dtype) - 2 * torch.outer(v, v) / (v @ v))
    return Q


@given(sizes, st.integers(1, 12), seeds, st.data())
def test_the_product_is_that_of_dense_reflections(d, m, seed, data):
    V = normal(d, m, seed=seed)
    Q = householder_product(V)
    torch.testing.assert_close(Q, explicit(V), rtol=0, atol=1e-12)
    torch.testing.assert_close(Q @ Q.mT, torch.eye(d).to(Q), rtol=0, atol=1e-12)
    torch.testing.assert_close(householder_product(V.flip(1)), Q.mT, rtol=0, atol=1e-12)
    n_cols = data.draw(st.integers(1, d))
    torch.testing.assert_close(householder_product(V, n_cols), Q[:, :n_cols], rtol=0, atol=1e-13)


def test_more_reflections_than_one_block_holds():
    V = normal(7, 75)
    torch.testing.assert_close(householder_product(V, 3), explicit(V)[:, :3], rtol=0, atol=1e-11)


def test_equal_reflectors_cancel_and_one_dimension_flips():
    v = normal(6, 1)
    torch.testing.assert_close(householder_product(torch.cat([v, -3 * v], 1)), torch.eye(6).to(v), rtol=0, atol=1e-14)
    close = torch.testing.assert_close
    close(householder_product(torch.tensor([[0.3]])), torch.tensor([[-1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-8, -1e8, 1e30])
def test_the_length_of_a_column_does_not_matter(dtype, scale):
    V = normal(9, 4, dtype=dtype)
    changed = V * torch.tensor([scale, 1, 1 / scale, 1], dtype=dtype)
    torch.testing.assert_close(householder_product(changed), householder_product(V))


@given(st.integers(2, 9), st.integers(1, 9), seeds)
def test_lapack_has_the_same_columns(d, k, seed):
    k = min(d, k)
    Y = normal(d, k, seed=seed).tril(-1) + torch.eye(d, k).double()
    tau = 2 / Y.square().sum(0)
    expected = torch.linalg.householder_product(Y, tau)
    torch.testing.assert_close(householder_product(Y, k), expected, rtol=0, atol=1e-12)
    lapack: Any = scipy.linalg.lapack
    columns, _, _ = lapack.dorgqr(np.asfortranarray(Y), tau.numpy())
    np.testing.assert_allclose(householder_product(Y, k), columns, rtol=0, atol=1e-12)


def test_derivatives_of_both_orders_and_the_gradient_is_orthogonal_to_its_column():
    V = normal(5, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda V: householder_product(V, 2), V, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda V: householder_product(V, 2), V)
    (gradient,) = torch.autograd.grad((householder_product(V) * normal(5, 5, seed=1)).sum(), V)
    assert (gradient * V).sum(0).abs().max() < 1e-14
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_also_under_autocast(dtype):
    V = normal(200, 8).to(dtype)
    expected = householder_product(V.float(), 8)
    assert torch.equal(householder_product(V, 8), expected.to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(householder_product(V.float(), 8), expected)
        Y, signs = reflectors(expected)
        assert torch.equal(householder_product(Y, 8), householder_product(reflectors(expected)[0], 8))
    torch.testing.assert_close(householder_product(Y, 8) * signs, expected)


def test_transforms_and_the_compiler_follow_the_product():
    V = normal(4, 6, 2)
    each = torch.stack([householder_product(v, 3) for v in V])
    torch.testing.assert_close(torch.func.vmap(lambda v: householder_product(v, 3))(V), each)
    jacobian = torch.func.jacfwd(lambda v: householder_product(v, 3))(V[0])
    torch.testing.assert_close(jacobian, torch.func.jacrev(lambda v: householder_product(v, 3))(V[0]))
    compiled = torch.compile(lambda v: householder_product(v, 3), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(V[0]), each[0])


# -- and back ----------------------------------------------------------------------------------------------------------


def columns(d: int, k: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(normal(d, k, seed=seed))[0]


def is_unit_trapezoidal(Y: torch.Tensor) -> bool:
    return torch.equal(Y.triu(), torch.eye(*Y.shape).to(Y))


@given(sizes, sizes, seeds)
def test_reflectors_represent_orthonormal_columns(d, k, seed):
    k = min(k, d)
    Q = columns(d, k, seed)
    for sign in (1, -1):  # square ones of either determinant
        Q = Q.clone()
        Q[:, 0] *= sign
        Y, signs = reflectors(Q)
        assert is_unit_trapezoidal(Y)
        assert signs.abs().eq(1).all()
        torch.testing.assert_close(householder_product(Y, k) * signs, Q, rtol=0, atol=1e-12)


AXES = torch.eye(5).double()


@pytest.mark.parametrize(
    "Q",
    [
        AXES,
        -AXES,
        AXES[:, :3],
        AXES[[1, 2, 3, 4, 0]],
        AXES[[4, 3, 2, 1, 0]][:, [0, 2]],
        torch.diag(torch.tensor([1.0, -1, 1, -1, -1], dtype=torch.float64)),
        torch.tensor([[-1.0]], dtype=torch.float64),
        torch.block_diag(AXES[:2, :2], columns(3, 3, 0)),
        torch.block_diag(columns(3, 3, 1), -AXES[:2, :2]),
    ],
    ids=lambda Q: f"{tuple(Q.shape)}",
)
def test_columns_that_are_axes_already_have_true_reflections(Q):
    Y, signs = reflectors(Q)
    assert is_unit_trapezoidal(Y)
    torch.testing.assert_close(householder_product(Y, Q.shape[1]) * signs, Q, rtol=0, atol=1e-12)


def test_reflectors_have_derivatives_along_orthonormal_columns():
    def back_and_forth(A: torch.Tensor) -> torch.Tensor:
        Y, signs = reflectors(torch.matrix_exp(A - A.mT)[:, :2])
        return torch.cat([Y, householder_product(Y, 2) * signs], 1)

    assert torch.autograd.gradcheck(back_and_forth, normal(4, 4).requires_grad_())


@pytest.mark.parametrize("n_cols", [0, 5, -1, 2.0, True])
def test_a_number_of_columns_out_of_range_is_refused(n_cols):
    with pytest.raises(ValueError, match=r"n_cols .* 1 to 4"):
        householder_product(normal(4, 2), n_cols)


@pytest.mark.parametrize(
    ("V", "message"),
    [
        (torch.ones(3), "V must have 2 dimensions"),
        (torch.ones(3, 0), "at least one"),
        (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "column 1 is zero"),
        (torch.tensor([[1.0, math.nan]]), r"V must be finite; entry \(0, 1\) is nan"),
    ],
)
def test_what_are_no_reflectors_is_refused(V, message):
    with pytest.raises(ValueError, match=message):
        householder_product(V)


@pytest.mark.parametrize(
    ("Q", "message"),
    [
        (torch.ones(3), "Q must have 2 dimensions"),
        (torch.eye(3)[:2], "Q must have from 1 to d = 2 columns, got k = 3"),
        (2 * torch.eye(3), "orthonormal"),
        (torch.full((3, 2), math.nan), "orthonormal"),
    ],
)
def test_what_is_not_orthonormal_is_refused(Q, message):
    with pytest.raises(ValueError, match=message):
        reflectors(Q)


@pytest.mark.parametrize("value", [torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.complex64), [[1]]])
def test_other_types_are_refused(value):
    for function in (householder_product, reflectors):
        with pytest.raises(TypeError, match=r"floating|tensor"):
            function(other(value))
