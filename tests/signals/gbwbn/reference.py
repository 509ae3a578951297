"""The layer as the paper has it, matrix by matrix in NumPy, and in plain PyTorch with the gradients of eigh."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def _apply(A: np.ndarray, f: Any) -> np.ndarray:
    a, U = np.linalg.eigh(A)
    return (U * f(a)) @ U.T


def layer(X: Any, M: Any, W: Any, s: float, theta: float, eps: float = 1e-5, variance: str = "centered") -> Any:
    """Output, mean and variance of one step in training; no fold may occur (see the package's notes)."""
    X, M, W = (np.asarray(A.detach()) for A in (X, M, W))
    root, inverse = _apply(M, np.sqrt), _apply(M, lambda a: 1 / np.sqrt(a))
    Y = [inverse @ _apply(x, lambda a: a**theta) @ inverse for x in X]
    G = inverse @ _apply(W, lambda a: a**theta) @ inverse
    S = _apply(np.mean(Y, 0), np.sqrt)
    N = np.linalg.inv(S)
    H = np.mean([_apply(S @ y @ S, np.sqrt) for y in Y], 0)
    B = N @ H @ H @ N
    S, (b, U) = _apply(B, np.sqrt), np.linalg.eigh(B)
    V = []
    for y in Y:
        C = S @ _apply(S @ y @ S, np.sqrt) @ np.linalg.inv(S)
        V.append(U @ (np.sqrt(2 / np.add.outer(b, b)) * (U.T @ (C + C.T - 2 * B) @ U)) @ U.T)
    n = len(B)
    about = B if variance == "centered" else np.eye(n)
    A = _apply(about, np.sqrt)
    v2 = np.mean([np.trace(y + about) - 2 * np.trace(_apply(A @ y @ A, np.sqrt)) for y in Y]) / theta**2
    out, (g, Q) = [], np.linalg.eigh(G)
    for v in V:
        E = Q.T @ (s / np.sqrt(v2 + eps) * v) @ Q * np.sqrt(np.add.outer(g, g) / 2)
        J = np.eye(n) + Q @ (E / np.add.outer(g, g)) @ Q.T
        out.append(_apply(root @ J @ G @ J @ root, lambda a: np.abs(a) ** (1 / theta)))
    return np.array(out), B, v2


def _f(A: Tensor, f: Any) -> Tensor:
    a, U = torch.linalg.eigh(A)
    return (U * f(a).unsqueeze(-2)) @ U.mT


def differentiable(
    X: Tensor, M: Tensor, W: Tensor, s: Tensor, theta: float, eps: float = 1e-5, attached: bool = False
) -> Tensor:
    """The same by PyTorch's own derivative of eigh: right where all eigenvalues differ."""
    root, inverse = _f(M, torch.sqrt), _f(M, torch.rsqrt)
    Y, G = inverse @ _f(X, lambda a: a**theta) @ inverse, inverse @ _f(W, lambda a: a**theta) @ inverse
    S = _f(Y.mean(0), torch.sqrt)
    H = _f(S @ Y @ S, torch.sqrt).mean(0)
    B = S.inverse() @ H @ H @ S.inverse()
    B = B if attached else B.detach()
    S, (b, U) = _f(B, torch.sqrt), torch.linalg.eigh(B)
    C = S @ _f(S @ Y @ S, torch.sqrt) @ S.inverse()
    V = U @ ((U.mT @ (C + C.mT - 2 * B) @ U) * (2 / (b[:, None] + b)).sqrt()) @ U.mT
    v2 = V.square().sum((-2, -1)).mean() / (4 * theta**2)
    L = s * ((v2 if attached else v2.detach()) + eps).rsqrt() * V
    g, Q = torch.linalg.eigh(G)
    sums = g[:, None] + g
    J = torch.eye(len(g), dtype=X.dtype) + Q @ ((Q.mT @ L @ Q) * (sums / 2).sqrt() / sums) @ Q.mT
    return _f(root @ J @ G @ J @ root, lambda a: a ** (1 / theta))
