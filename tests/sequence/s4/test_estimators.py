from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from linmap import artifacts
from linmap.errors import ArtifactError
from linmap.sequence.s4 import S4Classifier, S4Regressor, load_estimator
from linmap.sequence.s4.estimators import timescales
from typed import cloned, present

small_classifier = partial(S4Classifier, n_layers=1, d_model=16, d_state=16, epochs=10, batch_size=8, dt=(0.01, 0.3))
small_regressor = partial(S4Regressor, n_layers=1, d_model=16, d_state=16, epochs=10, batch_size=8, dt=(0.01, 0.3))


def waves(n: int = 96, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Slow and fast waves of unequal lengths, in two channels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    series = []
    for label in labels:
        t = np.arange(rng.integers(20, 60))
        wave = np.sin((0.3 + 0.6 * label) * t + rng.uniform(0, 6))
        series.append(np.stack([5 + 3 * wave, rng.normal(size=len(t))], -1))
    return series, np.array(["slow", "fast"])[labels]


@pytest.fixture(scope="module")
def fitted() -> S4Classifier:
    return small_classifier().fit(*waves())


def test_classes_of_series_of_unequal_lengths(fitted: S4Classifier) -> None:
    X, y = waves(seed=1)
    assert fitted.score(X, y) > 0.95
    assert fitted.classes_.tolist() == ["fast", "slow"]
    P = fitted.predict_proba(X)
    np.testing.assert_allclose(P.sum(1), 1)
    assert (fitted.classes_[P.argmax(1)] == fitted.predict(X)).all()
    alone = np.concatenate([fitted.predict_proba([x]) for x in X[:5]])
    np.testing.assert_allclose(P[:5], alone, atol=1e-5)


def test_a_series_sampled_half_as_often_is_read_at_twice_the_rate(fitted: S4Classifier) -> None:
    X, y = waves(seed=2)
    halved = [x[::2] for x in X]
    read = (fitted.predict(halved, rate=2.0) == y).mean()
    assert read > 0.9
    assert read > (fitted.predict(halved) == y).mean()


def test_streams_give_the_same_and_go_on_from_a_saved_state(fitted: S4Classifier) -> None:
    series = waves(seed=3)[0][0]
    stream, answers = fitted.stream(), []
    for sample in series:
        answers.append(stream.update(sample))
        if stream.count == 10:
            kept = save(stream.state())
    np.testing.assert_allclose(answers[-1], fitted.predict_proba([series])[0], atol=1e-5)
    np.testing.assert_allclose(answers[6], fitted.predict_proba([series[:7]])[0], atol=1e-5)
    other = fitted.stream()
    other.restore(load(kept))
    assert other.count == 10
    again = np.stack([other.update(sample) for sample in series[10:]])
    assert again.tobytes() == np.stack(answers[10:]).tobytes()
    assert save(other.state()) == save(stream.state())


def test_numbers_and_their_streams(tmp_path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 30)) + rng.uniform(-3, 3, size=(120, 1))
    y = 100 + 10 * X.mean(1)
    model = small_regressor(epochs=15, layer="s4", bidirectional=False).fit(X, y)
    assert model.score(X, y) > 0.9
    model.save(tmp_path)
    again = load_estimator(tmp_path)
    assert isinstance(again, S4Regressor)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    stream = again.stream()
    for sample in X[0]:
        answer = stream.update(sample)
    np.testing.assert_allclose(answer, model.predict(X[:1]), atol=1e-3)


def test_saved_classifiers_answer_alike(fitted: S4Classifier, tmp_path) -> None:
    fitted.save(tmp_path)
    again, (X, _) = load_estimator(tmp_path), waves(seed=4)
    assert isinstance(again, S4Classifier)
    assert again.get_params() == fitted.get_params()
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    with pytest.raises(ArtifactError, match="not a saved run"):
        load_estimator(tmp_path / "none")


@pytest.mark.parametrize("lost", ["estimator", "parameters", "dt", "classes"])
def test_a_damaged_run_is_told_as_one(fitted: S4Classifier, tmp_path, lost: str) -> None:
    fitted.save(tmp_path)
    config, tensors = artifacts.load(tmp_path, "hippo")
    del config[lost]
    artifacts.save(tmp_path, "hippo", config, tensors, seed=0)
    with pytest.raises(ArtifactError, match="is damaged, or was written by another version"):
        load_estimator(tmp_path)


def test_scikit_learn_clones_searches_and_chains(fitted: S4Classifier) -> None:
    copy = cloned(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "model_")
    X, y = waves(24)
    padded = np.stack([x[:20] for x in X])
    search = GridSearchCV(make_pipeline(small_classifier(epochs=1)), {"s4classifier__lr": [1e-3, 1e-2]}, cv=2)
    search.fit(padded, y)
    assert len(search.cv_results_["params"]) == 2
    one, other = (small_classifier(epochs=2).fit(padded, y).predict_proba(padded) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_held_out_series_are_scored_after_each_epoch_and_choose_the_weights() -> None:
    X, y = waves(48)
    held, labels = waves(24, seed=1)
    model = small_classifier(epochs=6, dt=None).fit(X, y, validation=(held, labels))
    assert model.history_ is not None
    records = model.history_.epochs
    best = min(records, key=lambda record: record.val or 0.0)
    assert model.history_.best_epoch == best.epoch
    assert best.metrics["score"] == pytest.approx(model.score(held, labels))
    P = model.predict_proba(held)[np.arange(24), np.searchsorted(model.classes_, labels)]
    assert best.val == pytest.approx(-np.log(P).mean(), abs=1e-5)
    assert model.dt_ == timescales(max(map(len, X)))
    numbers = np.array([x[:, 0].mean() for x in X])
    regressor = small_regressor(epochs=2).fit(X, numbers, validation=(X, numbers))
    assert regressor.history_ is not None
    scores = [record.metrics["score"] for record in regressor.history_.epochs]
    assert regressor.score(X, numbers) == pytest.approx(scores[present(regressor.history_.best_epoch) - 1], abs=1e-5)
    with pytest.raises(ValueError, match="the class what is not among those of y"):
        small_classifier().fit(X, y, validation=(held[:1], ["what"]))


@pytest.mark.parametrize(("longest", "steps"), [(5, (0.2, 1.0)), (26, (1 / 26, 10 / 26)), (1000, (1e-3, 0.1))])
def test_the_range_of_steps_covers_the_series(longest: int, steps: tuple[float, float]) -> None:
    assert timescales(longest) == pytest.approx(steps)


def test_training_goes_on_where_it_stopped(tmp_path) -> None:
    X, y = waves(32)
    whole = small_classifier().fit(X, y)
    small_classifier().fit(X, y, checkpoints=tmp_path)
    resumed = small_classifier().fit(X, y, checkpoints=tmp_path, resume=True)
    np.testing.assert_array_equal(whole.predict_proba(X), resumed.predict_proba(X))


def test_bad_series(fitted: S4Classifier) -> None:
    X, y = waves(4)
    bad = [x.copy() for x in X]
    bad[2][5, 1] = np.nan
    for series, labels, message in (
        ([], [], "X holds no series"),
        (np.zeros((2, 3, 1, 1)), y[:2], r"got shape \(2, 3, 1, 1\)"),
        (bad, y, r"X\[2\] is not finite at step 5, channel 1"),
        ([X[0], X[1][:, :1]], y[:2], r"X\[1\] has 1 channels, X\[0\] has 2"),
        ([X[0], X[1][:0]], y[:2], r"X\[1\] must be real numbers"),
        (X, y[:3], "y has 3 values for 4 series"),
        (X, ["a"] * 4, "y has one class, a;"),
    ):
        with pytest.raises(ValueError, match=message):
            small_classifier().fit(series, labels)
    with pytest.raises(ValueError, match="y must hold finite numbers"):
        small_regressor().fit(X, [1, 2, 3, np.inf])
    with pytest.raises(ValueError, match="X has 1 channels, and the model was fitted to 2"):
        fitted.predict([x[:, :1] for x in X])
    with pytest.raises(ValueError, match="sample 0 must hold 2 finite numbers"):
        fitted.stream().update([1.0, np.nan])
    with pytest.raises(ValueError, match="sample 0 is complex"):
        fitted.stream().update(np.array([1.0, 1j]))
    stream = fitted.stream()
    with pytest.raises(ValueError, match="layer0 must have shape"):
        stream.restore(stream.state() | {"layer0": torch.zeros(1)})
    both = small_classifier(epochs=1, bidirectional=True).fit(*waves(8))
    with pytest.raises(ValueError, match="a stream has no future to read"):
        both.stream()


def test_a_stream_goes_on_from_its_file_to_the_same_bits(fitted: S4Classifier, tmp_path: Path) -> None:
    series = waves(1, seed=3)[0][0]
    whole, first, second = fitted.stream(), fitted.stream(), fitted.stream()
    expected = [whole.update(sample) for sample in series]
    for sample in series[:7]:
        first.update(sample)
    first.save(tmp_path / "state", "mine")
    second.load(tmp_path / "state", "mine")
    assert second.count == 7
    assert all(np.array_equal(second.update(x), y) for x, y in zip(series[7:], expected[7:], strict=True))
    with pytest.raises(ArtifactError, match="of another model's stream"):
        second.load(tmp_path / "state", "other")
    (tmp_path / "text").write_text("no state")
    with pytest.raises(ArtifactError, match="is not the state of a stream"):
        second.load(tmp_path / "text", "mine")
