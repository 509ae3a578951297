"""An estimator's training goes on with the data and the parameters that it was started with, and with no others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.base import clone

from linmap.sequence.olinear import OLinearForecaster
from linmap.sequence.s4 import S4Classifier
from linmap.shapes.lie_decomposition import LieClassifier
from linmap.shapes.tinvnn import PointCloudClassifier, TourSolver
from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator
from linmap.signals.gbwbn import SPDNetClassifier

RNG = np.random.default_rng(0)
Y = np.arange(8) % 2
TABLE, SERIES = np.cumsum(RNG.standard_normal((80, 2)), 0), RNG.standard_normal((8, 30, 2))
MATRICES = SERIES.mT @ SERIES
IMAGES, CLOUDS = RNG.random((8, 14, 14)), RNG.standard_normal((8, 5, 3))
S4 = S4Classifier(1, 4, 4, epochs=1)
LIE = LieClassifier(num_samples=2, channels=2, hidden=2, head=2, epochs=1)


def simulated(severity: float) -> Any:
    return DentitionSimulator(points=8).sample(3, severity, torch.Generator().manual_seed(0))


def labelled(X: np.ndarray) -> tuple[tuple, tuple]:
    """Samples with classes, and the same with one entry changed."""
    changed = X.copy()
    changed[-1] *= 1.01
    return (X, Y), (changed, Y)


CASES: dict[str, tuple[Any, tuple, tuple | None, dict[str, Any]]] = {
    "OLinear": (
        OLinearForecaster(h=2, lookback=6, d_model=8, embed=2, layers=1, epochs=1),
        (TABLE,),
        (np.flip(TABLE, 0),),
        {"alpha": 0.25},
    ),
    "S4": (S4, *labelled(SERIES), {"dropout": 0.5}),
    "SPDNet": (SPDNetClassifier((2,), epochs=1), *labelled(MATRICES), {"theta": 0.25}),
    "Lie": (LIE, *labelled(IMAGES), {"group": "gl2"}),
    "TinvNN": (PointCloudClassifier(epochs=1), *labelled(CLOUDS), {"representation": "random"}),
    "tours": (TourSolver(n_cities=4, steps=1, batch_size=2, d_model=8), (), None, {"representation": "raw"}),
    "teeth": (
        TADPM(points=8, width=16, blocks=1, epochs=1),
        (simulated(1.0),),
        (simulated(2.0),),
        {"target": "absolute"},
    ),
}


@pytest.mark.parametrize(("estimator", "data", "other", "change"), CASES.values(), ids=CASES)
def test_resume_takes_neither_other_data_nor_other_parameters(
    tmp_path: Path, estimator: Any, data: tuple, other: tuple | None, change: dict[str, Any]
) -> None:
    def fit(data: tuple, **changes: Any) -> Callable:
        return cast(Any, clone(estimator)).set_params(**changes).fit(*data, checkpoints=tmp_path, resume=True)

    fit(data)
    fit(data)
    (name,) = change
    with pytest.raises(ValueError, match=f"the run in {tmp_path} was started with {name}=.*, now it is"):
        fit(data, **change)
    if other is not None:
        with pytest.raises(ValueError, match=f"the data are not those that the run in {tmp_path} was started with"):
            fit(other)
