"""The architecture of ShallowFBCSPNet (Schirrmeister et al. 2017) in plain PyTorch: braindecode, which has it, cannot
be imported without torchaudio's binary."""

from __future__ import annotations

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


def network_answers(
    train_epochs: Epochs, validation: Epochs, test: Epochs, epochs: int, seed: int, out: Path, resume: bool
) -> np.ndarray:
    """Train until the validation loss stops falling, and classify the test epochs.

    Epochs lose their mean and are scaled by the standard deviation of each channel in the training part.
    """
    classes = np.unique(train_epochs.labels())
    deviation = train_epochs.X.std((0, 2), keepdims=True)

    def tensors(part: Epochs) -> tuple[Tensor, Tensor]:
        x = (part.X - part.X.mean(-1, keepdims=True)) / deviation
        return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(np.searchsorted(classes, part.labels()))

    torch.manual_seed(seed)
    model = ShallowNet(train_epochs.X.shape[1], train_epochs.X.shape[2], len(classes))
    known, target = tensors(validation)
    config = TrainingConfig(epochs=epochs, batch_size=32, lr=1e-3, optimizer="adamw", weight_decay=1e-2,
                            patience=max(epochs // 4, 10), seed=seed)  # fmt: skip
    train(
        model, lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]), TensorDataset(*tensors(train_epochs)),
        config=config,
        validate=lambda m: float(F.cross_entropy(m(known), target)), out=out, resume=resume, description="ShallowNet",
    )  # fmt: skip
    with torch.inference_mode():
        return classes[model.cpu()(tensors(test)[0]).argmax(1).numpy()]


def n_parameters(n_channels: int, n_times: int, n_classes: int) -> int:
    """Trainable parameters of the network for epochs of that shape."""
    return sum(parameter.numel() for parameter in ShallowNet(n_channels, n_times, n_classes).parameters())
