"""The transformers: oracles of the definition, other libraries, scikit-learn, and bad input."""

import pickle

import mne
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyriemann.classification import MDM
from pyriemann.geometry.covariance import covariances
from pyriemann.geometry.distance import distance_riemann
from sklearn.covariance import oas
from sklearn.utils.estimator_checks import check_estimator

from linmap.signals.acm import AugmentedCovariance, DelayEmbedding
from typed import cloned

rng = np.random.default_rng(0)


@given(st.integers(1, 5), st.integers(1, 8))
def test_the_embedding_is_moabbs_bit_for_bit(order: int, lag: int) -> None:
    AugmentedDataset = pytest.importorskip("moabb.pipelines.features").AugmentedDataset
    X = rng.standard_normal((3, 4, 60))
    assert np.array_equal(DelayEmbedding(order, lag).fit_transform(X), AugmentedDataset(order, lag).transform(X))


@pytest.mark.parametrize("estimator", ["oas", "cov", "scm", "lwf", "corr"])
def test_covariances_are_pyriemanns_of_the_embedded_epochs(estimator: str) -> None:
    X = rng.standard_normal((3, 3, 80)) + 1000
    ours = AugmentedCovariance(3, 4, estimator=estimator).fit_transform(X)
    theirs = covariances(DelayEmbedding(3, 4).transform(X), estimator)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)
    listed = AugmentedCovariance(delays=(0, 1, 7), estimator=estimator).transform(X)
    np.testing.assert_allclose(
        listed, covariances(DelayEmbedding(delays=(0, 1, 7)).transform(X), estimator), rtol=1e-9, atol=1e-11
    )


@given(st.integers(1, 3), st.integers(1, 3), st.integers(-12, 12), st.integers(0, 999))
def test_shrinkage_is_scikit_learns_in_any_unit_also_of_one_channel(c: int, order: int, unit: int, seed: int) -> None:
    X = np.random.default_rng(seed).standard_normal((2, c, 40)) * 10.0**unit
    for ours, embedded in zip(
        AugmentedCovariance(order, 2).transform(X), DelayEmbedding(order, 2).transform(X), strict=True
    ):
        np.testing.assert_allclose(ours, oas(embedded.T)[0], rtol=1e-9, atol=1e-12 * ours.max())


@given(st.sampled_from(["oas", "cov", "scm", "lwf"]), st.integers(-40, 40), st.integers(0, 999))
def test_powers_of_two_pass_through_bit_for_bit(estimator: str, power: int, seed: int) -> None:
    X = np.random.default_rng(seed).standard_normal((3, 2, 40))
    transformer = AugmentedCovariance(2, 3, estimator=estimator)
    assert np.array_equal(transformer.transform(2.0**power * X), 4.0**power * transformer.transform(X))


def test_the_first_block_is_the_covariance_of_the_first_samples() -> None:
    X = rng.standard_normal((2, 3, 50))
    C = AugmentedCovariance(3, 4, estimator="cov").transform(X)
    np.testing.assert_allclose(C[:, :3, :3], covariances(X[..., :38], "cov"), atol=1e-12)


def test_white_noise_has_the_identity() -> None:
    C = AugmentedCovariance(3, 2, estimator="cov").transform(rng.standard_normal((1, 2, 50_000)))[0]
    assert np.abs(C - np.eye(6)).max() < 5 / np.sqrt(50_000)


def test_a_sinusoid_is_singular_at_its_period_and_well_conditioned_at_a_quarter() -> None:
    wave = np.sin(2 * np.pi * np.arange(400) / 40)[None, None]
    with pytest.raises(ValueError, match="rank 1 of 2"):
        AugmentedCovariance(2, 40, estimator="cov").transform(wave)
    quarter = AugmentedCovariance(2, 10, estimator="cov", drop="tight").transform(wave)[0]
    assert np.linalg.cond(quarter) < 1.2


def test_mixing_channels_is_a_congruence_that_distances_do_not_see() -> None:
    X, B = rng.standard_normal((6, 3, 200)), rng.standard_normal((3, 3))
    transformer = AugmentedCovariance(3, 2, estimator="cov")
    C, mixed = transformer.transform(X), transformer.transform(B @ X)
    big = np.kron(np.eye(3), B)
    np.testing.assert_allclose(mixed, big @ C @ big.T, rtol=1e-9)
    np.testing.assert_allclose(distance_riemann(mixed, mixed[0]), distance_riemann(C, C[0]), atol=1e-8)
    y = np.arange(6) % 2
    assert (MDM().fit(C, y).predict(C) == MDM().fit(mixed, y).predict(mixed)).all()


def test_toeplitz_matrices_have_equal_blocks_and_can_be_shrunk() -> None:
    X = rng.standard_normal((2, 2, 60))
    for estimator in ("scm", "oas"):
        C = AugmentedCovariance(3, 2, estimator=estimator, toeplitz=True).transform(X)
        np.testing.assert_allclose(C[:, :2, :2], C[:, 4:, 4:], atol=1e-14)
        np.testing.assert_allclose(C[:, :2, 2:4], C[:, 2:4, 4:], atol=1e-14)
    with pytest.raises(ValueError, match="toeplitz=True needs order and lag"):
        AugmentedCovariance(estimator="lwf", toeplitz=True).transform(X)


@pytest.mark.parametrize("transformer", [DelayEmbedding(2, 3), AugmentedCovariance(2, 3)])
def test_scikit_learns_manners(transformer: DelayEmbedding | AugmentedCovariance) -> None:
    X = rng.standard_normal((4, 2, 30))
    expected = transformer.transform(X)
    for other in (cloned(transformer), pickle.loads(pickle.dumps(transformer.fit(X)))):
        assert np.array_equal(other.fit(X, np.zeros(4)).transform(X), expected)
    assert transformer.get_params()["lag"] == 3
    check_estimator(transformer)


def test_mne_epochs_are_taken_in_microvolts() -> None:
    X = rng.standard_normal((4, 2, 30))
    epochs = mne.EpochsArray(X, mne.create_info(2, 100.0, "eeg"), verbose="error")
    assert np.array_equal(AugmentedCovariance(2, 3).transform(epochs), AugmentedCovariance(2, 3).transform(1e6 * X))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("X", "parameters", "message"),
    [
        (np.zeros((4, 30)), {}, r"expected \(epochs, channels, times\), got shape \(4, 30\)"),
        ([[[1.0, 2.0], [1.0]]], {}, "lists of unequal lengths"),
        (np.full((1, 1, 3), "a"), {}, "real numbers"),
        (np.zeros((0, 2, 30)), {}, "at least one epoch"),
        (np.where(np.arange(120).reshape(2, 2, 30) == 100, np.inf, 1), {}, "epoch 1, channel 1 holds NaN"),
        (np.ones((2, 2, 30)), {"order": 2.5}, "order must be a positive integer"),
        (np.ones((2, 2, 30)), {"order": 2, "lag": 0}, "lag must be a positive integer"),
        (
            np.ones((2, 2, 30)),
            {"order": 6, "lag": 5},
            "T = 30; at lag 5 the largest order is 5, at order 6 the largest",
        ),
        (rng.standard_normal((2, 5, 30)), {"order": 5, "estimator": "cov"}, "= 25 rows from 25 samples; use est"),
        (np.ones((2, 2, 30)), {}, "epoch 0 is constant in all channels"),
        (np.stack([rng.standard_normal((3, 40)) * [[1], [1], [0]]]), {"estimator": "scm"}, "rank 2 of 3"),
        (np.stack([rng.standard_normal((1, 40))[[0, 0]]]), {"order": 2, "estimator": "cov"}, "rank 2 of 4"),
    ],
)
def test_bad_input_is_explained(X: object, parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AugmentedCovariance(**parameters).transform(X)


def test_other_channels_are_refused_other_lengths_are_not() -> None:
    transformer = AugmentedCovariance(2, 3).fit(rng.standard_normal((2, 3, 40)))
    assert transformer.transform(rng.standard_normal((1, 3, 25))).shape == (1, 6, 6)
    with pytest.raises(ValueError, match="expected 3 channels as in fit, got 2"):
        transformer.transform(rng.standard_normal((1, 2, 40)))
