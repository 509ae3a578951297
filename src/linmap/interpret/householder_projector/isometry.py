"""The projector's weight W = gain Q(U) S Q(V), and the partial isometry that is nearest to a pretrained weight."""

from __future__ import annotations

import math
import warnings
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.interpret.householder_projector.arguments import (
    check_finite,
    check_floating,
    check_number,
    check_rank,
    has_values,
    widened,
    without_autocast,
)
from linmap.interpret.householder_projector.reflections import check_reflectors, leading_columns, leading_rows


def nearest_isometry(A: Float[Tensor, "o i"], rank: int) -> Float[Tensor, "o i"]:
    """The partial isometry of this rank nearest to A: its singular value decomposition with k ones for the values.

    Parameters
    ----------
    A
        Any matrix. Half precision is computed in float32. Derivatives exist where its singular values differ.
    rank
        k, from 1 to min(o, i).

    Returns
    -------
    Tensor
        The sum of u_j v_j^T over the k leading singular vectors. Where A's rank is less than k, the last are arbitrary.

    Raises
    ------
    ValueError
        If A is not 2-D or not finite, or the rank is out of range.
    TypeError
        If A is not a tensor of floating numbers.
    """
    check_floating("A", A, 2, "(o, i)")
    rank = check_rank(rank, *A.shape)
    check_finite("A", A)
    with without_autocast(A):
        U, _, Vh = torch.linalg.svd(widened(A), full_matrices=False)
        return (U[:, :rank] @ Vh[:rank]).to(A.dtype)


def projector_weight(
    U: Float[Tensor, "o m_u"],
    V: Float[Tensor, "i m_v"],
    rank: int,
    *,
    signs: Float[Tensor, " k"] | None = None,
    gain: float | Tensor = 1.0,
) -> Float[Tensor, "o i"]:
    """W = gain Q(U)[:, :k] diag(signs) Q(V)[:k, :], whose k non-zero singular values all are |gain|.

    Q(V) is not transposed, as in the paper. The length of a column of U or V has no effect.

    Parameters
    ----------
    U, V
        Reflectors as columns, of any number.
    rank
        k, from 1 to min(o, i).
    signs
        (k,) of ±1; ones when None.
    gain
        A factor.

    Raises
    ------
    ValueError
        If U or V is not 2-D, not finite or has a zero column, the rank is out of range, `signs` are not k of ±1, or the
        gain is no finite number.
    TypeError
        If U or V is not a tensor of floating numbers, or they differ in dtype.
    """
    check_reflectors("U", U)
    check_reflectors("V", V)
    if U.dtype != V.dtype:
        raise ArgumentTypeError(f"U and V must have the same dtype, got {U.dtype} and {V.dtype}.")
    check_number("gain", gain)
    rank = check_rank(rank, len(U), len(V))
    signs = U.new_ones(rank) if signs is None else signs
    check_signs(signs, rank)
    return weight_of(leading_columns(U, rank), leading_rows(V, rank), signs, gain).to(U.dtype)


def weight_of(
    left: Float[Tensor, "o k"], directions: Float[Tensor, "k i"], signs: Tensor, gain: float | Tensor
) -> Float[Tensor, "o i"]:
    """W of both orthonormal factors, in their precision."""
    with without_autocast(left):
        return (left * (signs * gain).to(left)) @ directions


def check_signs(signs: Any, rank: int) -> None:
    if not isinstance(signs, Tensor) or signs.shape != (rank,):
        came = tuple(signs.shape) if isinstance(signs, Tensor) else type(signs).__name__
        raise ArgumentError(f"signs must be a tensor of shape ({rank},), one for each of rank={rank}, got {came}.")
    if has_values(signs) and not bool((signs.abs() == 1).all()):
        raise ArgumentError(f"signs must be +1 or -1, got {signs.tolist()}.")


def check_gain(gain: Any, words: tuple[str, ...] = ()) -> None:
    """Raise unless the gain is a positive number, or one of the words."""
    if isinstance(gain, str) and gain in words:
        return
    if not isinstance(gain, Real) or isinstance(gain, bool) or not 0 < float(gain) < math.inf:
        allowed = "".join(f" or {word!r}" for word in words)
        raise ArgumentError(f"gain must be a number > 0{allowed}, got {gain!r}.")


def check_weight(A: Any, rank: Any) -> int:
    """The rank, if A is a weight that a projector can start from."""
    check_floating("weight", A, 2, "(o, i)")
    rank = check_rank(rank, *A.shape)
    if A.is_meta:
        raise ArgumentError("weight is on the meta device, which holds no values to start from.")
    check_finite("weight", A)
    if not bool(A.any()):
        raise ArgumentError(f"weight of shape {tuple(A.shape)} is all zeros: it has no singular vectors to start from.")
    return rank


def numerical_rank(S: Float[Tensor, " n"], shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """How many singular values of a matrix of this shape and dtype stand out of rounding."""
    return int((S[0] * max(shape) * torch.finfo(dtype).eps < S).sum())


def warn_of_rank(S: Float[Tensor, " n"], A: Float[Tensor, "o i"], rank: int) -> None:
    if (found := numerical_rank(S, tuple(A.shape), A.dtype)) < rank:
        warnings.warn(
            f"weight has rank {found}, rank={rank} asked; the last {rank - found} directions are arbitrary.",
            stacklevel=4,
        )
