"""The change of a weight, and the number that it is scaled with."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError

Scaling = Literal["fixed", "rank"]
EPS = 1e-5


def scaling_factor(alpha: float, rank: int, scaling: Scaling = "rank", reference_rank: int = 8) -> float:
    """What B C A is multiplied with.

    Parameters
    ----------
    alpha
        The numerator.
    rank
        R, the rank in use.
    scaling
        "rank": alpha / (R + 1e-5), as published; growing from R to R + 1 then shrinks the old change by R / (R + 1).
        "fixed": alpha / reference_rank, which does not change in training.
    reference_rank
        The average rank that the layers shall have in the end; read by "fixed".
    """
    if scaling == "rank":
        return alpha / (rank + EPS)
    if scaling == "fixed":
        return alpha / reference_rank
    raise ArgumentError(f"scaling={scaling!r} must be 'fixed' or 'rank'.")


def triadapt_delta(
    A: Float[Tensor, "max_rank n_in"],
    B: Float[Tensor, "n_out max_rank"],
    C_low: Float[Tensor, "max_rank max_rank"],
    C_up: Float[Tensor, "max_rank max_rank"],
    alpha: float,
    rank: int,
    *,
    scaling: Scaling = "rank",
    reference_rank: int = 8,
) -> Float[Tensor, "n_out n_in"]:
    """dW = s B (tril(C_low) + triu(C_up)) A, of the first `rank` pieces, with s as of `scaling_factor`.

    Both triangles have the diagonal, so that it has two summands.

    Raises
    ------
    ValueError
        If `rank` is not from 1 to max_rank, or the shapes do not fit each other.

    References
    ----------
    Liang et al., "TriAdaptLoRA", arXiv 2501.08008.
    """
    if A.ndim != 2 or B.ndim != 2 or not B.shape[1] == A.shape[0] or not C_low.shape == C_up.shape == (A.shape[0],) * 2:
        raise ArgumentError(
            "A must have the shape (max_rank, n_in), B (n_out, max_rank), C_low and C_up (max_rank, max_rank), with "
            f"one max_rank; got A {tuple(A.shape)}, B {tuple(B.shape)}, C_low {tuple(C_low.shape)} and C_up "
            f"{tuple(C_up.shape)}."
        )
    if not 1 <= rank <= A.shape[0]:
        raise ArgumentError(f"rank must be from 1 to {A.shape[0]}, the number of rows of A, got {rank}.")
    C = C_low[:rank, :rank].tril() + C_up[:rank, :rank].triu()
    return B[:, :rank] @ (C * scaling_factor(alpha, rank, scaling, reference_rank)) @ A[:rank]
