"""`TinvEmbedding`: one line in front of a network, and its answers do not change with the pose of the input."""

from __future__ import annotations

import itertools
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from linmap.errors import ArgumentError
from linmap.shapes.tinvnn.frame import Settings, Signs, TinvFrame, frame_and_coordinates
from linmap.shapes.tinvnn.gradients import with_gradient
from linmap.shapes.tinvnn.points import Points, read_points
from linmap.shapes.tinvnn.scales import Scale

MOST_FRAMES = 8
"""Columns whose 2^q sign flips are still computed."""


class TinvEmbedding(nn.Module):
    """Point sets in the canonical pose that classical multidimensional scaling gives them.

    H = (X - center) Q / scale, with the same H for every shifted, rotated, reflected and scaled copy of X. Distances
    are kept up to the scale, and the points stay in their order.

    Parameters
    ----------
    n_components
        Columns q of H; the dimension d of the points by default. More are filled with zeros, fewer lose distances.
    scale
        What X is divided by. "rms": root mean squared distance to the mean. "maxdist": largest distance. "maxnorm":
        largest distance to the mean. "none": nothing, so that H changes with the scale.
    signs
        Of the columns. "moment": from odd moments (`moment_signs`). "frames": the same here; `TinvWrapper` averages
        over all. "random": drawn for each cloud and column while training, else as "moment". "none": the
        eigensolver's, which are not invariant: the principal axes that other libraries give.
    reflections
        Whether mirror images count as the same. False: the sign of the last column makes det Q = +1.
    tie_tol
        Gap of two eigenvalues, relative to the largest, up to which they are equal; 1e-7 for float64, 1e-4 for float32.
    detach_frame
        Whether Q and scale are constants to the gradient. False: they are not, for clouds without equal eigenvalues;
        the gradient grows with the inverse of the gap.

    Raises
    ------
    ValueError
        If a setting is not as above.

    Notes
    -----
    Invariance is exact for the same points. For a shape with symmetries (`TinvFrame.ambiguous`, `.degenerate`) H is
    the same set of points for all copies, in an order that may differ by a symmetry.
    """

    def __init__(
        self,
        n_components: int | None = None,
        scale: Scale = "rms",
        signs: Signs = "moment",
        reflections: bool = True,
        tie_tol: float | None = None,
        detach_frame: bool = True,
    ) -> None:
        super().__init__()
        self.scale: Scale = scale
        self.signs: Signs = signs
        self.n_components = n_components
        self.reflections, self.tie_tol, self.detach_frame = reflections, tie_tol, detach_frame
        self._settings().check()
        if not isinstance(detach_frame, bool):
            raise ArgumentError(f"detach_frame={detach_frame!r} must be True or False.")

    @overload
    def forward(
        self,
        X: Any,
        mask: Any = None,
        return_frame: Literal[False] = False,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch n q"]: ...

    @overload
    def forward(
        self, X: Any, mask: Any = None, *, return_frame: Literal[True], generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "*batch n q"], TinvFrame]: ...

    def forward(
        self, X: Any, mask: Any = None, return_frame: bool = False, generator: torch.Generator | None = None
    ) -> Any:
        """The canonical coordinates.

        Parameters
        ----------
        X
            (B, n, d), or one cloud (n, d). Lower precision than float32 is computed and returned in float32.
        mask
            (B, n): True where there is a point. Other rows come back as zeros, whatever they hold.
        return_frame
            Whether to return the `TinvFrame` as well.
        generator
            Of signs="random"; PyTorch's global one by default.

        Raises
        ------
        TypeError, ValueError
            If X or the mask is not as above, or a number is not finite.
        """
        points = read_points(X, mask)
        H, frame = self._embedded(points, self._settings(), generator)
        if points.single:
            H, frame = H[0], frame.one()
        return (H, frame) if return_frame else H

    def frames(self, X: Any, mask: Any = None) -> Float[Tensor, "*batch frames n q"]:
        """H with all signs of its columns: 2^q frames, or those with det Q = +1; the first is that of the moments.

        Raises
        ------
        ValueError
            As of `forward`, and if q is above 8.
        """
        points = read_points(X, mask)
        flips = self.sign_flips(points.X.shape[-1]).to(points.X.device, points.dtype)
        H, _ = self._embedded(points, self._settings()._replace(signs="moment"), None)
        H = H[:, None] * flips[:, None]
        return H[0] if points.single else H

    def sign_flips(self, d: int) -> Float[Tensor, "frames q"]:
        """The signs of each frame, relative to the first.

        Raises
        ------
        ValueError
            If there are more than 2^8.
        """
        q = self._settings().columns(d)
        if q > MOST_FRAMES:
            raise ArgumentError(
                f"n_components={q} has 2^{q} sign frames; up to {MOST_FRAMES} columns are averaged over, use fewer "
                "or signs='moment'."
            )
        flips = torch.tensor(list(itertools.product((1.0, -1.0), repeat=q)))
        return flips if self.reflections else flips[flips[:, :d].prod(1) > 0]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._settings()._asdict().items())

    def _settings(self) -> Settings:
        return Settings(self.n_components, self.scale, self.signs, self.reflections, self.tie_tol)

    def _embedded(
        self, points: Points, settings: Settings, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "batch n q"], TinvFrame]:
        if settings.signs == "frames" or (settings.signs == "random" and not self.training):
            settings = settings._replace(signs="moment")
        if (points.X.requires_grad and torch.is_grad_enabled()) or unpack_dual(points.X).tangent is not None:
            return with_gradient(points, settings, self.detach_frame, generator)
        frame, H = frame_and_coordinates(points, settings, generator)
        return H, frame
