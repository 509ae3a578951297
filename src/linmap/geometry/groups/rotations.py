"""Rotations: of the plane by their angle, of higher dimensions by their principal logarithm."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from linmap.errors import ArgumentError, ArgumentTypeError

HALF_TURN = 1e-12  # |sin| below which an angle counts as pi: no direction of turning is told any more
NEAR = -0.999  # cosine below which h is so steep that rounding shows, and planes are taken from a Schur form
CLOSE = 1e-5  # difference of cosines below which a divided difference is a derivative


def rotation(theta: Shaped[Tensor, "*_"] | float) -> Float[Tensor, "... 2 2"]:
    """Rotations of the plane by angles (...): [[cos, -sin], [sin, cos]].

    Parameters
    ----------
    theta
        Angles in radians; numbers are read as float32, float16 and bfloat16 are computed in float32.

    Raises
    ------
    TypeError
        If theta is complex.
    """
    theta = torch.as_tensor(theta)
    if theta.is_complex():
        raise ArgumentTypeError(f"theta must be real, got dtype {theta.dtype}.")
    theta = theta if theta.dtype in (torch.float32, torch.float64) else theta.float()
    cos, sin = theta.cos(), theta.sin()
    return torch.stack([cos, -sin, sin, cos], -1).unflatten(-1, (2, 2))


def rotation_angle(R: Shaped[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """The angles atan2(R21, R11) in (-pi, pi] of rotations (..., 2, 2).

    Raises
    ------
    ValueError
        If R is not of shape (..., 2, 2).
    TypeError
        If R is no real tensor.
    """
    if not isinstance(R, Tensor) or R.is_complex():
        got = R.dtype if isinstance(R, Tensor) else type(R).__name__
        raise ArgumentTypeError(f"R must be a real tensor, got {got}.")
    if R.ndim < 2 or R.shape[-2:] != (2, 2):
        raise ArgumentError(f"R must be rotations (..., 2, 2), got shape {tuple(R.shape)}.")
    R = R if R.dtype in (torch.float32, torch.float64) else R.float()
    return torch.atan2(R[..., 1, 0] + 0.0, R[..., 0, 0])  # -0 + 0 is 0: -0 would make -pi of a half turn


def rotation_log(R: Float[Tensor, "... n n"]) -> Float[Tensor, "... n n"]:
    """The principal logarithms of rotations (..., n, n) of any dimension, skew matrices.

    With C and S the symmetric and the skew part of R, which commute, log R = h(C) S for h(cos t) = t / sin t. At half
    turns, where there are two logarithms for each plane, one of them. Gradients are right along SO(n).
    """
    return cast(Tensor, _RotationLog.apply(R.double())).to(R.dtype)


def _nearest(R: Tensor) -> Tensor:
    """The rotation that R is but for rounding, which close to a half turn weighs more than the way it turns.

    Two steps of Newton and Schulz, each of which squares the error; along SO(n) their derivative is the identity.
    """
    for _ in range(2):
        R = 1.5 * R - 0.5 * R @ (R.mT @ R)
    return R


def _log_by_planes(R: np.ndarray) -> np.ndarray:
    """The logarithm from a real Schur form, which is exact where angles come close to pi and to each other."""
    T, Q = scipy.linalg.schur(R)[:2]
    log, i, half = np.zeros_like(R), 0, []
    while i < len(R):
        turns = i + 1 < len(R) and T[i + 1, i] != 0
        if turns:
            log[i + 1, i] = np.arctan2((T[i + 1, i] - T[i, i + 1]) / 2, (T[i, i] + T[i + 1, i + 1]) / 2)
        elif T[i, i] < 0:
            half.append(i)
        i += 1 + turns
    for one, other in zip(half[::2], half[1::2], strict=False):
        log[other, one] = np.pi
    return Q @ (log - log.T) @ Q.T


class _RotationLog(Function):
    @staticmethod
    def forward(ctx: Any, R: Tensor) -> Tensor:
        R = _nearest(R)
        C, S = (R + R.mT) / 2, (R - R.mT) / 2
        cos, U = torch.linalg.eigh(C)
        sin = (S @ U).norm(dim=-2)  # of each eigenvector; no cancellation, close to half turns either
        angle = torch.atan2(sin, cos)
        h = torch.where(sin > HALF_TURN, angle / sin.clamp_min(HALF_TURN), torch.where(cos > 0, 1.0, 0.0))
        H = (U * h.unsqueeze(-2)) @ U.mT
        ctx.save_for_backward(S, U, H, cos, sin, h)
        log = H @ S
        near = cos[..., 0] < NEAR
        if near.any():
            planes = [_log_by_planes(one) for one in R[near].cpu().numpy()]
            log[near] = torch.from_numpy(np.stack(planes)).to(log)
        return (log - log.mT) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        S, U, H, cos, sin, h = ctx.saved_tensors
        gradient = (gradient - gradient.mT) / 2
        of_C = gradient @ S.mT
        K = _quotients(cos, sin, h)
        of_C = U @ (K * (U.mT @ ((of_C + of_C.mT) / 2) @ U)) @ U.mT
        of_S = H @ gradient
        return of_C + (of_S - of_S.mT) / 2


def _quotients(cos: Tensor, sin: Tensor, h: Tensor) -> Tensor:
    """Divided differences of h(cos t) = t / sin t (Daleckii-Krein); at close cosines the derivative."""
    steep = sin > torch.where(cos > 0, 1e-4, HALF_TURN)
    slope = torch.where(steep, (cos * h - 1) / torch.where(steep, sin, 1.0) ** 2, torch.where(cos > 0, -1 / 3, 0.0))
    difference = cos.unsqueeze(-1) - cos.unsqueeze(-2)
    close = difference.abs() < CLOSE
    quotient = (h.unsqueeze(-1) - h.unsqueeze(-2)) / torch.where(close, 1.0, difference)
    return torch.where(close, (slope.unsqueeze(-1) + slope.unsqueeze(-2)) / 2, quotient)
