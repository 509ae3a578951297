"""Random elements of matrix groups: by the Haar measure within a radius, and log-normal as the authors draw them.

In the polar coordinates g = exp(Y) R the Haar measure of GL+(n) and SL(n) has the density prod_{i<j} sinh(y_i - y_j) /
(y_i - y_j) over Y, and is uniform over R. Nothing here reads or moves PyTorch's global generator.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float64
from torch import Generator, Tensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.geometry.groups.polar import check_positive, inverse_pair
from linmap.geometry.groups.polar_groups import SO2, GLnPlus, PolarGroup
from linmap.geometry.groups.rotations import rotation
from linmap.geometry.groups.samples import GroupSamples

Rotations = Literal["auto", "stratified", "uniform", "haar", "linspace"]
LARGEST = 40.0  # radius and scale_range, up to which exp(radius + scale_range) is a float32
PLANAR = ("stratified", "uniform", "linspace")


class Sampler:
    """What samplers share: rotations, and pairs of elements and inverses.

    Parameters
    ----------
    group
        The group.
    rotations
        "stratified": N equal steps from one random angle; "uniform": angles independent and uniform; "linspace": from
        -pi to pi, both ends included, hence one rotation twice (the authors' way) (all of the plane); "haar":
        independent by the Haar measure of SO(n); "auto": "stratified" in the plane, "haar" above.

    Raises
    ------
    ValueError
        If rotations are unknown, or of the plane where n > 2.
    TypeError
        If group is no `PolarGroup`.
    """

    def __init__(self, group: PolarGroup, rotations: Rotations = "auto") -> None:
        if not isinstance(group, PolarGroup):
            raise ArgumentTypeError(f"group must be a PolarGroup such as SLn(2), got {group!r}.")
        if rotations not in get_args(Rotations):
            raise ArgumentError(f"rotations must be one of {', '.join(get_args(Rotations))}, got {rotations!r}.")
        if rotations in PLANAR and group.n > 2:
            raise ArgumentError(
                f"rotations={rotations!r} are of the plane, and {group.name} has n = {group.n}; take rotations='haar'."
            )
        self.group, self.rotations = group, rotations

    def sample(
        self,
        N: int,
        generator: Generator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> GroupSamples:
        """N elements with their inverses and weights, drawn in float64.

        Parameters
        ----------
        N
            How many, at least 1.
        generator
            What the samples depend on, and nothing else; without one they are new at every call, whatever
            `torch.manual_seed` said.
        dtype, device
            float32 or float64, and where.

        Raises
        ------
        ValueError
            If N < 1, dtype is another, or elements are too large for it.
        TypeError
            If N is no integer, or generator no generator.
        """
        N = _count(N)
        if dtype not in (torch.float32, torch.float64):
            raise ArgumentError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
        if not isinstance(generator, Generator | None):
            raise ArgumentTypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}.")
        if generator is None:
            generator = Generator()
            generator.seed()
        log_P, weight = self._stretches(N, generator)
        R = self._turns(N, generator)
        g, g_inv = inverse_pair(2 * log_P, R)
        samples = GroupSamples(g, g_inv, weight).to(dtype, "cpu" if device is None else device)
        if not bool(samples.g.isfinite().all() and samples.g_inv.isfinite().all()):
            raise ArgumentError(f"{self!r} drew stretches that are too large for {dtype}; take a smaller spread.")
        return samples

    def _stretches(self, N: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """log P (N, n, n) and weights (N,)."""
        raise NotImplementedError

    def _turns(self, N: int, generator: Generator) -> Float64[Tensor, "N n n"]:
        """Rotations."""
        kind = self.rotations
        if kind == "auto":
            kind = "stratified" if self.group.n == 2 else "haar"
        if kind == "haar":
            return _haar_rotations(N, self.group.n, generator)
        if kind == "uniform":
            return rotation(_uniform(N, generator) * 2 * math.pi)
        if kind == "linspace":
            return rotation(torch.linspace(-math.pi, math.pi, N, dtype=torch.float64))
        steps = torch.arange(N, dtype=torch.float64) / N
        return rotation(2 * math.pi * (_uniform(1, generator) + steps))


class HaarSampler(Sampler):
    """Elements of GL+(n), SL(n) or SO(2) by the Haar measure, within a radius.

    For n = 2 the draw is exact and all weights are 1/N: log P = r [[cos f, sin f], [sin f, -cos f]] + t I with
    cosh 2r uniform, the direction f uniform, and for GL+ t uniform. For n > 2 the traceless part of log P is uniform in
    a ball, and the weights are proportional to the Haar density, with sum 1.

    Parameters
    ----------
    group
        The group.
    radius
        Largest r: the spectral norm of the traceless log P for n = 2; above, its Frobenius norm is at most sqrt(2)
        times that.
    scale_range
        Largest |t|, the logarithm of the scale, of GL+(n).
    rotations
        As of `Sampler`.
    qmc
        For n = 2 draw r, f and t from scrambled Sobol points, which lie more evenly.

    Raises
    ------
    ValueError
        If radius or scale_range are not positive or above 40, rotations do not go with the group, or qmc with n > 2.
    """

    def __init__(
        self,
        group: PolarGroup,
        radius: float = 0.5,
        scale_range: float = 0.3,
        rotations: Rotations = "auto",
        qmc: bool = False,
    ) -> None:
        super().__init__(group, rotations)
        for name, value in (("radius", radius), ("scale_range", scale_range)):
            if check_positive(value, name) > LARGEST:
                raise ArgumentError(
                    f"{name} must be at most {LARGEST:g}, as stretches are its exponential, got {value}."
                )
        if qmc and group.n > 2:
            raise ArgumentError(f"qmc=True is for n = 2, and {group.name} has n = {group.n}.")
        self.radius, self.scale_range, self.qmc = float(radius), float(scale_range), bool(qmc)

    def __repr__(self) -> str:
        more = f"radius={self.radius}, scale_range={self.scale_range}, rotations={self.rotations!r}, qmc={self.qmc}"
        return f"HaarSampler({self.group!r}, {more})"

    def _stretches(self, N: int, generator: Generator) -> tuple[Tensor, Tensor]:
        n, scaled = self.group.n, isinstance(self.group, GLnPlus)
        uniform = torch.full((N,), 1 / N, dtype=torch.float64)
        if isinstance(self.group, SO2):
            return torch.zeros(N, n, n, dtype=torch.float64), uniform
        if n == 2:
            u, direction, *scale = self._points(N, 2 + scaled, generator).unbind(-1)
            r = torch.acosh(1 + u * (math.cosh(2 * self.radius) - 1)) / 2
            cos, sin = r * (2 * math.pi * direction).cos(), r * (2 * math.pi * direction).sin()
            log_P, weight = torch.stack([cos, sin, sin, -cos], -1).unflatten(-1, (2, 2)), uniform
        else:
            log_P = self._ball(N, generator)
            density = self.group.haar_density(log_P)
            weight, scale = density / density.sum(), [_uniform(N, generator)] if scaled else []
        if scaled:
            t = self.scale_range * (2 * scale[0] - 1)
            log_P = log_P + t[:, None, None] * torch.eye(n, dtype=torch.float64)
        return log_P, weight

    def _points(self, N: int, dimension: int, generator: Generator) -> Float64[Tensor, "N dimension"]:
        """In the unit cube."""
        if not self.qmc:
            return _uniform((N, dimension), generator)
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        sobol: Any = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=seed)
        return sobol.draw(N, dtype=torch.float64)

    def _ball(self, N: int, generator: Generator) -> Float64[Tensor, "N n n"]:
        """Traceless symmetric matrices, uniform in the ball of Frobenius norms up to sqrt(2) radius."""
        basis = _frobenius(_traceless(self.group.n))
        v = _normal((N, len(basis)), generator)
        v = v / v.norm(dim=-1, keepdim=True) * _uniform((N, 1), generator) ** (1 / len(basis))
        return torch.tensordot(v * math.sqrt(2) * self.radius, basis, 1)


class LogNormalSampler(Sampler):
    """Elements S^(1/2) R with normal log S = log(g g^T), as the authors draw them.

    Parameters
    ----------
    group
        The group.
    var
        Variance of the coordinates of log S in `group.symmetric_basis`: a number, or one for each.
    rotations
        As of `Sampler`.
    weights
        Weigh samples by the Haar density over that of the normal distribution, with sum 1; False: no weights, so that
        sums over samples are integrals over the log-normal distribution.

    Raises
    ------
    ValueError
        If var is not positive, or not one number for each coordinate.
    """

    def __init__(
        self,
        group: PolarGroup,
        var: float | Sequence[float] = 0.1,
        rotations: Rotations = "linspace",
        weights: bool = False,
    ) -> None:
        super().__init__(group, rotations)
        m = len(group.symmetric_basis)
        try:
            values = torch.as_tensor(var, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentTypeError(f"var must be a number or {m} of them, got {var!r}.") from None
        if values.ndim > 1 or (values.ndim == 1 and len(values) != m):
            raise ArgumentError(
                f"var must be a number or {m} of them, one for each symmetric coordinate of {group.name}, got {var}."
            )
        if not bool(((values > 0) & torch.isfinite(values)).all()):
            raise ArgumentError(f"var must be positive, got {var}.")
        self.var, self.weights = var, bool(weights)
        self._deviation = values.sqrt().expand(m)

    def __repr__(self) -> str:
        more = f"var={self.var}, rotations={self.rotations!r}, weights={self.weights}"
        return f"LogNormalSampler({self.group!r}, {more})"

    def _stretches(self, N: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        z = _normal((N, len(self._deviation)), generator)
        log_P = torch.tensordot(z * self._deviation, self.group.symmetric_basis, 1) / 2
        if not self.weights:
            return log_P, None
        log_weight = self.group.haar_density(log_P).log() + (z * z).sum(-1) / 2
        return log_P, log_weight.softmax(0)


def _traceless(n: int) -> Float64[Tensor, "m n n"]:
    from linmap.geometry.groups.polar_groups import SLn

    return SLn(n).symmetric_basis


def _frobenius(basis: Tensor) -> Tensor:
    return basis / basis.flatten(1).norm(dim=1)[:, None, None]


def _uniform(shape: int | tuple[int, ...], generator: Generator) -> Float64[Tensor, "*_"]:
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device).cpu()


def _normal(shape: tuple[int, ...], generator: Generator) -> Float64[Tensor, "*_"]:
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device).cpu()


def _haar_rotations(N: int, n: int, generator: Generator) -> Float64[Tensor, "N n n"]:
    """Orthogonal factors of normal matrices, with the signs that make them unique, and of determinant 1."""
    Q, R = torch.linalg.qr(_normal((N, n, n), generator))
    Q = Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    flip = torch.ones(N, n, dtype=torch.float64)
    flip[:, 0] = torch.linalg.det(Q).sign()
    return Q * flip.unsqueeze(-2)


def _count(N: Any) -> int:
    if isinstance(N, bool):
        raise ArgumentTypeError(f"N must be a positive integer, got {N!r}.")
    try:
        count = operator.index(N)
    except TypeError:
        raise ArgumentTypeError(f"N must be a positive integer, got {N!r}.") from None
    if count < 1:
        raise ArgumentError(f"N must be at least 1, got {count}.")
    return count
