"""The classifier: its parts against other libraries, the search against scikit-learn's, no leaks, saving, manners."""

import pickle
from dataclasses import replace
from typing import Any

import mne
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyriemann.classification import MDM
from pyriemann.geometry.mean import mean_riemann
from pyriemann.tangentspace import TangentSpace
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC

from linmap.errors import ArgumentError, ArtifactError
from linmap.signals.acm import ACMClassifier, AugmentedCovariance, TangentSpaceSVM
from linmap.signals.acm.search import order_lag_grid
from linmap.signals.acm.svm import Machine
from linmap.signals.acm.tangent import mean_and_logarithms, vectors
from signals.acm.paths import opposite_memories
from typed import cloned, other

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def epochs() -> tuple[np.ndarray, np.ndarray]:
    """Three classes that differ in how channel 0 oscillates; noisy."""
    y = np.arange(60) % 3
    t = np.arange(80)
    waves = np.sin(2 * np.pi * np.array([5, 7, 9])[y][:, None] * t / 80 + rng.uniform(0, 6, (60, 1)))
    X = rng.standard_normal((60, 3, 80))
    X[:, 0] += 0.5 * waves
    return np.array([[1, 0.5, 0], [0, 1, 0.3], [0.2, 0, 1]]) @ X, y


# -- parts -----------------------------------------------------------------------------------------------------------


def test_mean_and_tangent_vectors_are_pyriemanns(epochs: tuple[np.ndarray, np.ndarray]) -> None:
    C = AugmentedCovariance(2, 3).transform(epochs[0])
    mean, W = mean_and_logarithms(C)
    np.testing.assert_allclose(mean, mean_riemann(C, tol=1e-10), rtol=1e-7)
    np.testing.assert_allclose(vectors(W), TangentSpace().fit_transform(C), atol=1e-7)
    elsewhere, _ = mean_and_logarithms(C, start=np.eye(6))
    np.testing.assert_allclose(elsewhere, mean, rtol=1e-6)


def test_a_mean_of_singular_matrices_is_refused() -> None:
    nearly = np.stack([np.diag([1.0, 10.0**-e]) for e in (0, 300, 280)])
    nearly[1] = [[1, 1 - 1e-16], [1 - 1e-16, 1]]
    with pytest.raises(ValueError, match="was not found"), np.errstate(all="ignore"):
        mean_and_logarithms(nearly)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_machine_of_arrays_is_scikit_learns(n_classes: int, kernel: Any) -> None:
    V, y, new = rng.standard_normal((60, 7)), np.arange(60) % n_classes, rng.standard_normal((40, 7))
    V[:, 0] += y
    theirs = SVC(C=0.7, kernel=kernel).fit(V, y)
    ours = Machine.fit(V, y, 0.7, kernel)
    decisions = ours.decisions(new)
    np.testing.assert_allclose(
        decisions[:, 0] if n_classes == 2 else decisions, theirs.decision_function(new), atol=1e-3
    )
    assert (ours.winners(new) == theirs.predict(new)).all()
    probabilities = ours.probabilities(new)
    np.testing.assert_allclose(probabilities.sum(1), 1)


# -- why it works ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["mdm", "tgsp+svm"])
def test_memories_of_opposite_sign_are_told_apart_by_order_two_alone(classifier: Any) -> None:
    X, y = opposite_memories(120, 300)
    train, test = np.arange(80), np.arange(80, 120)
    plain, augmented = (
        ACMClassifier((order, 1), classifier).fit(X[train], y[train]).score(X[test], y[test]) for order in (1, 2)
    )
    assert plain < 0.75
    assert augmented == 1


def test_labels_do_not_depend_on_units_or_mixing(epochs: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = epochs
    B = rng.standard_normal((3, 3))
    for classifier in ("mdm", "tgsp+svm"):
        labels = [
            ACMClassifier((2, 3), classifier, estimator="cov").fit(changed, y).predict(changed)
            for changed in (X, 10 * X, B @ X)
        ]
        assert (labels[0] == labels[1]).all()
        assert (labels[0] == labels[2]).all()


# -- the search ------------------------------------------------------------------------------------------------------


def test_the_search_equals_scikit_learns_grid_search(epochs: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = epochs
    orders, lags = (1, 2, 3), (2, 5)
    ours = ACMClassifier(orders=orders, lags=lags).fit(X, y)
    pipeline = Pipeline([("acm", AugmentedCovariance()), ("space", TangentSpace()), ("svm", SVC())])
    grid = {"acm__order": orders, "acm__lag": lags, "svm__C": [0.5, 1.0, 1.5], "svm__kernel": ["linear", "rbf"]}
    theirs = GridSearchCV(pipeline, grid, cv=StratifiedKFold(3, shuffle=True, random_state=42)).fit(X, y)
    scores = {
        tuple(p.values()): s
        for p, s in zip(theirs.cv_results_["params"], theirs.cv_results_["mean_test_score"], strict=True)
    }
    for p, score in zip(ours.cv_results_["params"], ours.cv_results_["mean_test_score"], strict=True):
        lag = p["lag"] if p["order"] > 1 else 2
        assert score == pytest.approx(scores[lag, p["order"], p["C"], p["kernel"]], abs=1e-12)
    assert ours.best_score_ == pytest.approx(theirs.best_score_)
    assert len(ours.cv_results_["params"]) == 5 * 6
    assert ours.cv_results_["rank_test_score"].min() == 1


def test_the_search_sees_the_epochs_given_to_fit_alone(epochs: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = epochs
    train, test = np.arange(45), np.arange(45, 60)
    disturbed = X.copy()
    disturbed[test] = 100 * rng.standard_normal(disturbed[test].shape)
    options = {"orders": (1, 2, 4), "lags": (1, 3)}
    for method in ("grid", "mdop", "afnn", "bic"):
        chosen = [ACMClassifier(method, **options).fit(data[train], y[train]) for data in (X, disturbed)]
        assert (chosen[0].order_, chosen[0].lag_) == (chosen[1].order_, chosen[1].lag_)


def test_among_equals_the_shortest_memory_wins() -> None:
    X, y = opposite_memories(40, 150)
    chosen = ACMClassifier(orders=(4, 3, 2), lags=(3, 1), C=1.0, kernel="linear").fit(X, y)
    perfect = [
        p for p, s in zip(chosen.cv_results_["params"], chosen.cv_results_["mean_test_score"], strict=True) if s == 1
    ]
    assert len(perfect) > 1
    assert (chosen.order_, chosen.lag_) == (2, 1)


def test_a_common_window_gives_blocks_of_one_matrix(epochs: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = epochs
    shared = ACMClassifier(orders=(2, 4), lags=(3,), C=1.0, kernel="rbf", common_window=True).fit(X, y)
    cut = X[..., : 80 - 2 * 3]  # order 2 then ends where order 4 does
    alone = ACMClassifier(orders=(2,), lags=(3,), C=(1.0, 2.0), kernel="rbf").fit(cut, y)
    assert shared.cv_results_["mean_test_score"][0] == alone.cv_results_["mean_test_score"][0]
    with pytest.raises(ValueError, match="common_window=True needs an estimator"):
        ACMClassifier(orders=(2, 4), lags=(3,), common_window=True, estimator="lwf").fit(X, y)


def test_inner_folds_may_keep_groups_together(epochs: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = epochs
    seen = []

    class Recording(GroupKFold):
        def split(self, X: object, y: object = None, groups: object = None):
            for train, test in super().split(X, y, groups):
                seen.append(set(np.asarray(groups)[train]) & set(np.asarray(groups)[test]))
                yield train, test

    fitted = ACMClassifier(orders=(1, 2), lags=(2,), inner_cv=Recording(3), n_jobs=2).fit(
        X, y, groups=np.arange(60) // 6
    )
    assert seen == [set()] * 3
    assert fitted.order_ in (1, 2)
    assert ACMClassifier(orders=(1, 2), lags=(2,), cv=4).fit(X, y).cv_results_["split3_test_score"].shape == (12,)


def test_without_shrinkage_the_grid_keeps_to_what_the_samples_carry() -> None:
    pairs = order_lag_grid(range(1, 6), (5, 10), n_channels=4, n_times=50, estimator="cov", drop="official")
    assert pairs == [(1, 1), (2, 5), (3, 5), (2, 10)]
    assert (4, 10) in order_lag_grid(range(1, 6), (5, 10), 4, 50, "oas", "official")
    assert (5, 10) not in order_lag_grid(range(1, 6), (5, 10), 4, 50, "oas", "official")


# -- manners ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"method": (2, 3)},
        {"method": (2, 3), "classifier": "mdm"},
        {"method": "grid", "orders": (1, 2), "lags": (3,)},
        {"method": (2, 3), "classifier": make_pipeline(TangentSpace(), SVC())},
    ],
    ids=["svm", "mdm", "grid", "own"],
)
def test_scikit_learns_manners(parameters: dict, epochs: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = epochs
    names = np.array(["left", "right", "feet"])[y]
    before = X.copy()
    classifier = ACMClassifier(**parameters)
    fitted = cloned(classifier)
    assert fitted.fit(X, names) is fitted
    assert (before == X).all()
    assert not hasattr(classifier, "classes_")
    assert fitted.classes_.tolist() == sorted(set(names))
    labels = fitted.predict(X)
    assert set(labels) <= set(names)
    assert (fitted.predict(X[::-1])[::-1] == labels).all()
    assert (fitted.predict(X[7:8]) == labels[7:8]).all()
    assert (fitted.predict(X.tolist()) == labels).all()
    assert (fitted.predict(X.astype(np.float32)) == labels).mean() > 0.95
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(X) == labels).all()
    assert (cloned(classifier).fit(X, names).predict(X) == labels).all()
    assert fitted.decision_function(X).shape == (60, 3)
    assert fitted.set_params(random_state=1).get_params()["random_state"] == 1
    scores = cross_val_score(make_pipeline(FunctionTransformer(), classifier), X, names, cv=2)
    assert scores.shape == (2,)


def test_probabilities_and_decisions_of_two_classes_agree() -> None:
    X, y = opposite_memories(40, 100)
    for classifier in ("mdm", "tgsp+svm"):
        fitted = ACMClassifier((2, 1), classifier).fit(X, y)
        probabilities, decisions = fitted.predict_proba(X), fitted.decision_function(X)
        assert decisions.shape == (40,)
        assert ((decisions > 0) == (fitted.predict(X) == 1)).all()
        assert (probabilities.argmax(1) == y).mean() > 0.9


def test_mne_epochs_bring_their_events() -> None:
    X, y = opposite_memories(20, 100)
    events = np.column_stack([np.arange(20), np.zeros(20, int), y + 1])
    epochs = mne.EpochsArray(X, mne.create_info(3, 100.0, "eeg"), events, verbose="error")
    fitted = ACMClassifier((2, 1), "mdm").fit(epochs)
    assert (fitted.predict(epochs) == y + 1).mean() > 0.9
    with pytest.raises(ValueError, match="y is missing"):
        ACMClassifier((2, 1)).fit(X)
    with pytest.raises(ArgumentError, match=r"estimator must be a function or one of .*lwf.*, got 'oos'"):
        ACMClassifier((2, 1), estimator="oos").fit(X, y)


@given(st.integers(2, 5), st.integers(2, 5), st.integers(2, 4), st.integers(2, 4), st.integers(0, 2**16))
def test_a_machine_is_of_its_classes_and_its_size_alone(
    n_classes: int, others: int, size: int, wider: int, seed: int
) -> None:
    draws = np.random.default_rng(seed)
    y = np.arange(4 * n_classes) % n_classes
    machine = Machine.fit(draws.normal(size=(len(y), size * (size + 1) // 2)), y, 1.0, "rbf")
    machine.check(n_classes, size)
    if (others, wider) != (n_classes, size):
        with pytest.raises(
            ValueError, match=rf"svm\.\w+ of {others} classes is \w+ of the shape .*; the shape must be"
        ):
            machine.check(others, wider)
    fewer = replace(machine, counts=machine.counts - (np.arange(n_classes) == 0))
    with pytest.raises(ValueError, match=r"svm\.counts are \[.*, of \d+ support vectors"):
        fewer.check(n_classes, size)


@pytest.mark.parametrize("classifier", ["tgsp+svm", "mdm"])
def test_what_was_saved_predicts_the_same(classifier: Any, epochs: tuple[np.ndarray, np.ndarray], tmp_path) -> None:
    X, y = epochs
    fitted = ACMClassifier((2, 3), classifier).fit(X, np.array(["a", "b", "c"])[y])
    fitted.save(tmp_path / "run", sfreq=100.0)
    loaded = ACMClassifier.load(tmp_path / "run")
    for name in ("predict", "predict_proba", "decision_function"):
        assert np.array_equal(getattr(loaded, name)(X), getattr(fitted, name)(X))
    with pytest.raises(ArtifactError, match="not a saved run"):
        ACMClassifier.load(tmp_path)
    with pytest.raises(ValueError, match="only classifiers and estimators that are named"):
        ACMClassifier((2, 3), MDM()).fit(X, y).save(tmp_path / "own")


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "best"}, "method must be one of"),
        ({"method": (2, 3, 4)}, r"a name or \(order, lag\)"),
        ({"method": (0, 3)}, "order must be a positive integer"),
        ({"method": (20, 5)}, "T = 80"),
        ({"orders": (40,), "lags": (3,)}, "no order of .40. and lag of .3. fits epochs of 80 samples"),
        ({"orders": (), "lags": (3,)}, "no order of"),
        ({"classifier": "lda"}, "classifier must be"),
        ({"classifier": "mdm", "kernel": "rbf"}, "belong to classifier='tgsp"),
        ({"kernel": "poly"}, "kernel must be"),
        ({"C": (1, -1)}, "C must be positive"),
        ({"inner_cv": 30, "orders": (1, 2)}, "inner_cv = 30 folds need 30 epochs of every class, there are 20"),
    ],
)
def test_bad_parameters_are_explained(parameters: dict, message: str, epochs: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=message):
        ACMClassifier(**parameters).fit(*epochs)


@pytest.mark.usefixtures("annotations_unchecked")
def test_bad_epochs_and_labels_are_explained(epochs: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = epochs
    fitted = ACMClassifier((2, 3), "mdm").fit(X, y)
    assert fitted.predict(X[..., :40]).shape == (60,)
    for data, labels, message in (
        (X[0], y, "expected .epochs, channels, times."),
        (X, np.zeros(60), "single class"),
        (X, y[:-1], "inconsistent numbers of samples"),
        (X, y + 0.5, "Unknown label type"),
    ):
        with pytest.raises(ValueError, match=message):
            ACMClassifier((2, 3)).fit(data, labels)
    for data, message in ((X[:, :2], "expected 3 channels as in fit, got 2"), (X[..., :5], "T = 5")):
        with pytest.raises(ValueError, match=message):
            fitted.predict(data)
    with pytest.raises(ValueError, match="kernel must be"):
        TangentSpaceSVM(kernel=other("poly")).fit(X[:, :, :3] @ X[:, :, :3].mT, y)
    lonely = ACMClassifier((2, 3)).fit(X[:4], [0, 1, 1, 2])
    with pytest.raises(ValueError, match="two epochs of each class"):
        lonely.predict_proba(X)
