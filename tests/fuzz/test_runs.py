"""A saved run of which one value is another: it is read, or refused as an artifact, and takes no memory for it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linmap.errors import ArtifactError

WRONG: tuple[Any, ...] = (None, True, -1, 10**9, 10**30, 1.5, "x", [], {}, [[1]], {"a": 1}, [None] * 3)


def s4(folder: Path) -> Callable[[Path], Any]:
    from linmap.sequence.s4.estimators import S4Classifier, load_estimator

    X = np.random.default_rng(0).normal(size=(4, 8, 1))
    S4Classifier(1, 4, 4, epochs=1, batch_size=4).fit(X, [0, 1, 0, 1]).save(folder)
    return load_estimator


def bt2(folder: Path) -> Callable[[Path], Any]:
    from linmap.retrieve.bt2.upgrade import EmbeddingUpgrade

    X = np.random.default_rng(0).normal(size=(40, 4))
    EmbeddingUpgrade().fit(X, X[:, :3]).save(folder)
    return EmbeddingUpgrade.load


def gbwbn(folder: Path) -> Callable[[Path], Any]:
    from linmap.signals.gbwbn.classifier import SPDNetClassifier

    X = np.stack([np.eye(3) * (1 + i) for i in range(4)])
    SPDNetClassifier(epochs=1).fit(X, [0, 1, 0, 1]).save(folder)
    return SPDNetClassifier.load


def acm(folder: Path) -> Callable[[Path], Any]:
    from linmap.signals.acm.classifier import ACMClassifier

    X = np.random.default_rng(0).normal(size=(12, 3, 64))
    ACMClassifier((2, 1), "mdm").fit(X, np.arange(12) % 2).save(folder)
    return ACMClassifier.load


def lie_decomposition(folder: Path) -> Callable[[Path], Any]:
    from linmap.shapes.lie_decomposition.classifier import LieClassifier

    X = np.random.default_rng(0).normal(size=(4, 1, 16, 16)).astype(np.float32)
    LieClassifier(num_samples=1, channels=2, hidden=2, head=2, epochs=1).fit(X, [0, 1, 0, 1]).save(folder)
    return LieClassifier.load


def tinvnn(folder: Path) -> Callable[[Path], Any]:
    from linmap.shapes.tinvnn.classifier import PointCloudClassifier

    X = np.random.default_rng(0).normal(size=(4, 16, 3)).astype(np.float32)
    PointCloudClassifier(epochs=1, batch_size=2).fit(X, [0, 1, 0, 1]).save(folder)
    return PointCloudClassifier.load


def olinear(folder: Path) -> Callable[[Path], Any]:
    from linmap.sequence.olinear.forecaster import OLinearForecaster

    X = np.random.default_rng(0).normal(size=(60, 2))
    OLinearForecaster(2, 8, d_model=4, embed=2, layers=1, epochs=1).fit(X).save(folder)
    return OLinearForecaster.load


RUNS = (acm, bt2, gbwbn, lie_decomposition, olinear, s4, tinvnn)


@pytest.mark.slow
@pytest.mark.parametrize("make", RUNS)
def test_a_run_with_one_wrong_value_is_read_or_refused(make, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load = make(tmp_path / "run")
        path = tmp_path / "run" / "config.json"
        whole, refused = json.loads(path.read_text()), 0
        load(tmp_path / "run")
        for changed in _changed(whole):
            path.write_text(json.dumps(changed))
            try:
                load(tmp_path / "run")
            except ArtifactError:
                refused += 1
    assert refused > 20


def _changed(whole: Any) -> Iterator[Any]:
    """Without each key, and with each value another."""
    for place in _places(whole):
        yield _with(whole, place, remove=True)
        for value in WRONG:
            yield _with(whole, place, value)


def _places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, item in value.items() if isinstance(value, dict) else list(enumerate(value))[:3]:
        yield (*before, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*before, key))


def _with(whole: Any, place: tuple[Any, ...], value: Any = None, remove: bool = False) -> Any:
    changed = copy.deepcopy(whole)
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    if remove:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed
