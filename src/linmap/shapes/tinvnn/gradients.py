"""H with a gradient: through the points alone, or through the frame as well."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.shapes.tinvnn.frame import Pose, Settings, TinvFrame, gathered, poses_of
from linmap.shapes.tinvnn.points import Points
from linmap.shapes.tinvnn.scales import farthest_pairs


def with_gradient(
    points: Points, settings: Settings, detach_frame: bool, generator: torch.Generator | None
) -> tuple[Float[Tensor, "batch n q"], TinvFrame]:
    """H and its frame; `detach_frame` makes Q and scale constants."""
    _, _, d = points.X.shape
    with torch.no_grad():
        pose = poses_of(points.X.detach(), points.mask, points.dtype, settings, generator)
        frame = gathered([pose], points, d, pose.Q.shape[-1])
    X = points.X.double()
    outside = None if points.mask is None else ~points.mask.unsqueeze(-1)
    X = X if outside is None else X.masked_fill(outside, 0.0)
    count = X.shape[1] if points.mask is None else points.mask.sum(1).double()[:, None, None]
    first = pose.center[:, None]
    Y = X - first
    Y = Y if outside is None else Y.masked_fill(outside, 0.0)
    mean = Y.sum(1, keepdim=True) / count
    Xc = Y - mean
    Xc = Xc if outside is None else Xc.masked_fill(outside, 0.0)
    Q, scale = pose.Q, torch.where(pose.scale > 0, pose.scale, 1.0)
    if not detach_frame:
        Q, scale = _live_axes(Xc, pose), _live_scale(Xc, pose, settings, count)
    H = (Xc @ Q / scale[:, None, None] * pose.kept[:, None]).to(points.dtype)
    if not detach_frame:
        center = ((first + mean)[:, 0]).to(points.dtype)
        frame = TinvFrame(
            center, scale.to(points.dtype), Q.to(points.dtype), frame.ambiguous, frame.degenerate, frame.center_rest
        )
    return H, frame


def _live_axes(Xc: Tensor, pose: Pose) -> Tensor:
    """Q as a function of Xc for clouds of simple eigenvalues; a constant for the others, and for equal points."""
    d, inner = Xc.shape[-1], min(pose.Q.shape[-1], Xc.shape[-1])
    C = Xc.mT @ Xc
    eigenvalues = torch.linalg.eigvalsh(C.detach())
    gaps = eigenvalues.diff() if d > 1 else torch.ones_like(eigenvalues)
    simple = pose.simple & (gaps > 1e-14 * eigenvalues[:, -1:]).all(1) & (pose.scale > 0)
    plain = torch.arange(1.0, d + 1, dtype=C.dtype, device=C.device).diag()
    V = torch.linalg.eigh(torch.where(simple[:, None, None], C, plain)).eigenvectors.flip(-1)[:, :, :inner]
    same = (V.detach() * pose.Q[:, :, :inner]).sum(1, keepdim=True).sign()
    Q = torch.where(simple[:, None, None], V * same, pose.Q[:, :, :inner])
    return torch.nn.functional.pad(Q, (0, pose.Q.shape[-1] - inner))


def _live_scale(Xc: Tensor, pose: Pose, settings: Settings, count: Tensor | int) -> Tensor:
    """The scale as a function of Xc; 1 for equal points."""
    flat = pose.scale == 0
    safe = torch.where(flat[:, None, None], torch.ones_like(Xc), Xc)
    if settings.scale == "rms":
        size = (safe.square().sum((1, 2), keepdim=True) / count).sqrt()[:, 0, 0]
    elif settings.scale == "maxnorm":
        outermost = safe.detach().norm(dim=-1).argmax(1)
        size = safe[torch.arange(len(safe), device=safe.device), outermost].norm(dim=-1)
    elif settings.scale == "maxdist":
        size = torch.stack([(cloud[i] - cloud[j]).norm() for cloud, (i, j) in zip(safe, _pairs(safe), strict=True)])
    else:
        return torch.where(flat, torch.ones_like(pose.scale), pose.scale)
    return torch.where(flat, torch.ones_like(size), size)


def _pairs(Xc: Tensor) -> list[tuple[int, int]]:
    """Indices of the points that are farthest from each other."""
    clouds = Xc.detach()
    return [
        (int((cloud - a).norm(dim=-1).argmin()), int((cloud - b).norm(dim=-1).argmin()))
        for cloud, (a, b) in zip(clouds, farthest_pairs(clouds.mT), strict=True)
    ]
