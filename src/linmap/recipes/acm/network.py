"""The architecture of ShallowFBCSPNet (Schirrmeister et al. 2017) in plain PyTorch: braindecode, which has it, cannot
be imported without torchaudio's binary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from linmap.data.epochs import Epochs
from linmap.training import TrainingConfig, train

FILTERS, KERNEL, POOL, STRIDE, DROPOUT = 40, 25, 75, 15, 0.5


class ShallowNet(nn.Module):
    """Temporal filters, spatial filters, squares, means over time, logarithms, a linear layer: a learnt band power."""

    def __init__(self, n_channels: int, n_times: int, n_classes: int) -> None:
        super().__init__()
        self.temporal = nn.Conv2d(1, FILTERS, (1, KERNEL))
        self.spatial = nn.Conv2d(FILTERS, FILTERS, (n_channels, 1), bias=False)
        self.norm = nn.BatchNorm2d(FILTERS)
        self.pool = nn.AvgPool2d((1, min(POOL, n_times - KERNEL + 1)), (1, STRIDE))
        self.dropout = nn.Dropout(DROPOUT)
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


@dataclass(frozen=True)
class Trained:
    """A network with what it needs to read epochs."""

    model: ShallowNet
    classes: np.ndarray
    deviation: np.ndarray
    """Of each channel in the training part."""

    @property
    def parameters(self) -> int:
        """Trainable ones."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def inputs(self, epochs: Epochs) -> Tensor:
        """Epochs without their means, scaled by the deviation of each channel."""
        x = (epochs.X - epochs.X.mean(-1, keepdims=True)) / self.deviation
        return torch.from_numpy(x.astype(np.float32))

    def predict(self, epochs: Epochs) -> np.ndarray:
        """The class of each epoch."""
        with torch.inference_mode():
            return self.classes[self.model.cpu()(self.inputs(epochs)).argmax(1).numpy()]


def train_network(known: Epochs, validation: Epochs, epochs: int, seed: int, out: Path) -> Trained:
    """Train until the validation loss stops falling; goes on from a checkpoint in `out`."""
    torch.manual_seed(seed)
    classes = np.unique(known.labels())
    model = ShallowNet(known.X.shape[1], known.X.shape[2], len(classes))
    trained = Trained(model, classes, known.X.std((0, 2), keepdims=True))
    (x, y), (x_held, y_held) = ((trained.inputs(part), torch.from_numpy(np.searchsorted(classes, part.labels())))
                                for part in (known, validation))  # fmt: skip
    config = TrainingConfig(epochs=epochs, batch_size=32, lr=1e-3, optimizer="adamw", weight_decay=1e-2,
                            patience=max(epochs // 4, 10), seed=seed)  # fmt: skip
    train(model, lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]), TensorDataset(x, y), config=config,
          validate=lambda m: float(F.cross_entropy(m(x_held), y_held)), out=out, resume=True,
          description="ShallowNet")  # fmt: skip
    return trained
