"""GL+(n), SL(n) and SO(2): bases of their Lie algebras, and global coordinates by the polar decomposition."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.geometry.groups.polar import (
    check_floating,
    check_matrices,
    check_positive,
    determinant,
    polar_unchecked,
)
from linmap.geometry.groups.rotations import rotation, rotation_angle, rotation_log
from linmap.geometry.spd import sym_exp

DETERMINANT = 1e-4  # by how much the determinant of an element of SL(n) may differ from 1
NO_ANGLE = 1e-6  # |sin| that counts as 0


class PolarGroup:
    """A matrix group in the coordinates xi^-1(g) = vee(log P + log R) of g = P R: the logarithm of each factor.

    Every element has such coordinates, where log(g) need not exist: diag(-2, -1/2) of SL(2) has none. In the plane the
    coordinate of the rotation is its angle in [0, 2 pi).

    Parameters
    ----------
    n
        Size of the matrices, n >= 2.
    metric_alpha
        Scale alpha > 0 of the metric alpha tr(X^T Y), for which `basis` is orthonormal.

    Attributes
    ----------
    dim
        Dimension of the group.
    basis
        Of the Lie algebra, (dim, n, n) in float64. Of GL+(2): e11, symmetric, e22, skew; of SL(2): symmetric, skew,
        e11 - e22; else the symmetric matrices first.
    symmetric_basis
        The symmetric part of it, (m, n, n); for n = 2 and SL first e11 - e22, then the off-diagonal one.

    Raises
    ------
    ValueError
        If n < 2 or metric_alpha is not positive.
    """

    name: str
    unimodular = True
    volume_preserving: bool
    """Whether all determinants are 1."""
    basis: Float64[Tensor, "dim n n"]
    symmetric_basis: Float64[Tensor, "m n n"]

    def __init__(self, n: int, metric_alpha: float = 1.0) -> None:
        try:
            self.n = operator.index(n)
        except TypeError:
            raise ArgumentTypeError(f"n must be an integer, got {n!r}.") from None
        if isinstance(n, bool) or self.n < 2:
            raise ArgumentError(f"n must be at least 2, got {n!r}.")
        self.metric_alpha = check_positive(metric_alpha, "metric_alpha")

    @property
    def dim(self) -> int:
        return len(self.basis)

    @property
    def angle_index(self) -> int:
        """Which coordinate is the angle, for n = 2."""
        return int(self.basis[:, 0, 1].ne(self.basis[:, 1, 0]).nonzero()[0])

    def __repr__(self) -> str:
        n = "" if isinstance(self, SO2) else f"{self.n}, "
        return f"{type(self).__name__}({n}metric_alpha={self.metric_alpha:g})"

    # -- the Lie algebra ---------------------------------------------------------------------------------------------

    def hat(self, v: Float[Tensor, "... dim"]) -> Float[Tensor, "... n n"]:
        """The matrices of coordinates (..., dim).

        Raises
        ------
        ValueError
            If v has another number of coordinates.
        """
        v = self._coordinates(v)
        return torch.tensordot(v, self.basis.to(v), 1)

    def vee(self, X: Float[Tensor, "... n n"]) -> Float[Tensor, "... dim"]:
        """The coordinates (..., dim) of matrices; what is orthogonal to the Lie algebra is dropped.

        Raises
        ------
        ValueError
            If X is not of shape (..., n, n).
        """
        X = self._sized(X, "X")
        return self.metric_alpha * torch.einsum("...ij,dij->...d", X, self.basis.to(X))

    # -- the group -----------------------------------------------------------------------------------------------------

    def belongs(self, g: Shaped[Tensor, "... n n"], tol: float = 1e-4) -> Bool[Tensor, "*_"]:
        """Which matrices are elements, to an absolute tolerance `tol` of what must be 1 or the identity."""
        g = self._sized(g, "g").detach().double()
        finite = torch.isfinite(g).all(-1).all(-1)
        g = torch.where(finite[..., None, None], g, 0.0)
        size = g.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
        return finite & (determinant(g / size) > 0) & self._constrained(g, tol)

    def _constrained(self, g: Tensor, tol: float) -> Tensor:
        """Which matrices of positive determinant are elements."""
        return torch.ones(g.shape[:-2], dtype=torch.bool, device=g.device)

    def polar(
        self, g: Shaped[Tensor, "... n n"], project: bool = False
    ) -> tuple[Float[Tensor, "... n n"], Float[Tensor, "... n n"]]:
        """log P and R of elements g = exp(log_P) R; see `linmap.geometry.groups.polar`.

        Parameters
        ----------
        g
            Elements (..., n, n).
        project
            Bring g into the group first: for SL(n) divide it by det(g)^(1/n).

        Raises
        ------
        ValueError
            If a matrix is of another size, is not finite, or is no element.
        TypeError
            If g is not of floating point.
        """
        g = self._sized(g, "g")
        check_matrices(g)
        return polar_unchecked(self._element(g, project), warn=g.dtype != torch.float64)

    def _element(self, g: Tensor, project: bool) -> Tensor:
        """g, in the group; refused where it is not."""
        return g

    def coords(self, g: Shaped[Tensor, "... n n"], project: bool = False) -> Float[Tensor, "... dim"]:
        """xi^-1(g) (..., dim): coordinates of log P, and log R or, for n = 2, the angle in [0, 2 pi), whose sine counts
        as 0 below 1e-6. Arguments and errors as of `polar`."""
        return self.factor_coords(*self.polar(g, project))

    def factor_coords(self, log_P: Float[Tensor, "... n n"], R: Float[Tensor, "... n n"]) -> Float[Tensor, "... dim"]:
        """The coordinates of exp(log_P) R."""
        if self.n > 2:
            return self.vee(log_P + rotation_log(R))
        return self._with_angle(self.vee(log_P), full_angle(R))

    def _with_angle(self, v: Tensor, angle: Tensor) -> Tensor:
        i = self.angle_index
        return torch.cat([v[..., :i], angle.unsqueeze(-1), v[..., i + 1 :]], -1)

    def from_coords(self, v: Float[Tensor, "... dim"]) -> Float[Tensor, "... n n"]:
        """xi(v): the elements of coordinates (..., dim); for n = 2 any angle.

        Raises
        ------
        ValueError
            If v has another number of coordinates.
        """
        v = self._coordinates(v)
        X = self.hat(v).double()
        P = sym_exp((X + X.mT) / 2)
        R = rotation(v[..., self.angle_index].double()) if self.n == 2 else torch.linalg.matrix_exp((X - X.mT) / 2)
        return (P @ R).to(v.dtype)

    def haar_density(self, log_P: Float[Tensor, "... n n"]) -> Float[Tensor, "*_"]:
        """The density of the Haar measure over log_P, for Lebesgue's measure: of eigenvalues y_i of log_P the product
        of sinh(y_i - y_j) / (y_i - y_j) over i < j, up to a constant.

        Raises
        ------
        ValueError
            If log_P is not of shape (..., n, n).
        """
        log_P = self._sized(log_P, "log_P")
        y = torch.linalg.eigvalsh(log_P.double())
        i, j = torch.triu_indices(self.n, self.n, 1)
        return _sinhc(y[..., j] - y[..., i]).prod(-1).to(log_P.dtype)

    # -- checks --------------------------------------------------------------------------------------------------------

    def _coordinates(self, v: Tensor) -> Tensor:
        check_floating(v, "v")
        if v.ndim < 1 or v.shape[-1] != self.dim:
            raise ArgumentError(f"v must have {self.dim} coordinates (..., {self.dim}), got shape {tuple(v.shape)}.")
        return v if v.dtype in (torch.float32, torch.float64) else v.float()

    def _sized(self, g: Tensor, name: str) -> Tensor:
        check_floating(g, name)
        if g.ndim < 2 or g.shape[-2:] != (self.n, self.n):
            raise ArgumentError(
                f"{name} must be matrices (..., {self.n}, {self.n}) for {self.name}, got shape {tuple(g.shape)}."
            )
        return g if g.dtype in (torch.float32, torch.float64) else g.float()

    def _bases(self, symmetric: Tensor, skew: Tensor) -> None:
        self.symmetric_basis, self.basis = symmetric, torch.cat([symmetric, skew])


class GLnPlus(PolarGroup):
    """GL+(n), the matrices of positive determinant, of dimension n^2. Parameters and errors as of `PolarGroup`."""

    volume_preserving = False

    def __init__(self, n: int, metric_alpha: float = 1.0) -> None:
        super().__init__(n, metric_alpha)
        self.name = f"GL+({self.n})"
        diagonal = torch.eye(self.n, dtype=torch.float64).diag_embed() / self.metric_alpha**0.5
        symmetric, skew = _off_diagonal(self.n, self.metric_alpha)
        if self.n == 2:
            self._bases(torch.stack([diagonal[0], symmetric[0], diagonal[1]]), skew)
        else:
            self._bases(torch.cat([diagonal, symmetric]), skew)


class SLn(PolarGroup):
    """SL(n), the matrices of determinant 1, of dimension n^2 - 1. Parameters and errors as of `PolarGroup`."""

    volume_preserving = True

    def __init__(self, n: int, metric_alpha: float = 1.0) -> None:
        super().__init__(n, metric_alpha)
        self.name = f"SL({self.n})"
        symmetric, skew = _off_diagonal(self.n, self.metric_alpha)
        self._bases(torch.cat([_traceless_diagonal(self.n, self.metric_alpha), symmetric]), skew)
        if self.n == 2:
            self.basis = self.basis[[1, 2, 0]]

    def _constrained(self, g: Tensor, tol: float) -> Tensor:
        return (determinant(g) - 1).abs() <= tol

    def _element(self, g: Tensor, project: bool) -> Tensor:
        det = determinant(g.double())
        if project:
            return (g.double() / det[..., None, None] ** (1 / self.n)).to(g.dtype)
        far = (det.detach() - 1).abs().flatten()
        if far.numel() and float(far.max()) > DETERMINANT:
            worst = float(det.detach().flatten()[far.argmax()])
            raise ArgumentError(
                f"g has det = {worst:.6g}, not in {self.name}, whose determinants are 1; project=True divides g by "
                f"det^(1/{self.n})."
            )
        return g


class SO2(PolarGroup):
    """SO(2), the rotations of the plane, of dimension 1. Parameters and errors as of `PolarGroup`."""

    volume_preserving = True
    name = "SO(2)"

    def __init__(self, metric_alpha: float = 1.0) -> None:
        super().__init__(2, metric_alpha)
        self._bases(torch.zeros(0, 2, 2, dtype=torch.float64), _off_diagonal(2, self.metric_alpha)[1])

    def _constrained(self, g: Tensor, tol: float) -> Tensor:
        return ((g @ g.mT - torch.eye(2, dtype=g.dtype, device=g.device)).abs() <= tol).all(-1).all(-1)

    def _element(self, g: Tensor, project: bool) -> Tensor:
        if project:
            return polar_unchecked(g)[1]
        if not bool(self._constrained(g.detach(), DETERMINANT).all()):
            off = float((g @ g.mT - torch.eye(2, dtype=g.dtype, device=g.device)).abs().max())
            raise ArgumentError(
                f"g is no rotation, not in SO(2): g g^T differs from the identity by up to {off:.3g}; project=True "
                "takes the rotation of its polar decomposition."
            )
        return g


def full_angle(R: Float[Tensor, "... 2 2"]) -> Float[Tensor, "*_"]:
    """Angles of rotations in [0, 2 pi), 0 or pi where |sin| < 1e-6; their gradient is that of the angle everywhere."""
    angle = rotation_angle(R)
    with torch.no_grad():
        sin = R[..., 1, 0]
        full = torch.atan2(torch.where(sin.abs() < NO_ANGLE, 0.0, sin), R[..., 0, 0])
        full = torch.where(full < 0, full + 2 * math.pi, full)
        change = full - angle
    return angle + change if angle.requires_grad else full


def _off_diagonal(n: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Orthonormal symmetric and skew matrices with two entries."""
    i, j = torch.triu_indices(n, n, 1)
    unit = torch.zeros(len(i), n, n, dtype=torch.float64)
    unit[torch.arange(len(i)), j, i] = 1 / math.sqrt(2 * alpha)
    return unit + unit.mT, unit - unit.mT


def _traceless_diagonal(n: int, alpha: float) -> Tensor:
    """Orthonormal traceless diagonal matrices (Helmert's contrasts)."""
    rows = []
    for k in range(1, n):
        row: list[Any] = [1.0] * k + [-float(k)] + [0.0] * (n - k - 1)
        rows.append(torch.tensor(row, dtype=torch.float64) / math.sqrt(alpha * k * (k + 1)))
    return torch.stack(rows).diag_embed()


def _sinhc(d: Tensor) -> Tensor:
    """sinh(d) / d, smooth at 0."""
    near = d.abs() < 1e-2
    small = torch.where(near, d, 0.0) ** 2
    safe = torch.where(near, 1.0, d)
    return torch.where(near, 1 + small / 6 * (1 + small / 20 * (1 + small / 42)), safe.sinh() / safe)
