"""`Cayley`: orthogonal matrices (I - A/2)^-1 (I + A/2) of skew-symmetric A."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from jaxtyping import Shaped
from torch import Tensor

from linmap.maps.skew import SkewOrthogonal


class Cayley(SkewOrthogonal):
    """M = B (I - A/2)^-1 (I + A/2) with a trainable skew-symmetric A and a fixed orthogonal B.

    A turns its plane of eigenvalues ±iλ by 2 arctan(λ/2); no finite A turns by π, but the base can
    (`from_matrix` represents every orthogonal matrix). Cheaper than `Exponential`: one inverse of an n x n matrix a
    forward, none in the backward.

    Parameters
    ----------
    n
        Size of M.
    base
        B, of shape (*batch_shape, n, n), kept as a buffer; the identity when None.
    batch_shape
        Leading dimensions of M.
    generator
        Source of the entries of A, drawn from N(0, 1/n).
    dtype, device
        As in PyTorch; see `SkewOrthogonal` for the precision.
    """

    @staticmethod
    def _rotate(A: Tensor, x: Tensor) -> Tensor:
        return CayleyProduct.apply(A, x, cayley_transform(A.detach()))  # pyright: ignore[reportReturnType]


def cayley_transform(A: Shaped[Tensor, "*batch n n"]) -> Shaped[Tensor, "*batch n n"]:
    """(I - A/2)^-1 (I + A/2) = 2 (I - A/2)^-1 - I of a skew-symmetric A, computed in float64."""
    eye = torch.eye(A.shape[-1], dtype=torch.float64, device=A.device)
    return (2 * torch.linalg.inv(eye - A.double() / 2) - eye).to(A.dtype)


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class CayleyProduct(torch.autograd.Function):
    """y = x Q^T for the Cayley transform Q of A, which comes along so that no gradient needs to solve again.

    With Z = (I - A/2)^-1 = (Q + I) / 2: dQ = Z dA Z, so that the gradient of A is (g Z)^T (x Z^T), where
    g Z = (g Q + g) / 2 and x Z^T = (y + x) / 2 are at hand.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(A: Tensor, x: Tensor, Q: Tensor) -> Tensor:
        return x @ Q.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore
        A, x, Q, y = ctx.saved_tensors
        grad_x = CayleyProduct.apply(-A, grad, Q.mT)  # Q^T is the Cayley transform of -A
        grad_A = (grad_x + grad).mT @ (y + x) / 4
        return grad_A.sum_to_size(A.shape), grad_x.sum_to_size(x.shape), None
