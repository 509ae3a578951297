"""The transforms of FlatQuant: x -> (x * c) P of an activation, W -> (W / c) P^-T of the weights that it meets.

P is a Kronecker product of small matrices (section 3.1), each trained as U diag(s) V^T with U and V from Cayley's
map, or as any matrix with its inverse. Row vectors, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.factors import cayley, haar_orthogonal, kronecker_apply


class Pair(NamedTuple):
    """A matrix P, which acts on activations, and P^-T, which acts on weights."""

    P: Float[Tensor, "n n"]
    P_inv_T: Float[Tensor, "n n"]


class SVDFactor(nn.Module):
    """P = U diag(s) V^T, so that P^-T = U diag(1/s) V^T needs no inverse; s = exp(t) if `exponential`."""

    def __init__(self, n: int, generator: torch.Generator, exponential: bool = False) -> None:
        super().__init__()
        self.exponential = exponential
        self.left = nn.Parameter(haar_orthogonal(n, generator).float())
        self.right = nn.Parameter(haar_orthogonal(n, generator).float())
        self.diagonal = nn.Parameter(torch.zeros(n) if exponential else torch.ones(n))

    def forward(self) -> Pair:
        U, V = cayley(torch.stack([self.left, self.right]))
        s = self.diagonal.exp() if self.exponential else self.diagonal
        return Pair((U * s) @ V.mT, (U / s) @ V.mT)


class InverseFactor(nn.Module):
    """Any P; its inverse is taken in float64."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(haar_orthogonal(n, generator).float())

    def forward(self) -> Pair:
        return Pair(self.weight, torch.linalg.inv(self.weight.double()).mT.to(self.weight.dtype))


class FixedFactor(nn.Module):
    """An orthogonal P that is not trained."""

    matrix: Tensor

    def __init__(self, matrix: Float[Tensor, "n n"]) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.float())

    def forward(self) -> Pair:
        return Pair(self.matrix, self.matrix)


def factor(n: int, parametrization: str, generator: torch.Generator) -> SVDFactor | InverseFactor:
    """A trainable n x n matrix that starts orthogonal."""
    if parametrization == "inverse":
        return InverseFactor(n, generator)
    return SVDFactor(n, generator, exponential=parametrization == "exponential")


class SiteTransform(nn.Module):
    """x -> (x * c) (P_1 ⊗ P_2 ⊗ ...) while it is trained.

    `refresh` computes the matrices from the parameters, once a step; what follows uses them. Parameters stay in
    float32.

    Parameters
    ----------
    factors
        Modules that return a `Pair`; none: no matrix.
    n
        Length of x.
    scale
        Whether there is a c, of ones until `smooth` sets it.
    """

    def __init__(self, factors: Sequence[nn.Module], n: int, scale: bool) -> None:
        super().__init__()
        self.n = n
        self.factors = nn.ModuleList(factors)
        self.scale = nn.Parameter(torch.ones(n)) if scale else None
        self.pairs: list[Pair] = []

    def refresh(self) -> None:
        with torch.autocast(self._device_type(), enabled=False):
            self.pairs = [cast(Pair, factor()) for factor in self.factors]

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        with torch.autocast(x.device.type, enabled=False):
            return transformed(x if self.scale is None else x * self.scale, [pair.P for pair in self.pairs])

    def weight(self, W: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        """(W / c) P^-T."""
        with torch.autocast(W.device.type, enabled=False):
            W = W if self.scale is None else W * self.scale.reciprocal()
            return transformed(W, [pair.P_inv_T for pair in self.pairs])

    def _device_type(self) -> str:
        return next((p.device.type for p in self.parameters()), "cpu")


class OnlineTransform(nn.Module):
    """x -> (x * c) (P_1 ⊗ P_2 ⊗ ... ⊗ I) in the quantised model, where c is there only if it was not merged."""

    scale: Tensor | None

    def __init__(self, sizes: Sequence[int], n: int, scale: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.n = n
        self.sizes = tuple(sizes)
        for i, size in enumerate(self.sizes):
            self.register_buffer(f"factor_{i}", torch.eye(size, dtype=dtype))
        self.register_buffer("scale", torch.ones(n, dtype=dtype) if scale else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        if self.scale is not None:
            x = x * self.scale.to(x.dtype)
        return transformed(x, [getattr(self, f"factor_{i}").to(x.dtype) for i in range(len(self.sizes))])


def transformed(x: Float[Tensor, "*batch n"], matrices: Sequence[Tensor]) -> Float[Tensor, "*batch n"]:
    """x (P_1 ⊗ P_2 ⊗ ... ⊗ I), with an identity that fills up to the length of x; in the wider of the dtypes."""
    if not matrices:
        return x
    dtype = torch.promote_types(x.dtype, matrices[0].dtype)
    x, matrices = x.to(dtype), [P.to(dtype) for P in matrices]
    n = math.prod([len(P) for P in matrices])
    if n == x.shape[-1]:
        return kronecker_apply(x, list(matrices))
    x = x.unflatten(-1, (n, -1)).transpose(-1, -2)
    return kronecker_apply(x, list(matrices)).transpose(-1, -2).flatten(-2)
