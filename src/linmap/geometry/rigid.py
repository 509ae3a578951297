"""Rotations and rigid motions of points in space: six numbers, Kabsch's registration, angles.

One convention: R acts on columns, p' = R p + t; M = R^T acts on rows, p' = p M + t. The six numbers of a rotation are
the first two rows of M (Zhou, Barnes, Lu, Yang, Li, "On the continuity of rotation representations in neural
networks", CVPR 2019).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError

Six = Literal["gram_schmidt", "symmetric"]


def rotation_from_six(a: Any, method: Six = "gram_schmidt") -> Float[Tensor, "*batch 3 3"]:
    """The rotation M (rows b1, b2, b3) of six numbers, differentiable.

    Parameters
    ----------
    a
        (..., 6): two vectors x and y of any length.
    method
        "gram_schmidt": b1 = x / |x|, b2 the unit vector of y without its part along b1. "symmetric" treats both alike:
        m and o are the unit vectors of x + y and x - y of the unit vectors x and y; b1 = unit(m + o), b2 = unit(m - o).

    Returns
    -------
    Tensor
        (..., 3, 3), of determinant 1. Where x is 0, or y is along x, an axis of the frame stands in.

    Raises
    ------
    ValueError
        If `a` does not end in six numbers, or the method is unknown.
    """
    a = floating("a", a)
    if a.ndim < 1 or a.shape[-1] != 6:
        raise ArgumentError(f"a must be (..., 6), two vectors of three numbers, got shape {tuple(a.shape)}.")
    if method not in get_args(Six):
        raise ArgumentError(f"method must be one of {', '.join(get_args(Six))}, got {method!r}.")
    x, y = a[..., :3], a[..., 3:]
    if method == "symmetric":
        x, y = _unit(x, a.new_tensor([1.0, 0.0, 0.0])), _unit(y, a.new_tensor([0.0, 1.0, 0.0]))
        m = _unit(x + y, _across(x))
        o = x - y  # at right angles to m, for x and y are of one length
        o = _unit(o - (m * o).sum(-1, keepdim=True) * m, _across(m))
        x, y = m + o, m - o
    b1 = _unit(x, a.new_tensor([1.0, 0.0, 0.0]))
    b2 = y
    for _ in range(2):  # once more for vectors that are all but parallel
        b2 = _unit(b2 - (b1 * b2).sum(-1, keepdim=True) * b1, _across(b1))
    return torch.stack([b1, b2, torch.linalg.cross(b1, b2)], -2)


def six_from_rotation(M: Any) -> Float[Tensor, "*batch 6"]:
    """The six numbers of rotations M (..., 3, 3): their first two rows.

    Raises
    ------
    ValueError
        If M does not end in 3 x 3.
    """
    M = floating("M", M)
    if M.ndim < 2 or M.shape[-2:] != (3, 3):
        raise ArgumentError(f"M must be (..., 3, 3), got shape {tuple(M.shape)}.")
    return M[..., :2, :].flatten(-2)


def kabsch(A: Any, B: Any, weights: Any = None) -> tuple[Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """The rigid motion that carries points A to B best, in the sense of least squares: B ~ A R^T + t.

    Parameters
    ----------
    A, B
        (..., n, 3): corresponding points, three or more and not on a line.
    weights
        (..., n): of the points, not negative.

    Returns
    -------
    R, t
        (..., 3, 3) of determinant 1, and (..., 3). Where the best orthogonal matrix is a reflection, the direction of
        the smallest singular value is turned (Kabsch 1978; Umeyama 1991).

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than three points, they lie on a line, or a value is not finite.
    """
    A, B = floating("A", A), floating("B", B)
    if A.ndim < 2 or A.shape[-1] != 3 or A.shape != B.shape:
        raise ArgumentError(f"A and B must both be (..., n, 3), got {tuple(A.shape)} and {tuple(B.shape)}.")
    if A.shape[-2] < 3:
        raise ArgumentError(f"A and B must have 3 or more points to fix a rotation, got {A.shape[-2]}.")
    dtype = torch.promote_types(A.dtype, B.dtype)
    a, b = A.double(), B.double()
    for name, points in (("A", a), ("B", b)):
        if not points.isfinite().all():
            raise ArgumentError(f"{name} holds values that are not finite; leave these points out.")
    w = _weights(weights, a)
    mean_a, mean_b = (w * a).sum(-2, keepdim=True), (w * b).sum(-2, keepdim=True)
    for name, points, mean in (("A", a, mean_a), ("B", b, mean_b)):
        _check_spread(name, w.sqrt() * (points - mean), points, torch.finfo(dtype).eps)
    U, _, Vh = torch.linalg.svd((w * (a - mean_a)).mT @ (b - mean_b))
    sign = torch.ones_like(mean_a[..., 0, :])
    sign[..., 2] = torch.where(torch.linalg.det(U) * torch.linalg.det(Vh) < 0, -1.0, 1.0)
    R = (Vh.mT * sign[..., None, :]) @ U.mT
    t = mean_b[..., 0, :] - (R @ mean_a[..., 0, :, None])[..., 0]
    return R.to(dtype), t.to(dtype)


def geodesic_angle(R: Any, S: Any) -> Float[Tensor, "*batch"]:
    """The angle of R^T S in radians, by the arctangent of its sine and cosine: exact near 0 and near pi.

    Raises
    ------
    ValueError
        If one of them does not end in 3 x 3.
    """
    R, S = floating("R", R), floating("S", S)
    for name, value in (("R", R), ("S", S)):
        if value.ndim < 2 or value.shape[-2:] != (3, 3):
            raise ArgumentError(f"{name} must be (..., 3, 3), got shape {tuple(value.shape)}.")
    dtype = torch.promote_types(R.dtype, S.dtype)
    T = R.double().mT @ S.double()
    twice_sine = torch.stack(
        [T[..., 2, 1] - T[..., 1, 2], T[..., 0, 2] - T[..., 2, 0], T[..., 1, 0] - T[..., 0, 1]], -1
    )
    twice_cosine = T.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    return torch.atan2(torch.linalg.vector_norm(twice_sine, dim=-1), twice_cosine).to(dtype)


def floating(name: str, values: Any) -> Tensor:
    """An array as a tensor of floating numbers; whole numbers become float64.

    Raises
    ------
    ValueError
        If it is no array of real numbers.
    """
    try:
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} must be an array of numbers, got {type(values).__name__} ({error}).") from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise ArgumentError(f"{name} must hold real numbers, got {tensor.dtype}.")
    return tensor if tensor.is_floating_point() else tensor.double()


def _unit(x: Tensor, instead: Tensor) -> Tensor:
    """x over its length; `instead`, a unit vector, where there is next to none."""
    short = torch.linalg.vector_norm(x, dim=-1, keepdim=True) < torch.finfo(x.dtype).tiny ** 0.5
    x = torch.where(short, instead, x)
    scaled = x / x.detach().abs().amax(-1, keepdim=True)
    return scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)


def _across(b: Tensor) -> Tensor:
    """A unit vector at right angles to unit vectors b, made from the axis that b is farthest from."""
    axis = torch.nn.functional.one_hot(b.detach().abs().argmin(-1), 3).to(b)
    across = axis - (axis * b).sum(-1, keepdim=True) * b
    return across / torch.linalg.vector_norm(across, dim=-1, keepdim=True)


def _weights(weights: Any, points: Tensor) -> Tensor:
    """(..., n, 1) of sum 1."""
    if weights is None:
        return points.new_full((*points.shape[:-1], 1), 1 / points.shape[-2])
    w = floating("weights", weights).to(points)
    if w.shape != points.shape[:-1]:
        raise ArgumentError(f"weights must be {tuple(points.shape[:-1])}, one a point, got shape {tuple(w.shape)}.")
    if not w.isfinite().all() or (w < 0).any() or (w.sum(-1) <= 0).any():
        raise ArgumentError("weights must be finite and not negative, and not all zero.")
    return (w / w.sum(-1, keepdim=True))[..., None]


def _check_spread(name: str, centred: Tensor, points: Tensor, eps: float) -> None:
    """Refuse points on a line: their second singular value is rounding, of the coordinates or of the first one."""
    values = torch.linalg.svdvals(centred.detach())
    rounding = 8 * eps * points.detach().abs().amax((-2, -1)) + 4 * eps * values[..., 0]
    if (values[..., 1] <= rounding.clamp_min(torch.finfo(torch.float64).tiny)).any():
        raise ArgumentError(
            f"{name} lies on a line (or in a point), where the rotation about it is free; give points off the line."
        )
