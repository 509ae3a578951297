"""`Cayley`: orthogonal matrices (I - A/2)^-1 (I + A/2) of skew-symmetric A."""

from __future__ import annotations

from typing import Any, cast, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.maps.numbers import transformed
from linmap.maps.skew import SkewOrthogonal, skew_matrix


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

    def _rotate(self, lower: Tensor, x: Tensor) -> Tensor:
        if transformed():
            return x @ cayley_transform(skew_matrix(lower.double(), self._below, self.in_features)).to(x.dtype).mT
        A = skew_matrix(lower.detach().double(), self._below, self.in_features)
        Q = cayley_transform(A).to(x.dtype)
        return cast(Tensor, CayleyProduct.apply(lower, x, Q, self._below))


def cayley_transform(A: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """(I - A/2)^-1 (I + A/2) = 2 (I - A/2)^-1 - I of a skew-symmetric A (I - A/2 is never singular)."""
    difference = A * -0.5
    difference.diagonal(dim1=-2, dim2=-1).add_(1)
    Q = 2 * torch.linalg.inv_ex(difference).inverse
    Q.diagonal(dim1=-2, dim2=-1).sub_(1)
    return Q


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class CayleyProduct(torch.autograd.Function):
    """y = x Q^T for the Cayley transform Q of A, which comes along so that no gradient needs to solve again.

    With Z = (I - A/2)^-1 = (Q + I) / 2: dQ = Z dA Z, so that the gradient of A is (g Z)^T (x Z^T), where
    g Z = (g Q + g) / 2 and x Z^T = (y + x) / 2 are at hand.
    """

    @staticmethod
    def forward(ctx: Any, lower: Tensor, x: Tensor, Q: Tensor, below: Tensor) -> Tensor:
        y = x @ Q.mT
        ctx.save_for_backward(lower, x, Q, below, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        lower, x, Q, below, y = ctx.saved_tensors
        # Q^T is the Cayley transform of -A; second derivatives go through this function again
        grad_x = CayleyProduct.apply(-lower, grad, Q.mT, below) if torch.is_grad_enabled() else grad @ Q
        grad_A = (grad_x + grad).mT @ (y + x)
        grad_A = grad_A.sum_to_size(*lower.shape[:-1], *grad_A.shape[-2:])
        grad_lower = (grad_A - grad_A.mT).flatten(-2).index_select(-1, below) / 4
        return grad_lower, grad_x.sum_to_size(x.shape), None, None
