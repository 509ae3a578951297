"""What people train in place of BT²'s bases: a residual network from new vectors to old ones."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap.retrieve.bt2.frozen import HIDDEN, Objective, to_own_vector
from linmap.retrieve.bt2.pairs import self_retrieval_ranks
from linmap.training import TrainingConfig, train
from linmap.training.randomness import private

HOLD_OUT = 5  # every fifth pair ends the training
EPOCHS, BATCH, PATIENCE = 200, 256, 20


class ResidualAdapter(nn.Module):
    """Old unit vectors from new ones: unit(W x + W2 relu(W1 x + b1) + b2)."""

    def __init__(self, d_new: int, d_old: int) -> None:
        super().__init__()
        self.linear = nn.Linear(d_new, d_old, bias=False)
        self.network = nn.Sequential(nn.Linear(d_new, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, d_old))

    def forward(self, x: Float[Tensor, "rows d_new"]) -> Float[Tensor, "rows d_old"]:
        return F.normalize(self.linear(x) + self.network(x), dim=-1)

    @torch.no_grad()
    def queries(self, X: Float[np.ndarray, "rows d_new"]) -> Float[np.ndarray, "rows d_old"]:
        return self(torch.from_numpy(X.astype(np.float32)).to(self.linear.weight.device)).cpu().double().numpy()


def residual_adapter(X: np.ndarray, Y: np.ndarray, objective: Objective, seed: int) -> ResidualAdapter:
    """Trained on four fifths of the pairs, up to the epoch after which the others find their own old vectors best."""
    held = np.arange(len(X)) % HOLD_OUT == 0

    def validate(_: nn.Module) -> float:
        return -float((1 / self_retrieval_ranks(adapter.queries(X[held]), Y[held], Y)).mean())

    data = TensorDataset(*(torch.from_numpy(part[~held].astype(np.float32)) for part in (X, Y)))
    config = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, schedule="cosine", patience=PATIENCE, seed=seed)
    with private(seed):
        adapter = ResidualAdapter(X.shape[1], Y.shape[1])
    train(
        adapter,
        to_own_vector(objective),
        data,
        config=config,
        validate=validate,
        description="bt2: residual adapter",
        seed_globally=False,
    )
    adapter.cpu()
    return adapter
