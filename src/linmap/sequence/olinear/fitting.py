"""Train a forecaster on windows, and measure its errors: the same for OLinear and its baselines (section 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from linmap.data.timeseries import Windows
from linmap.sequence.olinear.folded import fold
from linmap.sequence.olinear.model import OLinear, weighted_loss
from linmap.training import TrainingConfig, TrainingHistory, mean_loss, train

EVALUATION_BATCH = 256
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ForecastErrors:
    """Errors of all forecasts inside a table, by step of the horizon, by window and by variate."""

    squared: Float64[np.ndarray, " horizon"]
    """Mean squared error of each step."""
    absolute: Float64[np.ndarray, " horizon"]
    """Mean absolute error of each step."""
    squared_by_window: Float64[np.ndarray, " windows"]
    absolute_by_window: Float64[np.ndarray, " windows"]
    absolute_by_variate: Float64[np.ndarray, " variates"]

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return float(self.squared.mean())

    @property
    def mae(self) -> float:
        """Mean absolute error."""
        return float(self.absolute.mean())

    def in_blocks(self, kind: Literal["squared", "absolute"], most: int) -> list[float]:
        """Mean errors of consecutive windows, in at most so many blocks of at least a horizon; their mean is that of
        all windows. The errors of windows further apart depend less on each other, so that blocks tell of chance."""
        errors = self.squared_by_window if kind == "squared" else self.absolute_by_window
        count = max(min(most, len(errors) // len(self.squared)), 1)
        return [float(part.sum() * count / len(errors)) for part in np.array_split(errors, count)]


def train_forecaster(
    model: nn.Module,
    training: Windows,
    validation: Windows,
    config: TrainingConfig,
    *,
    loss: Loss = weighted_loss,
    validation_loss: Loss | None = None,
    checkpoints: Path | str | None = None,
    resume: bool = False,
    description: str = "training",
    seed_globally: bool = True,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> TrainingHistory:
    """Train on the training windows and keep the weights that do best on the validation windows.

    Parameters
    ----------
    model
        Maps (batch, time, variate) to (batch, horizon, variate).
    training, validation
        Windows of one split.
    config
        Length, learning rate and so on; `patience` stops early.
    loss, validation_loss
        Functions of (forecast, target); validation by `loss` itself when None.
    checkpoints, resume, description, seed_globally, settings
        `out`, `resume`, `description`, `seed_globally` and `settings` of `linmap.training.train`.
    """
    judge = loss if validation_loss is None else validation_loss
    history = train(
        model,
        _on_windows(loss),
        training,
        config=config,
        out=checkpoints,
        resume=resume,
        description=description,
        seed_globally=seed_globally,
        settings=settings,
        validate=lambda model: mean_loss(for_inference(model), _on_windows(judge), validation, EVALUATION_BATCH),
    )
    model.cpu()
    return history


def _on_windows(loss: Loss) -> Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]:
    return lambda model, batch: loss(model(batch[0]), batch[1])


def for_inference(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, folded where that is possible."""
    return fold(model) if isinstance(model, OLinear) and model.foldable else model.eval()


@torch.inference_mode()
def forecast_errors(model: nn.Module, windows: Windows) -> ForecastErrors:
    """Errors of a model over all windows, the last partial batch included."""
    model = for_inference(model)
    by_step, by_variate, by_window = [], [], []
    for indices in torch.arange(len(windows)).split(EVALUATION_BATCH):
        x, y = windows.__getitems__(indices.tolist())
        error = (model(x) - y).double()
        both = torch.stack([error.square(), error.abs()])  # (2, window, step, variate)
        by_step.append(both.mean(3).sum(1))
        by_variate.append(both[1].mean(1).sum(0))
        by_window.append(both.mean((2, 3)))
    squared, absolute = (torch.stack(by_step).sum(0) / len(windows)).numpy()
    squared_by_window, absolute_by_window = torch.cat(by_window, 1).numpy()
    by_series = (torch.stack(by_variate).sum(0) / len(windows)).numpy()
    return ForecastErrors(squared, absolute, squared_by_window, absolute_by_window, by_series)
