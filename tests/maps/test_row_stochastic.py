"""Against the definitions of NormLin, SciPy's softmax and a general-purpose quadratic program."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from linmap.maps import RowStochastic
from linmap.maps.row_stochastic import log_softplus, project_rows_onto_simplex
from typed import gradient_of, other

transforms = pytest.mark.parametrize("transform", ["softplus", "softmax"])


def with_weight(weight, transform: Any = "softplus"):
    map = RowStochastic(weight.shape[-1], weight.shape[-2], transform=transform, dtype=weight.dtype)
    map.weight.data.copy_(weight)
    return map


@given(st.integers(1, 9), st.integers(1, 9))
def test_softplus_over_its_row_sums(n_in, n_out):
    map = RowStochastic(n_in, n_out, generator=torch.Generator().manual_seed(n_in), dtype=torch.float64)
    positive = np.log1p(np.exp(map.weight.detach().numpy()))
    np.testing.assert_allclose(map.matrix().detach(), positive / positive.sum(-1, keepdims=True), rtol=1e-12)


def test_softmax_is_scipy_s(generator):
    map = RowStochastic(5, 4, transform="softmax", generator=generator, dtype=torch.float64)
    np.testing.assert_allclose(map.matrix().detach(), softmax(map.weight.detach().numpy(), axis=-1), rtol=1e-12)


@transforms
@given(scale=st.floats(0, 500), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_rows_stay_stochastic_whatever_the_weights(transform, scale, dtype):
    weight = scale * torch.randn(4, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))
    A = with_weight(weight, transform).matrix().detach()
    assert bool((A >= 0).all())
    torch.testing.assert_close(A.sum(-1), torch.ones(4, dtype=dtype))


def test_rows_far_below_zero_do_not_vanish():
    """softplus(-200) underflows in float32; equal weights make a uniform row all the same, with a finite gradient."""
    map = with_weight(torch.full((2, 4), -200.0))
    assert torch.equal(map.matrix(), torch.full((2, 4), 0.25))
    map.matrix()[0, 0].backward()
    assert bool(torch.isfinite(gradient_of(map.weight)).all())
    assert bool(gradient_of(map.weight)[0].all())


def test_equal_weights_are_mean_pooling_and_a_heavy_diagonal_the_identity():
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    flat = with_weight(torch.zeros(2, 4, dtype=torch.float64))
    torch.testing.assert_close(flat(x).detach(), x.mean(-1, keepdim=True).expand(3, 2))
    heavy = with_weight(40 * (2 * torch.eye(4, dtype=torch.float64) - 1))
    torch.testing.assert_close(heavy(x).detach(), x)


def test_one_token_has_weight_one():
    assert float(RowStochastic(1).matrix().detach()) == 1


def test_permuting_tokens_permutes_the_output(generator):
    map = RowStochastic(5, generator=generator, dtype=torch.float64)
    order = torch.randperm(5, generator=generator)
    x = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    permuted = with_weight(map.weight.detach()[order][:, order])
    torch.testing.assert_close(permuted(x[:, order]), map(x)[:, order])


def test_starts_as_the_identity_plus_unit_noise(generator):
    weight = RowStochastic(200, generator=generator).weight.detach()
    noise = weight - torch.eye(200)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float(weight.diagonal().mean()) == pytest.approx(1, abs=0.25)


def test_log_softplus_holds_from_minus_500_to_500():
    w = torch.cat([torch.linspace(-500, 500, 2001), torch.linspace(-21, -19, 201)]).double()
    wide = w.numpy().astype(np.longdouble)
    expected = np.where(wide < -300, wide, np.log(np.logaddexp(np.longdouble(0), np.maximum(wide, -300))))
    np.testing.assert_allclose(log_softplus(w), expected.astype(float), rtol=3e-15, atol=1e-15)


@given(st.integers(1, 5), st.integers(0, 10**6))
def test_projection_onto_the_simplex_solves_the_quadratic_program(n, seed):
    row = 2 * torch.randn(1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    solution = minimize(
        lambda p: ((p - row[0].numpy()) ** 2).sum(),
        np.full(n, 1 / n),
        jac=lambda p: 2 * (p - row[0].numpy()),
        bounds=[(0, None)] * n,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(n)},
        method="SLSQP",
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(project_rows_onto_simplex(row)[0], solution.x, atol=1e-6)


@transforms
def test_from_matrix_keeps_zeros_and_ones(transform):
    M = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0]])
    map = RowStochastic.from_matrix(M, transform=transform)
    torch.testing.assert_close(map.matrix().detach(), M, atol=1e-7, rtol=0)
    assert bool(torch.isfinite(map.weight).all())


@pytest.mark.usefixtures("annotations_unchecked")
def test_unknown_transform_is_refused():
    with pytest.raises(ValueError, match="transform must be 'softplus' or 'softmax', got 'relu'"):
        RowStochastic(3, transform=other("relu"))
