"""Images under linear maps of the plane, and how far layers and networks are from equivariance and invariance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.geometry.groups import GroupSamples
from linmap.shapes.lie_decomposition.checks import at_least_float32
from linmap.shapes.lie_decomposition.lifting import LieLift2d


def transform_image(
    x: Float[Tensor, "*batch height width"],
    h: Float[Tensor, "2 2"],
    shift: Float[Tensor, 2] | tuple[float, float] | None = None,
) -> Float[Tensor, "*batch height width"]:
    """(L f)(z) = f(h^-1 (z - shift)), bilinear, with zeros outside.

    Coordinates z = (x, y) of pixel centres lie in [-1, 1], x along the width and y along the height, down, on images
    that are not square too: there h acts on coordinates whose units differ. The rotation by -90 degrees is
    `torch.rot90(x, 1, (-2, -1))` to the bit, and so are its powers.

    Parameters
    ----------
    x
        Images.
    h
        An invertible matrix.
    shift
        In units of the coordinates.

    Raises
    ------
    ValueError
        If x has less than two axes, or h or shift another shape, or h no inverse.
    TypeError
        If x is not of floating point.
    """
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"x must be a tensor, got {type(x).__name__}.")
    if not x.is_floating_point():
        raise ArgumentTypeError(
            f"x must be floating point, got {x.dtype}; scale images to [0, 1] with x.float() / 255."
        )
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ArgumentError(f"x must be images (..., height, width), got shape {tuple(x.shape)}.")
    height, width = x.shape[-2:]
    rows, columns = _places(_matrix(h), _shift(shift), height, width, x.device)
    dtype = at_least_float32(x).dtype
    flat, result = at_least_float32(x).flatten(-2), 0
    for di in (0, 1):
        for dj in (0, 1):
            i, j = rows.floor() + di, columns.floor() + dj
            weight = (1 - (rows - i).abs()) * (1 - (columns - j).abs())
            weight = weight * ((i >= 0) & (i < height) & (j >= 0) & (j < width))
            index = (i.clamp(0, height - 1) * width + j.clamp(0, width - 1)).long()
            result = result + flat[..., index.detach()] * weight.to(dtype)
    return result.to(x.dtype)


def _places(h_inv: Tensor, shift: Tensor, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns (height, width) where images are read, in pixels; those within 1e-9 of whole ones are whole."""
    y = (2 * torch.arange(height, dtype=torch.float64) + 1) / height - 1
    x = (2 * torch.arange(width, dtype=torch.float64) + 1) / width - 1
    z = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) - shift
    u, v = (z @ h_inv.mT).unbind(-1)
    rows, columns = ((v + 1) * height - 1) / 2, ((u + 1) * width - 1) / 2
    return _snapped(rows).to(device), _snapped(columns).to(device)


def _snapped(places: Tensor) -> Tensor:
    whole = places.detach().round()
    near = (places.detach() - whole).abs() < 1e-9 * max(1.0, float(whole.abs().max()))
    return torch.where(near, places + (whole - places.detach()), places)


def _matrix(h: Tensor) -> Tensor:
    """h^-1 in float64 on the CPU; entries of a rotation by a multiple of 90 degrees are whole."""
    return inverse(h)[1]


def inverse(h: Tensor) -> tuple[Float[Tensor, "2 2"], Float[Tensor, "2 2"]]:
    """h and h^-1 in float64, with entries within rounding of 0 and 1 at these."""
    try:
        h = torch.as_tensor(h)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentTypeError(f"h must be a matrix (2, 2), got {h!r}.") from None
    if h.shape != (2, 2):
        raise ArgumentError(f"h must be a matrix (2, 2), got shape {tuple(h.shape)}.")
    eps = 4 * torch.finfo(h.dtype if h.is_floating_point() else torch.float64).eps
    wide = h.double().cpu()
    whole = wide.detach().round()
    near = ((wide.detach() - whole).abs() < eps).all() & (whole.abs() <= 1).all()
    wide = wide + (whole - wide.detach()) * near
    (a, b), (c, d) = wide.unbind(0)[0].unbind(), wide.unbind(0)[1].unbind()
    det = a * d - b * c
    if not bool(torch.isfinite(wide).all()) or float(det.detach()) == 0:
        raise ArgumentError(f"h must be finite and have an inverse, got {h.tolist()}.")
    return wide, torch.stack([d, -b, -c, a]).unflatten(0, (2, 2)) / det


def _shift(shift: Any) -> Tensor:
    if shift is None:
        return torch.zeros(2, dtype=torch.float64)
    try:
        values = torch.as_tensor(shift, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentTypeError(f"shift must be two finite numbers (x, y), got {shift!r}.") from None
    if values.shape != (2,) or not bool(torch.isfinite(values).all()):
        raise ArgumentError(f"shift must be two finite numbers (x, y), got {shift}.")
    return values


# -- errors of equivariance --------------------------------------------------------------------------------------------


@torch.no_grad()
def invariance_error(
    net: Callable[..., Tensor],
    x: Float[Tensor, "batch channels height width"],
    elements: Float[Tensor, "K 2 2"],
    *,
    samples: GroupSamples | None = None,
) -> float:
    """The mean over elements and images of |net(L_h x) - net(x)| / |net(x)|.

    A module is evaluated in evaluation mode, and left in the mode that it was in. One that draws its samples anew has
    the noise of its draws in this error; `samples` leaves it out.

    Parameters
    ----------
    net
        A function of images with one vector for each.
    x
        Images.
    elements
        Matrices h.
    samples
        Passed on as `net(x, samples=samples)`.

    Raises
    ------
    ValueError
        If elements are not K >= 1 matrices (K, 2, 2), or there is no image.
    """
    elements = torch.as_tensor(elements)
    if elements.ndim != 3 or elements.shape[1:] != (2, 2) or not len(elements):
        raise ArgumentError(f"elements must be matrices (K, 2, 2), K >= 1, got shape {tuple(elements.shape)}.")
    if not isinstance(x, Tensor) or not len(x):
        raise ArgumentError("x must be a tensor of one image or more.")
    more = {} if samples is None else {"samples": samples}
    with _evaluation(net):
        before = net(x, **more).flatten(1)
        size = before.norm(dim=1)
        errors = [(net(transform_image(x, h), **more).flatten(1) - before).norm(dim=1) / size for h in elements]
    return float(torch.stack(errors).double().mean())


@torch.no_grad()
def equivariance_error(
    layer: LieLift2d, x: Float[Tensor, "batch channels height width"], h: Float[Tensor, "2 2"], samples: GroupSamples
) -> float:
    """|layer(L_h x, {h g}) - L_h layer(x, {g})| / |layer(x, {g})| of a lifting.

    The samples move with the image, so that what is left comes from interpolation and borders.

    Parameters
    ----------
    layer
        The lifting.
    x
        Images, with zeros near their borders.
    h
        An element of the group.
    samples
        The samples {g}.
    """
    wide, h_inv = inverse(h)
    moved = samples.moved(wide.to(samples.g), h_inv.to(samples.g))
    with _evaluation(layer):
        before = layer(x, samples)
        after = layer(transform_image(x, wide), moved)
    return float((after - transform_image(before, wide)).norm() / before.norm())


@contextmanager
def _evaluation(net: Any) -> Iterator[None]:
    """Evaluation mode for a while, with each module put back into its own."""
    modes = [(module, module.training) for module in net.modules()] if isinstance(net, nn.Module) else []
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
