"""SALT's weight as a function of tensors: W' = U Sigma' V^T with a trainable core Sigma'.

With W = U diag(S) V^T (thin, S descending, q values), the k largest singular values are scaled and shifted, and the
core of the others takes a low-rank update (Elsayed et al., arXiv 2503.16055, Figure 1):

    M = blockdiag( diag(alpha * S_k + beta), diag(S_rest) + X Y ),    Sigma' = relu(M),  entry by entry.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError

Relu: TypeAlias = Literal["all", "diag", "none"]


def salt_core(
    S: Float[Tensor, "*batch q"],
    alpha: Float[Tensor, "*batch k"],
    beta: Float[Tensor, "*batch k"],
    X: Float[Tensor, "*batch rest r"],
    Y: Float[Tensor, "*batch r rest"],
    relu: Relu = "all",
) -> Float[Tensor, "*batch q q"]:
    """Sigma', where k = len(alpha) and rest = q - k.

    Parameters
    ----------
    S
        The singular values of W, largest first.
    alpha, beta
        Scale and shift of the k largest.
    X, Y
        Factors of the update of the other q - k; X has no rows when k = q.
    relu
        Where negative entries are set to zero: "all" of the core (the paper), its "diag"onal only, or "none".

    Raises
    ------
    ValueError
        If the shapes do not fit each other, or `relu` is unknown.
    """
    q, k = S.shape[-1], alpha.shape[-1]
    fits = k <= q and beta.shape == alpha.shape and X.shape[-2] == Y.shape[-1] == q - k and X.shape[-1] == Y.shape[-2]
    if not fits:
        raise ArgumentError(
            f"with q = {q} singular values, alpha and beta must have one length k <= q, X the shape (q - k, r) and Y "
            f"(r, q - k); got alpha {tuple(alpha.shape)}, beta {tuple(beta.shape)}, X {tuple(X.shape)} and Y "
            f"{tuple(Y.shape)}."
        )
    check_relu(relu)
    diagonal = torch.cat([alpha * S[..., :k] + beta, S[..., k:]], dim=-1)
    M = torch.diag_embed(diagonal) + F.pad(X @ Y, (k, 0, k, 0))
    if relu == "none":
        return M
    if relu == "all":
        return M.relu()
    return torch.where(torch.eye(q, dtype=torch.bool, device=M.device), M.relu(), M)


def salt_weight(
    U: Float[Tensor, "*batch n_out q"],
    S: Float[Tensor, "*batch q"],
    Vt: Float[Tensor, "*batch q n_in"],
    alpha: Float[Tensor, "*batch k"],
    beta: Float[Tensor, "*batch k"],
    X: Float[Tensor, "*batch rest r"],
    Y: Float[Tensor, "*batch r rest"],
    k: int,
    relu: Relu = "all",
) -> Float[Tensor, "*batch n_out n_in"]:
    """W' = U Sigma' V^T, dense and differentiable.

    Parameters
    ----------
    U, S, Vt
        The thin SVD of W, as `signed_svd` gives it.
    alpha, beta, X, Y, relu
        As in `salt_core`.
    k
        How many of the singular values are scaled and shifted, the length of alpha.

    Raises
    ------
    ValueError
        If the shapes do not fit each other, or `relu` is unknown.
    """
    if alpha.shape[-1] != k:
        raise ArgumentError(f"alpha must have k = {k} entries, got shape {tuple(alpha.shape)}.")
    return U @ salt_core(S, alpha, beta, X, Y, relu) @ Vt


def check_relu(relu: str) -> None:
    if relu not in get_args(Relu):
        raise ArgumentError(f"relu={relu!r} must be one of 'all', 'diag' and 'none'.")
