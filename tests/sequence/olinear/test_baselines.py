"""The baselines: their definitions, their sizes, and the figures of the literature."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linmap.data.timeseries import Windows, literature_split, load_time_series
from linmap.sequence.olinear import DLinear, NLinear, RepeatLast, RepeatSeason, RLinear, forecast_errors


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_sizes_are_those_of_the_literature() -> None:
    assert (size(DLinear(96, 96)), size(NLinear(96, 96)), size(RLinear(96, 96, 7))) == (18_624, 9_312, 9_326)


def test_dlinear_sums_a_layer_of_the_moving_average_and_one_of_the_rest() -> None:
    torch.manual_seed(0)
    model, x = DLinear(30, 4), torch.randn(1, 30, 1)
    padded = torch.cat([x[0, :1, 0].repeat(12), x[0, :, 0], x[0, -1:, 0].repeat(12)])
    trend = torch.stack([padded[i : i + 25].mean() for i in range(30)])
    expected = model.trend(trend) + model.seasonal(x[0, :, 0] - trend)
    torch.testing.assert_close(model(x)[0, :, 0], expected)


def test_nlinear_is_blind_to_the_level_and_rlinear_to_the_scale_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 3)
    nlinear, rlinear = NLinear(8, 4), RLinear(8, 4, 3)
    torch.testing.assert_close(nlinear(x + 5), nlinear(x) + 5, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rlinear(3 * x + 5), 3 * rlinear(x) + 5, atol=1e-3, rtol=1e-3)
    z = F.layer_norm(x.mT, (8,), eps=1e-5)
    std, mean = (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt(), x.mean(1, keepdim=True)
    torch.testing.assert_close(rlinear(x), rlinear.linear(z).mT * std + mean)


def test_repeat_last_on_etth1_has_the_known_error() -> None:
    series = load_time_series("etth1")
    split = literature_split(len(series), "ETTh1")
    train = series.values[: split.train]
    values = torch.from_numpy((series.values - train.mean(0)) / train.std(0)).float()
    windows = {part: Windows(values[rows], 96, 96) for part, rows in split.spans(96).items()}
    assert [len(part) for part in windows.values()] == [8449, 2785, 2785]
    errors = forecast_errors(RepeatLast(96), windows["test"])
    assert errors.mse == pytest.approx(1.2944, abs=5e-5)
    assert errors.mae == pytest.approx(0.7132, abs=5e-5)


def test_the_last_season_is_repeated() -> None:
    x = torch.arange(10.0)[None, :, None]
    assert RepeatSeason(3, 7)(x).flatten().tolist() == [7, 8, 9, 7, 8, 9, 7]


def test_errors_by_step_window_and_variate_are_means_of_the_same_errors() -> None:
    values = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    windows = Windows(values, 4, 5)
    errors = forecast_errors(RepeatLast(5), windows)
    x, y = windows.__getitems__(list(range(len(windows))))
    gap = (x[:, -1:] - y).double().numpy()
    for found, expected in (
        (errors.squared, (gap**2).mean((0, 2))),
        (errors.absolute, abs(gap).mean((0, 2))),
        (errors.squared_by_window, (gap**2).mean((1, 2))),
        (errors.absolute_by_window, abs(gap).mean((1, 2))),
        (errors.absolute_by_variate, abs(gap).mean((0, 1))),
    ):
        assert found == pytest.approx(expected)
    assert errors.mse == pytest.approx((gap**2).mean())
