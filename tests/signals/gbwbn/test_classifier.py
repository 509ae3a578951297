from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from geometry.spd.matrices import spd
from linmap.signals.gbwbn import SPDNetClassifier
from typed import cloned, other, present

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")


def problem(n: int = 40, seed: int = 0, size: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of matrices that differ in one variance."""
    y = np.arange(n) % 2
    scale = np.ones((n, size))
    scale[:, 0] += 1.5 * y
    X = scale[:, :, None] * spd(n, n=size, seed=seed).numpy() * scale[:, None, :]
    return X, np.array(["low", "high"])[y]


def signals(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Epochs whose classes differ in frequency alone."""
    rng, y = np.random.default_rng(seed), np.arange(n) % 2
    t, phase = np.arange(64), rng.uniform(0, 6, (n, 3, 1))
    return np.sin((0.3 + 0.5 * y[:, None, None]) * t + phase) + 0.5 * rng.standard_normal((n, 3, 64)), y


FAST: dict[str, Any] = {"epochs": 12, "lr": 0.02, "dims": (4,)}


def test_classes_of_matrices_are_learnt_whatever_their_unit() -> None:
    X, y = problem()
    classifier = SPDNetClassifier(**FAST).fit(X, y)
    test, truth = problem(seed=1)
    assert classifier.score(test, truth) > 0.8
    chances = classifier.predict_proba(test)
    np.testing.assert_allclose(chances.sum(1), 1)
    assert classifier.classes_.tolist() == ["high", "low"]
    other = SPDNetClassifier(**FAST).fit(1e6 * X, y)
    np.testing.assert_allclose(other.predict_proba(1e6 * test), chances, atol=1e-9)


def test_manners_of_scikit_learn() -> None:
    X, y = problem()
    classifier = SPDNetClassifier(**FAST)
    assert cloned(classifier).get_params() == classifier.get_params()
    search = GridSearchCV(
        make_pipeline(SPDNetClassifier(dims=FAST["dims"], lr=FAST["lr"], epochs=2)),
        {"spdnetclassifier__theta": [0.5, 1.0]},
        cv=2,
    )
    assert set(search.fit(X, y).best_params_) == {"spdnetclassifier__theta"}
    assert np.array_equal(SPDNetClassifier(**FAST).fit(X, y).predict_proba(X), classifier.fit(X, y).predict_proba(X))


def test_delays_tell_frequencies_apart_that_a_covariance_does_not() -> None:
    (X, y), (test, truth) = signals(), signals(seed=1)
    small = FAST | {"dims": (3,), "front": "augmented"}
    plain = SPDNetClassifier(**small).fit(X, y).score(test, truth)
    delayed = SPDNetClassifier(order=3, lag=2, **small).fit(X, y).score(test, truth)
    assert plain < 0.75
    assert delayed > 0.9


def test_convolutional_front_learns_too() -> None:
    (X, y), (test, truth) = signals(), signals(seed=1)
    assert SPDNetClassifier(front="convolution", epochs=6, lr=0.01, dims=(4,)).fit(X, y).score(test, truth) > 0.8


def test_validation_keeps_the_best_epoch() -> None:
    X, y = problem()
    classifier = SPDNetClassifier(**FAST).fit(X, y, validation=problem(seed=2))
    history = present(classifier.history_)
    values = [present(record.val) for record in history.epochs]
    assert history.best_epoch == 1 + int(np.argmin(values))
    assert "accuracy" in history.epochs[0].metrics


def test_a_new_domain_is_adapted_without_labels() -> None:
    X, y = problem(80)
    domains = np.repeat(["a", "b"], 40)
    test, truth = problem(seed=3)
    shift = np.diag([0.2, 1, 1, 1, 1, 5.0])
    classifier = SPDNetClassifier(**FAST).fit(X, y, domains)
    unmoved = classifier.predict_proba(X[:5], domains[:5])
    with pytest.raises(ValueError, match="'new' was not in fit; call adapt"):
        classifier.predict(test, ["new"] * 40)
    classifier.adapt(shift @ test @ shift, ["new"] * 40)
    adapted = (classifier.predict(shift @ test @ shift, ["new"] * 40) == truth).mean()
    as_before = (classifier.predict(shift @ test @ shift, ["a"] * 40) == truth).mean()
    assert adapted > as_before
    np.testing.assert_allclose(classifier.predict_proba(X[:5], domains[:5]), unmoved)


def test_a_saved_classifier_answers_the_same(tmp_path: Path) -> None:
    X, y = problem()
    for domains in (None, np.arange(40) % 3):
        classifier = SPDNetClassifier(recalibrate=True, **FAST).fit(X, y, domains)
        classifier.save(tmp_path)
        loaded = SPDNetClassifier.load(tmp_path)
        assert np.array_equal(loaded.predict_proba(X, domains), classifier.predict_proba(X, domains))
        assert loaded.get_params() == classifier.get_params() | {"dims": list(FAST["dims"])}


def test_no_batch_is_of_one_sample() -> None:
    X, y = problem(31)
    SPDNetClassifier(dims=FAST["dims"], lr=FAST["lr"], epochs=1).fit(X, y)
    assert SPDNetClassifier().training_config(31).batch_size < 30


X, Y = problem(8)
BAD = {
    "one matrix": ((X[0], Y), "X must hold matrices"),
    "not square": ((X[:, :4], Y), "X must hold matrices"),
    "NaN": ((np.where(X.max() == X, np.nan, X), Y), "finite real numbers"),
    "labels": ((X, Y[:4]), "y must have one value for each of 8 samples"),
    "one class": ((X, ["a"] * 8), "y has one class, a"),
    "domains": ((X, Y, [1, 2]), "domains must have one value"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        SPDNetClassifier(**FAST).fit(*arguments)


@pytest.mark.usefixtures("annotations_unchecked")
def test_other_types_are_named() -> None:
    with pytest.raises(ValueError, match="dtype must be"):
        SPDNetClassifier(dtype=other("float16")).fit(X, Y)


def test_other_wrong_uses_are_named() -> None:
    classifier = SPDNetClassifier(dims=FAST["dims"], lr=FAST["lr"], epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match=r"fitted to \(6, 6\)"):
        classifier.predict(problem(size=5)[0])
    with pytest.raises(ValueError, match="fitted without domains"):
        classifier.adapt(X, [0] * 8)
    with pytest.raises(ValueError, match="no statistics by domain"):
        SPDNetClassifier(norm="aim").fit(X, Y, [0] * 8)
    with pytest.raises(ValueError, match="validation has the class 'other'"):
        SPDNetClassifier(**FAST).fit(X, Y, validation=(X, ["other"] * 8))
