"""ACM: augmented covariances of 500 epochs x 21 channels x 640 samples, and the nested search over order and lag.

The transform checks, embeds, centres and shrinks; its peer is the product of the ready embedding with its transpose
alone. The search is that of `ACMClassifier` (orders 1 to 3, lags 2 and 4, three costs, two kernels, three folds, 300
epochs of MAMEM); its peer is scikit-learn's GridSearchCV over AugmentedCovariance, pyRiemann's TangentSpace and SVC,
with order 1 once and BLAS on one thread too. Scores and choice are equal (asserted here).
"""

from __future__ import annotations

import time

import numpy as np
from pyriemann.tangentspace import TangentSpace
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from benchmarks.measure import Measurement, medians
from linmap.data.epochs import mamem
from linmap.signals.acm import ACMClassifier, AugmentedCovariance, DelayEmbedding

EPOCHS, CHANNELS, TIMES, ORDER, LAG = 500, 21, 640, 6, 4
ORDERS, LAGS, TRAINING = (2, 3), (2, 4), 300
GRID = {"svm__C": [0.5, 1.0, 1.5], "svm__kernel": ["linear", "rbf"]}


def run() -> list[Measurement]:
    return [transform(), nested_search()]


def transform() -> Measurement:
    X = np.random.default_rng(0).standard_normal((EPOCHS, CHANNELS, TIMES))
    embedded = DelayEmbedding(ORDER, LAG).transform(X)
    out = np.empty((EPOCHS, ORDER * CHANNELS, ORDER * CHANNELS))
    ours, product = medians(
        lambda: AugmentedCovariance(ORDER, LAG).transform(X),
        lambda: np.matmul(embedded, embedded.mT, out=out),
        repeats=5,
        warm_up=1,
    )
    return Measurement(
        f"transform {EPOCHS} x {CHANNELS} x {TIMES} float64, order {ORDER}, lag {LAG}, OAS",
        ours,
        "numpy.matmul alone",
        product,
        bar=0.5,
        items=EPOCHS,
        unit="epochs",
        note="the bar is twice the time of the product",
    )


def nested_search() -> Measurement:
    epochs = mamem(5)
    X, y = epochs.X[:TRAINING], epochs.labels()[:TRAINING]
    start = time.perf_counter()
    ours = ACMClassifier(orders=(1, *ORDERS), lags=LAGS).fit(X, y)
    middle = time.perf_counter()
    pipeline = Pipeline([("acm", AugmentedCovariance()), ("space", TangentSpace()), ("svm", SVC())])
    pairs = [{"acm__order": [1]} | GRID, {"acm__order": list(ORDERS), "acm__lag": list(LAGS)} | GRID]
    with threadpool_limits(1):
        theirs = GridSearchCV(pipeline, pairs, cv=StratifiedKFold(3, shuffle=True, random_state=42)).fit(X, y)
    end = time.perf_counter()
    found = sorted(ours.cv_results_["mean_test_score"])
    assert np.allclose(found, sorted(theirs.cv_results_["mean_test_score"]), atol=1e-12), "the scores differ"
    assert np.isclose(ours.best_score_, theirs.best_score_), "the choices differ"
    return Measurement(
        f"nested search, {len(found)} candidates x 3 folds, {TRAINING} epochs",
        middle - start,
        "GridSearchCV over a pipeline",
        end - middle,
        bar=5.0,
        note="equal scores; one run",
    )
