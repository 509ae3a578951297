"""Which tokens matter, which of them say something new, and the centres that follow.

Importance is attention: of the class token to each token, or received from all tokens. A token is *informative* when no
more important token already says the same: the rule of density peaks (Rodriguez and Laio, Science 2014) with attention
in the place of density,

    c_n = s_n (1 - max { f_n . f_j : a_j > a_n, s_j > 0 }),

with importances a, masses s and features f of length 1. This formula, and attention as the importance, are ours; the
paper speaks of informative tokens without either.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import unit_rows
from linmap.compress.token_transforming.precision import (
    check_floating,
    full_precision,
    masses,
    working_dtype,
)
from linmap.compress.token_transforming.similarity import Similarities, importance_order, informative
from linmap.errors import ArgumentError, check_count

AT_ONCE = 2**22  # attention weights that are held at once


@full_precision
def importance(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch heads tokens width"],
    *,
    kind: Literal["cls", "received"] = "cls",
    mass: Float[Tensor, "batch tokens"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch tokens"]:
    """Mean of the heads of A_h = softmax(scale q k^T + log s): the row of token 0, or the mean of all rows by mass.

    Parameters
    ----------
    q, k
        (B, H, N, d); of q, "cls" reads the first token only.
    kind
        "cls": a_n = mean_h A_h[0, n]. "received": a_n = sum_i s_i mean_h A_h[i, n] / sum_i s_i.
    mass
        (B, N), None for ones. Padding (0) neither gives nor gets attention.
    scale
        None for d^-0.5.

    Raises
    ------
    TypeError, ValueError
        If a tensor is not as above, or the kind is unknown.
    """
    if kind not in ("cls", "received"):
        raise ArgumentError(f"kind={kind!r} must be 'cls' or 'received'.")
    check_floating("q", q, "(B, H, N, d)")
    check_floating("k", k, "(B, H, N, d)")
    rows_fit = kind == "cls" or q.shape[2] == k.shape[2]
    if (*q.shape[:2], q.shape[3]) != (*k.shape[:2], k.shape[3]) or not rows_fit:
        raise ArgumentError(f"q and k must have one shape (B, H, N, d), got {tuple(q.shape)} and {tuple(k.shape)}.")
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    dtype = working_dtype(q, k, mass)
    if mass is None:
        weights, bias, real = None, None, None
    else:
        s = masses(mass, k[:, 0, :, 0], k.shape[2])
        weights, bias, real = _key_weights(s, dtype)
    if kind == "cls":
        found = class_attention(q, k, bias, factor, dtype)
    else:
        if weights is None:
            weights = k.new_full((k.shape[0], k.shape[2]), 1 / k.shape[2], dtype=dtype)
        found = _received(q, k, weights[:, None, None], bias, factor, dtype)
    return found if real is None else found * real


def _key_weights(s: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """s over its sum; log s for the logits of the keys; which tokens are real."""
    real = s > 0
    some = real.any(-1, keepdim=True)
    bias = torch.where(real | ~some, s, torch.ones_like(s)).log().masked_fill(~real & some, -math.inf)
    weights = s / s.sum(-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
    return weights.to(dtype), bias[:, None, None], real


@full_precision
def class_attention(
    q: Tensor, k: Tensor, bias: Tensor | None, scale: float, dtype: torch.dtype
) -> Float[Tensor, "batch tokens"]:
    """Mean of the heads of the attention of token 0 of q to the keys (B, H, N, d), with a bias (B, 1, 1, N)."""
    q, k = q[:, :, :1].to(dtype) * scale, k.to(dtype)
    # heads lie between the tokens: `@` would copy batches, and of one sample it is no faster on a CPU
    logits = (q * k).sum(-1) if k.device.type == "cpu" else (q @ k.mT).squeeze(2)
    A = (logits if bias is None else logits + bias.squeeze(2)).softmax(-1)
    return A.mean(1)


def _received(q: Tensor, k: Tensor, weights: Tensor, bias: Tensor | None, scale: float, dtype: torch.dtype) -> Tensor:
    """The weighted mean of the rows of A, a few heads at once."""
    B, H, N, _ = k.shape
    heads = max(1, AT_ONCE // (B * N * N))
    total = weights.new_zeros(B, N)
    for first in range(0, H, heads):
        some = slice(first, first + heads)
        A = (q[:, some].to(dtype) * scale) @ k[:, some].to(dtype).mT
        A = (A if bias is None else A.add_(bias) if not A.requires_grad else A + bias).softmax(-1)
        total = total + (weights @ A).squeeze(2).sum(1)
    return total / H


@full_precision
def informativeness(
    features: Float[Tensor, "batch tokens channels"],
    importance: Float[Tensor, "batch tokens"],
    *,
    mass: Float[Tensor, "batch tokens"] | None = None,
    protect: int = 1,
) -> Float[Tensor, "batch tokens"]:
    """c_n = s_n (1 - the largest cosine to a more important token).

    Only tokens with mass that are not protected count as more important; of equal importances the lower index is the
    more important.

    Parameters
    ----------
    features
        (B, N, c); divided by their norms here.
    importance
        (B, N).
    mass
        (B, N), None for ones.
    protect
        How many first tokens are protected.

    Returns
    -------
    c
        (B, N); +inf for protected tokens and for the most important other one, -inf for padding.

    Raises
    ------
    TypeError, ValueError
        If a tensor is not as above.
    """
    check_floating("features", features, "(B, N, c)")
    check_floating("importance", importance, "(B, N)")
    if features.shape[:2] != importance.shape:
        raise ArgumentError(
            f"features (B, N, c) and importance (B, N) do not fit: {tuple(features.shape)} and "
            f"{tuple(importance.shape)}."
        )
    protect = check_count("protect", protect, 0)
    s = masses(mass, features, features.shape[1])
    similarities = Similarities(unit_rows(features, s.dtype), importance_order(importance, s, protect), keep=False)
    return informative(similarities.largest_before(), s, protect)


def select_centres(c: Float[Tensor, "batch tokens"], M: int) -> Int[Tensor, "batch outputs"]:
    """The M tokens of largest c, ties to the lower index, in their original order.

    Raises
    ------
    TypeError, ValueError
        If c is not a floating-point tensor (B, N), or M is not in 1 ... N.
    """
    check_floating("c", c, "(B, N)")
    M = check_count("M", M, 1)
    if c.shape[1] < M:
        raise ArgumentError(f"M = {M} centres cannot be chosen from N = {c.shape[1]} tokens.")
    return c.argsort(dim=-1, descending=True, stable=True)[:, :M].sort(dim=-1).values
