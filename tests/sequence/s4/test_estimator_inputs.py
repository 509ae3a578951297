"""What goes into S4 estimators: units and offsets, containers, labels; and what stays out of the global generators."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import DataConversionWarning, NotFittedError

from linmap.sequence.s4 import S4Classifier, S4Regressor, load_estimator
from typed import of_class

tiny_classifier = partial(S4Classifier, n_layers=1, d_model=8, d_state=8, epochs=1, batch_size=8, dt=(0.01, 0.3))
tiny_regressor = partial(S4Regressor, n_layers=1, d_model=8, d_state=8, epochs=1, batch_size=8, dt=(0.01, 0.3))


def waves(n: int = 16, seed: int = 0, length: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Slow and fast waves of one channel, (n, length), on a grid of 2^-20 that large offsets keep."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    t = np.arange(length)
    X = np.sin((0.3 + 0.6 * labels[:, None]) * t + rng.uniform(0, 6, (n, 1)))
    return np.round(X * 2**20) / 2**20, labels


# -- units and offsets -------------------------------------------------------------------------------------------------


@settings(max_examples=3)
@given(st.integers(-40, 40))
def test_a_power_of_two_changes_no_bit(exponent) -> None:
    X, y = waves()
    one, other = (tiny_classifier().fit(scaled, y).predict_proba(scaled) for scaled in (X, X * 2.0**exponent))
    np.testing.assert_array_equal(one, other)
    numbers = X[:, :5].mean(1)
    unit = 2.0**-exponent
    one, other = (tiny_regressor().fit(X, numbers * a).predict(X) / a for a in (1.0, unit))
    np.testing.assert_array_equal(one, other)


@settings(max_examples=3)
@given(st.sampled_from([1e-12, 1e-6, 1.0, 1e6, 1e12]), st.sampled_from([0.0, 1e3, -6_378_137.0, 1e7, 1e9]))
def test_units_and_offsets_change_the_answer_by_rounding_only(a, b) -> None:
    X, y = waves()
    moved = (X + b) * a
    expected = tiny_classifier().fit(X, y).predict_proba(X)
    found = tiny_classifier().fit(moved, y)
    np.testing.assert_allclose(found.predict_proba(moved), expected, atol=2e-4)
    stream = found.stream()
    for sample in moved[0]:
        answer = stream.update([sample])
    np.testing.assert_allclose(answer, expected[0], atol=2e-4)


def test_a_small_signal_on_a_large_offset_is_learnt() -> None:
    """10 MHz ± 1 Hz: in float32 nothing of it would be left."""
    X, y = waves(48)
    model = tiny_classifier(epochs=12).fit(X + 1e7, y)
    assert model.score(X + 1e7, y) > 0.9


def test_constant_targets_and_channels_are_answered() -> None:
    X, _ = waves()
    both = np.stack([X, np.full_like(X, 0.1)], -1)
    model = tiny_regressor().fit(both, np.full(len(X), 0.1))
    np.testing.assert_allclose(model.predict(both), 0.1, atol=0.2)


# -- containers --------------------------------------------------------------------------------------------------------


def test_every_container_of_the_same_numbers_gives_the_same_answer() -> None:
    X, y = waves()
    expected = tiny_classifier().fit(X[..., None], y).predict_proba(X[..., None])
    ragged = np.empty(len(X), object)
    ragged[:] = list(X)
    for same in (
        X, X.tolist(), pd.DataFrame(X), X.astype(object), list(X), [pd.DataFrame(x) for x in X], ragged,
        pd.Series(list(X)), torch.from_numpy(X), [pd.Series(x) for x in X],
    ):  # fmt: skip
        found = tiny_classifier().fit(same, pd.Series(y)).predict_proba(same)
        np.testing.assert_array_equal(found, expected)


def test_validation_takes_the_same_containers() -> None:
    X, y = waves()
    model = tiny_classifier().fit(pd.DataFrame(X), y, validation=(pd.DataFrame(X), pd.Series(y)))
    assert model.history_ is not None
    assert model.history_.best_value is not None


def test_a_column_of_labels_is_taken_with_a_warning() -> None:
    X, y = waves()
    expected = tiny_classifier().fit(X, y).predict(X)
    for column in (y[:, None], pd.DataFrame({"y": y})):
        with pytest.warns(DataConversionWarning):
            np.testing.assert_array_equal(tiny_classifier().fit(X, column).predict(X), expected)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (scipy.sparse.eye(4).tocsr(), TypeError, "X is a sparse matrix"),
        (np.array([[1.0, {"a": 1}]] * 4, object), TypeError, r"X\[0\] must be real numbers"),
        ([["a", "b"]] * 4, ValueError, r"X\[0\] must be real numbers"),
        (np.ones((4, 3)) * 1j, ValueError, "Complex data not supported"),
        (np.ones(4), ValueError, "Reshape your data"),
        (np.full((4, 3), np.inf), ValueError, r"X\[0\] is not finite at step 0, channel 0 \(infinity\)"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_what_is_no_series_is_refused_by_name(X, error, message) -> None:
    with pytest.raises(error, match=message):
        tiny_classifier().fit(X, [0, 1, 0, 1])


def test_nothing_answers_before_it_is_fitted(tmp_path) -> None:
    X, _ = waves()
    for model in (tiny_classifier(), tiny_regressor()):
        for use in (lambda m: m.predict(X), lambda m: m.stream(), lambda m: m.save(tmp_path)):
            with pytest.raises(NotFittedError):
                use(model)
    with pytest.raises(NotFittedError):
        tiny_classifier().predict_proba(X)


# -- labels ------------------------------------------------------------------------------------------------------------

LABELS = [
    np.array(["2020-01-31", "1969-12-31"], "datetime64[D]"),
    np.array([3, 5], "timedelta64[h]"),
    np.array(["2020-01-31T12:00:00.123456789", "1969-01-01"], "datetime64[ns]"),
    np.array([True, False]),
    np.array([1, 3], np.int8),
    np.array([0.0, 2.0]),
    np.array(["a", "b"], object),
    np.array(["ä", "="]),
]


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: f"{labels.dtype} {type(labels[0]).__name__}")
def test_labels_of_every_type_train_and_come_back_from_a_saved_run(labels, tmp_path) -> None:
    X, y = waves()
    model = tiny_classifier(epochs=1).fit(X, labels[y])
    model.save(tmp_path)
    again = load_estimator(tmp_path)
    assert isinstance(again, S4Classifier)
    expected, found = model.predict(X), again.predict(X)
    np.testing.assert_array_equal(found, expected)
    assert again.classes_.dtype == model.classes_.dtype or labels.dtype.kind in "iU"
    assert type(found[0]) is type(expected[0]) or labels.dtype.kind == "i"


def test_dates_of_pandas_are_labels(tmp_path) -> None:
    X, y = waves()
    days = pd.Series(pd.to_datetime(["2020-01-01", "2020-02-01"]))[y]
    model = tiny_classifier(epochs=1).fit(X, days)
    model.save(tmp_path)
    np.testing.assert_array_equal(load_estimator(tmp_path).predict(X), model.predict(X))


# -- global generators -------------------------------------------------------------------------------------------------


def numpys_state() -> list[int]:
    return of_class(tuple, np.random.get_state())[1].tolist()  # noqa: NPY002


def test_estimators_leave_the_global_generators_alone_and_do_not_depend_on_them() -> None:
    X, y = waves()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = torch.get_rng_state(), numpys_state()
        model = tiny_classifier(dropout=0.2).fit(X, y)
        found.append(model.predict_proba(X))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert numpys_state() == before[1]
    np.testing.assert_array_equal(found[0], found[1])


def test_estimators_in_threads_are_those_in_turn() -> None:
    X, y = waves()

    def fitted(seed: int) -> np.ndarray:
        return tiny_classifier(dropout=0.2, random_state=seed).fit(X, y).predict_proba(X)

    expected = [fitted(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(fitted, range(4)), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_dropout_draws_masks_that_resume_bit_for_bit(tmp_path) -> None:
    X, y = waves()
    slower = partial(tiny_classifier, epochs=4, dropout=0.3)
    whole = slower().fit(X, y)
    from linmap.training import loop

    steps = []
    step = loop._Run._step

    def interrupted(self, batch) -> None:
        step(self, batch)
        steps.append(1)
        if len(steps) == 3:
            raise RuntimeError("stop")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "_step", interrupted)
        with pytest.raises(RuntimeError):
            slower().fit(X, y, checkpoints=tmp_path)
    torch.rand(3)
    resumed = slower().fit(X, y, checkpoints=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))
