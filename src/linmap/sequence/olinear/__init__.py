"""OLinear: forecasting many series at once in an orthogonally transformed domain (arXiv 2505.08550).

`OrthoTrans` is the change of basis along time, `NormLin` the mixing of the variates, `OLinear` the model of both,
`OLinearForecaster` the estimator over data frames. All public names are importable from here.
"""

from linmap.sequence.olinear.backtest import Backtest, backtest
from linmap.sequence.olinear.baselines import DLinear, NLinear, RepeatLast, RepeatSeason, RLinear
from linmap.sequence.olinear.bases import BASES, basis
from linmap.sequence.olinear.conformal import Coverage, calibration_scores, conformal_quantile, coverage
from linmap.sequence.olinear.correlation import temporal_correlation, temporal_correlations, variate_correlation
from linmap.sequence.olinear.fitting import ForecastErrors, forecast_errors, train_forecaster
from linmap.sequence.olinear.folded import FoldedOLinear, fold
from linmap.sequence.olinear.forecaster import OLinearForecaster
from linmap.sequence.olinear.held_out import HeldOutErrors, held_out_errors
from linmap.sequence.olinear.model import OLinear, OLinear_C, load_official, weighted_loss
from linmap.sequence.olinear.normlin import CorrelationMixing, NormLin, NormLinAttention, replace_attention
from linmap.sequence.olinear.orthotrans import OrthoTrans, OrthoTransWrapper
from linmap.sequence.olinear.pictures import draw_backtest, draw_forecast
from linmap.sequence.olinear.task import ForecastTask

__all__ = [
    "BASES",
    "Backtest",
    "CorrelationMixing",
    "Coverage",
    "DLinear",
    "FoldedOLinear",
    "ForecastErrors",
    "ForecastTask",
    "HeldOutErrors",
    "NLinear",
    "NormLin",
    "NormLinAttention",
    "OLinear",
    "OLinearForecaster",
    "OLinear_C",
    "OrthoTrans",
    "OrthoTransWrapper",
    "RLinear",
    "RepeatLast",
    "RepeatSeason",
    "backtest",
    "basis",
    "calibration_scores",
    "conformal_quantile",
    "coverage",
    "draw_backtest",
    "draw_forecast",
    "fold",
    "forecast_errors",
    "held_out_errors",
    "load_official",
    "replace_attention",
    "temporal_correlation",
    "temporal_correlations",
    "train_forecaster",
    "variate_correlation",
    "weighted_loss",
]
