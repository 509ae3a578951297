"""Intervals by split conformal: the rank, the coverage where its assumption holds, and a library beside it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from linmap.data.timeseries import Windows
from linmap.sequence.olinear import calibration_scores, conformal_quantile, coverage

mapie = pytest.importorskip("mapie.regression", reason="the library that checks the quantiles")


class Level(nn.Module):
    """Forecasts the mean of the window."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1, keepdim=True).expand(-1, self.steps, -1)


def noise(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(1, 60), level=st.floats(1, 99), seed=st.integers(0, 99))
def test_the_quantile_is_the_order_statistic(n: int, level: float, seed: int) -> None:
    scores = np.random.default_rng(seed).random((n, 2, 3)).astype(np.float32)
    rank = math.ceil((n + 1) * level / 100)
    if rank > n:
        with pytest.raises(ValueError, match=f"there are {n}; calibrate on more rows"):
            conformal_quantile(scores, level)
        return
    np.testing.assert_array_equal(conformal_quantile(scores, level), np.sort(scores, axis=0)[rank - 1])


def test_it_is_the_interval_of_mapie() -> None:
    rng = np.random.default_rng(0)
    forecast, truth = rng.random(200), rng.random(200)

    class Given:
        """A fitted regressor whose prediction is its input."""

        def fit(self, X: np.ndarray, y: np.ndarray) -> "Given":
            return self

        def predict(self, X: np.ndarray) -> np.ndarray:
            return X[:, 0]

        def __sklearn_is_fitted__(self) -> bool:
            return True

    library = mapie.SplitConformalRegressor(Given(), confidence_level=0.8, prefit=True)
    library.conformalize(forecast[:, None], truth)
    ends = library.predict_interval(np.array([[0.5]]))[1][0, :, 0]
    width = conformal_quantile(np.abs(truth - forecast)[:, None, None], 80)[0, 0]
    np.testing.assert_allclose(ends, [0.5 - width, 0.5 + width], rtol=1e-6)


@pytest.mark.parametrize("scale", ["constant", "window"])
def test_intervals_cover_what_they_promise_where_windows_are_exchangeable(scale: str) -> None:
    model, covered = Level(3), []
    for seed in range(30):
        scores = calibration_scores(model, Windows(noise(405, seed), 4, 3), scale, limit=100)
        windows = Windows(noise(2000, 1000 + seed), 4, 3)
        fresh = calibration_scores(model, windows, scale, limit=2000)
        covered.append((fresh <= conformal_quantile(scores, 90)).mean())
    assert np.mean(covered) == pytest.approx(0.9, abs=0.015)


def test_scores_are_errors_over_the_scale_of_their_windows() -> None:
    windows = Windows(noise(30), 5, 2)
    x, y = windows.__getitems__(list(range(len(windows))))
    error = (y - x.mean(1, keepdim=True)).abs()
    np.testing.assert_allclose(calibration_scores(Level(2), windows), error, rtol=1e-6)
    std = (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    np.testing.assert_allclose(calibration_scores(Level(2), windows, "window"), error / std, rtol=1e-5)
    assert len(calibration_scores(Level(2), windows, limit=7)) == 7


def test_wrong_arguments_are_explained() -> None:
    scores = np.ones((10, 1, 1), dtype=np.float32)
    with pytest.raises(ValueError, match="level must lie between 1 and 100 percent, got 100"):
        conformal_quantile(scores, 100)
    with pytest.raises(ValueError, match=r"got 0\.8; is it a share\? Write 80\."):
        conformal_quantile(scores, 0.8)
    with pytest.raises(ValueError, match="level 95 needs at least 19 calibration windows, there are 10"):
        conformal_quantile(scores, 95)
    with pytest.raises(ValueError, match="scale of the scores must be 'constant' or 'window', got 'std'"):
        calibration_scores(Level(2), Windows(noise(30), 5, 2), "std")


@pytest.mark.parametrize("scale", ["constant", "window"])
def test_coverage_is_the_share_of_truths_inside(scale: str) -> None:
    model, calibration, test = Level(3), Windows(noise(60), 5, 3), Windows(noise(80, 1), 5, 3)
    found = coverage(model, calibration, test, (80, 90, 99), scale)
    assert [one.level for one in found] == [80, 90]  # 53 windows are too few for 99 %
    errors = calibration_scores(model, test, scale)
    for one in found:
        inside = errors <= conformal_quantile(calibration_scores(model, calibration, scale), one.level)
        np.testing.assert_allclose(one.covered, inside.mean((0, 2)))
        assert len(one.width) == 3
    assert np.mean(found[0].covered) <= np.mean(found[1].covered)
    assert np.mean(found[0].width) < np.mean(found[1].width)
