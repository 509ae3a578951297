"""Point sets with known symmetries, and copies of point sets."""

import itertools
import math

import torch
from torch import Tensor


def polygon(n: int, turn: float = 0.0) -> Tensor:
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n + turn
    return torch.stack([angle.cos(), angle.sin()], 1)


def lifted(points: Tensor, height: float) -> Tensor:
    return torch.cat([points, torch.full((len(points), 1), height, dtype=torch.float64)], 1)


def prism(n: int, height: float, twist: float = 0.0) -> Tensor:
    return torch.cat([lifted(polygon(n), height / 2), lifted(polygon(n, twist), -height / 2)])


def cross(d: int) -> Tensor:
    return torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])


def cube(d: int = 3) -> Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=d)), dtype=torch.float64)


def cyclic(*values: tuple[float, float, float]) -> Tensor:
    points = {
        tuple(signed[(k + turn) % 3] for k in range(3))
        for value in values
        for signed in itertools.product(*((v, -v) for v in value))
        for turn in range(3)
    }
    return torch.tensor(sorted(points), dtype=torch.float64)


GOLDEN = (1 + math.sqrt(5)) / 2
REQUIRED = {
    "hexagon": polygon(6),
    "octagon": polygon(8),
    "square": polygon(4),
    "tetrahedron": cube()[cube().prod(1) > 0],
    "cube": cube(),
    "triangular prism": prism(3, 1.0),
}
SYMMETRIC = REQUIRED | {
    "pentagon": polygon(5),
    "octahedron": cross(3),
    "icosahedron": cyclic((0, 1, GOLDEN)),
    "dodecahedron": torch.cat([cube(), cyclic((0, 1 / GOLDEN, GOLDEN))]),
    "prism of equal axes": prism(3, math.sqrt(2)),
    "hexagonal prism": prism(6, 2.0),
    "square antiprism": prism(4, 1.2, math.pi / 4),
    "twisted prism": prism(4, 1.2, 0.3),
    "tesseract": cube(4),
    "16-cell": cross(4),
    "24-cell": torch.cat([cube(4) / 2, cross(4)]),
    "simplex": torch.eye(6, dtype=torch.float64),
    "two hexagons": torch.cat([polygon(6), 2 * polygon(6, 0.2)]),
    "box": cube() * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64),
    "parallelogram": torch.tensor([[2.0, 0], [1, 1], [-2, 0], [-1, -1]], dtype=torch.float64),
}


def orthogonal(d: int, generator: torch.Generator, special: bool = False) -> Tensor:
    Q, R = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    Q = Q * R.diagonal().sign()
    if special and torch.linalg.det(Q) < 0:
        Q[0] = -Q[0]
    return Q


def copy_of(X: Tensor, generator: torch.Generator, special: bool = False, reach: float = 1.0) -> Tensor:
    """Rotated, scaled by 10^±reach and shifted by up to 10^reach sizes of the cloud, in float64."""
    X = X.double()
    factor = 10 ** (reach * float(2 * torch.rand((), generator=generator, dtype=torch.float64) - 1))
    size = (X - X.mean(-2, keepdim=True)).square().sum(-1).mean().sqrt()
    shift = (2 * torch.rand(X.shape[-1], generator=generator, dtype=torch.float64) - 1) * 10**reach
    return factor * (X @ orthogonal(X.shape[-1], generator, special).mT + size * shift)


def set_distance(A: Tensor, B: Tensor) -> float:
    """Hausdorff distance."""
    D = torch.cdist(A.double(), B.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return max(float(D.amin(0).max()), float(D.amin(1).max()))
