"""Covariances of embedded epochs: one product an epoch, without an array of all embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64
from pyriemann.geometry.covariance import cov_est_functions, covariances

from linmap.errors import ArgumentError
from linmap.geometry.delays import Window, oas_shrinkage

Estimator = str | Callable[[np.ndarray], np.ndarray]
Matrices = Float64[np.ndarray, "epochs size size"]
UNSHRUNK = ("cov", "scm")  # positive definite only with more samples than rows
FROM_SCATTER = (*UNSHRUNK, "oas")
RELATIVE_PIVOT = 10 * np.finfo(np.float64).eps


def augmented_covariances(
    X: Float64[np.ndarray, "epochs channels times"], window: Window, estimator: Estimator = "oas"
) -> Matrices:
    """The covariance of the delay embedding of every epoch.

    Parameters
    ----------
    X
        Epochs.
    window
        The embedding, from `linmap.geometry.delays.window`.
    estimator
        "cov", "scm" or "oas" are computed here, from one product an epoch; any other name, or a function, is
        pyRiemann's `covariances`.

    Raises
    ------
    ValueError
        If the estimator is not known, there are too few samples for a matrix without shrinkage, or a matrix is not
        positive definite.
    """
    check_estimator(estimator)
    size = len(window.delays) * X.shape[1]
    if estimator in UNSHRUNK and window.length <= size:
        raise ArgumentError(
            f"estimator={estimator!r} cannot give a positive definite covariance of order * channels = {size} rows "
            f"from {window.length} samples; use estimator='oas', or a smaller order."
        )
    if estimator in FROM_SCATTER:
        return from_scatter(scatter(X, window), window.length, str(estimator))
    embedded = np.concatenate([X[..., d : d + window.length] for d in window.delays], -2)
    named: Any = estimator
    found = covariances(embedded, named)
    return check_positive_definite(np.asarray(found, np.float64))


def check_estimator(estimator: Estimator) -> None:
    """Raise ValueError unless it is a function, or a name that is known."""
    if not callable(estimator) and estimator not in (known := {*FROM_SCATTER, *cov_est_functions}):
        raise ArgumentError(f"estimator must be a function or one of {', '.join(sorted(known))}, got {estimator!r}.")


def scatter(X: Float64[np.ndarray, "epochs channels times"], window: Window) -> Matrices:
    """Sums over time of (z - mean)(z - mean)^T, z the embedding.

    Each epoch is embedded into one small buffer that stays in the cache; its product with its own transpose costs half
    a general one.
    """
    channels, length = X.shape[1], window.length
    size = len(window.delays) * channels
    buffer, sums = np.empty((size, length)), np.empty((len(X), size, size))
    for epoch, out in zip(X, sums, strict=True):
        centred = epoch - epoch.mean(-1, keepdims=True)  # so that nothing cancels below
        for k, start in enumerate(window.delays):
            buffer[k * channels : (k + 1) * channels] = centred[:, start : start + length]
        np.matmul(buffer, buffer.T, out=out)
        total = buffer.sum(-1)
        out -= np.outer(total, total / length)
    return sums


def from_scatter(sums: Matrices, length: int, estimator: str) -> Matrices:
    """The covariances by `estimator` ("cov", "scm" or "oas") from the sums of `scatter`, which are overwritten."""
    if estimator != "oas":
        sums /= length - 1 if estimator == "cov" else length
        return check_positive_definite(sums)
    size = sums.shape[-1]
    variance = np.einsum("nii->n", sums) / (size * length)
    mean_square = np.einsum("nij,nij->n", sums, sums) / (size * length) ** 2
    if not (variance > 0).all():
        raise ArgumentError(f"epoch {int(np.argmin(variance))} is constant in all channels; drop it.")
    share = oas_shrinkage(mean_square / variance**2, size, length)
    sums *= ((1 - share) / length)[:, None, None]
    np.einsum("nii->ni", sums)[:] += (share * variance)[:, None]
    return sums if (share > RELATIVE_PIVOT * size).all() else check_positive_definite(sums)


def check_positive_definite(matrices: Matrices) -> Matrices:
    """The matrices themselves.

    Raises
    ------
    ValueError
        If one is not positive definite to rounding, with its rank.
    """
    try:
        pivots = np.linalg.cholesky(matrices).diagonal(axis1=-2, axis2=-1) ** 2
        limit = RELATIVE_PIVOT * matrices.shape[-1] * matrices.diagonal(axis1=-2, axis2=-1)
        if (pivots > limit).all():
            return matrices
    except np.linalg.LinAlgError:
        pass
    ranks = np.linalg.matrix_rank(matrices, hermitian=True)
    epoch = int(np.argmin(ranks))
    raise ArgumentError(
        f"the covariance of epoch {epoch} has rank {ranks[epoch]} of {matrices.shape[-1]} or is as good as singular: "
        "channels are constant, equal, or sums of others (as after an average reference), or the signal is a pure "
        "oscillation. Use estimator='oas', or drop a channel."
    )
