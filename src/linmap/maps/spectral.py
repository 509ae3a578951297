"""`Spectral`: a frozen singular basis with trainable singular values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, SingularMapError
from linmap.maps.base import LinearMap


class Spectral(LinearMap):
    """y = U diag(sigma) V^T x with U, S, V^T frozen and sigma_j = relu(scale_j S_j + shift_j) for the k largest S_j.

    The other singular values keep S_j. At the start scale = 1 and shift = 0, so that M = U diag(S) V^T. The scale is
    kept as its difference from one, so that weight decay pulls it to one, not to zero.

    Parameters
    ----------
    n_in, n_out
        Sizes.
    k
        How many of the leading singular values are trainable, 0 to min(n_in, n_out); all when None.
    basis
        (U, S, V^T), a thin SVD with U and V orthonormal. When None, that of a matrix drawn as `Dense` draws it; for
        the SVD of a given matrix use `Spectral.from_matrix(W, k=...)`.
    nonnegative
        False leaves the relu out.
    persistent_basis
        False keeps U, S and V^T out of the state dict, for a map whose basis can be found again.
    batch_shape
        Leading dimensions of a random basis; a `basis` that is given brings its own.
    generator
        Source of the random basis.
    dtype, device
        As in PyTorch.

    Attributes
    ----------
    U, S, Vt
        Buffers of shapes (n_out, q), (q,), (q, n_in), q = min(n_in, n_out).
    scale_minus_one, shift
        The parameters, of shape (k,).

    Raises
    ------
    ValueError
        If k is out of range, or the basis does not have the shapes of a thin SVD.

    References
    ----------
    Elsayed et al., "SALT: Singular Value Adaptation with Low-Rank Transformation", arXiv 2503.16055; Paranjape et
    al., "S-SAM: SVD-based Fine-Tuning of Segment Anything Model", MICCAI 2024.
    """

    real = True

    U: Tensor
    S: Tensor
    Vt: Tensor

    def __init__(
        self,
        n_in: int,
        n_out: int,
        k: int | None = None,
        *,
        basis: tuple[Tensor, Tensor, Tensor] | None = None,
        nonnegative: bool = True,
        persistent_basis: bool = True,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        batch_shape = batch_shape if basis is None else basis[1].shape[:-1]
        super().__init__(n_in, n_out, batch_shape=batch_shape, dtype=dtype, device=device)
        q = min(n_in, n_out)
        k = q if k is None else k
        if not isinstance(k, int) or isinstance(k, bool) or not 0 <= k <= q:
            raise ArgumentError(f"Spectral: k must be an integer from 0 to min(n_in, n_out) = {q}, got {k!r}.")
        self.nonnegative = nonnegative
        if basis is None:
            bound = 1 / math.sqrt(n_in)
            weight = torch.empty(*batch_shape, n_out, n_in, dtype=dtype, device=device)
            basis = signed_svd(weight.uniform_(-bound, bound, generator=generator))
        shapes = {"U": (n_out, q), "S": (q,), "Vt": (q, n_in)}
        for (name, shape), part in zip(shapes.items(), basis, strict=True):
            if part.shape != (*batch_shape, *shape):
                raise ArgumentError(
                    f"Spectral: {name} of the basis must have shape {(*batch_shape, *shape)}, as in the thin SVD of a "
                    f"{n_out} x {n_in} matrix, got {tuple(part.shape)}."
                )
            self.register_buffer(name, part.detach().to(dtype=dtype, device=device), persistent=persistent_basis)
        self.scale_minus_one = nn.Parameter(torch.zeros(*batch_shape, k, dtype=dtype, device=device))
        self.shift = nn.Parameter(torch.zeros(*batch_shape, k, dtype=dtype, device=device))

    @property
    def scale(self) -> Float[Tensor, "*batch k"]:
        return 1 + self.scale_minus_one

    @property
    def singular_values(self) -> Float[Tensor, "*batch q"]:
        """sigma, in the order of the basis (signed when `nonnegative` is False)."""
        k = self.shift.shape[-1]
        leading = self.scale * self.S[..., :k] + self.shift
        return torch.cat([leading.relu() if self.nonnegative else leading, self.S[..., k:]], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.Vt.mT * self.singular_values.unsqueeze(-2) @ self.U.mT

    def matrix(self) -> Tensor:
        return self.U * self.singular_values.unsqueeze(-2) @ self.Vt

    def _transpose(self, y: Tensor) -> Tensor:
        return y @ self.U * self.singular_values.unsqueeze(-2) @ self.Vt

    def _inverse(self, y: Tensor) -> Tensor:
        return y @ self.U / self.singular_values.unsqueeze(-2) @ self.Vt

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        return x @ self.Vt.mT / self.singular_values.unsqueeze(-2) @ self.U.mT

    def _check_invertible(self) -> None:
        if self.S.is_meta:
            return
        sigma = self.singular_values.detach().abs()
        tolerance = self.in_features * torch.finfo(sigma.dtype).eps * sigma.amax(-1)
        if bool((sigma.amin(-1) <= tolerance).any()):
            raise SingularMapError(
                f"{self} has no inverse: its smallest singular value, {float(sigma.min()):.1e}, is zero in "
                f"{self.dtype} beside the largest, {float(sigma.max()):.1e}."
            )

    def logabsdet(self) -> Tensor:
        self._require_square("has no determinant")
        return self.singular_values.abs().log().sum(-1)

    def flops(self, vectors: int = 1) -> int:
        q = self.S.shape[-1]
        return (2 * q * (self.in_features + self.out_features) + q) * vectors * self.batch_shape.numel()

    @classmethod
    def _from_matrix(cls, M: Tensor, k: int | None = None, nonnegative: bool = True) -> Self:
        """Exact: the signed SVD of M."""
        n_out, n_in = M.shape[-2:]
        return cls(n_in, n_out, k, basis=signed_svd(M), nonnegative=nonnegative, dtype=M.dtype, device=M.device)


def signed_svd(
    W: Float[Tensor, "*batch n_out n_in"],
) -> tuple[Float[Tensor, "*batch n_out q"], Float[Tensor, "*batch q"], Float[Tensor, "*batch q n_in"]]:
    """The thin SVD (U, S, V^T) of W with signs that no library or device decides.

    It is computed in float64 on the CPU, each column of U is turned so that its largest entry is positive, and the
    result is returned in W's dtype, on W's device.
    """
    host = W.detach() if W.is_meta else W.detach().cpu()
    U, S, Vt = torch.linalg.svd(host.double(), full_matrices=False)
    largest = U.abs().argmax(-2, keepdim=True)
    signs = torch.where(U.gather(-2, largest) < 0, -1.0, 1.0)
    parts = (U * signs, S, Vt * signs.mT)
    U, S, Vt = (part.to(W.device, W.dtype).contiguous() for part in parts)
    return U, S, Vt
