"""Stitches: affine maps from the tokens of a narrow member to those of a wide one, and how they start.

Least squares is SN-Net's start; transposing the matrices of the distillation is that of the official code; the
pseudo-inverse, which undoes matrices that are not orthonormal, and the normal equations are ours.
"""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError


class StitchLayer(nn.Module):
    """x @ weight.T + bias.

    Parameters
    ----------
    d_in, d_out
        Widths of the members before and after; d_in <= d_out.
    generator
        Draws the start, uniform in +-1/sqrt(d_in), as `nn.Linear` does.
    dtype
        As in PyTorch.

    Raises
    ------
    ValueError
        If d_in > d_out: members are stitched from narrow to wide.
    """

    def __init__(
        self, d_in: int, d_out: int, *, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if not 1 <= d_in <= d_out:
            raise ArgumentError(f"d_in={d_in}, d_out={d_out}: a stitch goes from 1 <= d_in to d_in <= d_out.")
        self.weight = nn.Parameter(torch.empty(d_out, d_in, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(d_out, dtype=dtype))
        self.draw(generator)

    @torch.no_grad()
    def draw(self, generator: torch.Generator | None = None) -> None:
        """Draw weight and bias anew."""
        bound = 1 / math.sqrt(self.weight.shape[1])
        self.weight.uniform_(-bound, bound, generator=generator)
        self.bias.uniform_(-bound, bound, generator=generator)

    @torch.no_grad()
    def set(self, weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"] | None = None) -> None:
        """Copy a weight, and a bias that is zero if None.

        Raises
        ------
        ValueError
            If the weight has another shape.
        """
        if weight.shape != self.weight.shape:
            raise ArgumentError(
                f"the weight of a stitch has shape {tuple(self.weight.shape)}, got {tuple(weight.shape)}."
            )
        self.weight.copy_(weight)
        if bias is None:
            self.bias.zero_()
        else:
            self.bias.copy_(bias)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        return nn.functional.linear(x, self.weight, self.bias)


# -- from features -----------------------------------------------------------------------------------------------------


def lstsq_stitch(
    X: Float[Tensor, "*rows d_a"], Y: Float[Tensor, "*rows d_b"], *, rcond: float | None = None
) -> tuple[Float[Tensor, "d_b d_a"], Float[Tensor, " d_b"]]:
    """The affine map with the least squared error from X to Y, and of these the one of least norm.

    Parameters
    ----------
    X, Y
        Tokens before and after the stitch; the leading dimensions are flattened to rows.
    rcond
        Singular values of [X 1] below rcond times the largest count as zero; max(rows, d_a + 1) times the machine
        precision of X's dtype where None.

    Returns
    -------
    weight, bias
        The least-norm solution of ``[X 1] [W b]^T = Y``, jointly in both, computed in float64, in the dtype of X.

    Raises
    ------
    ValueError
        If the leading shapes differ, there is no row, a value is not finite, or rcond is negative.
    TypeError
        If X and Y are not tensors of real floating-point numbers.
    """
    if rcond is not None and not rcond >= 0:
        raise ArgumentError(f"rcond={rcond} must not be negative.")
    X, Y = rows(X, Y)
    n, d = X.shape[0], X.shape[1] + 1
    if n < d:
        _warn_few(n, d)
    if rcond is None:
        rcond = max(n, d) * torch.finfo(X.dtype).eps
    A = torch.cat([X, X.new_ones(n, 1)], 1).double().cpu()
    solution = torch.linalg.lstsq(A, Y.double().cpu(), rcond=rcond, driver="gelsd").solution.to(X)
    return solution[:-1].T.contiguous(), solution[-1]


class NormalEquations:
    """Least squares over data that does not fit in memory: sums of products of rows, in float64.

    Parameters
    ----------
    d_a, d_b
        Widths before and after.
    """

    def __init__(self, d_a: int, d_b: int) -> None:
        if d_a < 1 or d_b < 1:
            raise ArgumentError(f"d_a={d_a} and d_b={d_b} must be at least 1.")
        self.d_a, self.d_b = d_a, d_b
        self.gram = torch.zeros(d_a + 1, d_a + 1, dtype=torch.float64)
        """Of [X 1]; its corner is the number of rows."""
        self.cross = torch.zeros(d_a + 1, d_b, dtype=torch.float64)
        """[X 1]^T Y."""

    @torch.no_grad()
    def add(self, X: Float[Tensor, "*rows d_a"], Y: Float[Tensor, "*rows d_b"]) -> None:
        """Take in rows.

        Raises
        ------
        ValueError
            If the widths are others, the leading shapes differ, or a value is not finite.
        """
        X, Y = rows(X, Y)
        if (X.shape[1], Y.shape[1]) != (self.d_a, self.d_b):
            raise ArgumentError(
                f"X and Y have widths {X.shape[1]} and {Y.shape[1]}; expected {self.d_a} and {self.d_b}."
            )
        X, Y = X.double().cpu(), Y.double().cpu()
        A = torch.cat([X, X.new_ones(X.shape[0], 1)], 1)
        self.gram += A.T @ A
        self.cross += A.T @ Y

    @property
    def n_rows(self) -> int:
        return round(float(self.gram[-1, -1]))

    def solve(self, ridge: float = 1e-6) -> tuple[Float[Tensor, "d_b d_a"], Float[Tensor, " d_b"]]:
        """The affine map of least squares over all rows.

        Parameters
        ----------
        ridge
            ridge * trace / d_a is added to the diagonal of the centred Gram matrix of X, so that shifts of X and Y
            change the bias alone. At 0, the least-norm weight where columns of X depend on each other.

        Returns
        -------
        weight, bias
            In float64.

        Raises
        ------
        ValueError
            If there are no rows, or the ridge is negative.
        """
        n = self.n_rows
        if not n:
            raise ArgumentError("there are no rows to solve for; add some first.")
        if not (ridge >= 0 and math.isfinite(ridge)):
            raise ArgumentError(f"ridge={ridge} must not be negative.")
        if n < self.d_a + 1:
            _warn_few(n, self.d_a + 1)
        x, y = self.gram[-1, :-1] / n, self.cross[-1] / n
        gram = self.gram[:-1, :-1] - n * torch.outer(x, x)
        cross = self.cross[:-1] - n * torch.outer(x, y)
        gram.diagonal().add_(ridge * float(gram.trace()) / self.d_a)
        factor, failed = torch.linalg.cholesky_ex(gram)
        weak = bool(failed) or (not ridge and float(factor.diagonal().min()) < 1e-7 * float(factor.diagonal().max()))
        W = torch.linalg.pinv(gram, hermitian=True) @ cross if weak else torch.cholesky_solve(cross, factor)
        return W.T.contiguous(), y - x @ W

    # -- for checkpoints

    def state(self) -> dict[str, Tensor]:
        """What it has summed, as tensors."""
        return {"gram": self.gram, "cross": self.cross}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.gram, self.cross = state["gram"].clone(), state["cross"].clone()


def rows(X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """X and Y as matrices, checked."""
    for name, value in (("X", X), ("Y", Y)):
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ArgumentTypeError(f"{name} must be a tensor of floating-point numbers, got {found}.")
    if X.ndim < 1 or Y.ndim < 1 or X.shape[:-1] != Y.shape[:-1]:
        raise ArgumentError(f"X and Y must have equal leading shapes, got {tuple(X.shape)} and {tuple(Y.shape)}.")
    X, Y = X.detach().reshape(-1, X.shape[-1]), Y.detach().reshape(-1, Y.shape[-1])
    if not len(X):
        raise ArgumentError("X and Y have no rows.")
    for name, value in (("X", X), ("Y", Y)):
        if not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            raise ArgumentError(f"{name} has {bad} values that are not finite; least squares needs finite features.")
    return X, Y


def _warn_few(n: int, needed: int) -> None:
    warnings.warn(
        f"least squares has {n} rows for {needed} unknowns an output; the result is the minimum-norm solution. More "
        "images give a better start.",
        UserWarning,
        stacklevel=3,
    )


# -- from the matrices of the distillation -----------------------------------------------------------------------------


def transform_stitch(
    T_a: Float[Tensor, "points d_a d_t"], T_b: Float[Tensor, "points_b d_b d_t"] | None = None
) -> Float[Tensor, "d_out d_a"]:
    """mean(T_a)^T, the way back from a member to the ancestry model, or mean(T_b) mean(T_a)^T, on to a second member.

    It is the official code's start. T^T undoes T only where the rows of T are orthonormal. The bias is zero.

    Parameters
    ----------
    T_a, T_b
        The weights of T_map of the two members at all supervised blocks.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    back = _mean("T_a", T_a).T
    return back.contiguous() if T_b is None else _onward(T_b, T_a) @ back


def pinv_stitch(
    T_a: Float[Tensor, "points d_a d_t"],
    b_a: Float[Tensor, "points d_a"],
    T_b: Float[Tensor, "points_b d_b d_t"] | None = None,
    b_b: Float[Tensor, "points_b d_b"] | None = None,
) -> tuple[Float[Tensor, "d_out d_a"], Float[Tensor, " d_out"]]:
    """The pseudo-inverse of h -> mean(T_a) h + mean(b_a), and with T_b and b_b what follows it to a second member.

    W = pinv(mean T_a) and -W mean(b_a), or W = mean(T_b) pinv(mean T_a) and mean(b_b) - W mean(b_a).

    Parameters
    ----------
    T_a, b_a, T_b, b_b
        Weights and biases of T_map of the two members at all supervised blocks.

    Raises
    ------
    ValueError
        If the shapes do not fit, or one of T_b and b_b is missing.
    """
    if (T_b is None) != (b_b is None):
        raise ArgumentError("T_b and b_b go together; give both or none.")
    if b_a.shape != T_a.shape[:2]:
        raise ArgumentError(f"b_a has shape {tuple(b_a.shape)}, and T_a {tuple(T_a.shape)}.")
    W = torch.linalg.pinv(_mean("T_a", T_a))
    if T_b is None or b_b is None:
        return W, -W @ b_a.mean(0)
    if b_b.shape != T_b.shape[:2]:
        raise ArgumentError(f"b_b has shape {tuple(b_b.shape)}, and T_b {tuple(T_b.shape)}.")
    W = _onward(T_b, T_a) @ W
    return W, b_b.mean(0) - W @ b_a.mean(0)


def _mean(name: str, T: Tensor) -> Tensor:
    if T.ndim != 3 or not len(T):
        raise ArgumentError(f"{name} must have shape (points, d, d_t) with a point or more, got {tuple(T.shape)}.")
    return T.mean(0)


def _onward(T_b: Tensor, T_a: Tensor) -> Tensor:
    mean = _mean("T_b", T_b)
    if mean.shape[1] != T_a.shape[2]:
        raise ArgumentError(
            f"T_a and T_b come from ancestry models of widths {T_a.shape[2]} and {mean.shape[1]}; they must be one."
        )
    return mean
