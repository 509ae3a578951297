"""The matrix of each system as a small picture: what the gallery and the cards show."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]
SIDE = 16


def _random(*shape: int) -> Matrix:
    return np.random.default_rng(7).standard_normal(shape)


def _orthogonal(n: int) -> Matrix:
    return np.linalg.qr(_random(n, n))[0]


def _bone() -> Matrix:
    block = np.tile(_random(4, 4), (1, 4))
    return np.concatenate([block * scale for scale in (1.0, 0.6, -0.8, 0.4)])


def _triangles() -> Matrix:
    return np.tril(_random(SIDE, SIDE)) * np.linspace(1, 0.2, SIDE) + np.triu(_random(SIDE, SIDE), 9) * 0.3


def _salt() -> Matrix:
    core = np.diag(np.linspace(2.5, 0.2, SIDE))
    core[5:, 5:] += np.outer(_random(11), _random(11)) * 0.35
    return core


def _kronecker() -> Matrix:
    return np.kron(_orthogonal(4), np.linalg.qr(_random(5, 5)[:4, :4])[0])


def _merging() -> Matrix:
    places, centres = np.arange(SIDE), np.linspace(0, SIDE - 1, 9)[:, None]
    shares = np.exp(-((places - centres) ** 2) / 2)
    return shares / shares.sum(0)


def _stitch() -> Matrix:
    return np.linalg.lstsq(_random(40, 10), _random(40, 10) @ _random(10, SIDE), rcond=None)[0]


def _compatible() -> Matrix:
    whole = np.zeros((SIDE, SIDE))
    whole[:11, :11], whole[11:, 11:] = _orthogonal(11), _orthogonal(5)
    return whole


def _legs() -> Matrix:
    n = np.arange(SIDE)
    return -np.tril(np.sqrt((2 * n[:, None] + 1) * (2 * n + 1)), -1) - np.diag(n + 1.0)


def _correlation_basis() -> Matrix:
    places = np.arange(SIDE)
    lags = np.abs(places[:, None] - places)
    return np.linalg.eigh(0.9**lags)[1][:, ::-1].T


def _augmented() -> Matrix:
    blocks = [
        np.exp(-0.6 * lag) * (np.eye(4) + 0.35 * np.cos(lag + np.add.outer(range(4), range(4)))) for lag in range(4)
    ]
    return np.block([[blocks[abs(i - j)] if i <= j else blocks[abs(i - j)].T for j in range(4)] for i in range(4)])


def _covariance() -> Matrix:
    factor = _random(SIDE, 5)
    return factor @ factor.T + 0.2 * np.eye(SIDE)


def _warps() -> Matrix:
    turn = [[np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ np.diag([b, 1 / b])
             for a in np.linspace(0, np.pi, 8)] for b in np.linspace(0.6, 1.7, 8)]  # fmt: skip
    return np.block(turn)


def _frames() -> Matrix:
    points = _random(SIDE, 3) * [2.0, 1.2, 0.6]
    centred = points - points.mean(0)
    return centred @ centred.T


def _motions() -> Matrix:
    whole = np.zeros((SIDE, SIDE))
    for place in range(0, 15, 3):
        whole[place : place + 3, place : place + 3] = np.linalg.qr(_random(3 + place, 3)[place:])[0]
        whole[place : place + 3, 15] = 0.6 * np.cos(place + np.arange(3))
    return whole


def _operator() -> Matrix:
    gates = np.random.default_rng(3).random((2, 24)) > 0.5
    inner, outer = _random(24, SIDE), _random(SIDE, 24)
    return (outer * gates[0]) @ inner


def _reflections() -> Matrix:
    v = np.exp(-((np.arange(SIDE) - 7.5) ** 2) / 12)
    v /= np.linalg.norm(v)
    return np.eye(SIDE) - 2 * np.outer(v, v)


DRAWN: dict[str, Callable[[], Matrix]] = {
    "bone": _bone, "triadaptlora": _triangles, "salt": _salt, "flatquant": _kronecker, "token_transforming": _merging,
    "learngene_pool": _stitch, "bt2": _compatible, "mbat": lambda: _orthogonal(SIDE), "hippo": _legs,
    "olinear": _correlation_basis, "acm": _augmented, "gbwbn": _covariance, "lie_decomposition": _warps,
    "tinvnn": _frames, "tooth_arrangement": _motions, "linearscope": _operator, "householder_projector": _reflections,
}  # fmt: skip


@cache
def picture(slug: str) -> str:
    """An SVG of the system's matrix: blue for positive entries, orange for negative ones."""
    M = DRAWN[slug]() if slug in DRAWN else np.eye(SIDE)
    rows, columns = M.shape
    shades = np.sign(M) * np.sqrt(np.abs(M) / np.abs(M).max())
    cells = "".join(
        f'<rect class="{"plus" if shade > 0 else "minus"}" x="{j}" y="{i}" width=".94" height=".94" '
        f'fill-opacity="{abs(shade):.2f}"/>'
        for (i, j), shade in np.ndenumerate(shades)
        if abs(shade) >= 0.05
    )
    return f'<svg class="matrix" viewBox="0 0 {columns} {rows}" role="img" aria-label="its matrix">{cells}</svg>'
