"""`HouseholderProjector`: a linear layer whose weight stays a scaled partial isometry while it is trained."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.interpret.householder_projector.arguments import (
    check_finite,
    check_floating,
    check_number,
    check_rank,
    check_whole,
)
from linmap.interpret.householder_projector.isometry import check_gain, check_weight, warn_of_rank, weight_of
from linmap.interpret.householder_projector.reflections import leading_columns, leading_rows, reflectors, zero_column
from linmap.interpret.householder_projector.weights import applied_weight
from linmap.maps.householder import scaled
from linmap.maps.numbers import autocast

Reflectors = Literal["rank", "full"]

START = 0.05  # standard deviation of U and V at a raw start, as in the official code
LARGEST = 2**31 - 1


class HouseholderProjector(nn.Module):
    """y = W x + b with W = gain Q(U)[:, :k] diag(signs) Q(V)[:k, :]: k orthonormal directions by construction.

    Row j of Q(V) is direction j: a unit vector of the input that W maps to gain * signs[j] times column j of Q(U).
    Training U and V turns the directions and cannot make them less orthogonal. A forward never builds W.

    Parameters
    ----------
    in_features, out_features
        i and o.
    rank
        k, from 1 to min(i, o).
    bias
        Whether there is a b.
    gain
        The k non-zero singular values of W; not trained.
    n_reflectors
        "rank": k reflections on either side, enough for every W of this kind, in O((i + o) k²). "full": o and i of
        them, as in the paper.
    dim
        The axis of x that holds the features: -1 as in `nn.Linear`, 1 as in a 1 x 1 convolution.
    generator
        Source of U and V, normal with standard deviation 0.05; the bias starts at zero.
    dtype, device
        As in PyTorch. Half precision is computed in float32.

    Attributes
    ----------
    U, V
        Reflectors as columns, (o, k) and (i, k), or (o, o) and (i, i).
    signs
        (k,) of ±1, a buffer: what reflections alone cannot represent.
    gain
        A buffer.

    Raises
    ------
    ValueError
        If the rank is out of range, `gain` is not positive, or `n_reflectors` is another word.

    References
    ----------
    Song, Zhang, Sebe and Wang, "Householder Projector for Unsupervised Latent Semantics Discovery", ICCV 2023.
    """

    U: Tensor
    V: Tensor
    signs: Tensor
    gain: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 10,
        *,
        bias: bool = True,
        gain: float = 1.0,
        n_reflectors: Reflectors = "rank",
        dim: int = -1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features = check_whole("in_features", in_features, 1, LARGEST)
        self.out_features = check_whole("out_features", out_features, 1, LARGEST)
        self.rank = check_rank(rank, out_features, in_features)
        self.dim = check_whole("dim", dim, -LARGEST, LARGEST)
        check_gain(gain)
        if n_reflectors not in get_args(Reflectors):
            raise ArgumentError(f'n_reflectors must be "rank" or "full", got {n_reflectors!r}.')
        self.n_reflectors: Reflectors = n_reflectors
        if dtype is not None and not dtype.is_floating_point:
            raise ArgumentTypeError(f"dtype must be a real floating dtype, got {dtype}.")
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        m_u, m_v = (self.rank, self.rank) if n_reflectors == "rank" else (out_features, in_features)
        self.U = nn.Parameter(torch.empty(out_features, m_u, **options).normal_(0, START, generator=generator))
        self.V = nn.Parameter(torch.empty(in_features, m_v, **options).normal_(0, START, generator=generator))
        self.bias = nn.Parameter(torch.zeros(out_features, **options)) if bias else None
        self.register_buffer("signs", torch.ones(self.rank, **options))
        self.register_buffer("gain", torch.full((), float(gain), **options))

    @classmethod
    def from_weight(
        cls,
        A: Float[Tensor, "o i"],
        rank: int = 10,
        *,
        bias: Tensor | None = None,
        gain: float | Literal["match"] = "match",
        n_reflectors: Reflectors = "rank",
    ) -> Self:
        """Start at gain times the partial isometry of this rank that is nearest to a pretrained weight, exactly.

        Parameters
        ----------
        A
            The weight.
        rank
            k.
        bias
            (o,), copied; None for a layer without.
        gain
            "match": the root mean square of the k leading singular values, with which W is as near to A as a scaled
            partial isometry can be. Or a number.
        n_reflectors
            As in the constructor.

        Raises
        ------
        ValueError
            If A is not 2-D, not finite or all zeros, the rank is out of range, or another argument has a value that it
            cannot have.
        TypeError
            If A is not a tensor of floating numbers.

        Warns
        -----
        UserWarning
            If A's numerical rank is less than k.
        """
        return cls._started(A, rank, bias, gain, n_reflectors)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Module,
        rank: int = 10,
        *,
        scale: float = 1.0,
        bias_scale: float = 1.0,
        gain: float | Literal["match"] = "match",
        n_reflectors: Reflectors = "rank",
    ) -> Self:
        """`from_weight` of a linear layer, whose dtype and device are kept.

        Parameters
        ----------
        linear
            A layer with a 2-D `weight` and perhaps a `bias`.
        rank, gain, n_reflectors
            As in `from_weight`.
        scale, bias_scale
            Factors that the layer puts on its weight and bias when it runs, as with equalised learning rates.

        Raises
        ------
        ValueError
            As `from_weight`.
        TypeError
            If there is no 2-D weight of floating numbers.
        """
        check_number("scale", scale)
        check_number("bias_scale", bias_scale)
        weight = applied_weight(linear) if isinstance(linear, nn.Module) else None
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            what = f"a weight of shape {tuple(weight.shape)}" if isinstance(weight, Tensor) else "no weight"
            raise ArgumentTypeError(
                f"from_linear takes a layer with a 2-D weight such as nn.Linear; {type(linear).__name__} has {what}."
            )
        check_floating("weight", weight, 2, "(o, i)")
        bias = getattr(linear, "bias", None)
        if bias is not None:
            bias = bias.detach() * bias_scale
        return cls._started(weight.detach() * scale, rank, bias, gain, n_reflectors).train(linear.training)

    @classmethod
    @torch.no_grad()
    def _started(
        cls,
        A: Tensor,
        rank: int,
        bias: Tensor | None,
        gain: float | Literal["match"],
        n_reflectors: Reflectors,
        **options: Any,
    ) -> Self:
        """W = U_k V_k^T of A's singular vectors: Q(U)[:, :k] = U_k D_u, and Q(V) = Q(Y)^T of V_k = Q(Y)[:, :k] D_v."""
        rank = check_weight(A, rank)
        check_gain(gain, ("match",))
        if bias is not None:
            check_floating("bias", bias, 1, "(o,)")
            check_finite("bias", bias)
            if len(bias) != len(A):
                raise ArgumentError(
                    f"bias must have {len(A)} entries, one for each row of the weight, got {len(bias)}."
                )
        left, S, right = torch.linalg.svd(A.double(), full_matrices=n_reflectors == "full")
        warn_of_rank(S, A, rank)
        new = cls(
            A.shape[1],
            A.shape[0],
            rank,
            bias=bias is not None,
            gain=float(S[:rank].square().mean().sqrt()) if gain == "match" else float(gain),
            n_reflectors=n_reflectors,
            generator=torch.Generator(A.device),  # its draws are replaced
            dtype=A.dtype,
            device=A.device,
            **options,
        )
        U, signs_u = reflectors(left if n_reflectors == "full" else left[:, :rank])
        V, signs_v = reflectors((right if n_reflectors == "full" else right[:rank]).mT)
        new.U.copy_(U)
        new.V.copy_(V.flip(1))  # in reverse order, the product is transposed
        new.signs.copy_(signs_u[:rank] * signs_v[:rank])
        if bias is not None and new.bias is not None:
            new.bias.copy_(bias)
        return new

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """W, dense; differentiable in U and V."""
        return weight_of(self._left(), self._right(), self.signs, self.gain).to(self.U.dtype)

    @property
    def directions(self) -> Float[Tensor, "k i"]:
        """Q(V)[:k, :]: orthonormal rows; differentiable in V."""
        return self._right().to(self.V.dtype)

    def _left(self) -> Float[Tensor, "o k"]:
        return leading_columns(self.U, self.rank)

    def _right(self) -> Float[Tensor, "k i"]:
        return leading_rows(self.V, self.rank)

    @torch.no_grad()
    def orthogonality_error(self) -> float:
        """The largest entry of |D D^T - I| and |L^T L - I|, D = `directions`, L = Q(U)[:, :k]; NaN if one holds NaN."""
        D, L = self._right().double(), self._left().double()
        eye = torch.eye(self.rank, dtype=D.dtype, device=D.device)
        return float(torch.maximum((D @ D.mT - eye).abs().amax(), (L.mT @ L - eye).abs().amax()))

    @torch.no_grad()
    def renormalize_(self) -> Self:
        """Scale the columns of U and V to unit length in place; W does not change.

        Gradients are orthogonal to the columns, whose lengths therefore grow in training and shrink the steps.
        """
        for reflector in (self.U, self.V):
            unit = scaled(reflector.mT.to(torch.promote_types(reflector.dtype, torch.float32))) / 2**0.5
            reflector.copy_(unit.mT)
        return self

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """A plain linear layer of the same output, which shares nothing with this one.

        Raises
        ------
        ValueError
            If the features are not on the last axis (`dim` is not -1).
        """
        if self.dim != -1:
            raise ArgumentError(f"to_linear needs dim=-1, the axis on which nn.Linear acts; this layer has {self.dim}.")
        options: dict[str, Any] = {"dtype": self.U.dtype, "device": self.U.device}
        new: Any = nn.utils.skip_init(
            nn.Linear, self.in_features, self.out_features, bias=self.bias is not None, **options
        ).train(self.training)
        new.weight.copy_(self.weight)
        if self.bias is not None:
            new.bias.copy_(self.bias)
        return new

    # -- what it does --------------------------------------------------------------------------------------------------

    def forward(self, x: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """W x + b on axis `dim`; in x's dtype, or autocast's.

        Raises
        ------
        ValueError
            If that axis is not there or has another length than `in_features`.
        """
        self.check_input(x)
        first, second = self._right(), self._left() * (self.signs * self.gain).to(self._wide)
        if autocast(x):
            return self._apply_factors(x, first, second, self.bias)
        dtype = torch.promote_types(x.dtype, first.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return self._apply_factors(x.to(dtype), first.to(dtype), second.to(dtype), bias).to(x.dtype)

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.U.dtype, torch.float32)

    def _apply_factors(self, x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        if self.dim % x.ndim == x.ndim - 1:
            return F.linear(F.linear(x, first), second, bias)
        y = second @ (first @ x.flatten(self.dim % x.ndim + 1))
        if bias is not None:
            y = y + bias[:, None].to(y.dtype)
        return y.unflatten(-1, x.shape[self.dim % x.ndim + 1 :])

    def check_input(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise ArgumentTypeError(f"x must be a tensor, got {type(x).__name__}.")
        if not x.is_floating_point():
            raise ArgumentTypeError(f"x must have a real floating dtype, got {x.dtype}; convert it with .float().")
        if not -x.ndim <= self.dim < x.ndim or x.shape[self.dim] != self.in_features:
            raise ArgumentError(
                f"x must have {self.in_features} features on axis {self.dim}, got shape {tuple(x.shape)}."
            )

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}, n_reflectors={self.n_reflectors!r}, dim={self.dim}"
        )

    # -- what it loads -------------------------------------------------------------------------------------------------

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Refuse what would be another layer: another rank, a zero reflector, signs that are none."""
        found = {name: state_dict[prefix + name] for name in ("U", "V", "signs", "gain") if prefix + name in state_dict}
        if (problem := self._problem_of(found)) is not None:
            error_msgs.append(f"{prefix[:-1] or type(self).__name__}: {problem}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _problem_of(self, found: dict[str, Tensor]) -> str | None:
        signs = found.get("signs")
        ranks = [] if signs is None else [signs.numel()]
        if self.n_reflectors == "rank" and signs is None:
            ranks += [found[name].shape[-1] for name in ("U", "V") if name in found and found[name].ndim == 2]
        if others := [rank for rank in ranks if rank != self.rank]:
            return f"the state has rank {others[0]}, the layer has rank {self.rank}; build it with that rank."
        for name, mine in (("U", self.U), ("V", self.V)):
            if name in found and (came := found[name].shape)[:-1] == mine.shape[:-1] and came != mine.shape:
                return (
                    f"the state has {came[-1]} reflectors in {name}, the layer {mine.shape[-1]} "
                    f"(n_reflectors={self.n_reflectors!r}); build it with the n_reflectors of the state."
                )
            if name in found and found[name].ndim == 2 and (zero := zero_column(found[name])) is not None:
                return f"column {zero} of {name} is zero, which no reflection has."
        if signs is not None and not signs.is_meta and not bool((signs.abs() == 1).all()):
            return f"signs must be +1 or -1, got {signs.tolist()}."
        gain = found.get("gain")
        if gain is not None and not gain.is_meta and not bool(((gain > 0) & gain.isfinite()).all()):
            return f"gain must be a number > 0, got {gain.tolist()}."
        return None
