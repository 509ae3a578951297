"""The manners of scikit-learn's estimators.

Its own checks stop early at estimators of three-dimensional samples; what they would ask is asked here.
"""

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin, is_classifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from linmap.signals.acm import ACMClassifier, AugmentedCovariance, DelayEmbedding, TangentSpaceSVM
from linmap.signals.gbwbn import SPDNetClassifier
from signals.acm.paths import opposite_memories
from typed import cloned

pytestmark = [
    pytest.mark.filterwarnings("ignore:GBWBatchNorm"),
    pytest.mark.filterwarnings("ignore:Can't test estimator"),
    pytest.mark.usefixtures("annotations_unchecked"),
]
EPOCHS, Y = opposite_memories(24, 50)
MATRICES = EPOCHS @ EPOCHS.mT / 50
CLASSIFIERS: list[BaseEstimator] = [
    ACMClassifier((2, 1)),
    ACMClassifier((2, 1), "mdm"),
    TangentSpaceSVM(),
    SPDNetClassifier((2,), epochs=1),
    SPDNetClassifier((2,), front="augmented", epochs=1),
]
ALL = [*CLASSIFIERS, AugmentedCovariance(2, 1), DelayEmbedding(2, 1)]
classifiers = pytest.mark.parametrize(
    "classifier", CLASSIFIERS, ids=lambda c: f"{type(c).__name__} {c.get_params()}"[:60]
)
estimators = pytest.mark.parametrize("estimator", ALL, ids=lambda e: f"{type(e).__name__} {e.get_params()}"[:60])
ANSWERS = ("predict", "predict_proba", "decision_function", "transform")


def samples(estimator: BaseEstimator) -> np.ndarray:
    matrices = isinstance(estimator, TangentSpaceSVM) or getattr(estimator, "front", None) == "matrices"
    return MATRICES if matrices else EPOCHS


def answers(estimator: BaseEstimator, X: np.ndarray) -> dict[str, np.ndarray]:
    return {name: getattr(estimator, name)(X) for name in ANSWERS if hasattr(estimator, name)}


@parametrize_with_checks(ALL)  # nothing is expected to fail
def test_scikit_learns_checks(estimator: BaseEstimator, check) -> None:
    check(estimator)


@estimators
def test_defaults_are_plain_values_and_the_constructor_only_stores(estimator: BaseEstimator) -> None:
    for parameter in inspect.signature(type(estimator)).parameters.values():
        assert parameter.default is None or type(parameter.default) in (str, int, float, bool, tuple)
    assert vars(type(estimator)()) == type(estimator)().get_params()


@classifiers
def test_whatever_needs_a_fit_says_so(classifier: Any) -> None:
    unfitted = cloned(classifier)
    for name in (name for name in (*ANSWERS, "save") if hasattr(unfitted, name)):
        with pytest.raises(NotFittedError):
            getattr(unfitted, name)(samples(classifier))
    if hasattr(unfitted, "adapt"):
        with pytest.raises(NotFittedError):
            unfitted.adapt(samples(classifier), Y)


@estimators
def test_tags_tell_what_is_taken(estimator: BaseEstimator) -> None:
    tags = get_tags(estimator)
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array
    assert (
        (tags.transformer_tags is not None)
        == isinstance(estimator, TransformerMixin)
        == hasattr(estimator, "transform")
    )
    assert (tags.classifier_tags is not None) == is_classifier(estimator)
    assert tags.requires_fit == is_classifier(estimator)


@classifiers
def test_fitting_and_answering_leave_their_arguments_and_the_estimator_as_they_were(classifier: Any) -> None:
    X, y = samples(classifier).copy(), Y.copy()
    X.setflags(write=False)
    parameters = classifier.get_params()
    fitted = cloned(classifier)
    assert fitted.fit(X, y) is fitted
    assert fitted.get_params() == parameters
    before = pickle.dumps({name: value for name, value in vars(fitted).items() if name != "model_"})
    answers(fitted, X)
    assert pickle.dumps({name: value for name, value in vars(fitted).items() if name != "model_"}) == before


@classifiers
def test_answers_go_sample_by_sample(classifier: Any) -> None:
    X, order = samples(classifier), np.random.default_rng(0).permutation(24)
    fitted = cloned(classifier).fit(X, Y)
    whole = answers(fitted, X)
    for name, turned in answers(fitted, X[order]).items():
        np.testing.assert_allclose(turned, whole[name][order], rtol=1e-7, atol=1e-9)
    for name, first in answers(fitted, X[:1]).items():
        np.testing.assert_allclose(first, whole[name][:1], rtol=1e-7, atol=1e-9)


@classifiers
def test_a_second_fit_forgets_the_first(classifier: Any) -> None:
    X = samples(classifier)
    fresh, again = (
        cloned(classifier).fit(X, Y),
        cloned(classifier).fit(X[::-1][:, :2, :2] if X is MATRICES else X[::-1], Y),
    )
    again.fit(X, Y)
    for name, expected in answers(fresh, X).items():
        assert np.array_equal(getattr(again, name)(X), expected)
    for other in (copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh))):
        assert np.array_equal(other.predict(X), fresh.predict(X))


@classifiers
def test_lists_objects_columns_and_text_are_taken(classifier: Any) -> None:
    X, names = samples(classifier), np.array(["left", "right"])[Y]
    fitted = cloned(classifier).fit(X, names)
    expected = fitted.predict(X)
    assert fitted.classes_.tolist() == ["left", "right"]
    for other in (X.tolist(), X.astype(object), np.asfortranarray(X)):
        assert np.array_equal(fitted.predict(other), expected)
    for labels in (names.tolist(), names.astype(object)):
        assert np.array_equal(cloned(classifier).fit(X, labels).predict(X), expected)
    with pytest.warns(DataConversionWarning, match="column-vector"):
        cloned(classifier).fit(X, names[:, None])


@classifiers
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X[0], y), "expected .epochs, channels, times.|must hold matrices"),
        (lambda X, y: (X[:0], y[:0]), "at least one epoch|must hold matrices"),
        (lambda X, y: (X + 0j, y), "must hold real numbers, got dtype complex128"),
        (lambda X, y: (np.full(X.shape, "a"), y), "must hold real numbers"),
        (lambda X, y: (np.full(X.shape, None), y), "holds NaN|finite real numbers"),
        (lambda X, y: (np.where(np.arange(len(X))[:, None, None] == 3, np.inf, X), y), "epoch 3|matrix 3"),
        (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples|one value for each"),
        (lambda X, y: (X, y + 0.5), "Unknown label type"),
        (lambda X, y: (X, np.zeros(24)), "single class, 0|one class, 0"),
        (lambda X, y: (X, None), "y is missing"),
    ],
)
def test_what_cannot_be_taken_is_named(classifier: Any, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cloned(classifier).fit(*change(samples(classifier), Y))


@classifiers
def test_samples_of_another_size_are_named(classifier: Any) -> None:
    X = samples(classifier)
    fitted = cloned(classifier).fit(X, Y)
    other = X[:, :2, :2] if X is MATRICES else X[:, :2]
    with pytest.raises(ValueError, match=r"as in fit|fitted to"):
        fitted.predict(other)
