"""`RowStochastic`: rows that average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap


class RowStochastic(LinearMap):
    """y = A x with A >= 0 and rows that sum to 1: each output is a weighted mean of the inputs.

    Parameters
    ----------
    n_in, n_out
        Sizes; square when `n_out` is None.
    transform
        How the free weight W becomes A. "softplus": softplus(W) over its row sums (NormLin). "softmax": softmax of
        the rows of W. Both are computed in log space and in float32 at least, so that a row stays stochastic
        whatever the size of its weights.
    batch_shape
        Leading dimensions of W.
    generator
        Source of the random draw: W = I + N(0, 1).
    dtype, device
        As in PyTorch.

    Raises
    ------
    ValueError
        If `transform` is unknown.

    References
    ----------
    Yue et al., "OLinear", NeurIPS 2025 (NormLin).
    """

    real = True

    def __init__(
        self,
        n_in: int,
        n_out: int | None = None,
        *,
        transform: Literal["softplus", "softmax"] = "softplus",
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        n_out = n_in if n_out is None else n_out
        super().__init__(n_in, n_out, batch_shape=batch_shape, dtype=dtype, device=device)
        if transform not in ("softplus", "softmax"):
            raise ArgumentError(f"RowStochastic: transform must be 'softplus' or 'softmax', got {transform!r}.")
        self.transform = transform
        noise = torch.empty(*batch_shape, n_out, n_in, dtype=dtype, device=device).normal_(generator=generator)
        self.weight = nn.Parameter(noise + torch.eye(n_out, n_in, dtype=dtype, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix().mT

    def matrix(self) -> Tensor:
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        logits = log_softplus(weight) if self.transform == "softplus" else weight
        return logits.softmax(-1).to(self.weight.dtype)

    @classmethod
    def _from_matrix(cls, M: Tensor, transform: Literal["softplus", "softmax"] = "softplus") -> Self:
        """Each row of M projected onto the probability simplex."""
        n_out, n_in = M.shape[-2:]
        new = cls(n_in, n_out, transform=transform, batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        A = project_rows_onto_simplex(M)
        A = A.clamp(min=torch.finfo(A.dtype).tiny)  # a weight is finite: zero is the smallest normal number
        new.weight.copy_(A.expm1().log() if transform == "softplus" else A.log())
        return new


def log_softplus(w: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(log(1 + e^w)) without underflow: w - e^w/2 + O(e^2w) far below zero."""
    below = w.clamp(max=-20.0)
    softplus = -F.logsigmoid(-w.clamp(min=-20.0))
    return torch.where(w < -20.0, below - below.exp() / 2, softplus.log())


def project_rows_onto_simplex(M: Float[Tensor, "*batch rows n"]) -> Float[Tensor, "*batch rows n"]:
    """The nearest matrix, in the Frobenius norm, with rows >= 0 that sum to 1.

    References
    ----------
    Held, Wolfe and Crowder, "Validation of subgradient optimization", 1974; Duchi et al., ICML 2008.
    """
    M = M - M.amax(-1, keepdim=True)  # which moves no projection, and leaves room for the 1 beside large entries
    descending = M.sort(dim=-1, descending=True).values
    excess = descending.cumsum(-1) - 1
    count = torch.arange(1, M.shape[-1] + 1, dtype=M.dtype, device=M.device)
    support = (descending * count > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, support - 1) / support
    return (M - threshold).clamp(min=0)
