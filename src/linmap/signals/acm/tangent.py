"""The affine-invariant mean of covariances and the tangent space at it, one pass of eigendecompositions a step.

pyRiemann's `mean_riemann` and `tangent_space` compute the same; here the last step's logarithms are the tangent
vectors, and a mean can begin near another one, which the nested search lives on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from threadpoolctl import ThreadpoolController

from linmap.errors import ArgumentError

Matrix = Float64[np.ndarray, "size size"]
Matrices = Float64[np.ndarray, "n size size"]
TOLERANCE, STEPS = 1e-8, 60  # pyRiemann's tolerance
STEP = 0.95  # the Hessian's eigenvalues begin at 1 and reach further: slightly less than a whole step


@lru_cache(1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS on one thread: for matrices this small, threads cost many times what they bring."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


def roots(M: Matrix) -> tuple[Matrix, Matrix]:
    """M^(1/2) and M^(-1/2)."""
    w, U = np.linalg.eigh(M)
    root = np.sqrt(w)
    return (U * root) @ U.T, (U / root) @ U.T


def logarithms(X: Matrices, whitening: Matrix) -> Matrices:
    """log(M^(-1/2) X_i M^(-1/2)), given M^(-1/2): the tangent vectors at M, as symmetric matrices."""
    w, U = np.linalg.eigh(whitening @ X @ whitening)
    return (U * np.log(w)[:, None, :]) @ U.mT


def exponential(M: Matrix, J: Matrix) -> Matrix:
    """M^(1/2) exp(J) M^(1/2): the point that tangent vector J leads to from M."""
    root, _ = roots(M)
    w, U = np.linalg.eigh(J)
    point = root @ (U * np.exp(w)) @ U.T @ root
    return (point + point.T) / 2


def mean_and_logarithms(
    X: Matrices, start: Matrix | None = None, tolerance: float = TOLERANCE
) -> tuple[Matrix, Matrices]:
    """The affine-invariant mean M by gradient descent, and the tangent vectors at it.

    Parameters
    ----------
    X
        Positive definite matrices.
    start
        Where to begin; the arithmetic mean when None.
    tolerance
        Norm of the mean tangent vector at which M is good enough.

    Raises
    ------
    ValueError
        If the mean is not reached in 60 steps, as with matrices that are singular to rounding.
    """
    M = X.mean(0) if start is None else start
    step, before = STEP, np.inf
    for _ in range(STEPS):
        _, whitening = roots(M)
        W = logarithms(X, whitening)
        J = W.mean(0)
        size = float(np.linalg.norm(J))
        if size <= tolerance:
            return M, W
        if not size < before:
            step /= 2
        before = size
        M = exponential(M, step * J)
    raise ArgumentError(
        f"the affine-invariant mean of {len(X)} matrices of {X.shape[-1]} rows was not found: they are as "
        "good as singular; use estimator='oas' or a smaller order."
    )


def vectors(W: Matrices) -> Float64[np.ndarray, "n entries"]:
    """Symmetric matrices as vectors of the same norm: the upper triangle, off the diagonal times sqrt 2."""
    rows, columns = np.triu_indices(W.shape[-1])
    return W[:, rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))


def tangent_vectors(X: Matrices, M: Matrix) -> Float64[np.ndarray, "n entries"]:
    """Matrices in the tangent space at M."""
    return vectors(logarithms(X, roots(M)[1]))
