"""`LinearMap`: what every structured matrix can do, and the two views (`.T`, `.inverse()`) that share its parameters.

A structure writes `forward` and, where the structure knows a cheaper way than the dense one, the hooks
`_transpose`, `_inverse`, `_inverse_transpose`, `matrix`, `logabsdet`, `flops`. The defaults below are dense.
Every application goes through `LinearMap.__call__`, which checks the length of x, makes it at least
two-dimensional and turns whole numbers into floating ones: the hooks see (..., rows, features), as `torch.matmul` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError, SingularMapError
from linmap.maps.numbers import readable, relative_error


class LinearMap(nn.Module):
    """A matrix M, applied as y = M x on the last dimension.

    Parameters may carry leading batch dimensions (`batch_shape`); then M has shape
    (*batch_shape, out_features, in_features), and the forward broadcasts as `torch.matmul` does:
    `map(x)` equals `x @ map.matrix().mT` for every x of shape (..., in_features).

    Integers and booleans are read as numbers of the map's dtype. A real map takes complex x to complex y, part by part;
    a complex map reads real x as complex.

    Parameters
    ----------
    in_features, out_features
        Length of the vectors that go in and come out.
    batch_shape
        Leading dimensions of M; `()` for a single matrix.
    dtype, device
        Where and how the parameters are stored; PyTorch's defaults when None.

    Attributes
    ----------
    residual
        Relative Frobenius error of the map that `from_matrix` returned; None for a map built otherwise.
    """

    orthogonal: bool = False  # True: M^-1 = M^T by construction
    real: bool = False  # True: the structure has real entries only
    _reference: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        batch_shape: Sequence[int] = (),
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ArgumentError(f"{type(self).__name__}: {name} must be a positive integer, got {size!r}.")
        self.in_features = in_features
        self.out_features = out_features
        self.batch_shape = torch.Size(batch_shape)
        self.residual: float | None = None
        # Follows `.to(...)`, so that a map without parameters still knows its dtype and device.
        self.register_buffer("_reference", torch.empty(0, dtype=dtype, device=device), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        return self._reference.dtype

    @property
    def device(self) -> torch.device:
        return self._reference.device

    @property
    def square(self) -> bool:
        return self.in_features == self.out_features

    @property
    def rank_bound(self) -> int:
        """The largest rank that a matrix of this structure can have."""
        return min(self.in_features, self.out_features)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ArgumentError(
                f"{self}: x must have {self.in_features} features on its last dimension, got shape {tuple(x.shape)}."
            )
        if x.is_complex() and not self.dtype.is_complex:
            return torch.complex(self(x.real), self(x.imag))
        x = readable(x, self.dtype)
        return super().__call__(x.unsqueeze(0)).squeeze(-2) if x.ndim == 1 else super().__call__(x)

    # -- what a structure provides -------------------------------------------------------------------------------

    def forward(self, x: Shaped[Tensor, "*batch in_features"]) -> Shaped[Tensor, "*out_batch out_features"]:
        """M x on the last dimension."""
        return x @ self.matrix().mT

    def matrix(self) -> Shaped[Tensor, "*batch out_features in_features"]:
        """M itself, dense and differentiable, of shape (*batch_shape, out_features, in_features)."""
        return self(torch.eye(self.in_features, dtype=self.dtype, device=self.device)).mT

    def _transpose(self, y: Tensor) -> Tensor:
        """M^T y on the last dimension."""
        return y @ self.matrix()

    def _inverse(self, y: Tensor) -> Tensor:
        """M^-1 y on the last dimension."""
        return self._transpose(y) if self.orthogonal else solved(self.matrix(), y)

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        """M^-T x on the last dimension."""
        return self(x) if self.orthogonal else solved(self.matrix().mT, x)

    def _check_invertible(self) -> None:
        """Raise `SingularMapError` if this square map has no inverse; on the meta device structure decides."""
        if self.orthogonal:
            return
        if self.rank_bound < self.in_features:
            raise SingularMapError(f"{self} has no inverse: its structure allows rank {self.rank_bound} at most.")
        if self.device.type == "meta":
            return
        M = at_least_float32(self.matrix().detach())
        singular_values = torch.linalg.svdvals(M)
        # the usual numerical rank: sigma_min > n * eps * sigma_max
        tolerance = self.in_features * torch.finfo(M.dtype).eps * singular_values[..., 0]
        if bool((singular_values[..., -1] <= tolerance).any()):
            largest = singular_values[..., 0]
            ratio = float((singular_values[..., -1] / largest.where(largest > 0, 1)).min())
            raise SingularMapError(
                f"{self} has no inverse: its smallest singular value is {ratio:.1e} of its largest, which is zero "
                f"in {self.dtype}; use a map of full rank, or float64."
            )

    # -- what every map has ----------------------------------------------------------------------------------------

    def transpose(self) -> LinearMap:
        """M^T as a map that shares this map's parameters."""
        return Transpose(self)

    @property
    def T(self) -> LinearMap:
        return self.transpose()

    def inverse(self) -> LinearMap:
        """M^-1 as a map that shares this map's parameters.

        Raises
        ------
        SingularMapError
            If M is not square or is singular in its own precision.
        """
        self._require_square("has no inverse")
        self._check_invertible()
        return self.transpose() if self.orthogonal else Inverse(self)

    def logabsdet(self) -> Float[Tensor, "*batch"]:
        """log |det M|, of shape `batch_shape`; -inf for a singular square M.

        Raises
        ------
        SingularMapError
            If M is not square.
        """
        self._require_square("has no determinant")
        if self.orthogonal:
            return torch.zeros(self.batch_shape, dtype=self.dtype.to_real(), device=self.device)
        if self.rank_bound < self.in_features:
            return torch.full(self.batch_shape, -torch.inf, dtype=self.dtype.to_real(), device=self.device)
        M = self.matrix()
        return torch.linalg.slogdet(at_least_float32(M)).logabsdet.to(M.real.dtype)

    def __matmul__(self, other: LinearMap) -> LinearMap:
        """(A @ B)(x) equals A(B(x))."""
        if not isinstance(other, LinearMap):
            return NotImplemented
        from linmap.maps.compose import Compose

        return Compose(self, other)

    def flops(self, vectors: int = 1) -> int:
        """Floating-point operations of one forward over `vectors` vectors (a multiply and an add count one each)."""
        return 2 * self.in_features * self.out_features * vectors * self.batch_shape.numel()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """W M^-T, so that a weight keeps its value when `torch.nn.utils.parametrize` registers this map on it."""
        try:
            return self.inverse()(weight)
        except SingularMapError as error:
            raise NotImplementedError(str(error)) from error

    @classmethod
    def from_matrix(cls, M: Tensor, **options: object) -> Self:
        """The map of this structure that represents M, or comes nearest to it in the Frobenius norm.

        M has shape (*batch_shape, out_features, in_features). The relative error ||M - map.matrix()|| / ||M|| is
        kept in `map.residual` (0 up to rounding where the structure can represent M). A complex M makes a complex map.
        `options` are the constructor's (a rank, a number of reflections).

        Raises
        ------
        ValueError
            If M is not a matrix, is not finite, is neither floating point nor complex, is complex where the structure
            is real, or has a shape that the structure cannot have.
        """
        if not isinstance(M, Tensor) or M.ndim < 2:
            raise ArgumentError(
                f"{cls.__name__}.from_matrix: M must be a tensor of at least 2 dimensions, got {M!r:.80}."
            )
        if not bool(torch.isfinite(M).all()):
            raise ArgumentError(f"{cls.__name__}.from_matrix: M holds NaN or infinite entries; remove them first.")
        if not (M.is_floating_point() or M.is_complex()):
            raise ArgumentError(f"{cls.__name__}.from_matrix: M must be floating point, got {M.dtype}; use M.float().")
        if cls.real and M.is_complex():
            raise ArgumentError(
                f"{cls.__name__}.from_matrix: M must be real, got {M.dtype}; this structure has no phase."
            )
        with torch.no_grad():
            new = cls._from_matrix(M, **options)
            new.residual = relative_error(M, new.matrix())
        return new

    @classmethod
    def _from_matrix(cls, M: Tensor, **options: object) -> Self:
        raise ArgumentTypeError(f"{cls.__name__} has no from_matrix: this structure is not found from a matrix.")

    def _require_square(self, problem: str) -> None:
        if not self.square:
            raise SingularMapError(
                f"{self} {problem}: it maps {self.in_features} features to {self.out_features}; only square maps do."
            )

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"{type(self).__name__}({self.in_features}, {self.out_features}{batch})"


class View(LinearMap):
    """A map read another way: it shares the parameters of `base` and follows its dtype and device."""

    def __init__(self, base: LinearMap, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, batch_shape=base.batch_shape, dtype=base.dtype, device=base.device)
        self.base = base
        self.orthogonal = base.orthogonal

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def rank_bound(self) -> int:
        return self.base.rank_bound

    def flops(self, vectors: int = 1) -> int:
        return self.base.flops(vectors)


class Transpose(View):
    """M^T, a view of a map."""

    def __init__(self, base: LinearMap) -> None:
        super().__init__(base, base.out_features, base.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base._transpose(x)

    def matrix(self) -> Tensor:
        return self.base.matrix().mT

    def _transpose(self, y: Tensor) -> Tensor:
        return self.base(y)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.base._inverse_transpose(y)

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        return self.base._inverse(x)

    def _check_invertible(self) -> None:
        self.base._check_invertible()

    def transpose(self) -> LinearMap:
        return self.base

    def logabsdet(self) -> Tensor:
        return self.base.logabsdet()

    def __repr__(self) -> str:
        return f"{self.base!r}.T"


class Inverse(View):
    """M^-1, a view of a map; made by `map.inverse()`, which checks that there is one."""

    def __init__(self, base: LinearMap) -> None:
        super().__init__(base, base.in_features, base.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.base._inverse(x)

    def _transpose(self, y: Tensor) -> Tensor:
        return self.base._inverse_transpose(y)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.base(y)

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        return self.base._transpose(x)

    def _check_invertible(self) -> None:
        return

    def inverse(self) -> LinearMap:
        return self.base

    def logabsdet(self) -> Tensor:
        return -self.base.logabsdet()

    def __repr__(self) -> str:
        return f"{self.base!r}.inverse()"


def at_least_float32(M: Tensor) -> Tensor:
    """LAPACK knows no half precision."""
    return M.float() if M.dtype in (torch.bfloat16, torch.float16) else M


def solved(M: Tensor, y: Tensor) -> Tensor:
    """x with M x = y on the last dimension of y (..., rows, n), broadcast as `torch.matmul` does."""
    A, columns = at_least_float32(M), at_least_float32(y).mT
    batch = torch.broadcast_shapes(A.shape[:-2], columns.shape[:-2])  # spelled out: solve may read columns as vectors
    return torch.linalg.solve(A, columns.expand(*batch, *columns.shape[-2:])).mT.to(y.dtype)
