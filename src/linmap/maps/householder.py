"""`Householder`: a product of k reflections, applied k by blocks in the compact WY form.

Sources: Schreiber and Van Loan, "A storage-efficient WY representation for products of Householder
transformations" (1989); Joffrain, Low, Quintana-Ortí, van de Geijn and Van Zee, "Accumulating Householder
transformations, revisited" (2006) for the inverse of T.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Self

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps.base import LinearMap
from linmap.maps.orthogonal import by_rows, nearest_orthogonal, square_size

BLOCK = 128  # reflections applied together; 128 and 256 were fastest at n = 256 ... 1024, batch 256


class Householder(LinearMap):
    """M = H_1 H_2 ... H_k with H_i = I - 2 v_i v_i^T / |v_i|²: orthogonal, of determinant (-1)^k.

    A zero v_i stands for the identity (and lowers k by one); its gradient is zero. The length of v_i has no effect.
    A forward takes about 4 n k operations a vector and never builds M.

    Parameters
    ----------
    n
        Size of M.
    n_reflections
        k; n when None, which is enough for every orthogonal matrix of the right determinant. More than n is allowed.
    batch_shape
        Leading dimensions of M.
    generator
        Source of the v_i, drawn from the standard normal distribution.
    dtype, device
        As in PyTorch. Half precision is computed in float32.

    Attributes
    ----------
    vectors
        The v_i as rows, of shape (*batch_shape, n_reflections, n).
    """

    orthogonal = True

    def __init__(
        self,
        n: int,
        n_reflections: int | None = None,
        *,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(n, n, batch_shape=batch_shape, dtype=dtype, device=device)
        k = n if n_reflections is None else n_reflections
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ArgumentError(
                f"Householder: n_reflections must be a positive integer or None, got {n_reflections!r}."
            )
        self.n_reflections = k
        vectors = torch.empty(*batch_shape, k, n, dtype=dtype, device=device)
        self.vectors = nn.Parameter(vectors.normal_(generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(reflect, self.vectors, x, bool(self.batch_shape))

    def _transpose(self, y: Tensor) -> Tensor:
        return by_rows(partial(reflect, transposed=True), self.vectors, y, bool(self.batch_shape))

    def flops(self, vectors: int = 1) -> int:
        """Without the Gram matrices of the blocks, 2 n BLOCK a reflection once a forward."""
        n, k = self.in_features, self.n_reflections
        per_vector = sum(4 * n * b + b * b for b in (min(BLOCK, k - start) for start in range(0, k, BLOCK)))
        return vectors * per_vector * self.batch_shape.numel()

    @classmethod
    def _from_matrix(cls, M: Tensor, n_reflections: int | None = None) -> Self:
        """n reflections represent every orthogonal M; another M is replaced by its nearest orthogonal matrix.

        Fewer reflections keep the planes that M turns by the largest angles: exact where M - I has a rank of at
        most `n_reflections`.
        """
        n = square_size("Householder", M)
        new = cls(n, n_reflections, batch_shape=M.shape[:-2], dtype=M.dtype, device=M.device)
        Q = nearest_orthogonal(M).reshape(-1, n, n)
        k = new.n_reflections
        vectors = [reflections_of(Q_i) if k >= n else largest_reflections(Q_i, k) for Q_i in Q]
        new.vectors.copy_(torch.stack([_fill_identities(v, k) for v in vectors]).reshape(new.vectors.shape))
        return new


def reflect(
    vectors: Shaped[Tensor, "*batch k n"], x: Shaped[Tensor, "*rows n"], transposed: bool = False, block: int = 0
) -> Shaped[Tensor, "*out n"]:
    """H_1 ... H_k x for every row of x (H_k ... H_1 x when `transposed`), one block of reflections after another.

    With few rows the Gram matrices of the blocks are most of the work, and a `block` below `BLOCK` is faster.
    """
    blocks = scaled(vectors).split(block or BLOCK, dim=-2)
    for U in blocks if transposed else reversed(blocks):
        # With |u_i|² = 2: H_1 ... H_b = I - U^T T U and T^-1 = I + the strict upper triangle of U U^T.
        T_inverse = U @ U.mT
        if not transposed:
            T_inverse = T_inverse.mT
        coefficients = torch.linalg.solve_triangular(
            T_inverse, x @ U.mT, upper=transposed, left=False, unitriangular=True
        )
        x = x - coefficients @ U
    return x


def scaled(vectors: Shaped[Tensor, "*batch k n"]) -> Shaped[Tensor, "*batch k n"]:
    """The rows at the length sqrt(2), so that H = I - u u^T; a zero row stays zero and has a zero gradient."""
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    rows = vectors / largest.where(largest > 0, 1)  # neither overflow nor underflow in the square
    squares = rows.square().sum(dim=-1, keepdim=True)
    return rows * (2 / squares.where(largest > 0, 2)).sqrt()


def reflections_of(Q: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Rows v_1 ... v_n with Q = H_1 ... H_n for an orthogonal Q: Householder's QR with a positive diagonal of R.

    v = a - |a| e_1 takes a column a to the positive axis; where a lies there already, v is zero.
    """
    R, n = Q.clone(), Q.shape[-1]
    vectors = torch.zeros_like(Q)
    for i in range(n):
        a = R[i:, i]
        v = vectors[i, i:]
        v.copy_(a)
        length, tail = torch.linalg.vector_norm(a), a[1:].square().sum()
        v[0] = torch.where(a[0] > 0, -tail / (a[0] + length), a[0] - length)  # a_1 - |a| without cancellation
        if torch.linalg.vector_norm(v) <= 4 * torch.finfo(Q.dtype).eps:
            v.zero_()
            continue
        R[i:, i:] -= torch.outer(v * (2 / v.square().sum()), v @ R[i:, i:])
    return vectors


def largest_reflections(Q: Float[Tensor, "n n"], k: int) -> Float[Tensor, "k_or_less n"]:
    """Rows of at most k reflections whose product turns the planes of Q's largest angles as Q does, and no other.

    In the plane of v and Q v, a rotation by θ is H_v H_w with w along v + Q^T v; for θ = π it takes the first alone.
    The right singular vectors of Q - I span these planes, with the singular values 2 sin(θ/2).
    """
    n = len(Q)
    _, S, Vh = torch.linalg.svd(Q - torch.eye(n).to(Q))
    found, vectors = Q.new_zeros(0, n), []
    for sine, v in zip((S / 2).tolist(), Vh, strict=True):  # sin(θ/2), in descending order
        if len(vectors) >= k or sine < 1e-12:
            break
        v = v - found.mT @ (found @ v)
        if torch.linalg.vector_norm(v) < 1e-3:  # the second vector of a plane that is done
            continue
        v = v / torch.linalg.vector_norm(v)
        w = v + Q.mT @ v
        turned_back = torch.linalg.vector_norm(w) < 1e-8  # θ = π
        if len(vectors) + 1 == k and not turned_back and sine < 0.5**0.5:
            break  # one reflection is worse than none below a right angle
        vectors.append(v)
        found = torch.cat([found, v[None]])
        if not turned_back:
            partner = w - v * (v @ w)
            found = torch.cat([found, partner[None] / torch.linalg.vector_norm(partner)])
            if len(vectors) < k:
                vectors.append(w)
    return torch.stack(vectors) if vectors else Q.new_zeros(0, n)


def _fill_identities(vectors: Float[Tensor, "m n"], k: int) -> Float[Tensor, "k n"]:
    """Exactly k rows: zero rows (identities) go last, as pairs H_e H_e = I of equal rows, which training can move."""
    n = vectors.shape[-1]
    kept = vectors[vectors.abs().amax(dim=-1) > 0] if len(vectors) else vectors
    n_pairs = (k - len(kept)) // 2
    axes = torch.eye(n).to(vectors)[torch.arange(n_pairs, device=vectors.device) % n].repeat_interleave(2, dim=0)
    rows = torch.cat([kept, axes])
    return torch.cat([rows, rows.new_zeros(k - len(rows), n)])
