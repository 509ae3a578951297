"""Training on windows, and the errors over them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linmap.data.timeseries import Windows
from linmap.sequence.olinear import OLinear, forecast_errors, train_forecaster, weighted_loss
from linmap.sequence.olinear.baselines import NLinear
from linmap.training import TrainingConfig


def waves(rows: int) -> torch.Tensor:
    time = torch.arange(rows)[:, None]
    return torch.sin(2 * torch.pi * time / torch.tensor([6.0, 9.0]))


def test_errors_are_means_over_all_windows_and_variates_by_step() -> None:
    torch.manual_seed(0)
    model, windows = NLinear(5, 3), Windows(torch.randn(700, 2), 5, 3)  # more than one batch, the last one partial
    x, y = windows.__getitems__(list(range(len(windows))))
    errors = forecast_errors(model, windows)
    with torch.no_grad():
        difference = model(x) - y
    np.testing.assert_allclose(errors.squared, difference.square().mean((0, 2)).numpy(), rtol=1e-5)
    assert errors.mse == pytest.approx(float(difference.square().mean()), rel=1e-5)
    assert errors.mae == pytest.approx(float(difference.abs().mean()), rel=1e-5)


def test_training_learns_waves_and_keeps_the_best_epoch() -> None:
    torch.manual_seed(0)
    model = OLinear(2, 18, 6, d_model=16, embed=2, layers=1, dropout=0.0)
    training, validation = Windows(waves(300), 18, 6), Windows(waves(420)[300:], 18, 6)
    before = forecast_errors(model, validation).mse
    history = train_forecaster(model, training, validation, TrainingConfig(epochs=8, lr=5e-3, schedule="cosine"))
    after = forecast_errors(model, validation)
    assert after.mse < before / 10
    assert history.best_value == min(record.val for record in history.epochs if record.val is not None)
    x, y = validation.__getitems__(list(range(len(validation))))
    with torch.no_grad():
        assert history.best_value == pytest.approx(float(weighted_loss(model(x), y)), rel=1e-3)


def test_validation_can_be_judged_by_another_loss() -> None:
    torch.manual_seed(0)
    model, windows = NLinear(5, 3), Windows(waves(60), 5, 3)
    config = TrainingConfig(epochs=1)
    history = train_forecaster(model, windows, windows, config, loss=F.mse_loss, validation_loss=F.l1_loss)
    assert history.best_value == pytest.approx(forecast_errors(model, windows).mae, rel=1e-4)
