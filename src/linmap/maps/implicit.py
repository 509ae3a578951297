"""`Implicit`: a matrix known only through its forward and its adjoint; rows, columns and singular vectors on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
import torch
from jaxtyping import Complex, Float, Shaped
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError, OutOfRangeError
from linmap.maps.base import LinearMap
from linmap.maps.dense import Dense

if TYPE_CHECKING:
    import scipy.sparse.linalg

MAX_ELEMENTS = 2e7


class SVD(NamedTuple):
    """Leading singular triplets, M ≈ U diag(S) Vh, as `torch.linalg.svd` names and shapes them."""

    U: Float[Tensor, "out_features k"]
    S: Float[Tensor, " k"]
    Vh: Float[Tensor, "k in_features"]


class Eigen(NamedTuple):
    """Leading eigenpairs, M V = V diag(L), as `torch.linalg.eig` names and shapes them."""

    L: Complex[Tensor, " k"]
    V: Complex[Tensor, "features k"]


class Implicit(LinearMap):
    """y = M x where M is given by two functions, x -> M x and y -> M^T y; M itself is never stored.

    Parameters
    ----------
    in_features, out_features
        Length of the vectors that go in and come out.
    forward, adjoint
        Functions of vectors on the last dimension with any leading dimensions, (..., in_features) ->
        (..., out_features) and back. A function that is an `nn.Module` becomes a submodule.
    dtype, device
        Those of the vectors; PyTorch's defaults when None.

    Notes
    -----
    A dense M is built only when it is asked for and has at most `max_elements` entries (2e7 unless said otherwise).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(in_features, out_features, dtype=dtype, device=device)
        for name, function in (("forward", forward), ("adjoint", adjoint)):
            if not callable(function):
                raise ArgumentTypeError(
                    f"Implicit: {name} must be a function of a tensor, got {type(function).__name__}."
                )
        self._forward_function = forward
        self._adjoint_function = adjoint

    def forward(self, x: Shaped[Tensor, "*batch in_features"]) -> Shaped[Tensor, "*batch out_features"]:
        return self._forward_function(x)

    def _transpose(self, y: Tensor) -> Tensor:
        return self._adjoint_function(y)

    def transpose(self) -> LinearMap:
        """M^T: the two functions change places."""
        return Implicit(
            self.out_features, self.in_features, self._transpose, self.forward, dtype=self.dtype, device=self.device
        )

    def matrix(self) -> Shaped[Tensor, "out_features in_features"]:
        return self.dense()

    # -- parts of M ------------------------------------------------------------------------------------------------

    def matvec(self, v: Shaped[Tensor, "*batch in_features"]) -> Shaped[Tensor, "*batch out_features"]:
        """M v."""
        return self(v)

    def rmatvec(self, u: Shaped[Tensor, "*batch out_features"]) -> Shaped[Tensor, "*batch in_features"]:
        """M^T u."""
        return self.T(u)

    def row(self, i: int) -> Shaped[Tensor, " in_features"]:
        """M[i]: what output i looks at."""
        return self.rows([i])[0]

    def rows(self, idx: Sequence[int] | Tensor, batch_size: int = 16) -> Shaped[Tensor, "k in_features"]:
        """M[idx], `batch_size` products with M^T at a time."""
        return self._impulses(self._transpose, idx, self.out_features, "output", batch_size)

    def columns(self, idx: Sequence[int] | Tensor, batch_size: int = 16) -> Shaped[Tensor, "out_features k"]:
        """M[:, idx]: what each of these inputs writes, `batch_size` products with M at a time."""
        return self._impulses(self.forward, idx, self.in_features, "input", batch_size).mT

    def dense(self, max_elements: float = MAX_ELEMENTS, batch_size: int = 16) -> Shaped[Tensor, "out in_features"]:
        """All of M, from its columns or its rows, whichever are fewer.

        Raises
        ------
        ValueError
            If M has more than `max_elements` entries.
        """
        elements = self.in_features * self.out_features
        if elements > max_elements:
            size = elements * torch.empty(0, dtype=self.dtype).element_size() / 1e9
            raise ArgumentError(
                f"{self}: the dense matrix has {elements:,} entries ({size:.3g} GB), more than max_elements = "
                f"{max_elements:,.0f}; ask for .row(i) or .columns(idx), or raise max_elements."
            )
        if self.in_features <= self.out_features:
            return self.columns(range(self.in_features), batch_size)
        return self.rows(range(self.out_features), batch_size)

    def _impulses(
        self, product: Callable[[Tensor], Tensor], idx: Sequence[int] | Tensor, size: int, side: str, batch_size: int
    ) -> Tensor:
        """product(e_j) for every j of `idx`, stacked."""
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {batch_size}.")
        places = torch.as_tensor(idx, device="cpu").reshape(-1)
        if places.numel() == 0 or places.is_floating_point() or places.dtype == torch.bool:
            raise ArgumentError(f"the {side} indices must be a non-empty list of integers, got {idx!r:.60}.")
        outside = places[(places < -size) | (places >= size)]
        if outside.numel():
            raise OutOfRangeError(f"{side} index {int(outside[0])} is out of range: {self} has {size} {side}s.")
        impulses = torch.zeros(len(places), size, dtype=self.dtype, device=self.device)
        impulses[torch.arange(len(places)), places % size] = 1
        return torch.cat([product(part) for part in impulses.split(batch_size)])

    # -- spectrum --------------------------------------------------------------------------------------------------

    def as_linear_operator(self, dtype: type | None = None) -> scipy.sparse.linalg.LinearOperator:
        """This map for SciPy: NumPy vectors of this map's dtype (or of `dtype`) on the CPU in and out."""
        from scipy.sparse.linalg import LinearOperator

        kind = np.dtype(dtype if dtype is not None else torch.empty(0, dtype=self.dtype).numpy().dtype)

        def product(function: Callable[[Tensor], Tensor], vectors: np.ndarray) -> np.ndarray:
            batch = torch.as_tensor(np.ascontiguousarray(vectors.T), dtype=self.dtype, device=self.device)
            with torch.no_grad():
                return function(batch).cpu().numpy().astype(kind, copy=False).T

        forward, adjoint = (lambda v: product(self.forward, v)), (lambda u: product(self._transpose, u))
        products: dict[str, Any] = {"matvec": forward, "rmatvec": adjoint, "matmat": forward, "rmatmat": adjoint}
        return LinearOperator(shape=(self.out_features, self.in_features), dtype=kind, **products)

    @torch.no_grad()
    def svd(self, k: int, tol: float = 1e-6) -> SVD:
        """The k largest singular values with their vectors, matrix-free.

        Lanczos (ARPACK on M^T M or M M^T, the smaller, 3k + 20 vectors, in float64), then one Rayleigh-Ritz step, so
        that M V = U S and both sets of vectors are orthonormal to rounding. Where 3k + 20 vectors would be half of
        all, M is built instead. The largest entry of each right vector is positive.

        Parameters
        ----------
        k
            How many triplets, at most min(in_features, out_features).
        tol
            Relative accuracy of the singular values.

        Raises
        ------
        ValueError
            If k is out of range.
        """
        smaller = min(self.in_features, self.out_features)
        if not 1 <= k <= smaller:
            raise ArgumentError(f"k must be between 1 and min(in_features, out_features) = {smaller}, got {k}.")
        if 2 * (3 * k + 20) >= smaller:
            U, S, Vh = torch.linalg.svd(self.dense(max_elements=float("inf")), full_matrices=False)
            U, S, Vh = U[:, :k], S[:k], Vh[:k]
        else:
            from scipy.sparse.linalg import svds

            start = np.random.default_rng(0).standard_normal(smaller)
            _, _, vt = cast(Any, svds)(self._in_unit(), k=k, ncv=3 * k + 20, tol=tol, v0=start, solver="arpack")
            vectors = vt.T.copy()  # a single one comes with a negative stride
            V = torch.linalg.qr(torch.as_tensor(vectors, dtype=self.dtype, device=self.device)).Q
            U, S, rotation = torch.linalg.svd(self.forward(V.mT).mT, full_matrices=False)
            Vh = rotation @ V.mT
        sign = Vh.gather(1, Vh.abs().argmax(1, keepdim=True)).sign()
        return SVD(U * sign.mT, S, Vh * sign)

    def _in_unit(self) -> scipy.sparse.linalg.LinearOperator:
        """This map for SciPy, in units of about its size, for ARPACK squares it."""
        operator = self.as_linear_operator(np.float64)
        size = np.abs(operator.matvec(np.random.default_rng(1).standard_normal(self.in_features))).max()
        return operator * (1 / size) if 0 < size < np.inf else operator

    @torch.no_grad()
    def eig(self, k: int, tol: float = 1e-6) -> Eigen:
        """The k eigenvalues of largest magnitude with their vectors (Arnoldi); complex, for M need not be symmetric.

        Raises
        ------
        ValueError
            If the map is not square, or k is out of range.
        """
        n = self.in_features
        if not self.square:
            raise ArgumentError(
                f"eigenvalues need a square map; this one maps {n} features to {self.out_features}. Use svd."
            )
        if not 1 <= k <= n:
            raise ArgumentError(f"k must be between 1 and in_features = {n}, got {k}.")
        if 2 * (3 * k + 20) >= n:
            values, vectors = torch.linalg.eig(self.dense(max_elements=float("inf")))
        else:
            from scipy.sparse.linalg import eigs

            start = np.random.default_rng(0).standard_normal(n)
            found = cast(Any, eigs)(self.as_linear_operator(np.float64), k=k, ncv=3 * k + 20, tol=tol, v0=start)
            kind = torch.complex128 if self.dtype == torch.float64 else torch.complex64
            values, vectors = (torch.as_tensor(part, dtype=kind, device=self.device) for part in found)
        order = values.abs().argsort(descending=True, stable=True)[:k]
        return Eigen(values[order], vectors[:, order])

    @classmethod
    def _from_matrix(cls, M: Tensor) -> Self:
        if M.ndim != 2:
            raise ArgumentError(f"Implicit.from_matrix: M must be one matrix, got shape {tuple(M.shape)}.")
        dense = Dense.from_matrix(M)
        return cls(M.shape[1], M.shape[0], dense, dense._transpose, dtype=M.dtype, device=M.device)
