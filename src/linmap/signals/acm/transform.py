"""`DelayEmbedding` and `AugmentedCovariance`: scikit-learn transformers of epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Float64
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from linmap.errors import ArgumentError
from linmap.geometry.delays import Drop, Window, embed, window
from linmap.signals.acm.autoregression import block_toeplitz, lagged_covariances
from linmap.signals.acm.estimation import FROM_SCATTER, Estimator, augmented_covariances, from_scatter
from linmap.signals.layout import Layout, read_epochs


class _EpochsTransformer(TransformerMixin, BaseEstimator):
    """Takes (epochs, channels, times); `fit` only remembers how they are laid out."""

    order: int
    lag: int
    delays: Sequence[int] | None
    drop: Drop

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the epochs and remember their channels and unit; nothing is learnt, y is ignored."""
        epochs = read_epochs(X)
        self._window(epochs.X.shape[-1])
        self.layout_ = Layout.of(epochs)
        self.n_channels_in_ = epochs.X.shape[1]
        return self

    def _window(self, n_times: int) -> Window:
        return window(n_times, self.order, self.lag, self.delays, self.drop)

    def _checked(self, X: Any) -> Float64[np.ndarray, "epochs channels times"]:
        epochs = read_epochs(X)
        return self.layout_.matched(epochs) if hasattr(self, "layout_") else epochs.X

    def __sklearn_is_fitted__(self) -> bool:
        return True  # nothing is learnt

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.requires_fit = False
        return tags


class DelayEmbedding(_EpochsTransformer):
    """Delayed copies of epochs, stacked along the channels: (n, c, T) -> (n, o c, T').

    Parameters
    ----------
    order
        Copies; 1 leaves the epochs as they are.
    lag
        Samples between copies; 1000 * lag / sfreq is the time in milliseconds.
    delays
        The delay of each copy in samples, in place of order and lag.
    drop
        "official" loses `lag` more samples than it must, as the published code does; "tight" loses none.

    Notes
    -----
    Row k c + i, sample t is channel i at t + k lag: the block is the delay, the oldest first. Unlike pyRiemann's
    `TimeDelayCovariances` nothing wraps from the end of an epoch to its beginning.
    """

    def __init__(
        self, order: int = 1, lag: int = 1, delays: Sequence[int] | None = None, drop: Drop = "official"
    ) -> None:
        self.order = order
        self.lag = lag
        self.delays = delays
        self.drop = drop

    def transform(self, X: Any) -> Float64[np.ndarray, "epochs rows times"]:
        """The embedded epochs.

        Raises
        ------
        ValueError
            If X is not (epochs, channels, times) of finite numbers, has other channels than in `fit`, or is too short.
        """
        return embed(self._checked(X), self.order, self.lag, self.delays, self.drop)


class AugmentedCovariance(_EpochsTransformer):
    """Augmented covariance matrices of epochs: (n, c, T) -> (n, o c, o c), arXiv 2302.04508.

    Parameters
    ----------
    order, lag, delays, drop
        The embedding, as of `DelayEmbedding`.
    estimator
        "oas" shrinks, and is positive definite for any order. "cov" (the published benchmark's) and "scm" need more
        samples than order * channels, better five times as many. Any other name or function is pyRiemann's
        `covariances`.
    toeplitz
        Build the matrix from lagged covariances, so that blocks on a diagonal are equal (Yule-Walker's matrix); with
        "cov", "scm" or "oas". Divides by T, which keeps it positive definite; `drop` does not matter.

    Notes
    -----
    Works in front of pyRiemann's classifiers, in scikit-learn's `Pipeline` and `GridSearchCV`, and in MOABB.
    """

    def __init__(
        self,
        order: int = 1,
        lag: int = 1,
        delays: Sequence[int] | None = None,
        estimator: Estimator = "oas",
        drop: Drop = "official",
        toeplitz: bool = False,
    ) -> None:
        self.order = order
        self.lag = lag
        self.delays = delays
        self.estimator = estimator
        self.drop = drop
        self.toeplitz = toeplitz

    def transform(self, X: Any) -> Float64[np.ndarray, "epochs size size"]:
        """The covariances.

        Raises
        ------
        ValueError
            If X is not (epochs, channels, times) of finite numbers, has other channels than in `fit`, is too short, or
            a matrix would not be positive definite.
        """
        X = self._checked(X)
        if self.toeplitz:
            return self._toeplitz(X)
        return augmented_covariances(X, self._window(X.shape[-1]), self.estimator)

    def _toeplitz(self, X: Float64[np.ndarray, "epochs channels times"]) -> Float64[np.ndarray, "epochs size size"]:
        if self.delays is not None or self.estimator not in FROM_SCATTER:
            raise ArgumentError(
                f"toeplitz=True needs order and lag, and one of the estimators {', '.join(FROM_SCATTER)}; "
                f"got delays={self.delays}, estimator={self.estimator!r}."
            )
        n_times = X.shape[-1]
        self._window(n_times)
        gamma = lagged_covariances(X, (self.order - 1) * self.lag)
        matrices = block_toeplitz(gamma, self.order, self.lag)
        return from_scatter(matrices * n_times, n_times, "oas" if self.estimator == "oas" else "scm")
