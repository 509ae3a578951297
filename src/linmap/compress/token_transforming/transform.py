"""A token transformation: who goes where (P), what each token stands for (mass), and the matrix that follows (W).

With masses s (B, N) and an assignment P (B, M, N) whose columns sum to 1,

    s' = P s,        W = diag(1/s') P diag(s),        X' = W X,        R = P^T,

so that every output is the mass-weighted mean of what was assigned to it, the total mass is kept, and constant features
stay what they are. A column of zeros drops its token: pruning. Pruning, EViT, ToMe, PiToMe, clusters, pools and the
many-to-many method are matrices of this kind, and nothing behind them asks which one it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from linmap.compress.token_transforming.gathering import row_sums, rows
from linmap.compress.token_transforming.precision import check_floating, full_precision, working_dtype
from linmap.errors import ArgumentError, ArgumentTypeError

Pruned = Literal["error", "zero", "nearest"]


@dataclass(frozen=True, eq=False)
class Transform:
    """Assignment, masses and transformation matrix of one layer, for a batch.

    Parameters
    ----------
    P
        (B, M, N). P[b, m, n] is the share of token n that goes to output m. Columns sum to 1; a column of zeros is a
        token that is dropped, or padding.
    mass
        (B, N): how many of the original tokens each token stands for; 0 for padding.
    centres
        (B, M) int64: the token that each output grew around; -1 for an output that has none. None where no output has.
    W
        (B, M, N), where the matrix is not the mass form above.
    nearest
        (B, N) int64: the output whose centre is most similar to each token.

    Raises
    ------
    TypeError
        If one of them is not a tensor of its kind.
    ValueError
        If the shapes do not fit each other.
    """

    P: Float[Tensor, "batch outputs tokens"]
    mass: Float[Tensor, "batch tokens"]
    centres: Int[Tensor, "batch outputs"] | None = None
    W: Float[Tensor, "batch outputs tokens"] | None = None
    nearest: Int[Tensor, "batch tokens"] | None = None

    def __post_init__(self) -> None:
        check_floating("P", self.P, "(B, M, N)")
        self._check_parts(tuple(self.P.shape), self.nearest)
        dtype = working_dtype(self.P, self.mass, self.W)
        object.__setattr__(self, "P", self.P.to(dtype))
        object.__setattr__(self, "mass", self.mass.to(dtype))
        if self.W is not None:
            object.__setattr__(self, "W", self.W.to(dtype))
        object.__setattr__(self, "_mass_out", _matvec(self.P, self.mass))

    def _check_parts(self, shape: tuple[int, ...], nearest: Tensor | None) -> None:
        B, M, N = shape
        parts = (
            ("mass", self.mass, (B, N)),
            ("centres", self.centres, (B, M)),
            ("W", self.W, (B, M, N)),
            ("nearest", nearest, (B, N)),
        )
        for name, value, expected in parts:
            if value is None and name != "mass":
                continue
            if not isinstance(value, Tensor):
                raise ArgumentTypeError(f"{name} must be a tensor of shape {expected}, got {type(value).__name__}.")
            if tuple(value.shape) != expected:
                raise ArgumentError(
                    f"{name} must have the shape {expected} beside P {shape}, got {tuple(value.shape)}."
                )
            if name in ("centres", "nearest") and value.dtype != torch.int64:
                raise ArgumentTypeError(f"{name} must hold indices of type int64, got {value.dtype}.")

    @staticmethod
    def identity(mass: Float[Tensor, "batch tokens"]) -> Transform:
        """The transformation that changes nothing: `apply` and `restore` return the very tensor that they are given."""
        return _Identity(mass)

    @staticmethod
    def from_targets(
        targets: Int[Tensor, "batch tokens"],
        n_outputs: int,
        mass: Float[Tensor, "batch tokens"],
        *,
        centres: Int[Tensor, "batch outputs"] | None = None,
        nearest: Int[Tensor, "batch tokens"] | None = None,
        features: Float[Tensor, "batch tokens channels"] | None = None,
        drops: bool = False,
    ) -> Transform:
        """The transformation with a 0/1 assignment that gives each token to one output, kept as indices.

        Parameters
        ----------
        targets
            (B, N) int64: the output of each token; -1 drops it.
        n_outputs
            M.
        mass, centres, nearest
            As of `Transform`.
        features
            (B, N, c) of norm 1, from which `nearest` is found where it is asked for and not given.
        drops
            Whether tokens with mass may be dropped.

        Raises
        ------
        TypeError, ValueError
            As `Transform`.
        """
        return _Hard(targets, n_outputs, mass, centres, nearest, features, drops)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, M, N)."""
        B, M, N = self.P.shape
        return B, M, N

    @property
    def is_identity(self) -> bool:
        """Whether it was made by `identity`; as many outputs as tokens do not say so."""
        return False

    @property
    def mass_out(self) -> Float[Tensor, "batch outputs"]:
        """s' = P s: what each output stands for."""
        return self._mass_out  # type: ignore[attr-defined]

    @full_precision
    def matrix(self) -> Float[Tensor, "batch outputs tokens"]:
        """W; a row of zeros for an output without mass."""
        if self.W is not None:
            return self.W
        return self.P * self.mass.unsqueeze(-2) / positive(self.mass_out).unsqueeze(-1)

    def recovery(self, hard: bool = False) -> Float[Tensor, "batch tokens outputs"]:
        """R = P^T; with `hard`, one 1 per row at its largest entry (rows of zeros stay zero)."""
        R = self.P.mT
        if not hard:
            return R
        rows = F.one_hot(R.argmax(-1), R.shape[-1]).to(R.dtype)
        return rows * self._kept().unsqueeze(-1)

    @full_precision
    def apply(self, x: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch outputs channels"]:
        """X' = W X, of the type of x.

        Raises
        ------
        TypeError, ValueError
            If x is not (B, N, C).
        """
        self._check("x", x, self.shape[2])
        if self.W is not None:
            return (self.W @ x.to(working_dtype(self.W, x))).to(x.dtype)
        return self._averaged(x.to(working_dtype(self.mass, x))).to(x.dtype)

    @full_precision
    def restore(
        self,
        y: Float[Tensor, "batch outputs channels"],
        *,
        hard: bool = False,
        pruned: Pruned = "error",
    ) -> Float[Tensor, "batch tokens channels"]:
        """R Y: a value for each of the N tokens, of the type of y. Padding gets zeros.

        Parameters
        ----------
        y
            (B, M, C).
        hard
            Give each token the value of its one main output instead of a mixture.
        pruned
            What a token with mass that was dropped gets: "error" (refuse), "zero", or "nearest": the value of the
            output whose centre is most similar.

        Raises
        ------
        TypeError
            If y is not a floating-point tensor.
        ValueError
            If it is not (B, M, C); if a token was dropped and pruned="error"; if pruned="nearest" and `nearest` is not
            known.
        """
        self._check("y", y, self.shape[1])
        self._check_pruned(pruned)
        x = self._spread(y, hard)
        if pruned == "nearest" and self._may_drop():
            nearest = self.nearest
            assert nearest is not None
            dropped = (self._dropped() & (self.mass > 0)).unsqueeze(-1)
            x = torch.where(dropped, rows(y, nearest), x)
        return x

    @full_precision
    def pinv(self) -> Float[Tensor, "batch tokens outputs"]:
        """W^+ = W^T (W W^T)^-1, the least-norm recovery; outputs without mass give columns of zeros."""
        W = self.matrix().double()  # W W^T squares the condition number
        return (W.mT @ torch.linalg.pinv(W @ W.mT, hermitian=True)).to(self.mass.dtype)

    def _averaged(self, x: Tensor) -> Tensor:
        return self.P.to(x.dtype) @ (x * self.mass.unsqueeze(-1)) / positive(self.mass_out).unsqueeze(-1)

    def _spread(self, y: Tensor, hard: bool) -> Tensor:
        if not hard:
            dtype = working_dtype(self.P, y)
            return (self.P.mT.to(dtype) @ y.to(dtype)).to(y.dtype)
        return rows(y, self.P.argmax(-2)) * self._kept().unsqueeze(-1).to(y.dtype)

    def _kept(self) -> Tensor:
        return ~self._dropped()

    def _dropped(self) -> Tensor:
        return self.P.sum(-2) <= 0

    def _may_drop(self) -> bool:
        return True

    def _check(self, name: str, tokens: Tensor, n: int) -> None:
        check_floating(name, tokens, "(B, N, C)" if name == "x" else "(B, M, C)")
        B = self.shape[0]
        if tokens.shape[0] != B or tokens.shape[1] != n:
            raise ArgumentError(
                f"{name} must have the shape ({B}, {n}, C) for a transformation of {self.shape[2]} tokens into "
                f"{self.shape[1]} in a batch of {B}, got {tuple(tokens.shape)}."
            )

    def _check_pruned(self, pruned: Pruned) -> None:
        if pruned not in ("error", "zero", "nearest"):
            raise ArgumentError(f"pruned={pruned!r} must be 'error', 'zero' or 'nearest'.")
        if not self._may_drop():
            return
        if pruned == "nearest" and self.nearest is None:
            raise ArgumentError(
                "pruned='nearest' needs to know the output that is most similar to each dropped token (`nearest`), and "
                "this transformation does not; build it with features, or use pruned='zero'."
            )
        if pruned == "error":
            lost = self._dropped() & (self.mass > 0)
            message = (
                "tokens with mass were dropped, so that there is nothing to restore them from; choose pruned='zero' or "
                "pruned='nearest'."
            )
            if torch.compiler.is_compiling():
                torch._assert_async(~lost.any(), message)
            elif bool(lost.any()):
                raise ArgumentError(f"{int(lost.sum())} {message}")


class _Hard(Transform):
    """A 0/1 assignment with at most one 1 per column, kept as the output of each token: no matrix is built."""

    def __init__(
        self,
        targets: Tensor,
        n_outputs: int,
        mass: Tensor,
        centres: Tensor | None,
        nearest: Tensor | None,
        features: Tensor | None,
        drops: bool,
    ) -> None:
        parts = {
            "targets": targets,
            "n_outputs": n_outputs,
            "mass": mass.to(working_dtype(mass)),
            "centres": centres,
            "W": None,
            "_nearest": nearest,
            "features": features,
            "drops": drops,
        }
        for name, value in parts.items():
            object.__setattr__(self, name, value)
        self._check_parts(self.shape, nearest)
        object.__setattr__(self, "_mass_out", self._sums(self.mass.unsqueeze(-1)).squeeze(-1))

    targets: Tensor
    n_outputs: int
    features: Tensor | None
    drops: bool
    _nearest: Tensor | None

    @property
    def shape(self) -> tuple[int, int, int]:
        B, N = self.targets.shape
        return B, self.n_outputs, N

    @property
    def P(self) -> Tensor:  # type: ignore[override]
        columns = torch.arange(self.n_outputs, device=self.targets.device).unsqueeze(-1)
        return (columns == self.targets.unsqueeze(-2)).to(self.mass.dtype) * (self.mass > 0).unsqueeze(-2)

    @property
    def nearest(self) -> Tensor | None:  # type: ignore[override]
        if self._nearest is None and self.features is not None and self.centres is not None:
            cosines = self.features @ rows(self.features, self.centres).mT
            padding = self.mass.gather(1, self.centres) <= 0
            best = cosines.masked_fill(padding.unsqueeze(-2), -torch.inf).argmax(-1)
            return torch.where(self.targets >= 0, self.targets, best)
        return self._nearest

    def _averaged(self, x: Tensor) -> Tensor:
        return self._sums(x * self.mass.unsqueeze(-1)) / positive(self.mass_out).unsqueeze(-1)

    def _sums(self, weighted: Tensor) -> Tensor:
        """Sum of the rows of each output."""
        if self.drops:
            weighted = weighted * (self.targets >= 0).unsqueeze(-1)
        return row_sums(weighted, self.targets.clamp(min=0), self.n_outputs)

    def _spread(self, y: Tensor, hard: bool) -> Tensor:
        return rows(y, self.targets.clamp(min=0)).masked_fill(self._dropped().unsqueeze(-1), 0)

    def _dropped(self) -> Tensor:
        return (self.targets < 0) | (self.mass <= 0)

    def _may_drop(self) -> bool:
        return self.drops


class _Identity(_Hard):
    """Nothing changes, bit for bit."""

    def __init__(self, mass: Tensor) -> None:
        if not isinstance(mass, Tensor) or mass.is_complex():
            raise ArgumentTypeError(f"mass must be a tensor (B, N) of real values, got {type(mass).__name__}.")
        if mass.ndim != 2:
            raise ArgumentError(f"mass must have the shape (B, N), got {tuple(mass.shape)}.")
        order = torch.arange(mass.shape[1], device=mass.device).expand(mass.shape)
        super().__init__(order, mass.shape[1], mass, order, order, None, False)
        object.__setattr__(self, "_mass_out", self.mass)

    @property
    def is_identity(self) -> bool:
        return True

    def apply(self, x: Tensor) -> Tensor:
        self._check("x", x, self.shape[2])
        return x

    def restore(self, y: Tensor, *, hard: bool = False, pruned: Pruned = "error") -> Tensor:
        self._check("y", y, self.shape[1])
        self._check_pruned(pruned)
        return y


def compose(
    transforms: Sequence[Transform],
) -> tuple[Float[Tensor, "batch last first"], Float[Tensor, "batch first last"]]:
    """W_L ... W_1 and R_1 ... R_L of transformations that follow each other, the first one first.

    Returns
    -------
    W, R
        (B, M_last, N_first): how each final token is made of the original ones. (B, N_first, M_last): where each
        original token gets its value from; a row of zeros where it was dropped on the way.

    Raises
    ------
    TypeError
        If one of them is not a `Transform`.
    ValueError
        If there is none, or the outputs of one are not as many as the tokens of the next.
    """
    transforms = list(transforms)
    if not transforms:
        raise ArgumentError("transforms must hold at least one Transform; Transform.identity(mass) changes nothing.")
    for i, transform in enumerate(transforms):
        if not isinstance(transform, Transform):
            raise ArgumentTypeError(f"transforms[{i}] must be a Transform, got {type(transform).__name__}.")
        if i and (transform.shape[0], transform.shape[2]) != transforms[i - 1].shape[:2]:
            raise ArgumentError(
                f"transforms[{i}] takes {transform.shape[2]} tokens in a batch of {transform.shape[0]}, and "
                f"transforms[{i - 1}] gives {transforms[i - 1].shape[1]} in a batch of {transforms[i - 1].shape[0]}."
            )
    dtype = working_dtype(*(transform.mass for transform in transforms))
    W, R = transforms[0].matrix().to(dtype), transforms[-1].recovery().to(dtype)
    for transform in transforms[1:]:
        W = transform.apply(W)
    for transform in reversed(transforms[:-1]):
        R = transform.restore(R, pruned="zero")
    return W, R


def positive(mass: Tensor) -> Tensor:
    """A mass to divide by: 1 where there is none, so that an output without mass is a row of zeros."""
    return torch.where(mass > 0, mass, torch.ones_like(mass))


@full_precision
def _matvec(P: Tensor, mass: Tensor) -> Tensor:
    return (mass.unsqueeze(-2) @ P.mT).squeeze(-2)  # several times faster than P @ s where P is a transposed view
