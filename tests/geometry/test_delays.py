"""Delay embeddings: blocks, windows, and the covariance in PyTorch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyriemann.geometry.covariance import covariances

from linmap.geometry.delays import augmented_covariance, embed, window

rng = np.random.default_rng(0)
admissible = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(31, 50))


@given(admissible, st.sampled_from(["official", "tight"]))
def test_every_block_is_the_signal_delayed(sizes: tuple[int, int, int, int], drop: Any) -> None:
    order, lag, channels, n_times = sizes
    x = rng.standard_normal((2, channels, n_times))
    z = embed(x, order, lag, drop=drop)
    lost = 0 if order == 1 else (order if drop == "official" else order - 1) * lag
    assert z.shape == (2, order * channels, n_times - lost)
    for p in range(order):
        block = z[:, p * channels : (p + 1) * channels]
        assert np.array_equal(block, x[..., p * lag : p * lag + z.shape[-1]])


@given(admissible)
def test_time_reversal_reverses_the_order_of_the_blocks(sizes: tuple[int, int, int, int]) -> None:
    order, lag, channels, n_times = sizes
    x = rng.standard_normal((1, channels, n_times))
    forward, backward = (embed(part, order, lag, drop="tight")[0] for part in (x, x[..., ::-1]))
    C = (forward @ forward.T).reshape(order, channels, order, channels)
    R = (backward @ backward.T).reshape(order, channels, order, channels)
    np.testing.assert_allclose(R, C[::-1, :, ::-1], atol=1e-12)


def test_order_one_is_the_signal_itself() -> None:
    x = rng.standard_normal((3, 2, 20))
    assert np.array_equal(embed(x, 1, 50), x)


@pytest.mark.parametrize(("delays", "drop", "length"), [((0, 3, 7), "official", 12), ((0, 3, 7), "tight", 13)])
def test_delays_need_not_be_uniform(delays: tuple[int, ...], drop: Any, length: int) -> None:
    x = rng.standard_normal((2, 3, 20))
    z = embed(x, delays=delays, drop=drop)
    assert z.shape == (2, 9, length)
    for k, d in enumerate(delays):
        assert np.array_equal(z[:, 3 * k : 3 * k + 3], x[..., d : d + length])


def test_tensors_and_arrays_have_one_embedding() -> None:
    x = rng.standard_normal((2, 3, 30))
    assert np.array_equal(embed(torch.from_numpy(x), 3, 4).numpy(), embed(x, 3, 4))


@pytest.mark.parametrize("estimator", ["cov", "oas"])
def test_the_tensor_covariance_is_pyriemanns(estimator: Any) -> None:
    x = rng.standard_normal((4, 3, 60))
    ours = augmented_covariance(torch.from_numpy(x), 3, 2, estimator=estimator).numpy()
    np.testing.assert_allclose(ours, covariances(embed(x, 3, 2), estimator), rtol=1e-10, atol=1e-12)
    loaded = augmented_covariance(torch.from_numpy(x), 3, 2, 0.5, estimator=estimator).numpy()
    np.testing.assert_allclose(loaded - ours, np.broadcast_to(0.5 * np.eye(9), ours.shape), atol=1e-12)


@pytest.mark.parametrize("estimator", ["cov", "oas"])
def test_gradients_are_those_of_finite_differences(estimator: Any) -> None:
    x = torch.from_numpy(rng.standard_normal((2, 2, 12))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augmented_covariance(x, 2, 2, 1e-3, estimator=estimator), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 0}, "order must be a positive integer, got 0"),
        ({"lag": 1.5}, "lag must be a positive integer, got 1.5"),
        ({"order": 4, "lag": 5}, r"T = 20; at lag 5 the largest order is 3, at order 4 the largest lag is 4"),
        ({"delays": [0, 0]}, "distinct integers"),
        ({"delays": [0, 19]}, "delay 19 needs epochs of more samples than T = 20"),
        ({"drop": "loose"}, "'official' or 'tight'"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_arguments_are_explained(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window(20, **arguments)


def test_too_few_samples_are_refused_unless_the_matrix_is_regularised() -> None:
    x = torch.from_numpy(rng.standard_normal((1, 4, 20)))
    with pytest.raises(ValueError, match="8 samples cannot give a positive definite covariance of 12 rows"):
        augmented_covariance(x, 3, 4)
    for C in (augmented_covariance(x, 3, 4, 0.1), augmented_covariance(x, 3, 4, estimator="oas")):
        torch.linalg.cholesky(C)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [1e-12, 1e-6, 1.0, 1e6])
def test_one_shrunk_channel_is_its_variance_with_a_finite_gradient(unit: float, dtype: torch.dtype) -> None:
    x = (unit * torch.from_numpy(rng.standard_normal((50, 1, 40)))).to(dtype).requires_grad_()
    C = augmented_covariance(x, estimator="oas")
    torch.testing.assert_close(C[:, 0, 0], x.var(-1, correction=0)[:, 0], rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(C.logdet().sum(), x)
    expected = 2 * (x - x.mean(-1, keepdim=True)) / x.shape[-1] / C.detach()
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_a_signal_without_variance_has_a_covariance_of_zeros() -> None:
    assert torch.equal(augmented_covariance(torch.ones(1, 2, 30), 2, 3, estimator="oas"), torch.zeros(1, 4, 4))
