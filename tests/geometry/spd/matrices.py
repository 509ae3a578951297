"""Random positive definite matrices for the laws."""

import torch
from torch import Tensor


def spd(*shape: int, n: int = 4, condition: float | None = None, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Wishart matrices (*shape, n, n), or such of a given condition number with random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(*shape, n, 2 * n, generator=generator, dtype=torch.float64)
    X = A @ A.mT / n
    if condition is not None:
        U = torch.linalg.eigh(X)[1]
        a = torch.logspace(0, -float(torch.log10(torch.tensor(condition))), n, dtype=torch.float64)
        X = (U * a) @ U.mT
    return ((X + X.mT) / 2).to(dtype)


def symmetric(*shape: int, n: int = 4, seed: int = 1, scale: float = 0.1) -> Tensor:
    """Random symmetric matrices (*shape, n, n)."""
    A = torch.randn(*shape, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * (A + A.mT)


def sym(A: Tensor) -> Tensor:
    return (A + A.mT) / 2
