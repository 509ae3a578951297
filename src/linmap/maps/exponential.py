"""`Exponential`: rotations exp(A) of skew-symmetric A.

Sources: Higham, "The scaling and squaring method for the matrix exponential revisited" (2005); Paterson and
Stockmeyer, "On the number of nonscalar multiplications necessary to evaluate polynomials" (1973).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Shaped
from torch import Tensor

from linmap.maps.numbers import transformed
from linmap.maps.skew import SkewOrthogonal, skew_matrix

DEGREE = 16  # of the Taylor polynomial, with six matrix products
RADIUS = 0.82  # spectral radius up to which its error, radius^17 / 17!, is below the rounding of float64


class Exponential(SkewOrthogonal):
    """M = B exp(A) with a trainable skew-symmetric A and a fixed orthogonal B.

    A turns its plane of eigenvalues ±iθ by θ. `from_matrix` represents every orthogonal matrix, through the base.

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
        A = skew_matrix(lower.double(), self._below, self.in_features)
        return x @ skew_exponential(A).to(x.dtype).mT


def skew_exponential(A: Shaped[Tensor, "*batch n n"]) -> Shaped[Tensor, "*batch n n"]:
    """exp(A) of a skew-symmetric A by scaling and squaring, exp(A) = p(A / 2^s)^(2^s) with a Taylor polynomial p."""
    # s depends on the values of A; this operator keeps that out of the graph
    if torch.compiler.is_compiling() or transformed() or A.is_meta:
        return torch.linalg.matrix_exp(A)
    second = A @ A
    fourth = second @ second
    s = _squarings(fourth)
    taylor = [2.0 ** (-s * j) / math.factorial(j) for j in range(DEGREE + 1)]
    c = torch.tensor(taylor, dtype=A.dtype, device=A.device)
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)
    powers = torch.stack([eye, A, second, second @ A], dim=-3)
    # Paterson-Stockmeyer: four cubic polynomials of A, put together by Horner's scheme in A^4
    cubics = (c[:DEGREE].view(4, 4) @ powers.flatten(-2)).unflatten(-1, A.shape[-2:])
    first, *others = reversed(cubics.unbind(-3))
    Q = first + c[DEGREE] * fourth
    for cubic in others:
        Q = cubic + Q @ fourth
    for _ in range(s):
        Q = Q @ Q
    return Q


def _squarings(fourth: Tensor) -> int:
    """s with radius(A) <= 2^s RADIUS: the eigenvalues come in pairs ±iθ, so that ||A^4||² >= 2 radius^8."""
    norm = float(torch.linalg.matrix_norm(fourth.detach()).amax()) if fourth.numel() else 0.0
    radius = (norm / math.sqrt(2)) ** 0.25
    return max(0, math.ceil(math.log2(radius / RADIUS))) if radius > 0 else 0
