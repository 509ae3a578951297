"""`select_order_lag`: order and lag from epochs alone, without labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Int
from sklearn.utils import check_random_state

from linmap.errors import ArgumentError
from linmap.signals.acm.afnn import afnn_curves, first_extremum
from linmap.signals.acm.autoregression import information_criteria
from linmap.signals.acm.mdop import mdop
from linmap.signals.layout import check_epochs

Method = Literal["mdop", "afnn", "aic", "bic", "hq", "aicc"]


class OrderLag(NamedTuple):
    """A choice of order and lag."""

    order: int
    lag: int
    per_epoch: Int[np.ndarray, "epochs 2"]
    """The order and the lag that each epoch would have by itself."""


def select_order_lag(
    X: Any,
    method: Method = "mdop",
    *,
    max_delay: int = 50,
    theiler: int | Literal["mi"] = "mi",
    n_epochs: int | None = None,
    orders: Sequence[int] = tuple(range(1, 11)),
    lags: Sequence[int] = (1,),
    random_state: int | np.random.RandomState | None = None,
) -> OrderLag:
    """One order and lag for a set of epochs. Give it training epochs only.

    Parameters
    ----------
    X
        (epochs, channels, times), or MNE `Epochs`.
    method
        "mdop": maximising derivatives on projection, rounded means over the epochs. "afnn": first minimum of the mutual
        information and first maximum of Cao's ratio, of the means over channels and epochs. "aic", "aicc", "bic", "hq":
        the least mean criterion of autoregressive models.
    max_delay, theiler
        Of MDOP: the longest delay, and neighbours in time that do not count ("mi": by mutual information).
    n_epochs
        Draw this many epochs (with `random_state`) in place of all.
    orders, lags
        Candidates of the criteria, which compare the one-step errors of models and so favour lag 1.

    Raises
    ------
    ValueError
        If the method is not known, X is no such array, or epochs are too short.

    Warns
    -----
    UserWarning
        If the mean lag of MDOP rounds to 0: the choice is then order 1, the plain covariance.
    """
    if method not in get_args(Method):
        raise ArgumentError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}.")
    X = check_epochs(X)
    if n_epochs is not None and n_epochs < len(X):
        if n_epochs < 1:
            raise ArgumentError(f"n_epochs must be at least 1, got {n_epochs}.")
        X = X[np.sort(check_random_state(random_state).choice(len(X), n_epochs, replace=False))]
    if method == "mdop":
        return _by_mdop(X, max_delay, theiler)
    if method == "afnn":
        return _by_afnn(X)
    values = information_criteria(X, tuple(orders), tuple(lags), method)

    def least(table: np.ndarray) -> tuple[int, int]:
        i, j = divmod(int(np.argmin(table)), len(lags))
        return int(orders[i]), int(lags[j])

    if not np.isfinite(values.mean(0)).any():
        raise ArgumentError(
            f"epochs of {X.shape[-1]} samples fit none of the orders {list(orders)} and lags {list(lags)}."
        )
    return OrderLag(*least(values.mean(0)), np.array([least(table) for table in values]))


def _by_mdop(X: np.ndarray, max_delay: int, theiler: int | Literal["mi"]) -> OrderLag:
    found = [mdop(epoch, max_delay, theiler) for epoch in X]
    per_epoch = np.array([(delays.order, delays.lag) for delays in found])
    order, lag = (round(float(mean)) for mean in per_epoch.mean(0))
    if lag == 0:
        warnings.warn(f"MDOP chose order {order} with lag 0, which delays nothing; order 1 is used.", stacklevel=3)
        order, lag = 1, 1
    return OrderLag(order, lag, per_epoch)


def _by_afnn(X: np.ndarray) -> OrderLag:
    information, ratios = afnn_curves(X)

    def extrema(curve: np.ndarray, ratio: np.ndarray) -> tuple[int, int]:
        if not np.isfinite(ratio).any():
            raise ArgumentError(
                f"epochs of {X.shape[-1]} samples are too short, or constant, for averaged false neighbours."
            )
        return 1 + first_extremum(ratio, 1), 1 + first_extremum(curve, -1)

    order, lag = extrema(information.mean(0), ratios.mean(0))
    return OrderLag(order, lag, np.array([extrema(*curves) for curves in zip(information, ratios, strict=True)]))
