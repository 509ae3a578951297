"""OrthoTrans: the eigenbasis, its conventions, and the wrapper around other forecasters."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from torch import nn

from linmap.data.timeseries import load_time_series
from linmap.sequence.olinear import OrthoTrans, OrthoTransWrapper, basis, temporal_correlation
from typed import cloned, gradient_of


def rows(seed: int = 0, n: int = 200, N: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, N)).cumsum(0)


@given(t=st.integers(1, 30), seed=st.integers(0, 99))
def test_q_diagonalises_the_correlation(t: int, seed: int) -> None:
    fitted = OrthoTrans(t).fit(rows(seed))
    Q, eigenvalues = fitted.Q_, fitted.eigenvalues_
    np.testing.assert_allclose(Q @ Q.T, np.eye(t), atol=1e-12)
    np.testing.assert_allclose(Q @ fitted.correlation_ @ Q.T, np.diag(eigenvalues), atol=1e-10)
    assert np.all(np.diff(eigenvalues) <= 1e-12)
    assert eigenvalues.sum() == pytest.approx(t)
    np.testing.assert_allclose(np.diag(fitted.correlation_), 1, atol=1e-12)


def test_coefficients_of_the_training_windows_are_decorrelated() -> None:
    x = rows(n=3000, N=1)[:, 0]
    standardised = np.lib.stride_tricks.sliding_window_view(x, 6)
    standardised = (standardised - standardised.mean(0)) / standardised.std(0, ddof=1)
    fitted = OrthoTrans(6).fit(x)
    np.testing.assert_allclose(np.cov(fitted.transform(standardised).T), np.diag(fitted.eigenvalues_), atol=1e-9)


@given(t=st.integers(1, 20), seed=st.integers(0, 99))
def test_inverse_undoes_transform_and_norms_stay(t: int, seed: int) -> None:
    fitted = OrthoTrans(t).fit(rows(seed))
    x = np.random.default_rng(seed).standard_normal((3, 2, t))
    z = fitted.transform(x)
    np.testing.assert_allclose(fitted.inverse_transform(z), x, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), np.linalg.norm(x, axis=-1), atol=1e-12)


def test_coefficient_k_belongs_to_row_k() -> None:
    fitted = OrthoTrans(5).fit(rows())
    np.testing.assert_allclose(fitted.transform(fitted.Q_[3]), np.eye(5)[3], atol=1e-12)


def test_kind_and_precision_stay() -> None:
    fitted = OrthoTrans(5).fit(rows())
    x = np.random.default_rng(0).standard_normal((2, 5))
    tensor = fitted.transform(torch.tensor(x, dtype=torch.float32))
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), fitted.transform(x), atol=1e-5)
    assert fitted.transform(np.arange(5)).dtype == np.float64


def test_the_largest_entry_of_each_row_is_positive() -> None:
    Q = OrthoTrans(12).fit(rows()).Q_
    assert np.all(np.take_along_axis(Q, np.abs(Q).argmax(1)[:, None], 1) > 0)


@pytest.mark.parametrize("t", [12, 36, 60])
def test_official_reads_the_lower_triangle_in_float32_precision(t: int) -> None:
    X = load_time_series("ili").values[:676]
    R = temporal_correlation(X, t, corr="official")
    lower = np.tril(R) + np.tril(R, -1).T  # what a symmetric solver reads
    eigenvalues, V = np.linalg.eigh(lower)
    fitted = OrthoTrans(t, corr="official").fit(X)
    distinct = np.diff(eigenvalues[::-1], prepend=np.inf, append=-np.inf)
    clear = (np.abs(distinct[:-1]) > 1e-4) & (np.abs(distinct[1:]) > 1e-4)
    overlap = np.abs((fitted.Q_ * V.T[::-1]).sum(1))
    np.testing.assert_allclose(overlap[clear], 1, atol=1e-6)
    assert np.abs(fitted.Q_ - OrthoTrans(t).fit(X).Q_).max() > 1e-4


def test_scikit_learn_manners() -> None:
    original = OrthoTrans(7, corr="official").fit(rows())
    copy = cloned(original)
    assert copy.get_params() == {"length": 7, "corr": "official", "chan_indep": False}
    with pytest.raises(NotFittedError):
        copy.transform(np.zeros(7))


def test_a_wrong_last_dimension_is_explained() -> None:
    fitted = OrthoTrans(5).fit(rows())
    with pytest.raises(ValueError, match=r"windows of 5 steps with time last, \(\.\.\., 5\), got shape \(5, 2\)"):
        fitted.transform(np.zeros((5, 2)))


# -- the wrapper around other forecasters ----------------------------------------------------------------------------


class OverTime(nn.Module):
    def __init__(self, seq_len: int, pred_len: int) -> None:
        super().__init__()
        self.linear = nn.Linear(seq_len, pred_len)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.mT).mT


def test_wrapping_with_identity_bases_is_instance_normalisation() -> None:
    torch.manual_seed(0)
    inner, x = OverTime(6, 4), torch.randn(3, 6, 2)
    wrapped = OrthoTransWrapper(inner, np.eye(6), np.eye(4))
    mean, std = x.mean(1, keepdim=True), (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(wrapped(x), inner((x - mean) / std) * std + mean)


def test_a_linear_forecaster_absorbs_the_bases() -> None:
    torch.manual_seed(0)
    inner, Q_in, Q_out = OverTime(6, 4), basis("random", 6), basis("dct", 4)
    wrapped = OrthoTransWrapper(inner, Q_in, Q_out)
    absorbed = OverTime(6, 4)
    with torch.no_grad():
        absorbed.linear.weight.copy_(wrapped.Q_out.mT @ inner.linear.weight @ wrapped.Q_in)
        absorbed.linear.bias.copy_(wrapped.Q_out.mT @ inner.linear.bias)
    x = torch.randn(3, 6, 2)
    torch.testing.assert_close(wrapped(x), OrthoTransWrapper(absorbed, np.eye(6), np.eye(4))(x), atol=1e-5, rtol=1e-5)


def test_the_bases_are_saved_and_not_trained() -> None:
    wrapped = OrthoTransWrapper(OverTime(6, 4), np.eye(6), np.eye(4))
    assert {"Q_in", "Q_out"} <= set(wrapped.state_dict())
    assert {name for name, _ in wrapped.named_parameters()} == {"model.linear.weight", "model.linear.bias"}


def test_bases_that_are_not_orthogonal_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Q_in is not orthogonal: max \|Q Qᵀ - I\| = 3\.0e\+00"):
        OrthoTransWrapper(OverTime(6, 4), 2 * np.eye(6), np.eye(4))
    with pytest.raises(ValueError, match="forecasts 4 steps, but Q_out is a basis of 5"):
        OrthoTransWrapper(OverTime(6, 4), np.eye(6), np.eye(5))(torch.zeros(1, 6, 1))


def test_without_normalisation_and_with_identity_bases_it_is_the_bare_model() -> None:
    torch.manual_seed(0)
    inner, x = OverTime(6, 4), torch.randn(3, 6, 2)
    wrapped = OrthoTransWrapper(inner, np.eye(6), np.eye(4), normalise=False)
    torch.testing.assert_close(wrapped(x), inner(x))


@given(seed=st.integers(0, 99))
def test_the_wrapper_keeps_the_energy_of_windows(seed: int) -> None:
    """Parseval: around the model that returns its input, norms of input and output agree, and with one basis both."""
    generator = torch.Generator().manual_seed(seed)
    x, Q_in, Q_out = torch.randn(3, 6, 2, generator=generator), basis("random", 6, seed), basis("dct", 6)
    y = OrthoTransWrapper(nn.Identity(), Q_in, Q_out, normalise=False)(x)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1), atol=1e-5, rtol=1e-5)
    same = OrthoTransWrapper(nn.Identity(), Q_in, Q_in, normalise=False)(x)
    torch.testing.assert_close(same, x, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_model_and_the_window() -> None:
    torch.manual_seed(0)
    wrapped, x = OrthoTransWrapper(OverTime(6, 4), basis("random", 6), basis("dct", 4)), torch.randn(3, 6, 2)
    x.requires_grad_()
    wrapped(x).square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().min()) > 0
    assert all(float(gradient_of(parameter).abs().sum()) > 0 for parameter in wrapped.parameters())


def test_the_wrapper_compiles_and_loads_its_state(annotations_unchecked: None) -> None:
    torch.manual_seed(0)
    wrapped, x = OrthoTransWrapper(OverTime(6, 4), basis("random", 6), basis("dct", 4)), torch.randn(3, 6, 2)
    compiled = torch.compile(wrapped, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), wrapped(x))
    fresh = OrthoTransWrapper(OverTime(6, 4), np.eye(6), np.eye(4))
    fresh.load_state_dict(wrapped.state_dict())
    torch.testing.assert_close(fresh(x), wrapped(x))


# -- one basis for each variate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("corr", ["pearson", "official"])
def test_bases_by_variate_are_those_of_each_variate_alone(corr: str) -> None:
    X = rows(N=3)
    fitted = OrthoTrans(7, corr, chan_indep=True).fit(X)
    alone = [OrthoTrans(7, corr).fit(X[:, [j]]) for j in range(3)]
    np.testing.assert_array_equal(fitted.Q_, [one.Q_ for one in alone])
    np.testing.assert_array_equal(fitted.eigenvalues_, [one.eigenvalues_ for one in alone])
    np.testing.assert_allclose(fitted.correlation_.mean(0), OrthoTrans(7, corr).fit(X).correlation_, atol=1e-12)


def test_windows_of_each_variate_meet_their_own_basis() -> None:
    X = rows(N=3)
    fitted = OrthoTrans(7, chan_indep=True).fit(X)
    x = np.random.default_rng(0).standard_normal((4, 3, 7))
    expected = np.stack([OrthoTrans(7).fit(X[:, [j]]).transform(x[:, j]) for j in range(3)], axis=1)
    np.testing.assert_allclose(fitted.transform(x), expected, atol=1e-12)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(x)), x, atol=1e-12)
    np.testing.assert_allclose(fitted.transform(torch.from_numpy(x)).numpy(), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 7\), got shape \(4, 2, 7\)"):
        fitted.transform(x[:, :2])


def test_a_constant_variate_has_the_identity_as_its_correlation() -> None:
    X = rows(N=3)
    X[:, 1] = 2.5
    with pytest.warns(UserWarning, match="left out of the correlation: variate 1"):
        fitted = OrthoTrans(5, chan_indep=True).fit(X)
    np.testing.assert_allclose(fitted.correlation_[1], np.eye(5))
    np.testing.assert_allclose(np.abs(fitted.Q_[1]).sum(0), 1)


def test_the_wrapper_takes_bases_by_variate() -> None:
    torch.manual_seed(0)
    X, inner, x = rows(N=2), OverTime(6, 4), torch.randn(3, 6, 2)
    Q_in, Q_out = (OrthoTrans(t, chan_indep=True).fit(X).Q_ for t in (6, 4))
    y = OrthoTransWrapper(inner, Q_in, Q_out)(x)
    for j in range(2):
        alone = OrthoTransWrapper(inner, Q_in[j], Q_out[j])(x[..., [j]])
        torch.testing.assert_close(y[..., [j]], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"windows of shape \(batch, 6, 2\)"):
        OrthoTransWrapper(inner, Q_in, Q_out)(torch.randn(3, 6, 3))
