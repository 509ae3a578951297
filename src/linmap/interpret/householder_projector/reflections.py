"""Products of Householder reflections, Q(V) = H(v_1) ... H(v_m), and the way back from orthonormal columns.

Sources: Song, Zhang, Sebe and Wang, "Householder Projector for Unsupervised Latent Semantics Discovery" (ICCV 2023),
for Q; Schreiber and Van Loan (1989) for the compact WY form in which `linmap.maps.householder` applies it; Ballard,
Demmel, Grigori, Jacquelin, Nguyen and Solomonik, "Reconstructing Householder vectors from tall-skinny QR" (2014) for
the way back.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.interpret.householder_projector.arguments import (
    check_finite,
    check_floating,
    check_whole,
    has_values,
    widened,
    without_autocast,
)
from linmap.maps.householder import reflect
from linmap.maps.orthogonal import by_rows

ORTHONORMAL = 1e-3  # how far columns may be from orthonormal; one rounding in bfloat16, where that is more
BLOCK = 32  # reflections applied together; 16 to 64 were fastest for 10 columns of 512 reflections


def householder_product(V: Float[Tensor, "d m"], n_cols: int | None = None) -> Float[Tensor, "d n_cols"]:
    """The first columns of Q(V) = H(v_1) H(v_2) ... H(v_m) with H(v) = I - 2 v v^T / |v|².

    Only these columns are computed, in O(d m (n_cols + b)) with blocks of b reflections; derivatives of every order
    exist. Half precision is computed in float32.

    Parameters
    ----------
    V
        The v_j as columns, of any number and of any length but zero.
    n_cols
        How many columns; all d when None.

    Returns
    -------
    Tensor
        (d, n_cols), of V's dtype. Its columns are orthonormal.

    Raises
    ------
    ValueError
        If V is not 2-D or not finite, has no column or a zero one, or `n_cols` is out of 1 ... d.
    TypeError
        If V is not a tensor of floating numbers.
    """
    check_reflectors("V", V)
    n_cols = len(V) if n_cols is None else check_whole("n_cols", n_cols, 1, len(V), ", the rows of V")
    return leading_columns(V, n_cols).to(V.dtype)


def check_reflectors(name: str, V: Tensor) -> None:
    """Raise unless the columns of V are reflectors: at least one, finite, not zero."""
    check_floating(name, V, 2, "(d, m), reflectors as columns")
    if V.numel() == 0:
        raise ArgumentError(f"{name} must have at least one row and one column, got shape {tuple(V.shape)}.")
    check_finite(name, V)
    if (zero := zero_column(V)) is not None:
        raise ArgumentError(f"{name}: column {zero} is zero, which no reflection has; give it a direction or drop it.")


def zero_column(V: Float[Tensor, "d m"]) -> int | None:
    """The number of the first zero column; None without one, or where there are no values to look at."""
    if not has_values(V) or not bool((zero := ~V.any(dim=0)).any()):
        return None
    return int(zero.nonzero()[0])


def leading_columns(V: Float[Tensor, "d m"], k: int) -> Float[Tensor, "d k"]:
    """Q(V)[:, :k] of checked reflectors, in float32 at least, whatever autocast says."""
    return by_rows(partial(reflect, block=BLOCK), V.mT, _axes(V, k), False).mT


def leading_rows(V: Float[Tensor, "d m"], k: int) -> Float[Tensor, "k d"]:
    """Q(V)[:k, :] of checked reflectors, in float32 at least, whatever autocast says."""
    return by_rows(partial(reflect, transposed=True, block=BLOCK), V.mT, _axes(V, k), False)


def _axes(V: Tensor, k: int) -> Float[Tensor, "k d"]:
    return torch.eye(k, len(V), dtype=torch.promote_types(V.dtype, torch.float32), device=V.device)


def reflectors(Q: Float[Tensor, "d k"]) -> tuple[Float[Tensor, "d k"], Float[Tensor, " k"]]:
    """Reflectors Y and signs with `householder_product(Y, n_cols=k) * signs == Q`, exactly for every Q.

    Elimination of Q - [D; 0] without exchanges, D = diag(±1) chosen on the way so that every pivot is at least 1 in
    magnitude, has the reflectors as its unit lower trapezoidal factor. No reflector degenerates to the identity, as
    those of LAPACK's QR do for columns that are axes already.

    Parameters
    ----------
    Q
        Orthonormal columns, to 1e-3 (in bfloat16 to its precision); k <= d. Half precision is computed in float32.

    Returns
    -------
    Y, signs
        (d, k) with ones on the diagonal and zeros above it, and (k,) of ±1.

    Raises
    ------
    ValueError
        If Q is not 2-D, has more columns than rows, or its columns are not orthonormal.
    TypeError
        If Q is not a tensor of floating numbers.
    """
    check_floating("Q", Q, 2, "(d, k), orthonormal columns")
    d, k = Q.shape
    if not 1 <= k <= d:
        raise ArgumentError(f"Q must have from 1 to d = {d} columns, got k = {k}; more cannot be orthonormal.")
    rest = widened(Q)
    with without_autocast(rest):
        _check_orthonormal(rest, max(ORTHONORMAL, torch.finfo(Q.dtype).eps))
        columns, signs = [], []
        for j in range(k):
            sign = torch.where(rest[0, 0] > 0, -1.0, 1.0).to(rest)  # away from the entry, so that nothing cancels
            below = rest[1:, 0] / (rest[0, 0] - sign)
            columns.append(torch.cat([below.new_zeros(j), below.new_ones(1), below]))
            signs.append(sign)
            rest = rest[1:, 1:] - torch.outer(below, rest[0, 1:])
    return torch.stack(columns, dim=1).to(Q.dtype), torch.stack(signs).to(Q.dtype)


def _check_orthonormal(Q: Float[Tensor, "d k"], most: float) -> None:
    if not has_values(Q):
        return
    Q = Q.detach()
    error = float((Q.mT @ Q - torch.eye(Q.shape[1]).to(Q)).abs().amax())
    if not error <= most:
        raise ArgumentError(
            f"Q must have orthonormal columns: Q^T Q differs from I by {error:.2g}, at most {most:g} is expected; "
            "torch.linalg.qr makes them so."
        )
