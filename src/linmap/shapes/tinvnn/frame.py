"""The frame that takes a cloud to its canonical pose and back: centre, scale and axes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Real
from torch import Tensor
from torch.nn import functional as F

from linmap.errors import ArgumentError
from linmap.shapes.tinvnn.points import Centred, Points, as_tensor, callers_level, centre, check_choice, read_points
from linmap.shapes.tinvnn.scales import Scale, size_of
from linmap.shapes.tinvnn.signs import column_signs, default_tau
from linmap.shapes.tinvnn.symmetry import choose
from linmap.shapes.tinvnn.ties import tied_to_next
from linmap.training.parts import drawn

Signs = Literal["moment", "frames", "random", "none"]
Kind = Literal["point", "vector", "direction"]
AT_ONCE = 2**18
"""Coordinates of clouds that are computed together: what stays in a processor's cache."""


@dataclass(frozen=True, eq=False)
class TinvFrame:
    """Centre, scale and axes of clouds: H = (X - center) Q / scale.

    The batch dimension is missing where the frame is one cloud's.
    """

    center: Float[Tensor, "*batch d"]
    scale: Float[Tensor, "*batch"]
    Q: Float[Tensor, "*batch d q"]
    """Axes in columns; columns beyond d are zero."""
    ambiguous: Bool[Tensor, "*batch q"]
    """Columns that no odd moment gives a sign: mirror symmetry, or nothing but zeros."""
    degenerate: Bool[Tensor, "*batch q"]
    """Columns of equal eigenvalues whose axes a point of the cloud had to choose: rotation symmetry."""
    center_rest: Float[Tensor, "*batch d"] | None = None
    """What the centre lost when it was rounded to its type."""

    def to_canonical(self, X: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n q"]:
        """(X - center) Q / scale: points of the space that the cloud lies in, in its canonical pose."""
        X = as_tensor(X)
        self._check("X", X, self.Q.shape[-2])
        difference = (X.double() - self.center.double().unsqueeze(-2)) - self._rest
        H = difference @ self.Q.double() / self.scale.double()[..., None, None]
        return H.to(self.Q.dtype)

    def from_canonical(self, Y: Float[Tensor, "*batch n q"], kind: Kind = "point") -> Float[Tensor, "*batch n d"]:
        """What a network found in the canonical pose, in the space of the cloud.

        Parameters
        ----------
        Y
            A row for each point or other thing.
        kind
            "point": center + scale Y Qᵀ. "vector": scale Y Qᵀ, for displacements. "direction": Y Qᵀ, for normals.

        Raises
        ------
        ValueError
            If `kind` is unknown or Y does not fit.
        """
        check_choice("kind", kind, Kind)
        Y = as_tensor(Y, "Y")
        self._check("Y", Y, self.Q.shape[-1])
        X = Y.double() @ self.Q.double().mT
        if kind != "direction":
            X = X * self.scale.double()[..., None, None]
        if kind == "point":
            X = X + self._rest + self.center.double().unsqueeze(-2)
        return X.to(self.Q.dtype)

    @property
    def _rest(self) -> Tensor | float:
        return 0.0 if self.center_rest is None else self.center_rest.double().unsqueeze(-2)

    def _check(self, name: str, given: Tensor, columns: int) -> None:
        batch = tuple(self.scale.shape)
        if given.ndim != len(batch) + 2 or given.shape[-1] != columns or tuple(given.shape[:-2]) not in (batch, (1,)):
            shape = ", ".join(map(str, (*batch, "n", columns)))
            raise ArgumentError(f"{name} must have shape ({shape}), as the frame has, got {tuple(given.shape)}.")

    def one(self) -> TinvFrame:
        """The frame of the first cloud, without batch dimension."""
        rest = None if self.center_rest is None else self.center_rest[0]
        return TinvFrame(self.center[0], self.scale[0], self.Q[0], self.ambiguous[0], self.degenerate[0], rest)


class Settings(NamedTuple):
    """What decides a frame."""

    n_components: int | None = None
    scale: Scale = "rms"
    signs: Signs = "moment"
    reflections: bool = True
    tie_tol: float | None = None

    def check(self) -> None:
        """Refuse what no cloud could be computed with."""
        q = self.n_components
        if q is not None and (isinstance(q, bool) or not isinstance(q, int) or q < 1):
            raise ArgumentError(f"n_components={q!r} must be a whole number of at least 1, or None for the dimension.")
        check_choice("scale", self.scale, Scale)
        check_choice("signs", self.signs, Signs)
        if not isinstance(self.reflections, bool):
            raise ArgumentError(f"reflections={self.reflections!r} must be True or False.")
        if self.tie_tol is not None and not 0 <= self.tie_tol < float("inf"):
            raise ArgumentError(f"tie_tol={self.tie_tol} must not be negative.")

    def columns(self, d: int) -> int:
        """Columns of the representation of d-dimensional clouds."""
        q = d if self.n_components is None else self.n_components
        if not self.reflections and q < d:
            raise ArgumentError(
                f"reflections=False needs all {d} axes to tell left from right; n_components={q} is fewer."
            )
        return q


class Pose(NamedTuple):
    """Some clouds in float64: their frame, and their coordinates in it."""

    center: Float64[Tensor, "batch d"]
    scale: Float64[Tensor, " batch"]
    Q: Float64[Tensor, "batch d q"]
    ambiguous: Bool[Tensor, "batch q"]
    degenerate: Bool[Tensor, "batch q"]
    kept: Bool[Tensor, "batch q"]
    """Columns that are not zero."""
    H: Float64[Tensor, "batch q n"]
    """Zero where masked."""
    simple: Bool[Tensor, " batch"]
    """Whether no two eigenvalues are equal."""


def tinv_frame(
    X: Any,
    mask: Any = None,
    *,
    n_components: int | None = None,
    scale: Scale = "rms",
    signs: Signs = "moment",
    reflections: bool = True,
    tie_tol: float | None = None,
    generator: torch.Generator | None = None,
) -> TinvFrame:
    """Centre, scale and axes that move with a cloud, whatever similarity moves it.

    Parameters
    ----------
    X
        (B, n, d), or one cloud (n, d).
    mask
        (B, n): True where there is a point. The others count for nothing.
    n_components, scale, signs, reflections, tie_tol
        As of `TinvEmbedding`; "random" draws here in any case.
    generator
        Of signs="random"; PyTorch's global one by default.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used; the message names it.
    """
    settings = Settings(n_components, scale, signs, reflections, tie_tol)
    settings.check()
    points = read_points(X, mask)
    frame, _ = frame_and_coordinates(points, settings, generator)
    return frame.one() if points.single else frame


@torch.no_grad()
def frame_and_coordinates(
    points: Points, settings: Settings, generator: torch.Generator | None = None
) -> tuple[TinvFrame, Float[Tensor, "batch n q"]]:
    """The frames of a batch and H, without gradients."""
    points = points._replace(X=points.X.detach())  # forward mode, too
    batch, n, d = points.X.shape
    q = settings.columns(d)
    H = torch.empty(batch, n, q, dtype=points.dtype, device=points.X.device)
    step = max(1, AT_ONCE // (n * d))
    poses = []
    for begin in range(0, batch, step):
        part = slice(begin, begin + step)
        mask = None if points.mask is None else points.mask[part]
        pose = poses_of(points.X[part], mask, points.dtype, settings, generator, begin)
        H[part] = pose.H.mT
        poses.append(pose._replace(H=pose.H[:0]))
    return gathered(poses, points, d, q), H


def gathered(poses: list[Pose], points: Points, d: int, q: int) -> TinvFrame:
    """The frame of all parts of a batch, in its type; warns of clouds without extent."""
    if not poses:
        zeros = points.X.new_zeros(0, d, q, dtype=points.dtype)
        flags = torch.zeros(0, q, dtype=torch.bool, device=zeros.device)
        return TinvFrame(zeros[:, :, 0], zeros[:, 0, 0], zeros, flags, flags)
    center, scale, Q, ambiguous, degenerate = (torch.cat([pose[i] for pose in poses]) for i in range(5))
    if (flat := scale == 0).any():
        which = flat.nonzero()[:, 0].tolist()
        warnings.warn(
            f"all points of {'cloud' if len(which) == 1 else 'clouds'} {', '.join(map(str, which[:5]))}"
            f"{', ...' if len(which) > 5 else ''} are equal: the representation is zero, and the scale is set to 1.",
            stacklevel=callers_level(),
        )
    scale = torch.where(flat, torch.ones_like(scale), scale)
    rounded = center.to(points.dtype)
    return TinvFrame(
        rounded,
        scale.to(points.dtype),
        Q.to(points.dtype),
        ambiguous,
        degenerate,
        (center - rounded.double()).to(points.dtype),
    )


def poses_of(
    X: Real[Tensor, "batch n d"],
    mask: Bool[Tensor, "batch n"] | None,
    dtype: torch.dtype,
    settings: Settings,
    generator: torch.Generator | None = None,
    at: int = 0,
) -> Pose:
    """Frames and coordinates of some clouds, of which the first is cloud `at`.

    Classical multidimensional scaling of the distances gives U Λ^½, and Xc V for the eigenvectors V of the d x d
    matrix Xcᵀ Xc is the same up to the choices that the rules of this package make.
    """
    cloud = centre(X, mask, at=at)
    d = X.shape[-1]
    inner = min(settings.columns(d), d)
    eigenvalues, V = torch.linalg.eigh(cloud.points @ cloud.points.mT)
    eigenvalues, V = eigenvalues.flip(-1).clamp(min=0), V.flip(-1)
    P = V.mT @ cloud.points
    signs, ambiguous, variance = _signs(P, cloud.count, inner, default_tau(dtype))
    if not settings.reflections:
        signs[:, -1] *= torch.linalg.det(V * signs[:, None]).sign()
        ambiguous[:, -1] = ambiguous[:, :-1].any(1)
    kept, nonzero = _above_noise(cloud, variance, dtype)
    tied = tied_to_next(eigenvalues, nonzero, _tie_tol(settings, dtype))
    axes = Axes(V.clone(), P, signs, ambiguous, torch.zeros_like(ambiguous), kept[:, :inner])
    _settle(axes, V, cloud, tied, default_tau(dtype), settings.reflections)
    if (flips := _flips(axes.V * signs[:, None], V, settings, generator)) is not None:
        axes = axes._replace(signs=signs * flips)
    return _scaled(cloud, settings, axes, ~tied.any(1), settings.columns(d))


class Axes(NamedTuple):
    """Axes of some clouds, with coordinates along them whose signs are still to be applied."""

    V: Float64[Tensor, "batch d d"]
    P: Float64[Tensor, "batch d n"]
    signs: Float64[Tensor, "batch d"]
    ambiguous: Bool[Tensor, "batch q"]
    degenerate: Bool[Tensor, "batch q"]
    kept: Bool[Tensor, "batch q"]


def _signs(
    P: Float64[Tensor, "batch d n"], count: Float64[Tensor, " batch"], inner: int, tau: float
) -> tuple[Float64[Tensor, "batch d"], Bool[Tensor, "batch q"], Float64[Tensor, "batch d"]]:
    """Signs and variances of all axes, and which of the first `inner` are ambiguous; the others count for nothing."""
    if inner == P.shape[1]:
        return column_signs(P, count, tau)
    signs, ambiguous, variance = column_signs(P[:, :inner], count, tau)
    others = P[:, inner:].square().sum(-1) / count[:, None]
    return torch.cat([signs, torch.ones_like(others)], 1), ambiguous, torch.cat([variance, others], 1)


def _above_noise(
    cloud: Centred, variance: Float64[Tensor, "batch d"], dtype: torch.dtype
) -> tuple[Bool[Tensor, "batch d"], Bool[Tensor, "batch d"]]:
    """Axes along which there is more than rounding errors of the cloud, and more than those of its offset as well."""
    deviation, noise = variance.sqrt(), 16 * torch.finfo(dtype).eps
    largest = deviation[:, :1]
    offset = (cloud.first.abs() + cloud.mean.abs()).amax(1, keepdim=True) / cloud.unit[:, None]
    return deviation > noise * largest, deviation > noise * (largest + offset)


def _settle(axes: Axes, V: Tensor, cloud: Centred, tied: Tensor, tau: float, reflections: bool) -> None:
    """Choose, cloud by cloud and in place, the axes of equal eigenvalues and the signs that moments do not give."""
    inner = axes.ambiguous.shape[1]
    open_ = axes.ambiguous & axes.kept
    if not reflections:
        open_[:, -1] = False  # the determinant gives it
    for i in (tied.any(1) | open_.any(1)).nonzero()[:, 0].tolist():
        handed = None if reflections else torch.linalg.det(V[i])
        P = V[i].mT @ cloud.points[i]
        chosen = choose(P, P.square().sum(0), cloud.count[i], tied[i].tolist(), axes.kept[i], inner, tau, handed)
        axes.V[i], axes.P[i], axes.signs[i] = V[i] @ chosen.rotation, chosen.rotation.mT @ P, 1.0
        axes.ambiguous[i] = chosen.ambiguous
        axes.degenerate[i, [k for k in chosen.degenerate if k < inner]] = True
        if not reflections:
            axes.ambiguous[i, -1] = axes.ambiguous[i, :-1].any()


def _tie_tol(settings: Settings, dtype: torch.dtype) -> float:
    if settings.tie_tol is not None:
        return settings.tie_tol
    return 1e-7 if dtype == torch.float64 else 1e-4


def _coins(*shape: int, **options: Any) -> Tensor:
    return torch.randint(0, 2, shape, **options)


def _flips(
    Q: Float64[Tensor, "batch d d"], V: Float64[Tensor, "batch d d"], settings: Settings, generator: Any
) -> Float64[Tensor, "batch d"] | None:
    """Signs that replace those of the rule: drawn ones, or the eigensolver's."""
    if settings.signs == "random":
        device = "cpu" if generator is None else None
        draws = drawn(_coins, *Q.shape[::2], generator=generator, device=device)
        flips = (2 * draws - 1).to(Q)
    elif settings.signs == "none":
        flips = (Q * V).sum(1).sign()
        flips = torch.where(flips == 0, torch.ones_like(flips), flips)
    else:
        return None
    if not settings.reflections:
        flips[:, -1] *= flips.prod(1)
    return flips


def _scaled(cloud: Centred, settings: Settings, axes: Axes, simple: Tensor, q: int) -> Pose:
    """The pose in units of its size, with as many columns as asked for."""
    size = size_of(cloud, settings.scale)
    inner = axes.ambiguous.shape[1]
    factor = torch.where(axes.kept & (size > 0)[:, None], 1 / size.clamp(min=1e-300)[:, None], 0.0)
    if settings.scale == "none":
        factor = factor * cloud.unit[:, None]
    else:
        size = size * cloud.unit
    H = axes.P[:, :inner] * (factor * axes.signs[:, :inner]).unsqueeze(-1)
    Q = (axes.V * axes.signs[:, None])[:, :, :inner]
    pad = (0, q - inner)
    return Pose(
        cloud.first + cloud.mean,
        size,
        F.pad(Q, pad),
        F.pad(axes.ambiguous, pad, value=True),
        F.pad(axes.degenerate, pad),
        F.pad(axes.kept, pad),
        F.pad(H, (0, 0, *pad)) if q > inner else H,
        simple,
    )
