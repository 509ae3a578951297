"""What one would classify series with otherwise: a GRU of equal width, MiniRocket, the most frequent class."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from torch import Tensor, nn

from linmap.sequence.s4.estimators import S4Classifier
from linmap.training import private


class RecurrentModel(nn.Module):
    """Linear, GRU, mean over the samples, Linear."""

    def __init__(self, d_in: int, d_out: int, n_layers: int, d_model: int, bidirectional: bool) -> None:
        super().__init__()
        width = d_model // (1 + bidirectional)
        self.encoder = nn.Linear(d_in, d_model)
        self.gru = nn.GRU(d_model, width, n_layers, batch_first=True, bidirectional=bidirectional)
        self.decoder = nn.Linear(d_model, d_out)

    def forward(self, x: Tensor, lengths: Tensor | None = None, rate: float = 1.0) -> Tensor:
        x = self.encoder(x)
        if lengths is None:
            return self.decoder(self.gru(x)[0].mean(1))
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.decoder(y.sum(1) / lengths.unsqueeze(-1))

    def optim_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """One group."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": weight_decay}]


class GRUClassifier(S4Classifier):
    """A GRU in the place of the state spaces, one layer for two of theirs; all else is as there."""

    def build(self) -> Any:
        """The untrained model, drawn with `random_state` and nothing else."""
        layers = max(1, self.n_layers // 2)
        with private(self.random_state):
            return RecurrentModel(self.n_features_in_, len(self.classes_), layers, self.d_model, self.bidirectional)


class MostFrequent:
    """Always the class that is most frequent in the training."""

    def __init__(self, random_state: int) -> None:
        self.answer: Any = None

    def fit(self, X: Sequence[np.ndarray], y: np.ndarray) -> Self:
        """Count."""
        labels, counts = np.unique(y, return_counts=True)
        self.answer = labels[counts.argmax()]
        return self

    def score(self, X: Sequence[np.ndarray], y: np.ndarray) -> float:
        """Accuracy."""
        return float((y == self.answer).mean())


class MiniRocket:
    """aeon's classifier on series padded with zeros to one length."""

    SHORTEST = 9  # samples that it needs

    def __init__(self, random_state: int) -> None:
        from aeon.classification.convolution_based import MiniRocketClassifier

        self.classifier = MiniRocketClassifier(random_state=random_state)

    @staticmethod
    def installed() -> bool:
        """Whether aeon is there with what this classifier needs of other packages."""
        return all(importlib.util.find_spec(name) is not None for name in ("aeon", "numba", "deprecated"))

    def fit(self, X: Sequence[np.ndarray], y: np.ndarray) -> Self:
        """Train; longer series of later calls are cut."""
        self.length = max(self.SHORTEST, *map(len, X))
        self.classifier.fit(self._padded(X), y)
        return self

    def score(self, X: Sequence[np.ndarray], y: np.ndarray) -> float:
        """Accuracy."""
        return float((self.classifier.predict(self._padded(X)) == y).mean())

    def _padded(self, X: Sequence[np.ndarray]) -> np.ndarray:
        padded = np.zeros((len(X), X[0].shape[1], self.length), np.float32)
        for row, series in zip(padded, X, strict=True):
            row[:, : len(series)] = series[: self.length].T
        return padded
