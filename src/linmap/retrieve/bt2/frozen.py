"""BT² between two frozen models, from pairs of their vectors: the closed form, and P, O and u trained from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.maps import Cayley
from linmap.retrieve.bt2.head import combine, fold
from linmap.retrieve.bt2.training import train_epochs

HIDDEN = 256
TEMPERATURE = 0.05
EPOCHS, BATCH, PATIENCE = 40, 256, 6
Objective = Literal["cosine and contrast", "contrast"]
WEIGHTS: dict[Objective, tuple[float, float]] = {"cosine and contrast": (5.0, 10.0), "contrast": (0.0, 10.0)}


def procrustes(
    X: Float[np.ndarray, "pairs d_new"], Y: Float[np.ndarray, "pairs d_old"]
) -> tuple[Float[np.ndarray, "d_new d_old"], Float[np.ndarray, " rank"]]:
    """Q = U V^T of the singular value decomposition X^T Y = U S V^T, and S, in float64.

    Of all matrices with orthonormal columns (rows where d_new < d_old) it has the largest sum of <Q^T x, y>, which is
    the sum of S (Schönemann 1966).
    """
    U, S, Vh = np.linalg.svd(X.astype(np.float64).T @ Y.astype(np.float64), full_matrices=False)
    return U @ Vh, S


@dataclass(frozen=True)
class FittedMap:
    """phi_new = [[u ; f] A, f B] with u = unit(W2 relu(W1 f + b1) + b2), or no u where `network` is None.

    Against old vectors, a query is unit([u ; f] A + offset).
    """

    A: Float[np.ndarray, "parts d_old"]
    B: Float[np.ndarray, "d_new rest"]
    network: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None
    """W1, b1, W2, b2."""
    offset: Float[np.ndarray, " d_old"] | None = None
    """What the old vectors have in common and the new ones lack, where the map is centred."""

    @property
    def d_new(self) -> int:
        return self.B.shape[0]

    def extra(self, f: Float[np.ndarray, "rows d_new"]) -> Float[np.ndarray, "rows n_extra"]:
        """u; of no width without a network."""
        if self.network is None:
            return f[:, :0]
        W1, b1, W2, b2 = (part.astype(f.dtype) for part in self.network)
        u = np.maximum(f @ W1.T + b1, 0) @ W2.T + b2
        return u / np.linalg.norm(u, axis=1, keepdims=True).clip(1e-12)

    def compatible(self, f: Float[np.ndarray, "rows d_new"]) -> Float[np.ndarray, "rows d_old"]:
        """phi_bc as unit vectors, after the offset."""
        phi = np.concatenate([self.extra(f), f], 1) @ self.A.astype(f.dtype)
        if self.offset is not None:
            phi += self.offset.astype(f.dtype)
        return phi / np.linalg.norm(phi, axis=1, keepdims=True).clip(1e-12)


def means(
    X: Float[np.ndarray, "pairs d_new"], Y: Float[np.ndarray, "pairs d_old"], centred: bool
) -> tuple[Float[np.ndarray, " d_new"], Float[np.ndarray, " d_old"]]:
    """What is taken away from both sides before they are rotated onto each other: their means, or nothing."""
    return X.mean(0) * centred, Y.mean(0) * centred


def closed_form(X: Float[np.ndarray, "pairs d_new"], Y: Float[np.ndarray, "pairs d_old"], n_extra: int, C: float,
                centred: bool = False) -> FittedMap:  # fmt: skip
    """Orthogonal Procrustes as phi_bc, the orthogonal complement as the other coordinates: nothing of f is lost.

    The complement is followed by zeros, n_extra of them where d_new >= d_old, up to the width d_new + n_extra. Where
    `centred`, Q is that of x - m_X and y - m_Y, and a query is Q^T (f - m_X) + m_Y: the stored vectors stay a rotation
    of the new ones, for what centring adds is the same for all of them.
    """
    m_X, m_Y = means(X, Y, centred)
    Q, _ = procrustes(X - m_X, Y - m_Y)
    d_new, d_old = Q.shape
    complement = np.linalg.svd(Q)[0][:, d_old:]
    zeros = np.zeros((d_new, d_new + n_extra - d_old - complement.shape[1]))
    return FittedMap(C * Q, C * np.concatenate([complement, zeros], 1), offset=C * (m_Y - m_X @ Q) if centred else None)


class FrozenPair(nn.Module):
    """P, O and the network of u, started at the closed form."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, n_extra: int, C: float, seed: int, centred: bool) -> None:
        super().__init__()
        m_X, m_Y = means(X, Y, centred)
        U, _, Vh = np.linalg.svd((X - m_X).T @ (Y - m_Y))
        strong = Y.shape[1] - n_extra  # directions of the old space that f keeps; u learns the weak ones
        order = [*range(strong, Y.shape[1]), *range(strong)]
        self.P = Cayley.from_matrix(torch.from_numpy(U.T.astype(np.float32)))
        self.O = Cayley.from_matrix(torch.from_numpy(np.ascontiguousarray(Vh.T[:, order], np.float32)))
        self.C, self.n_extra = C, n_extra
        rank = min(X.shape[1], Y.shape[1])
        offset = torch.from_numpy(C * (m_Y - m_X @ U[:, :rank] @ Vh[:rank])).float()
        self.offset = nn.Parameter(offset) if centred else None
        self.network = None
        if n_extra:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                layers = (nn.Linear(X.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_extra))
            self.network = nn.Sequential(*layers)

    def forward(self, f: Float[Tensor, "batch d_new"]) -> Float[Tensor, "batch d_old"]:
        """phi_bc as unit vectors, after the offset."""
        u = f[:, :0] if self.network is None else F.normalize(self.network(f), dim=-1)
        phi, _ = combine(u, f, self.P, self.O, self.C)
        return F.normalize(phi if self.offset is None else phi + self.offset, dim=-1)

    @torch.no_grad()
    def fitted(self) -> FittedMap:
        """The plain matrices, in float64."""
        folded = fold(self.P.matrix().double(), self.O.matrix().double(), self.C, self.n_extra)
        network = None
        if self.network is not None:
            network = tuple(part.double().numpy().copy() for part in self.network.parameters())
        offset = None if self.offset is None else self.offset.double().numpy().copy()
        return FittedMap(folded.A.numpy(), folded.B.numpy(), network, offset)  # pyright: ignore[reportArgumentType]


def trained(
    X: Float[np.ndarray, "pairs d_new"],
    Y: Float[np.ndarray, "pairs d_old"],
    n_extra: int,
    C: float,
    objective: Objective,
    seed: int,
    score: Callable[[FittedMap], float] | None = None,
    epochs: int = EPOCHS,
    centred: bool = False,
) -> tuple[FittedMap, int]:
    """Adam from the closed form, and the epochs that were best by `score` (all of them without one).

    The loss is that of BT² with every item as its own class: cosine to the own old vector, and cross-entropy of the
    own old vector among those of the batch.
    """
    model = FrozenPair(X, Y, n_extra, C, seed, centred)
    f, y = (torch.from_numpy(part.astype(np.float32)) for part in (X, Y))
    cosine, contrast = WEIGHTS[objective]

    def loss(rows: Tensor) -> Tensor:
        phi = model(f[rows])
        own = F.cross_entropy(phi @ y[rows].mT / TEMPERATURE, torch.arange(len(rows)))
        return cosine * (1 - (phi * y[rows]).sum(-1).mean()) + contrast * own

    best, best_score, best_epoch = model.fitted(), -np.inf, 0

    def after_epoch(epoch: int) -> bool:
        nonlocal best, best_score, best_epoch
        fitted = model.fitted()
        value = epoch if score is None else score(fitted)
        if value > best_score:
            best, best_score, best_epoch = fitted, value, epoch + 1
        return epoch + 1 - best_epoch >= PATIENCE

    train_epochs(model, loss, len(f), epochs=epochs, batch_size=BATCH, weight_decay=0.0, warmup=min(2, epochs - 1),
                 seed=seed, after_epoch=after_epoch)  # fmt: skip
    return best, best_epoch
