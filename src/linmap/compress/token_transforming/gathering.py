"""Rows of a batch picked and added up by index, as one flat operation (several times faster than `gather` on rows)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

EPS = 1e-6  # of the norms: rows of zeros stay zero


def unit_rows(features: Float[Tensor, "*batch channels"], dtype: torch.dtype) -> Float[Tensor, "*batch channels"]:
    """Features divided by their norms, in a type that cosines are computed in."""
    features = features.to(dtype)
    return features / torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp_min(EPS)


def rows(values: Tensor, index: Int[Tensor, "batch chosen"]) -> Tensor:
    """The rows (B, chosen, C) of values (B, N, C)."""
    B, N, C = values.shape
    return values.reshape(B * N, C).index_select(0, flat(index, N)).reshape(B, index.shape[1], C)


def row_sums(values: Tensor, index: Int[Tensor, "batch rows"], n_sums: int) -> Tensor:
    """(B, n_sums, C): sums of those rows of values (B, N, C) that have the same index."""
    B, N, C = values.shape
    sums = values.new_zeros(B * n_sums, C).index_add(0, flat(index, n_sums), values.reshape(B * N, C))
    return sums.reshape(B, n_sums, C)


def flat(index: Int[Tensor, "batch rows"], n: int) -> Int[Tensor, " all_rows"]:
    """Indices of the rows of each sample as those of all samples one behind the other, n rows each."""
    if len(index) == 1:
        return index.flatten()
    return (index + torch.arange(len(index), device=index.device).unsqueeze(-1) * n).flatten()
