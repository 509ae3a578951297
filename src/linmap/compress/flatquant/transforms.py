"""The transforms of FlatQuant: x -> (x * c) P of an activation, W -> (W / c) P^-T of the weights that it meets.

P is a Kronecker product of small matrices (section 3.1), each trained as U diag(s) V^T with U and V from Cayley's
map, or as any matrix with its inverse. Row vectors, as in the paper. `CalibratedLinear` is a linear layer between its
transforms while they are trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.factors import cayley, check_factors, kronecker_apply
from linmap.compress.flatquant.passes import RoundedProduct, multiplies_codes
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, fake_quantize
from linmap.maps.kronecker import along_middle
from linmap.maps.orthogonal import haar_orthogonal


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

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        if self.scale is not None:
            x = x * self.scale.to(x.dtype)
        return transformed(x, [getattr(self, f"factor_{i}").to(x.dtype) for i in range(len(self.sizes))])


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


# -- the linear layer --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearBits:
    """Bits of a linear layer's weights and inputs, and whether their codes are symmetric."""

    weight: int
    input: int
    weight_symmetric: bool = True
    input_symmetric: bool = True


class CalibratedLinear(nn.Module):
    """y = Q(x) Q(W~)^T, with the transformed weight W~ computed anew at every step (section 3.2, figure 2).

    Parameters
    ----------
    linear
        The layer; its weights are shared and stay as they are.
    site
        Transform of its input; None for none.
    transforms_input
        Whether x comes untransformed (the only layer at its site) or was transformed for several layers at once.
    values
        P_v: what the output heads are multiplied with (of the value projection) or the input heads were (of the
        output projection).
    bits, clip
        Quantisers, and whether they clip.
    """

    weight_max: Tensor | None
    weight_min: Tensor | None
    input_max: Tensor | None
    input_min: Tensor | None

    def __init__(
        self, linear: nn.Linear, bits: LinearBits, clip: bool, site: SiteTransform | None, transforms_input: bool,
        values: SiteTransform | None = None, is_value: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.bits = bits
        self.site = site
        self.values = values
        self.transforms_input = transforms_input
        self.is_value = is_value
        rows = linear.out_features
        for name, shape, there in (
            ("weight_max", (rows, 1), clip and bits.weight < 16), ("weight_min", (rows, 1), clip and bits.weight < 16),
            ("input_max", (), clip and bits.input < 16), ("input_min", (), clip and bits.input < 16),
        ):  # fmt: skip
            self.register_parameter(name, nn.Parameter(torch.full(shape, CLIP_LOGIT)) if there else None)

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch m"]:
        x = self.transformed_input(x)
        W, bias, W_logits = self._transformed()
        x_logits = self.input_max, self.input_min
        bits = self.bits
        if max(bits.input, bits.weight) < 8 and multiplies_codes(x):
            kinds = (bits.input, bits.input_symmetric, "token"), (bits.weight, bits.weight_symmetric, "row")
            rows = x.flatten(0, -2)
            y = RoundedProduct.apply(rows, *x_logits, kinds[0], W, *W_logits, kinds[1])  # pyright: ignore
            y = y.unflatten(0, x.shape[:-1])
            return y if bias is None else y + bias
        x = fake_quantize(x, bits.input, bits.input_symmetric, *x_logits, per="token")[0]
        W = fake_quantize(W, bits.weight, bits.weight_symmetric, *W_logits, per="row")[0]
        return F.linear(x, W.to(x.dtype), bias)

    def transformed_input(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """What is rounded of an input."""
        return self.site(x) if self.transforms_input and self.site is not None else x

    def unclipped_weight(self) -> Tensor:
        """What the clipping of the weight acts on."""
        return self._transformed()[0]

    def transformed_weight(self) -> tuple[Tensor, Tensor | None]:
        """W~, clipped, with its bias."""
        W, bias, logits = self._transformed()
        return clipped(W, *logits), bias

    def _transformed(self) -> tuple[Tensor, Tensor | None, tuple[Tensor | None, Tensor | None]]:
        """W~, its bias, and the logits by which it is still to be clipped."""
        W, bias = self.linear.weight, self.linear.bias
        if self.site is not None:
            W = self.site.weight(W)
        if self.values is None:
            return W, bias, (self.weight_max, self.weight_min)
        if not self.is_value:  # (P_o ⊗ P_v)^-T = (P_o^-T ⊗ I)(I ⊗ P_v^-T)
            return by_heads(W, self.values.pairs[0].P_inv_T), bias, (self.weight_max, self.weight_min)
        P = self.values.pairs[0].P
        W = by_heads(clipped(W, self.weight_max, self.weight_min).mT, P).mT
        return W, None if bias is None else by_heads(bias, P), (None, None)


def by_heads(x: Tensor, P: Tensor) -> Tensor:
    """Each head of the last dimension times P."""
    return (x.unflatten(-1, (-1, len(P))) @ P.to(x.dtype)).flatten(-2)


def clipped(W: Tensor, max_logit: Tensor | None, min_logit: Tensor | None) -> Tensor:
    """Rows clamped to the learnt share of their range (section 3.1, learnable clipping)."""
    if max_logit is None or min_logit is None:
        return W
    high = max_logit.to(W.dtype).sigmoid() * W.amax(-1, keepdim=True)
    low = min_logit.to(W.dtype).sigmoid() * W.amin(-1, keepdim=True)
    return W.clamp(low, high)
