"""What a batch of matrices must be before it is normalised."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError

Check = Literal["raise", "warn"]
ASYMMETRY = 1e-4  # of the largest entry


def check_batch(X: Tensor, n: int, dtype: torch.dtype, check: Check = "raise") -> None:
    """That X holds finite, symmetric matrices n x n of a type.

    Raises
    ------
    TypeError
        If X is not of `dtype`.
    ValueError
        If its shape is wrong, a value is not finite, or a matrix is not symmetric (with check="warn" a warning).
    """
    if X.dtype not in (torch.float32, torch.float64):
        raise ArgumentTypeError(f"X must be float32 or float64, got {X.dtype}; eigenvalues need at least float32.")
    if X.ndim not in (3, 4) or X.shape[-1] != X.shape[-2]:
        raise ArgumentError(f"X must be square matrices (N, n, n) or (N, channels, n, n), got shape {tuple(X.shape)}.")
    if X.shape[-1] != n:
        raise ArgumentError(f"X holds {X.shape[-1]} x {X.shape[-1]} matrices, and the layer was made for n = {n}.")
    if X.dtype != dtype:
        raise ArgumentTypeError(f"X is {X.dtype} and the layer {dtype}; cast one of them with .to().")
    if X.shape[0] == 0 or X.shape[1] == 0:
        raise ArgumentError(f"X holds no matrix: its shape is {tuple(X.shape)}.")
    X = X.detach()
    size = X.abs().amax()
    if not bool(torch.isfinite(size)):
        first = (~torch.isfinite(X)).nonzero()[0].tolist()
        raise ArgumentError(f"X[{', '.join(map(str, first))}] is {float(X[tuple(first)])}; all values must be finite.")
    asymmetry = (X - X.mT).abs().amax()
    if bool(asymmetry > ASYMMETRY * size):
        message = (
            f"X is not symmetric: entries differ from their mirror images by up to {float(asymmetry):.3g}, where the "
            f"largest entry is {float(size):.3g}; pass (X + X.mT) / 2 if that is meant."
        )
        if check == "raise":
            raise ArgumentError(message)
        warnings.warn(message, stacklevel=3)


def check_definite(values: Tensor, X: Tensor, resolution: float) -> None:
    """That matrices are positive definite up to rounding.

    Parameters
    ----------
    values
        Eigenvalues of X, or of matrices congruent to X, which have the same signs (Sylvester).
    X
        The matrices, for the message.
    resolution
        Of the type that the matrices came in.

    Raises
    ------
    ValueError
        If not, with the smallest eigenvalue of X.
    """
    tolerance = 10 * values.shape[-1] * resolution
    if not bool((values[..., 0] < -tolerance * values[..., -1].abs()).any()):
        return
    a = torch.linalg.eigvalsh(X.detach())
    worst = int((a[:, 0] / a.abs().amax(-1)).argmin())
    raise ArgumentError(
        f"X is not positive definite: matrix {worst} of the batch has the eigenvalue {float(a[worst, 0]):.3g} beside "
        f"{float(a[worst, -1]):.3g}. Add eps * I, use a shrinkage estimator such as Covariances('oas'), or reduce the "
        "dimension first (BiMap)."
    )
