"""SPDNet: networks on positive definite matrices, with a batch normalisation of choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.geometry.spd import sym_rectified_log, sym_rectify
from linmap.signals.gbwbn.layer import GBWBatchNorm
from linmap.signals.gbwbn.manifolds import spd_learn
from linmap.signals.gbwbn.pickling import Pickled

Norm = Literal["gbw", "aim", "lem"]


class BiMap(Pickled, spd_learn.BiMap):
    """W^T X W with orthonormal columns of W, as spd_learn has it."""


class AffineInvariantNorm(Pickled, spd_learn.SPDBatchNormMeanVar):
    """The affine-invariant batch norm with mean and variance, as spd_learn has it."""

    alone = "the affine-invariant batch norm takes its statistics from the batch of one process"


class LogEuclideanNorm(Pickled, spd_learn.SPDBatchNormLie):
    """The log-Euclidean batch norm, as spd_learn has it."""

    alone = "the log-Euclidean batch norm takes its statistics from the batch of one process"


class ReEig(nn.Module):
    """Eigenvalues raised to a floor."""

    def __init__(self, floor: float) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, X: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch n n"]:
        return sym_rectify(X, self.floor)

    def extra_repr(self) -> str:
        return f"floor={self.floor}"


class ReLogEig(nn.Module):
    """ReEig and LogEig in one decomposition, and the upper triangle, off-diagonal entries times sqrt(2): an isometry
    of the logarithms' Frobenius norm."""

    weight: Tensor

    def __init__(self, n: int, floor: float, dtype: torch.dtype, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.floor = floor
        self.rows, self.columns = torch.triu_indices(n, n).tolist()
        weight = torch.full((n, n), 2**0.5, dtype=dtype, device=device).fill_diagonal_(1)
        self.register_buffer("weight", weight[self.rows, self.columns], persistent=False)

    def forward(self, X: Float[Tensor, "batch n n"]) -> Float[Tensor, "batch features"]:
        return sym_rectified_log(X, self.floor)[:, self.rows, self.columns] * self.weight

    def extra_repr(self) -> str:
        return f"floor={self.floor}"


class SPDNet(nn.Module):
    """BiMap, normalisation and ReEig, again for each further size; then LogEig and a linear layer.

    Parameters
    ----------
    dims
        Sizes of the matrices: that of the input and those after each BiMap, such as (93, 30).
    n_classes
        Number of outputs.
    norm
        "gbw": `GBWBatchNorm`; "aim": the affine-invariant batch norm with mean and variance (spd_learn's
        SPDBatchNormMeanVar); "lem": the log-Euclidean one (SPDBatchNormLie); None: none.
    floor
        Least eigenvalue after each ReEig.
    front
        What makes the matrices from the input, such as `ConvolutionalCovariance`; None where they are the input.
    norm_options
        Further arguments of the normalisation: theta, learn_metric, n_domains, ...
    dtype, device
        float64 or float32, and where.

    Raises
    ------
    ValueError
        If dims are not two or more falling sizes, norm is unknown, or n_classes < 2.
    """

    def __init__(
        self,
        dims: Sequence[int],
        n_classes: int,
        norm: Norm | None = "gbw",
        *,
        floor: float = 1e-5,
        front: nn.Module | None = None,
        norm_options: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if len(dims) < 2 or any(a < b or b < 1 for a, b in pairwise(dims)):
            raise ArgumentError(f"dims must be two or more sizes, none larger than the one before, got {list(dims)}.")
        if n_classes < 2 or not floor > 0:
            raise ArgumentError(f"n_classes must be at least 2 and floor positive, got {n_classes} and {floor}.")
        if norm not in ("gbw", "aim", "lem", None):
            raise ArgumentError(f"norm must be 'gbw', 'aim', 'lem' or None, got {norm!r}.")
        floor = float(floor)  # PyTorch takes no whole number of more than 64 bits
        self.dims, self.floor, self.front = tuple(dims), floor, front
        placed: dict[str, Any] = {"dtype": dtype, "device": device}
        self.bimaps = nn.ModuleList(BiMap(a, b, init_method="orthogonal", **placed) for a, b in pairwise(dims))
        options = dict(norm_options or {})
        self.norms = nn.ModuleList(_norm(norm, b, options | placed) for b in dims[1:])
        self.rectifiers = nn.ModuleList(ReEig(floor) for _ in dims[2:])
        self.log = ReLogEig(dims[-1], floor, **placed)
        self.linear = nn.Linear(dims[-1] * (dims[-1] + 1) // 2, n_classes, **placed)

    def forward(self, X: Float[Tensor, "batch ..."], domains: Int[Tensor, " batch"] | None = None) -> Tensor:
        """Logits (batch, n_classes).

        Parameters
        ----------
        X
            Positive definite matrices (batch, n, n), or what `front` takes.
        domains
            Domain of each sample, where the normalisation has domains.
        """
        return self.linear(self.features(X, domains))

    def features(
        self, X: Float[Tensor, "batch ..."], domains: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch features"]:
        """The logarithms before the linear layer, as vectors."""
        X = X if self.front is None else self.front(X)
        for i, (bimap, norm) in enumerate(zip(self.bimaps, self.norms, strict=True)):
            X = bimap(X)
            X = norm(X, domains) if isinstance(norm, GBWBatchNorm) else norm(X)
            if i < len(self.rectifiers):
                X = self.rectifiers[i](X)
        return self.log(X)


def _norm(norm: Norm | None, n: int, options: dict[str, Any]) -> nn.Module:
    if norm is None:
        return nn.Identity()
    if norm == "gbw":
        options = {"parametrization": "logm"} | options
        return GBWBatchNorm(n, **options)
    return AffineInvariantNorm(n, **options) if norm == "aim" else LogEuclideanNorm(n, "LEM", **options)
