"""BT² between two frozen models, from pairs of their vectors: the closed form, and P, O and u trained from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap.maps import Cayley
from linmap.retrieve.bt2.head import combine, fold
from linmap.training import TrainingConfig, parts, train
from linmap.training.batches import Loss
from linmap.training.randomness import private

HIDDEN = 256
TEMPERATURE = 0.05
EPOCHS, BATCH, PATIENCE = 40, 256, 6
Objective = Literal["cosine and contrast", "contrast", "cosine"]
WEIGHTS: dict[Objective, tuple[float, float]] = {
    "cosine and contrast": (5.0, 10.0),
    "contrast": (0.0, 10.0),
    "cosine": (5.0, 0.0),
}


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


def closed_form(
    X: Float[np.ndarray, "pairs d_new"],
    Y: Float[np.ndarray, "pairs d_old"],
    n_extra: int,
    C: float,
    centred: bool = False,
) -> FittedMap:
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


def closed_bases(
    X: Float[np.ndarray, "pairs d_new"], Y: Float[np.ndarray, "pairs d_old"], n_extra: int
) -> tuple[Float[np.ndarray, "d_new d_new"], Float[np.ndarray, "d_old d_old"]]:
    """P and O of the closed form, to begin a training with.

    The d_old - n_extra directions in which X and Y agree most are kept for P f; u, the first n_extra coordinates, gets
    the others. With n_extra = 0 phi_bc is that of orthogonal Procrustes.
    """
    U, _, Vh = np.linalg.svd(X.astype(np.float64).T @ Y.astype(np.float64))
    strong = Y.shape[1] - n_extra
    return U.T, np.ascontiguousarray(Vh.T[:, [*range(strong, Y.shape[1]), *range(strong)]])


class FrozenPair(nn.Module):
    """P, O and the network of u, started at the closed form."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, n_extra: int, C: float, centred: bool) -> None:
        super().__init__()
        m_X, m_Y = means(X, Y, centred)
        P, O = closed_bases(X - m_X, Y - m_Y, n_extra)
        self.P, self.O = (Cayley.from_matrix(torch.from_numpy(Q.astype(np.float32))) for Q in (P, O))
        self.C, self.n_extra = C, n_extra
        offset = torch.from_numpy(C * (m_Y - m_X @ procrustes(X - m_X, Y - m_Y)[0])).float()
        self.offset = nn.Parameter(offset) if centred else None
        self.network = None
        if n_extra:
            self.network = nn.Sequential(nn.Linear(X.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_extra))

    def forward(self, f: Float[Tensor, "batch d_new"]) -> Float[Tensor, "batch d_old"]:
        """phi_bc as unit vectors, after the offset."""
        u = f[:, :0] if self.network is None else F.normalize(self.network(f), dim=-1)
        phi, _ = combine(u, f, self.P, self.O, self.C)
        return F.normalize(phi if self.offset is None else phi + self.offset, dim=-1)

    @torch.no_grad()
    def fitted(self) -> FittedMap:
        """The plain matrices, in float64."""
        folded = fold(self.P.matrix().double(), self.O.matrix().double(), self.C, self.n_extra)
        network: Any = None
        if self.network is not None:
            network = tuple(part.double().cpu().numpy().copy() for part in self.network.parameters())
        offset = None if self.offset is None else self.offset.double().cpu().numpy().copy()
        return FittedMap(folded.A.cpu().numpy(), folded.B.cpu().numpy(), network, offset)


def to_own_vector(objective: Objective) -> Loss:
    """The loss of a model that maps new vectors, as unit vectors, to the old ones that come with them."""
    cosine, contrast = WEIGHTS[objective]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        phi, y = model(batch[0]), batch[1]
        part = parts.current()
        numbers = torch.arange(len(y), device=y.device) + (0 if part is None else part.first)
        own = F.cross_entropy(phi @ parts.everyones(y).mT / TEMPERATURE, numbers)
        return cosine * (1 - (phi * y).sum(-1).mean()) + contrast * own

    return loss


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
    config = TrainingConfig(
        epochs=epochs,
        batch_size=BATCH,
        schedule="cosine",
        warmup_epochs=min(2, epochs - 1),
        patience=None if score is None else PATIENCE,
        seed=seed,
    )
    data = TensorDataset(*(torch.from_numpy(part.astype(np.float32)) for part in (X, Y)))
    with private(seed):
        model = FrozenPair(X, Y, n_extra, C, centred)
    history = train(
        model,
        to_own_vector(objective),
        data,
        config=config,
        description="bt2: training the bases",
        validate=None if score is None else lambda _: -score(model.fitted()),
        seed_globally=False,
    )
    return model.fitted(), history.best_epoch or epochs
