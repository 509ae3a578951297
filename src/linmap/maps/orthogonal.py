"""What the orthogonal maps share: the nearest orthogonal matrix, and the precision that keeps a product orthogonal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.maps.numbers import autocast


def nearest_orthogonal(M: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The orthogonal factor U V^T of the polar decomposition M = (U V^T)(V S V^T), in float64.

    It minimises ||M - Q|| over orthogonal Q in every unitarily invariant norm (Fan and Hoffman, 1955); for an
    orthogonal M it is M up to rounding.
    """
    U, _, Vh = torch.linalg.svd(M.double())
    return U @ Vh


def haar_orthogonal(n: int, generator: torch.Generator | None = None) -> Float[Tensor, "{n} {n}"]:
    """A random orthogonal matrix, uniform over all, in float64 (Mezzadri, 2007: QR of a Gaussian, signs fixed)."""
    device = None if generator is None else generator.device
    Q, R = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator, device=device))
    return Q * R.diagonal().sign()


def square_size(name: str, M: Tensor) -> int:
    """n of a square real M, or an error that names the map."""
    if M.shape[-1] != M.shape[-2] or M.is_complex():
        raise ArgumentError(
            f"{name}.from_matrix: M must be a real square matrix, got {M.dtype} of shape {tuple(M.shape)}."
        )
    return M.shape[-1]


def by_rows(apply: Callable[[Tensor, Tensor], Tensor], parameter: Tensor, x: Tensor, batched: bool) -> Tensor:
    """`apply(parameter, rows)` for x of shape (..., rows, n), outside of autocast and in at least float32.

    An unbatched parameter sees x as one matrix of rows, a batched one sees (..., rows, n) and broadcasts as
    `torch.matmul` does. The result has the dtype of x.
    """
    dtype = torch.promote_types(torch.promote_types(parameter.dtype, x.dtype), torch.float32)
    if autocast(x):
        with torch.autocast(x.device.type, enabled=False):
            return by_rows(apply, parameter, x, batched)
    if batched or x.ndim == 2:
        return apply(parameter.to(dtype), x.to(dtype)).to(x.dtype)
    return apply(parameter.to(dtype), x.to(dtype).flatten(0, -2)).reshape(x.shape).to(x.dtype)
