"""Signals with known answers."""

import numpy as np
from scipy.linalg import solve_discrete_lyapunov


def var1(A: np.ndarray, S: np.ndarray, n_times: int, seed: int = 0) -> np.ndarray:
    """A stationary path (channels, times) of x(t) = A x(t - 1) + e(t), e ~ N(0, S)."""
    rng = np.random.default_rng(seed)
    e = np.linalg.cholesky(S) @ rng.standard_normal((len(A), n_times))
    x = np.empty_like(e)
    x[:, 0] = np.linalg.cholesky(solve_discrete_lyapunov(A, S)) @ rng.standard_normal(len(A))
    for t in range(1, n_times):
        x[:, t] = A @ x[:, t - 1] + e[:, t]
    return x


def opposite_memories(n_epochs: int, n_times: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Epochs of two classes, x(t) = +-.5 x(t - 1) + e(t) behind one mixing of three channels: equal covariances."""
    rng = np.random.default_rng(seed)
    mixing, y = rng.standard_normal((3, 3)), np.arange(n_epochs) % 2
    sources = [var1((0.5 - label) * np.eye(3), np.eye(3), n_times, seed + 1 + i) for i, label in enumerate(y)]
    return np.stack([mixing @ source for source in sources]), y
