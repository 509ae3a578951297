"""The augmented covariance as the matrix of a vector autoregressive model: Yule-Walker, block-Toeplitz, criteria."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64

from linmap.errors import ArgumentError
from linmap.geometry.delays import window
from linmap.signals.acm.estimation import scatter
from linmap.signals.layout import check_epochs

Criterion = Literal["aic", "aicc", "bic", "hq"]
CRITERIA = ("aic", "aicc", "bic", "hq")


class Autoregression(NamedTuple):
    """x(t) = sum_p A[p - 1] x(t - p lag) + e(t)."""

    A: Float64[np.ndarray, "order channels channels"]
    S: Float64[np.ndarray, "channels channels"]
    """Covariance of the innovations e."""


def lagged_covariances(
    X: Float64[np.ndarray, "epochs channels times"], max_lag: int
) -> Float64[np.ndarray, "epochs lags channels channels"]:
    """Gamma_i = 1/T sum_t x(t + i) x(t)^T of each epoch without its mean, i = 0 to `max_lag`.

    The sum is over what the epoch holds and the divisor is always T, so that matrices of these blocks are positive
    semi-definite.
    """
    x = X - X.mean(-1, keepdims=True)
    n_times = x.shape[-1]
    return np.stack([x[..., i:] @ x[..., : n_times - i].mT for i in range(max_lag + 1)], 1) / n_times


def block_toeplitz(
    gamma: Float64[np.ndarray, "*batch lags channels channels"], order: int, lag: int = 1
) -> Float64[np.ndarray, "*batch size size"]:
    """The matrix with block (i, j) = Gamma_{(i - j) lag}, where Gamma_{-k} = Gamma_k^T.

    Raises
    ------
    ValueError
        If `gamma` does not reach to (order - 1) * lag.
    """
    if (order - 1) * lag >= gamma.shape[-3]:
        raise ArgumentError(
            f"order {order} at lag {lag} needs Gamma up to {(order - 1) * lag}, got {gamma.shape[-3] - 1}."
        )
    blocks = [
        [gamma[..., (i - j) * lag, :, :] if i >= j else gamma[..., (j - i) * lag, :, :].mT for j in range(order)]
        for i in range(order)
    ]
    return np.concatenate([np.concatenate(row, -1) for row in blocks], -2)


def yule_walker(
    X: Any, order: int = 1, lag: int = 1, method: Literal["covariance", "toeplitz"] = "covariance"
) -> Autoregression:
    """The autoregressive model of step `lag` that augmented covariances define.

    Parameters
    ----------
    X
        (channels, times), or (epochs, channels, times), which share one model.
    order, lag
        Terms, and samples between them.
    method
        "covariance" solves with the augmented covariance of order + 1 over the samples that all blocks share: least
        squares with an intercept in each epoch, exactly. "toeplitz" solves the Yule-Walker equations proper, whose
        model is always stable.

    Returns
    -------
    Autoregression
        A (order, channels, channels) and S (channels, channels), the latter divided as the covariances are: by the
        number of samples.

    Raises
    ------
    ValueError
        If X is no such array, is too short, or its channels depend on each other.
    """
    if method not in ("covariance", "toeplitz"):
        raise ArgumentError(f"method must be 'covariance' or 'toeplitz', got {method!r}.")
    if not hasattr(X, "get_data") and np.ndim(X) == 2:
        X = np.asarray(X)[None]
    epochs = check_epochs(X)
    window(epochs.shape[-1], order, lag)
    if method == "covariance":
        chosen = window(epochs.shape[-1], order + 1, lag, drop="tight")
        G = scatter(epochs, chosen).mean(0) / chosen.length
    else:
        G = block_toeplitz(lagged_covariances(epochs, order * lag).mean(0), order + 1, lag)
    return regress_newest(G, order)


def regress_newest(G: Float64[np.ndarray, "size size"], order: int) -> Autoregression:
    """The newest block of an embedding of order + 1, regressed on the older ones."""
    c = len(G) // (order + 1)
    past, cross, now = G[:-c, :-c], G[-c:, :-c], G[-c:, -c:]
    try:
        weights = np.linalg.solve(past, cross.T).T  # (c, order c), the oldest block first
    except np.linalg.LinAlgError:
        raise ArgumentError(
            "the augmented covariance is singular: channels are constant or depend on each other; drop "
            "one, or lower the order."
        ) from None
    A = weights.reshape(c, order, c).transpose(1, 0, 2)[::-1]
    return Autoregression(np.ascontiguousarray(A), now - weights @ cross.T)


def information_criteria(
    X: Any, orders: Sequence[int], lags: Sequence[int] = (1,), criterion: Criterion = "aic"
) -> Float64[np.ndarray, "epochs orders lags"]:
    """An information criterion of autoregressive models of every epoch; infinite where a model does not fit into it.

    log det S + penalty with k = order * channels^2 parameters and T samples: AIC 2 k / T, AICc 2 k / (T - k - 1), BIC
    k log T / T, HQ 2 k log log T / T. All models come from the same lagged covariances.

    Raises
    ------
    ValueError
        If the criterion is not known.
    """
    if criterion not in CRITERIA:
        raise ArgumentError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}.")
    X = check_epochs(X)
    n_epochs, channels, n_times = X.shape
    fitting = [(o, l) for o in orders for l in lags if o * l < n_times]
    gamma = lagged_covariances(X, max((o * l for o, l in fitting), default=0))
    values = np.full((n_epochs, len(orders), len(lags)), np.inf)
    for i, o in enumerate(orders):
        k = o * channels**2
        penalty = {
            "aic": 2 * k / n_times,
            "bic": k * np.log(n_times) / n_times,
            "aicc": 2 * k / (n_times - k - 1) if n_times > k + 1 else np.inf,
            "hq": 2 * k * np.log(np.log(n_times)) / n_times,
        }[criterion]
        for j, l in enumerate(lags):
            if (o, l) in fitting:
                for n in range(n_epochs):
                    S = regress_newest(block_toeplitz(gamma[n], o + 1, l), o).S
                    values[n, i, j] = np.linalg.slogdet(S)[1] + penalty
    return values
