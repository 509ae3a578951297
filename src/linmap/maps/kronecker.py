"""`Kronecker`: A1 ⊗ A2 ⊗ ..., applied factor by factor.

Source of `from_matrix`: Van Loan and Pitsianis, "Approximation with Kronecker products" (1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, cast, no_type_check

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from linmap.errors import ArgumentError, SingularMapError
from linmap.maps.base import LinearMap, Transpose
from linmap.maps.dense import Dense
from linmap.maps.numbers import autocast, transformed

Size = int | tuple[int, int]


class Kronecker(LinearMap):
    """M = A1 ⊗ A2 ⊗ ... (as `torch.kron`: the first factor varies slowest), never built in a forward.

    For two factors and X = x reshaped to (in_1, in_2): y = A1 X A2^T.

    Parameters
    ----------
    factors
        At least one. A `LinearMap` is taken as it is, and its parameters are shared; n makes a trainable square `Dense`
        and (n_in, n_out) a rectangular one.
    batch_shape, generator, dtype, device
        For the factors that are made here.
    """

    def __init__(
        self,
        *factors: LinearMap | Size,
        batch_shape: Sequence[int] = (),
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not factors:
            raise ArgumentError("Kronecker: no factors came; give maps or sizes, as in Kronecker(64, 64).")
        maps = [
            factor
            if isinstance(factor, LinearMap)
            else Dense(*_in_out(factor), batch_shape=batch_shape, generator=generator, dtype=dtype, device=device)
            for factor in factors
        ]
        if len({(f.dtype, f.device) for f in maps}) > 1:
            kinds = ", ".join(f"{f.dtype} on {f.device}" for f in maps)
            raise ArgumentError(f"Kronecker: all factors must have one dtype and device, got {kinds}; use `.to(...)`.")
        super().__init__(
            math.prod(f.in_features for f in maps),
            math.prod(f.out_features for f in maps),
            batch_shape=torch.broadcast_shapes(*(f.batch_shape for f in maps)),
            dtype=maps[0].dtype,
            device=maps[0].device,
        )
        self.factors = nn.ModuleList(maps)
        self.orthogonal = all(f.orthogonal for f in maps)

    @property
    def parts(self) -> list[LinearMap]:
        """The factors, A1 first."""
        return [cast(LinearMap, factor) for factor in self.factors]

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def device(self) -> torch.device:
        return self.parts[0].device

    @property
    def rank_bound(self) -> int:
        return math.prod(f.rank_bound for f in self.parts)

    def forward(self, x: Tensor) -> Tensor:
        return _along_axes([_Axis(f, f.in_features, f.out_features, _dense_matrix(f)) for f in self.parts], x)

    def matrix(self) -> Tensor:
        M, *others = (f.matrix() for f in self.parts)
        for A in others:
            product = M[..., :, None, :, None] * A[..., None, :, None, :]
            M = product.flatten(-4, -3).flatten(-2, -1)
        return M.expand(*self.batch_shape, -1, -1)

    def _transpose(self, y: Tensor) -> Tensor:
        matrices = [_dense_matrix(f) for f in self.parts]
        axes = [
            _Axis(f._transpose, f.out_features, f.in_features, None if W is None else W.mT)
            for f, W in zip(self.parts, matrices, strict=True)
        ]
        return _along_axes(axes, y)

    def _inverse(self, y: Tensor) -> Tensor:
        return _along_axes([_Axis(f._inverse, f.out_features, f.in_features) for f in self.parts], y)

    def _inverse_transpose(self, x: Tensor) -> Tensor:
        return _along_axes([_Axis(f._inverse_transpose, f.in_features, f.out_features) for f in self.parts], x)

    def _check_invertible(self) -> None:
        for factor in self.parts:
            if not factor.square:
                raise SingularMapError(f"{self} has no inverse: its factor {factor} is not square.")
            factor._check_invertible()

    def logabsdet(self) -> Tensor:
        """Σ (n / n_i) log |det A_i|; -inf for a square product of factors that are not square."""
        self._require_square("has no determinant")
        if not all(f.square for f in self.parts):
            return torch.full(self.batch_shape, -math.inf, dtype=self.dtype, device=self.device)
        terms = [(self.in_features // f.in_features) * f.logabsdet() for f in self.parts]
        return sum(terms[1:], terms[0]).expand(self.batch_shape)

    def flops(self, vectors: int = 1) -> int:
        total, left, right = 0, self.in_features, 1
        for factor in reversed(self.parts):
            left //= factor.in_features
            batches = self.batch_shape.numel() // factor.batch_shape.numel()
            total += factor.flops(vectors * left * right) * batches
            right *= factor.out_features
        return total

    @classmethod
    def _from_matrix(cls, M: Tensor, sizes: Sequence[Size] = ()) -> Self:
        """`sizes` are the factors', n or (n_in, n_out); their product must be the shape of M.

        The nearest product of two factors; of more, one factor after another, which is exact for a Kronecker
        product and greedy otherwise.
        """
        pairs = [_in_out(size) for size in sizes]
        shape = tuple(math.prod(n) for n in zip(*((n_out, n_in) for n_in, n_out in pairs), strict=True))
        if shape != tuple(M.shape[-2:]):
            raise ArgumentError(
                f"Kronecker.from_matrix: sizes={tuple(sizes)!r} make a matrix of shape {shape}, but M has "
                f"{tuple(M.shape[-2:])}; give one size n or (n_in, n_out) a factor."
            )
        factors, rest = [], M.to(torch.promote_types(M.dtype, torch.float64))
        for n_in, n_out in pairs[:-1]:
            A, rest = nearest_kronecker(rest, n_in, n_out)
            factors.append(A)
        return cls(*(Dense.from_matrix(A.to(M.dtype)) for A in [*factors, rest]))


def nearest_kronecker(
    M: Shaped[Tensor, "*batch m n"], n_in: int, n_out: int
) -> tuple[Shaped[Tensor, "*batch m1 n1"], Shaped[Tensor, "*batch m2 n2"]]:
    """A of shape (n_out, n_in) and B that minimise ||M - A ⊗ B||, of equal norms.

    M rearranged so that each block is a row is vec(A) vec(B)^T for a Kronecker product; its largest singular pair is
    the solution (Van Loan and Pitsianis, eq. 4), found from the smaller of the two Gram matrices, of M in units of its
    largest entry so that no square over- or underflows.
    """
    m_2, n_2 = M.shape[-2] // n_out, M.shape[-1] // n_in
    blocks = M.unflatten(-1, (n_in, n_2)).unflatten(-3, (n_out, m_2)).transpose(-3, -2)
    R = blocks.flatten(-4, -3).flatten(-2, -1)
    wide = R.shape[-2] <= R.shape[-1]
    R = R if wide else R.mT
    unit = R.abs().amax((-2, -1), keepdim=True)
    R = R / unit.where(unit > 0, 1)
    u = torch.linalg.eigh(R @ R.mH).eigenvectors[..., -1:]
    v = R.mT @ u.conj()
    sigma = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
    short, long = u * (sigma * unit).sqrt(), v * (unit / sigma.where(sigma > 0, 1)).sqrt()
    a, b = (short, long) if wide else (long, short)
    return a.reshape(*M.shape[:-2], n_out, n_in), b.reshape(*M.shape[:-2], m_2, n_2)


def _in_out(size: object) -> tuple[int, int]:
    if isinstance(size, tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size
    if type(size) is int and size > 0:
        return size, size
    raise ArgumentError(f"Kronecker: a factor must be a LinearMap, a size n or sizes (n_in, n_out), got {size!r}.")


class _Axis(NamedTuple):
    """What a factor does to its axis: a map of rows, or a matrix where it has no other structure."""

    apply: Callable[[Tensor], Tensor]
    n_in: int
    n_out: int
    matrix: Tensor | None = None


def _dense_matrix(factor: LinearMap) -> Tensor | None:
    """The matrix of a factor without structure or batch; None for the others."""
    if factor.batch_shape:
        return None
    if isinstance(factor, Transpose) and isinstance(factor.base, Dense):
        return factor.base.weight.mT
    return factor.weight if isinstance(factor, Dense) else None


def _along_axes(axes: list[_Axis], x: Tensor) -> Tensor:
    """Each factor on its axis of x, whose last dimension is (n_1, ..., n_k); the last axis goes first."""
    left, right = x.shape[-1], 1  # the sizes before and after the axis
    for axis in reversed(axes):
        left //= axis.n_in
        x_LIR = x.unflatten(-1, (left, axis.n_in, right))
        if axis.matrix is not None:
            y_LIR = along_middle(axis.matrix, x_LIR.flatten(0, -3)).unflatten(0, x_LIR.shape[:-2])
        else:
            rows = x_LIR.transpose(-2, -1)
            y_LIR = axis.apply(rows.flatten(-4, -2)).unflatten(-2, rows.shape[-4:-1]).transpose(-2, -1)
        x = y_LIR.flatten(-3)
        right *= axis.n_out
    return x


def kronecker_product(factors: Sequence[Tensor], x: Shaped[Tensor, "*batch n"]) -> Shaped[Tensor, "*batch n"]:
    """(A_1 ⊗ A_2 ⊗ ...) x on the last dimension for square A_i whose sizes multiply to n; the product is not built."""
    y, right = x, 1
    for A in reversed(factors):
        y = along_middle(A, y.reshape(-1, len(A), right))
        right *= len(A)
    return y.reshape(x.shape)


def along_middle(W: Shaped[Tensor, "out in_"], x: Shaped[Tensor, "left in_ right"]) -> Shaped[Tensor, "left out right"]:
    """W on the middle axis of x."""
    if autocast(x):
        dtype = torch.get_autocast_dtype(x.device.type)
        W, x = W.to(dtype), x.to(dtype)
    plain = not (torch.is_grad_enabled() and (W.requires_grad or x.requires_grad)) or transformed()
    return middle_product(W, x) if plain else cast(Tensor, MiddleProduct.apply(W, x))


def middle_product(W: Tensor, x: Tensor) -> Tensor:
    if x.shape[-1] == 1:
        return (x.squeeze(-1) @ W.mT).unsqueeze(-1)
    return torch.bmm(W.expand(x.shape[0], -1, -1), x)  # `@` would transpose x to fold it into one product


GROUP = 2**19  # numbers of the products that a gradient sums at once: 2 MiB of float32 stay in the cache


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class MiddleProduct(torch.autograd.Function):
    """`along_middle`; its gradients are one product each, without a transposed copy of x where that can be had."""

    generate_vmap_rule = True

    @staticmethod
    def forward(W: Tensor, x: Tensor) -> Tensor:
        return middle_product(W, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        W, x = inputs
        ctx.save_for_backward(W, x if ctx.needs_input_grad[0] else None)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grads
        W, x = ctx.saved_tensors
        grad_W = grad_x = None
        if ctx.needs_input_grad[0]:
            if x.shape[-1] == 1:
                grad_W = grad.squeeze(-1).mT @ x.squeeze(-1)
            elif W.numel() <= x.shape[-1] * max(W.shape):  # no more memory than x itself
                group = max(1, GROUP // W.numel())
                groups = zip(grad.split(group), x.split(group), strict=True)
                grad_W = torch.stack([(g @ z.mT).sum(0) for g, z in groups]).sum(0)
            else:
                grad_W = torch.einsum("lor,lir->oi", grad, x)
        if ctx.needs_input_grad[1]:
            grad_x = MiddleProduct.apply(W.mT, grad)
        return grad_W, grad_x
