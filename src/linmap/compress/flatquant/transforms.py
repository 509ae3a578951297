"""The transforms of FlatQuant: x -> (x * c) P of an activation, W -> (W / c) P^-T of the weights that it meets.

P is a Kronecker product of small matrices (section 3.1), each trained as U diag(s) V^T with U and V from Cayley's
map, or as any matrix with its inverse. Row vectors, as in the paper.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.native import layer as native
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.maps.cayley import cayley_transform
from linmap.maps.kronecker import along_middle, kronecker_product
from linmap.maps.orthogonal import haar_orthogonal

# -- sizes -------------------------------------------------------------------------------------------------------------


def kronecker_factors(n: int) -> tuple[int, int]:
    """(n1, n2) with n1 <= n2, n1 n2 = n and the smallest n1 + n2: n1 is the largest divisor up to sqrt(n).

    Raises
    ------
    ValueError
        If n is no positive integer.

    Warns
    -----
    UserWarning
        If n is prime or twice a prime, so that the larger factor is (nearly) dense.
    """
    n1, n2 = factor_pairs(n)[-1]
    if n1 <= 2 and n > 4 and (n1 == 1 or len(factor_pairs(n2)) == 1):
        warnings.warn(
            f"a Kronecker product of size {n} degenerates to the factors ({n1}, {n2}), which cost about as much as a "
            "dense matrix; pad the dimension to a size with divisors near its square root.",
            UserWarning,
            stacklevel=2,
        )
    return n1, n2


def factor_pairs(n: int) -> list[tuple[int, int]]:
    """All (n1, n2) with n1 <= n2 and n1 n2 = n, n1 = 1 first.

    Raises
    ------
    ValueError
        If n is no positive integer.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ArgumentError(f"n must be a positive integer, got {n!r}.")
    return [(d, n // d) for d in range(1, math.isqrt(n) + 1) if n % d == 0]


# -- orthogonal matrices -----------------------------------------------------------------------------------------------


def cayley(raw: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """U = (I - A/2)^-1 (I + A/2) with A = tril(raw) - tril(raw)^T: orthogonal, of determinant +1, for every raw.

    Computed in at least float32, whatever the dtype of raw and under autocast too; only the entries below the
    diagonal count.

    Raises
    ------
    ValueError
        If raw is not square.
    """
    if raw.ndim < 2 or raw.shape[-1] != raw.shape[-2]:
        raise ArgumentError(f"raw must hold square matrices, got the shape {tuple(raw.shape)}.")
    return CayleyMatrix.apply(raw.to(torch.promote_types(raw.dtype, torch.float32)))  # pyright: ignore


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class CayleyMatrix(torch.autograd.Function):
    """`cayley`. With Z = (I - A/2)^-1 = (U + I) / 2: dU = Z dA Z, so that no gradient needs to solve again."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor) -> Tensor:
        L = raw.tril(-1)
        with torch.autocast(raw.device.type, enabled=False):
            U = cayley_transform(L - L.mT)
        ctx.save_for_backward(U)
        return U

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (U,) = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            Z_T = U.mT.clone()
            Z_T.diagonal(dim1=-2, dim2=-1).add_(1)
            grad_A = Z_T @ grad @ Z_T
        return (grad_A - grad_A.mT).tril(-1) / 4


# -- application -------------------------------------------------------------------------------------------------------


def kronecker_apply(x: Float[Tensor, "*batch n"], factors: Sequence[Tensor]) -> Float[Tensor, "*batch n"]:
    """x (P_1 ⊗ P_2 ⊗ ...) for rows x, never building the product; for two factors, L^T X R of X = x as n1 x n2.

    Raises
    ------
    ValueError
        If the factors are not square, or their sizes do not multiply to n.
    """
    check_factors(factors, x.shape[-1])
    return kronecker_product([P.mT for P in factors], x)


def check_factors(factors: Sequence[Tensor], n: int) -> None:
    """Whether square factors multiply to n.

    Raises
    ------
    ValueError
        If they do not, with the pairs of sizes that do.
    """
    shapes = [tuple(P.shape) for P in factors]
    if any(len(shape) != 2 or shape[0] != shape[1] for shape in shapes):
        raise ArgumentError(f"the factors must be square matrices, got {', '.join(map(str, shapes))}.")
    check_sizes([shape[0] for shape in shapes], n)


def check_sizes(sizes: Sequence[int], n: int) -> None:
    """Whether sizes of factors multiply to n.

    Raises
    ------
    ValueError
        If they do not, with the pairs of sizes that do.
    """
    if math.prod(sizes) != n:
        given, pairs = ", ".join(map(str, sizes)), ", ".join(map(str, factor_pairs(n)))
        raise ArgumentError(f"factors of sizes ({given}) do not multiply to n = {n}; pairs that do: {pairs}.")


# -- matrices that are trained -----------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A matrix P, which acts on activations, and P^-T, which acts on weights."""

    P: Float[Tensor, "n n"]
    P_inv_T: Float[Tensor, "n n"]


class SVDFactor(nn.Module):
    """P = U diag(s) V^T, so that P^-T = U diag(1/s) V^T needs no inverse; s = exp(t) if `exponential`."""

    def __init__(self, n: int, generator: torch.Generator | None, exponential: bool = False) -> None:
        super().__init__()
        self.exponential = exponential
        self.left = nn.Parameter(drawn(n, generator))
        self.right = nn.Parameter(drawn(n, generator))
        self.diagonal = nn.Parameter(torch.zeros(n) if exponential else torch.ones(n))

    def forward(self) -> Pair:
        U, V = cayley(torch.stack([self.left, self.right]))
        s = self.diagonal.exp() if self.exponential else self.diagonal
        return Pair((U * s) @ V.mT, (U / s) @ V.mT)


class InverseFactor(nn.Module):
    """Any P; its inverse is taken in float64."""

    def __init__(self, n: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(drawn(n, generator))

    def forward(self) -> Pair:
        return Pair(self.weight, torch.linalg.inv(self.weight.double()).mT.to(self.weight.dtype))


class FixedFactor(nn.Module):
    """An orthogonal P that is not trained."""

    matrix: Tensor

    def __init__(self, matrix: Float[Tensor, "n n"]) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.float())

    def forward(self) -> Pair:
        return Pair(self.matrix, self.matrix)


def drawn(n: int, generator: torch.Generator | None) -> Float[Tensor, "n n"]:
    """A random orthogonal matrix; without a generator, one that waits to be set."""
    return torch.empty(n, n) if generator is None else haar_orthogonal(n, generator).float()


def factor(n: int, parametrization: str, generator: torch.Generator | None) -> SVDFactor | InverseFactor:
    """A trainable n x n matrix that starts orthogonal, if it is drawn."""
    if parametrization == "inverse":
        return InverseFactor(n, generator)
    return SVDFactor(n, generator, exponential=parametrization == "exponential")


class SiteTransform(nn.Module):
    """x -> (x * c) (P_1 ⊗ P_2 ⊗ ...) while it is trained.

    `refresh` computes the matrices from the parameters, once a step; what follows uses them. Parameters stay in
    float32.

    Parameters
    ----------
    factors
        Modules that return a `Pair`; none: no matrix.
    n
        Length of x.
    scale
        Whether there is a c, of ones until `smooth` sets it.
    """

    def __init__(self, factors: Sequence[nn.Module], n: int, scale: bool) -> None:
        super().__init__()
        self.n = n
        self.factors = nn.ModuleList(factors)
        self.scale = nn.Parameter(torch.ones(n)) if scale else None
        self.pairs: list[Pair] = []

    def refresh(self) -> None:
        with torch.autocast(self._device_type(), enabled=False):
            self.pairs = [cast(Pair, factor()) for factor in self.factors]

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        with torch.autocast(x.device.type, enabled=False):
            return scaled_and_transformed(x, self.scale, [pair.P for pair in self.pairs])

    def weight(self, W: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
        """(W / c) P^-T."""
        with torch.autocast(W.device.type, enabled=False):
            scale = None if self.scale is None else self.scale.reciprocal()
            return scaled_and_transformed(W, scale, [pair.P_inv_T for pair in self.pairs])

    def _device_type(self) -> str:
        return next((p.device.type for p in self.parameters()), "cpu")


class OnlineTransform(nn.Module):
    """x -> (x * c) (P_1 ⊗ P_2 ⊗ ... ⊗ I) in the quantised model, where c is there only if it was not merged."""

    scale: Tensor | None

    def __init__(self, sizes: Sequence[int], n: int, scale: bool, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.n = n
        self.sizes = tuple(sizes)
        for i, size in enumerate(self.sizes):
            self.register_buffer(f"factor_{i}", torch.eye(size, dtype=dtype))
        self.register_buffer("scale", torch.ones(n, dtype=dtype) if scale else None)

    def matrices(self) -> native.Matrices | None:
        """What the kernels of a CPU apply: up to two factors; None for others."""
        left, right = None, None
        if len(self.sizes) == 1 or (len(self.sizes) == 2 and math.prod(self.sizes) == self.n):
            left, right = self.get_buffer("factor_0"), self.get_buffer("factor_1") if len(self.sizes) == 2 else None
        elif self.sizes:
            return None
        return native.Matrices(left, right, self.scale)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        matrices = self.matrices() if native.runs(x) and x.shape[-1] == self.n else None
        value = None if matrices is None else native.transform(x.detach(), matrices)
        if value is not None and not (torch.is_grad_enabled() and x.requires_grad):
            return value
        if self.scale is not None:
            x = x * self.scale.to(x.dtype)
        y = transformed(x, [getattr(self, f"factor_{i}").to(x.dtype) for i in range(len(self.sizes))])
        return y if value is None else WithValue.apply(y, value)  # pyright: ignore


def scaled_and_transformed(
    x: Float[Tensor, "*batch n"], scale: Float[Tensor, " n"] | None, matrices: Sequence[Tensor]
) -> Float[Tensor, "*batch n"]:
    """(x * scale) (P_1 ⊗ P_2 ⊗ ... ⊗ I)."""
    if scale is None:
        return transformed(x, matrices)
    if len(matrices) != 2 or not x.numel():
        return transformed(x * scale, matrices)
    check_factors(matrices, x.shape[-1])
    dtype = torch.promote_types(x.dtype, matrices[0].dtype)
    left, right = (P.to(dtype) for P in matrices)
    x_RAB, s_AB = x.to(dtype).reshape(-1, len(left), len(right)), scale.to(dtype).view(len(left), -1)
    y_RAB = cast(Tensor, ScaledProduct.apply(x_RAB, s_AB, right))
    return along_middle(left.mT, y_RAB).reshape(x.shape)


@no_type_check  # Dynamo traces the methods, but no run-time checks around them
class ScaledProduct(torch.autograd.Function):
    """y_a = x_a diag(s_a) R of every slice a, for x of shape (rows, a, b).

    The gradients of s and R are read off those of the matrices diag(s_a) R, so that an x without a gradient (a weight)
    needs no product as large as itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, R: Tensor) -> Tensor:
        ctx.save_for_backward(x, s, R)
        return ((x * s).flatten(0, 1) @ R).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, s, R = ctx.saved_tensors
        grad_x = (grad.flatten(0, 1) @ R.mT).view(x.shape).mul_(s) if ctx.needs_input_grad[0] else None
        of_matrices = torch.bmm(x.permute(1, 2, 0), grad.transpose(0, 1))
        return grad_x, (of_matrices * R).sum(-1), (of_matrices * s[..., None]).sum(0)


def transformed(x: Float[Tensor, "*batch n"], matrices: Sequence[Tensor]) -> Float[Tensor, "*batch n"]:
    """x (P_1 ⊗ P_2 ⊗ ... ⊗ I), with an identity that fills up to the length of x; in the wider of the dtypes."""
    if not matrices:
        return x
    dtype = torch.promote_types(x.dtype, matrices[0].dtype)
    x, matrices = x.to(dtype), [P.to(dtype) for P in matrices]
    n = math.prod([len(P) for P in matrices])
    if n == x.shape[-1]:
        return kronecker_apply(x, list(matrices))
    x = x.unflatten(-1, (n, -1)).transpose(-1, -2)
    return kronecker_apply(x, list(matrices)).transpose(-1, -2).flatten(-2)


def attach_input_transform(module: nn.Module, transform: nn.Module) -> None:
    """Transform the hidden states that a module (attention, MLP) receives, once for all its linear layers."""
    module.input_transform = transform
    module.register_forward_pre_hook(transform_input, with_kwargs=True)


def transform_input(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    transform = cast(nn.Module, module.input_transform)
    if args:
        return (transform(args[0]), *args[1:]), kwargs
    if "hidden_states" not in kwargs:
        raise ArgumentTypeError(
            f"{type(module).__name__} receives no `hidden_states`, which would be transformed, but "
            f"{', '.join(sorted(kwargs)) or 'nothing'}; leave the number of its block out of `blocks`."
        )
    return args, kwargs | {"hidden_states": transform(kwargs["hidden_states"])}


class WithValue(torch.autograd.Function):
    """The second tensor with the gradient of the first: outputs do not depend on whether gradients are wanted."""

    @staticmethod
    def forward(ctx: Any, differentiable: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
