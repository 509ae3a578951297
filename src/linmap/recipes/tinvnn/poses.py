"""Copies of clouds in other poses, and the protocols that compare training and test poses."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

Clouds = Float[np.ndarray, "clouds points d"]
SCALE, SHIFT = 3.0, 2.0
"""By which the test clouds of the protocols are larger, and how far they are moved, in their own radii."""


def rotations(n: int, dim: int, random: np.random.Generator) -> Float[np.ndarray, "n dim dim"]:
    """Matrices drawn uniformly from SO(dim): Q of a Gaussian matrix, R with a positive diagonal (Mezzadri 2007)."""
    Q, R = np.linalg.qr(random.standard_normal((n, dim, dim)))
    Q = Q * np.sign(np.einsum("nii->ni", R))[:, None]
    Q[:, :, -1] *= np.sign(np.linalg.det(Q))[:, None]
    return Q


def rotated(X: Clouds, random: np.random.Generator) -> Clouds:
    """Each cloud turned about the origin by a rotation of its own."""
    turned = X.astype(np.float64) @ rotations(len(X), X.shape[-1], random).swapaxes(1, 2)
    return turned.astype(X.dtype)


def scaled(X: Clouds, random: np.random.Generator) -> Clouds:
    """All clouds `SCALE` times as large."""
    return X * X.dtype.type(SCALE)


def shifted(X: Clouds, random: np.random.Generator) -> Clouds:
    """Each cloud moved by `SHIFT` times its radius (root of the mean square), in a direction of its own."""
    away = random.standard_normal((len(X), 1, X.shape[-1]))
    away *= SHIFT / np.linalg.norm(away, axis=-1, keepdims=True)
    radius = np.sqrt((X - X.mean(1, keepdims=True)).astype(np.float64).var(1).sum(-1))[:, None, None]
    return (X + away * radius).astype(X.dtype)


def as_they_are(X: Clouds, random: np.random.Generator) -> Clouds:
    """The clouds themselves."""
    return X


PROTOCOLS = MappingProxyType[str, Callable[[Clouds, np.random.Generator], Clouds]](
    {"I/I": as_they_are, "I/SO(3)": rotated, "scaled": scaled, "shifted": shifted}
)
"""What is done to the test clouds by the name of the protocol; training clouds stay as they are."""
