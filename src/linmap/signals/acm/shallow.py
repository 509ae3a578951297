"""What one would classify epochs with otherwise: a shallow convolutional network."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from linmap.training import TrainingConfig, private, train
from linmap.training.randomness import Dropout

FILTERS, KERNEL, POOL, STRIDE, DROPOUT = 40, 25, 75, 15, 0.5


class ShallowNet(nn.Module):
    """The architecture of ShallowFBCSPNet: temporal filters, spatial filters, squares, means over time, logarithms and
    a linear layer, which is a learnt band power. Braindecode has it too, but needs torchaudio's binary.

    References
    ----------
    Schirrmeister et al., "Deep learning with convolutional neural networks for EEG decoding and visualization", Human
    Brain Mapping 2017.
    """

    def __init__(self, n_channels: int, n_times: int, n_classes: int) -> None:
        super().__init__()
        self.temporal = nn.Conv2d(1, FILTERS, (1, KERNEL))
        self.spatial = nn.Conv2d(FILTERS, FILTERS, (n_channels, 1), bias=False)
        self.norm = nn.BatchNorm2d(FILTERS)
        self.pool = nn.AvgPool2d((1, min(POOL, n_times - KERNEL + 1)), (1, STRIDE))
        self.dropout = Dropout(DROPOUT)
        windows = (n_times - KERNEL + 1 - min(POOL, n_times - KERNEL + 1)) // STRIDE + 1
        self.out = nn.Linear(FILTERS * windows, n_classes)
        for layer in (self.temporal, self.spatial, self.out):
            nn.init.xavier_uniform_(layer.weight)
        for bias in (self.temporal.bias, self.out.bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, x: Float[Tensor, "batch channels times"]) -> Float[Tensor, "batch classes"]:
        power = self.pool(self.norm(self.spatial(self.temporal(x[:, None]))).square())
        return self.out(self.dropout(power.clamp_min(1e-6).log()).flatten(1))


class ShallowNetClassifier:
    """`ShallowNet` on epochs without their means, each channel divided by its deviation in the training.

    Parameters
    ----------
    epochs
        Passes over the training epochs, at most: training ends where the validation loss has stopped to fall.
    random_state
        Seed of all draws.
    """

    def __init__(self, epochs: int = 30, random_state: int = 0) -> None:
        self.epochs, self.random_state = epochs, random_state

    def fit(
        self,
        X: Float[np.ndarray, "epochs channels times"],
        y: Shaped[np.ndarray, " epochs"],
        validation: tuple[np.ndarray, np.ndarray],
        checkpoints: Path | None = None,
    ) -> Self:
        """Train; `validation` are epochs and classes that say when to stop, and a checkpoint is gone on from."""
        self.classes_ = np.unique(y)
        self.deviation_ = X.std((0, 2), keepdims=True)
        with private(self.random_state):
            self.model_ = ShallowNet(X.shape[1], X.shape[2], len(self.classes_))
        (x, target), (x_held, held) = ((self._inputs(X), self._index(y)) for X, y in ((X, y), validation))
        config = TrainingConfig(
            epochs=self.epochs,
            batch_size=32,
            lr=1e-3,
            optimizer="adamw",
            weight_decay=1e-2,
            patience=max(self.epochs // 4, 10),
            seed=self.random_state,
        )
        train(self.model_, lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]), TensorDataset(x, target),
              config=config, validate=lambda m: float(F.cross_entropy(m(x_held), held)), out=checkpoints,
              resume=checkpoints is not None, description="ShallowNet", seed_globally=False)  # fmt: skip
        return self

    def predict(self, X: Float[np.ndarray, "epochs channels times"]) -> Shaped[np.ndarray, " epochs"]:
        """The class of each epoch."""
        with torch.inference_mode():
            return self.classes_[self.model_.cpu().eval()(self._inputs(X)).argmax(1).numpy()]

    def _inputs(self, X: np.ndarray) -> Tensor:
        return torch.from_numpy(((X - X.mean(-1, keepdims=True)) / self.deviation_).astype(np.float32))

    def _index(self, y: np.ndarray) -> Tensor:
        return torch.from_numpy(np.searchsorted(self.classes_, y))
