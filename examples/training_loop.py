"""Train a forecaster on one hourly series; stop it with Ctrl-C or `kill -9`, run it again, and it goes on.

```console
$ python examples/training_loop.py                                   # ETTh1, which comes with linmap
$ python examples/training_loop.py --data my.csv --column demand
$ torchrun --nproc_per_node 2 examples/training_loop.py              # the same losses from two processes
```
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.data import EMBEDDED
from linmap.training import TrainingConfig, mean_loss, train

LOOKBACK, HORIZON = 96, 24


class Windows(Dataset):
    """All windows of a series, cut as they are needed: `__getitems__` returns a whole batch at once."""

    def __init__(self, series: Tensor) -> None:
        self.windows = series.unfold(0, LOOKBACK + HORIZON, 1)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        batch = self.windows[indices]
        return batch[:, :LOOKBACK], batch[:, LOOKBACK:]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.windows[index, :LOOKBACK], self.windows[index, LOOKBACK:]


class Forecaster(nn.Module):
    """The window's last value plus a linear map of what precedes it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LOOKBACK, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, HORIZON))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1:] + self.layers(x - x[:, -1:])


def absolute_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    past, future = batch
    return (model(past) - future).abs().mean()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=EMBEDDED / "ETTh1.csv")
    parser.add_argument("--column", default="OT")
    parser.add_argument("--out", type=Path, default=Path("runs/training_loop"))
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()

    series = torch.tensor(pd.read_csv(arguments.data)[arguments.column].to_numpy(), dtype=torch.float32)
    split = int(0.8 * len(series))
    series = (series - series[:split].mean()) / series[:split].std()  # by the training rows only
    held_out = Windows(series[split - LOOKBACK :])

    set_seed(0)  # the same weights at the start in every process
    model = Forecaster()
    history = train(
        model,
        absolute_error,
        Windows(series[:split]),
        config=TrainingConfig(epochs=arguments.epochs, lr=1e-3, schedule="cosine", patience=3, checkpoint_every=100),
        validate=lambda model: mean_loss(model, absolute_error, held_out),
        out=arguments.out,
        resume=True,
    )
    best = f"best epoch {history.best_epoch}: mean absolute error {history.best_value:.4f}"
    PartialState().print(
        f"{best} after {history.steps} steps; its checkpoints are in {arguments.out}/ and go on from there"
    )


if __name__ == "__main__":
    main()
