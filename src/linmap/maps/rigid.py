"""`Rigid`: rotation and translation of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.errors import ArgumentError
from linmap.maps.base import Inverse, LinearMap, at_least_float32
from linmap.maps.numbers import readable


class Rigid(LinearMap):
    """p -> R p + t in homogeneous coordinates: M = [[R, t], [0, 1]], R a proper rotation.

    As a `LinearMap` it takes vectors of dim + 1 numbers (a point ends in 1, a direction in 0); `act` takes points of
    dim numbers. R is the Gram-Schmidt orthonormalisation of `frame`, whose rows become the first dim - 1 columns of
    R, the last column following from det R = 1. In space these are the six numbers of the continuous representation
    of Zhou et al.: smooth, onto, and without the cuts of angles, quaternions and rotation vectors.

    Parameters
    ----------
    dim
        Dimension of the points.
    batch_shape
        Leading dimensions: one motion each.
    generator
        Source of a random start (frame and translation from N(0, 1)); the identity motion when None.
    dtype, device
        As in PyTorch.

    Attributes
    ----------
    frame, translation
        The parameters, of shapes (dim - 1, dim) and (dim,).

    References
    ----------
    Zhou et al., "On the Continuity of Rotation Representations in Neural Networks", CVPR 2019.
    """

    real = True

    def __init__(
        self,
        dim: int,
        *,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
            raise ArgumentError(f"Rigid: dim must be a positive integer, got {dim!r}.")
        super().__init__(dim + 1, dim + 1, batch_shape=batch_shape, dtype=dtype, device=device)
        frame = torch.eye(dim - 1, dim, dtype=dtype, device=device).repeat(*batch_shape, 1, 1)
        translation = torch.zeros(*batch_shape, dim, dtype=dtype, device=device)
        if generator is not None:
            frame.normal_(generator=generator)
            translation.normal_(generator=generator)
        self.frame = nn.Parameter(frame)
        self.translation = nn.Parameter(translation)

    @property
    def rotation(self) -> Float[Tensor, "*batch dim dim"]:
        """R, for column vectors."""
        return rotation_from_frame(at_least_float32(self.frame)).to(self.frame.dtype)

    def act(self, points: Shaped[Tensor, "*batch dim"]) -> Float[Tensor, "*out_batch dim"]:
        """R p + t for points of shape (..., dim); whole numbers are read as the map does."""
        rows = torch.atleast_2d(readable(points, self.dtype)) @ self.rotation.mT + self.translation.unsqueeze(-2)
        return rows if points.ndim > 1 else rows.squeeze(-2)

    def forward(self, x: Tensor) -> Tensor:
        p, w = x[..., :-1], x[..., -1:]
        return _joined(p @ self.rotation.mT + w * self.translation.unsqueeze(-2), w)

    def matrix(self) -> Tensor:
        top = torch.cat([self.rotation, self.translation.unsqueeze(-1)], dim=-1)
        bottom = torch.zeros_like(top[..., :1, :])
        bottom[..., -1] = 1
        return torch.cat([top, bottom], dim=-2)

    def _transpose(self, y: Tensor) -> Tensor:
        q, w = y[..., :-1], y[..., -1:]
        return _joined(q @ self.rotation, q @ self.translation.unsqueeze(-1) + w)

    def _inverse(self, y: Tensor) -> Tensor:
        q, w = y[..., :-1], y[..., -1:]
        return _joined((q - w * self.translation.unsqueeze(-2)) @ self.rotation, w)

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        p, w = x[..., :-1], x[..., -1:]
        rotated = p @ self.rotation.mT
        return _joined(rotated, w - rotated @ self.translation.unsqueeze(-1))

    def _check_invertible(self) -> None:
        return

    def inverse(self) -> InverseRigid:
        """q -> R^T (q - t), sharing this map's parameters."""
        return InverseRigid(self)

    def logabsdet(self) -> Tensor:
        return torch.zeros(self.batch_shape, dtype=self.dtype, device=self.device)

    def flops(self, vectors: int = 1) -> int:
        dim = self.in_features - 1
        return 2 * dim * (dim + 1) * vectors * self.batch_shape.numel()

    @classmethod
    def _from_matrix(cls, M: Tensor) -> Self:
        """The rotation nearest to M's upper-left block (its polar factor, of determinant 1) and M's translation."""
        n = M.shape[-1]
        if M.shape[-2] != n or n < 2:
            raise ArgumentError(
                f"Rigid.from_matrix: M must be a square homogeneous matrix of size dim + 1, got shape {tuple(M.shape)}."
            )
        new = cls(n - 1, batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        new.frame.copy_(nearest_rotation(M[..., :-1, :-1])[..., :-1].mT)
        new.translation.copy_(M[..., :-1, -1])
        return new


class InverseRigid(Inverse):
    """The inverse of a rigid motion, which is one too."""

    base: Rigid

    def act(self, points: Shaped[Tensor, "*batch dim"]) -> Float[Tensor, "*out_batch dim"]:
        """R^T (q - t) for points of shape (..., dim); whole numbers are read as the map does."""
        moved = torch.atleast_2d(readable(points, self.dtype)) - self.base.translation.unsqueeze(-2)
        rows = moved @ self.base.rotation
        return rows if points.ndim > 1 else rows.squeeze(-2)


def rotation_from_frame(frame: Float[Tensor, "*batch columns dim"]) -> Float[Tensor, "*batch dim dim"]:
    """The rotation whose first dim - 1 columns are the rows of `frame`, orthonormalised in order (Gram-Schmidt)."""
    columns: list[Tensor] = []
    for vector in frame.unbind(-2):
        for column in columns:
            vector = vector - (vector * column).sum(-1, keepdim=True) * column
        columns.append(F.normalize(vector, dim=-1))
    last = torch.linalg.cross(*columns) if frame.shape[-1] == 3 else _completion(frame, columns)
    return torch.stack([*columns, last], dim=-1)


def nearest_rotation(A: Float[Tensor, "*batch dim dim"]) -> Float[Tensor, "*batch dim dim"]:
    """The proper rotation nearest to A: its polar factor, with the weakest direction turned where det A < 0."""
    U, _, Vh = torch.linalg.svd(A)
    turn = torch.ones_like(U[..., 0, :])
    turn[..., -1] = torch.linalg.det(U @ Vh).sign()
    return U * turn.unsqueeze(-2) @ Vh


def _completion(frame: Tensor, columns: list[Tensor]) -> Tensor:
    """The unit vector orthogonal to the columns that makes the determinant 1."""
    if not columns:
        return 1 + frame.sum(-2)  # on the line, the only rotation is 1
    with torch.no_grad():
        # detached for forward-mode differentiation, which `no_grad` does not end
        columns_alone = torch.stack([column.detach() for column in columns], dim=-1)
        Q = torch.linalg.qr(columns_alone, mode="complete").Q
        normal = Q[..., -1]
        volume = torch.linalg.det(torch.cat([columns_alone, normal.unsqueeze(-1)], dim=-1))
        normal = normal * volume.sign().unsqueeze(-1)
    # `normal` is a constant here; made orthogonal to the columns, it has their derivative
    for column in columns:
        normal = normal - (normal * column).sum(-1, keepdim=True) * column
    return F.normalize(normal, dim=-1)


def _joined(points: Tensor, w: Tensor) -> Tensor:
    """Homogeneous coordinates from their two parts, broadcast against each other."""
    return torch.cat([points, w.expand(*points.shape[:-1], 1)], dim=-1)
