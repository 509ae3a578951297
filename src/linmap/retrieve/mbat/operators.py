"""Role operators: orthogonal matrices that bind a vector to a role, applied without building the matrix.

Each has `apply` (M x), `transpose` (M^T, or M^T y) and `compose` (A.compose(B) x = A (B x)), on the last axis.
Binding needs |tr M| / D close to 0, also for products; all three structures here have it, a few reflections do not.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int8, Num

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.maps.base import LinearMap
from linmap.maps.diagonal import Diagonal
from linmap.maps.hadamard import hadamard_transform, transform_factors
from linmap.maps.permutation import Permutation


@runtime_checkable
class Operator(Protocol):
    """What the encoder asks of an operator."""

    def apply(self, x: Any) -> Any: ...

    def transpose(self, y: Any = None) -> Any: ...

    def compose(self, other: Any) -> Any: ...


class SignedPermutation:
    """(M x)[i] = signs[i] * x[permutation[i]]: integers stay integers, and a product is one gather again.

    Parameters
    ----------
    permutation
        Where each output coordinate comes from.
    signs
        +1 or -1 for each output coordinate.
    """

    def __init__(self, permutation: Int[np.ndarray, " dim"], signs: Int8[np.ndarray, " dim"]) -> None:
        if not np.array_equal(np.sort(permutation), np.arange(len(permutation))):
            raise ArgumentError(
                f"permutation must hold each of 0..{len(permutation) - 1} once, got {permutation!r:.80}."
            )
        if signs.shape != permutation.shape or not np.all(np.abs(signs) == 1):
            raise ArgumentError(f"signs must hold {len(permutation)} entries of ±1, got {signs!r:.80}.")
        self.permutation = permutation.astype(np.intp)
        self.signs = signs.astype(np.int8)

    @classmethod
    def _of(cls, permutation: np.ndarray, signs: np.ndarray) -> SignedPermutation:
        """Without the checks, for products of operators that passed them."""
        new = cls.__new__(cls)
        new.permutation, new.signs = permutation, signs
        return new

    @property
    def dim(self) -> int:
        return len(self.permutation)

    def apply(self, x: Num[np.ndarray, "*batch dim"]) -> Num[np.ndarray, "*batch dim"]:
        """M x on the last axis; the dtype of x is kept."""
        _check_length(x, self.dim)
        y = x.take(self.permutation, axis=-1)
        y *= self.signs.astype(x.dtype, copy=False)
        return y

    @overload
    def transpose(self, y: None = None) -> SignedPermutation: ...
    @overload
    def transpose(self, y: np.ndarray) -> np.ndarray: ...
    def transpose(self, y: np.ndarray | None = None) -> SignedPermutation | np.ndarray:
        """M^T as an operator, or M^T y on the last axis: result[permutation[i]] = signs[i] * y[i]."""
        if y is None:
            inverse = np.empty_like(self.permutation)
            inverse[self.permutation] = np.arange(self.dim)
            return SignedPermutation._of(inverse, self.signs[inverse])
        _check_length(y, self.dim)
        x = np.empty_like(y)
        x[..., self.permutation] = y * self.signs.astype(y.dtype, copy=False)
        return x

    def compose(self, other: SignedPermutation) -> SignedPermutation:
        """The product A B: permutation = p_B[p_A], signs = s_A * s_B[p_A]."""
        if not isinstance(other, SignedPermutation) or other.dim != self.dim:
            raise ArgumentError(f"compose needs a SignedPermutation of dim {self.dim}, got {other!r}.")
        return SignedPermutation._of(
            other.permutation.take(self.permutation), self.signs * other.signs.take(self.permutation)
        )

    def as_map(self) -> LinearMap:
        """The same operator as a `linmap.maps` map, for tensors and gradients."""
        signs = Diagonal(self.dim)
        with torch.no_grad():
            signs.diagonal.copy_(torch.from_numpy(self.signs))
        return signs @ Permutation(self.dim, torch.from_numpy(self.permutation.astype(np.int64)))

    def __repr__(self) -> str:
        return f"SignedPermutation(dim={self.dim})"


class HadamardDiagonal:
    """M = (H S_r / sqrt(D)) ... (H S_1 / sqrt(D)): random signs and Walsh-Hadamard transforms in turn, in D log D.

    Parameters
    ----------
    signs
        One row of ±1 per round, in the order in which the rounds are applied; the length is a power of two.
    """

    def __init__(self, signs: Int8[np.ndarray, "rounds dim"]) -> None:
        dim = signs.shape[1]
        if dim & (dim - 1):
            raise ArgumentError(
                f"a Hadamard operator needs a power of two as dim, got {dim}; pad to dim={1 << dim.bit_length()}."
            )
        if not np.all(np.abs(signs) == 1):
            raise ArgumentError(f"signs must be ±1, got {signs!r:.80}.")
        self.signs = signs.astype(np.int8)

    @property
    def dim(self) -> int:
        return self.signs.shape[1]

    def apply(self, x: Num[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
        """M x on the last axis."""
        _check_length(x, self.dim)
        for signs in self.signs:
            x = _walsh_hadamard(x * signs)
        return x

    @overload
    def transpose(self, y: None = None) -> Transposed: ...
    @overload
    def transpose(self, y: np.ndarray) -> np.ndarray: ...
    def transpose(self, y: np.ndarray | None = None) -> Transposed | np.ndarray:
        """M^T as an operator, or M^T y on the last axis: the rounds undone in reverse order."""
        if y is None:
            return Transposed(self)
        _check_length(y, self.dim)
        x = y
        for signs in self.signs[::-1]:
            x = _walsh_hadamard(x) * signs
        return x

    def compose(self, other: Operator) -> Product:
        return Product(self, other)

    def __repr__(self) -> str:
        return f"HadamardDiagonal(dim={self.dim}, rounds={len(self.signs)})"


class DenseOrthogonal:
    """An orthogonal matrix kept as it is: the reference, in D^2 memory and time.

    Parameters
    ----------
    matrix
        The matrix M.
    """

    def __init__(self, matrix: Num[np.ndarray, "dim dim"]) -> None:
        self.matrix = np.asarray(matrix)

    @classmethod
    def haar(cls, gaussian: Float[np.ndarray, "dim dim"]) -> DenseOrthogonal:
        """Uniformly distributed when `gaussian` has standard normal entries: Q of QR, with R's diagonal positive."""
        q, r = np.linalg.qr(gaussian)
        return cls(q * np.sign(np.diag(r)))

    @property
    def dim(self) -> int:
        return len(self.matrix)

    def apply(self, x: Num[np.ndarray, "*batch dim"]) -> Num[np.ndarray, "*batch dim"]:
        """M x on the last axis."""
        _check_length(x, self.dim)
        return x @ self.matrix.T

    @overload
    def transpose(self, y: None = None) -> DenseOrthogonal: ...
    @overload
    def transpose(self, y: np.ndarray) -> np.ndarray: ...
    def transpose(self, y: np.ndarray | None = None) -> DenseOrthogonal | np.ndarray:
        """M^T as an operator, or M^T y on the last axis."""
        if y is None:
            return DenseOrthogonal(self.matrix.T)
        _check_length(y, self.dim)
        return y @ self.matrix

    def compose(self, other: DenseOrthogonal) -> DenseOrthogonal:
        return DenseOrthogonal(self.matrix @ other.matrix)

    def __repr__(self) -> str:
        return f"DenseOrthogonal(dim={self.dim})"


class Product:
    """A B for operators whose product has no structure of its own."""

    def __init__(self, first: Operator, second: Operator) -> None:
        self.first, self.second = first, second

    def apply(self, x: np.ndarray) -> np.ndarray:
        return self.first.apply(self.second.apply(x))

    def transpose(self, y: np.ndarray | None = None) -> Any:
        if y is None:
            return Transposed(self)
        return self.second.transpose(self.first.transpose(y))

    def compose(self, other: Operator) -> Product:
        return Product(self, other)


class Transposed:
    """M^T, a view of an operator."""

    def __init__(self, base: Operator) -> None:
        self.base = base

    def apply(self, x: np.ndarray) -> np.ndarray:
        return self.base.transpose(x)

    def transpose(self, y: np.ndarray | None = None) -> Any:
        return self.base if y is None else self.base.apply(y)

    def compose(self, other: Operator) -> Product:
        return Product(self, other)


class Foreign:
    """An operator of somebody else's codebook: it has `apply`; `transpose` takes a vector or returns an operator."""

    def __init__(self, base: Any) -> None:
        self.base = base

    def apply(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.base.apply(x))

    def transpose(self, y: np.ndarray | None = None) -> Any:
        if y is None:
            return Transposed(self)
        try:
            return np.asarray(self.base.transpose(y))
        except TypeError:  # their transpose() returns an operator
            return np.asarray(self.base.transpose().apply(y))

    def compose(self, other: Operator) -> Product:
        return Product(self, other)


def as_operator(candidate: Any) -> Operator:
    """What a codebook returned, as an operator: a dense matrix is wrapped, an object with `.apply` is taken.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(candidate, SignedPermutation | HadamardDiagonal | DenseOrthogonal | Product | Transposed):
        return candidate
    if isinstance(candidate, torch.Tensor):
        candidate = array_of(candidate)
    if isinstance(candidate, np.ndarray) and candidate.ndim == 2:
        return DenseOrthogonal(candidate)
    if hasattr(candidate, "apply"):
        return Foreign(candidate)
    raise ArgumentTypeError(
        f"codebook.operator returned {type(candidate).__name__}; expected an operator with .apply and .transpose, "
        "or a square matrix."
    )


def _walsh_hadamard(x: np.ndarray) -> np.ndarray:
    """H x / sqrt(D) on the last axis, H in Sylvester's order (as scipy.linalg.hadamard)."""
    floats = torch.from_numpy(np.require(x, np.result_type(x.dtype, np.float32), ["C", "W"]))
    with torch.autocast("cpu", enabled=False):
        return hadamard_transform(floats, _factors(x.shape[-1], floats.dtype)).numpy()


@cache
def _factors(dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    return [H.to(dtype) for H in transform_factors(dim)]


def _check_length(x: np.ndarray, dim: int) -> None:
    if x.shape[-1:] != (dim,):
        raise ArgumentError(f"the operator acts on vectors of {dim} coordinates, got an array of shape {x.shape}.")
