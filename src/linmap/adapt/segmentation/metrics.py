"""Losses and metrics of binary segmentation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.training import parts

SMOOTH = 1.0
ALPHA, GAMMA = 0.75, 3.0  # of the focal loss


def dice_loss(logits: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """1 - (2 sum p g + 1) / (sum (p + g) + 1) over the whole batch, p = sigmoid(logits); over that of all processes."""
    p = logits.sigmoid()
    both, each = parts.summed(torch.stack([(p * target).sum(), (p + target).sum()]))
    return 1 - (2 * both + SMOOTH) / (each + SMOOTH)


def focal_loss(logits: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """-a_t (1 - p_t)^gamma log p_t, mean over pixels; a_t = 0.75 where the target is 1, 0.25 elsewhere."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # -log p_t
    p_t = (-cross_entropy).exp()
    weight = ALPHA * target + (1 - ALPHA) * (1 - target)
    return (weight * (1 - p_t) ** GAMMA * cross_entropy).mean()


def segmentation_loss(logits: Float[Tensor, "*shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Dice plus focal loss, as in the paper; both on logits."""
    return dice_loss(logits, target) + focal_loss(logits, target)


def dice(mask: Shaped[np.ndarray, "height width"], truth: Shaped[np.ndarray, "height width"]) -> float:
    """(2 |A and B| + 1) / (|A| + |B| + 1): 1 where both are empty.

    Raises
    ------
    ValueError
        If the masks differ in shape or hold other values than 0 and 1.
    """
    A, B = _checked(mask, truth)
    return float((2 * (A & B).sum() + SMOOTH) / (A.sum() + B.sum() + SMOOTH))


def hd95(mask: Shaped[np.ndarray, "height width"], truth: Shaped[np.ndarray, "height width"]) -> float:
    """The larger of the two 95th percentiles of the distances, in pixels, from one surface to the other.

    0 where both masks are empty; the diagonal of the image where one of them is.

    Raises
    ------
    ValueError
        As of `dice`.
    """
    A, B = _checked(mask, truth)
    if not A.any() or not B.any():
        return 0.0 if A.any() == B.any() else float(np.hypot(*A.shape))
    surfaces = [M & np.logical_not(binary_erosion(M)) for M in (A, B)]
    distances = [np.asarray(distance_transform_edt(np.logical_not(surface))) for surface in surfaces]  # of each pixel
    one, other = distances[1][surfaces[0]], distances[0][surfaces[1]]
    return float(max(np.percentile(one, 95), np.percentile(other, 95)))


def _checked(mask: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if mask.shape != truth.shape:
        raise ArgumentError(f"the masks must have one shape, got {mask.shape} and {truth.shape}.")
    for name, values in (("mask", mask), ("truth", truth)):
        if not np.isin(values, (0, 1)).all():
            raise ArgumentError(
                f"{name} must hold 0 and 1 alone, got {np.unique(values)[:6].tolist()}; threshold it first."
            )
    return mask.astype(bool), truth.astype(bool)
