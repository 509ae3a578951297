"""What an estimator is fitted to is what it meets: channels by name, rate, unit, labels."""

import warnings
from dataclasses import replace

import mne
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_score

from linmap.data.epochs import Epochs
from linmap.signals.acm import ACMClassifier, AugmentedCovariance, yule_walker
from linmap.signals.gbwbn import SPDNetClassifier
from linmap.signals.layout import Layout, read_epochs
from signals.acm.paths import opposite_memories
from typed import other

pytestmark = pytest.mark.filterwarnings("ignore:GBWBatchNorm")
NAMES = ("Fp1", "Cz", "O2")
X, Y = opposite_memories(40, 80)
KNOWN = Epochs(X, Y, 100.0, NAMES)


def small(**options) -> SPDNetClassifier:
    return SPDNetClassifier(dims=(3,), epochs=2, front="augmented", order=2, **options)


ESTIMATORS = [ACMClassifier((2, 1)), ACMClassifier((2, 1), "mdm"), small()]


@given(st.permutations(range(5)), st.booleans())
def test_channels_are_found_by_name_in_any_order_and_among_others(order: list[int], changed: bool) -> None:
    rng = np.random.default_rng(0)
    layout = Layout.of(KNOWN)
    wide = np.concatenate([X, rng.standard_normal((40, 2, 80))], 1)
    names = np.array([*NAMES, "EOG", "M1"])[order]
    written = tuple(f" {name.upper()}." if changed else str(name) for name in names)
    assert np.array_equal(layout.matched(Epochs(wide[:, order], None, 100.0, written)), X)


def test_names_that_do_not_tell_channels_apart_are_not_looked_for() -> None:
    twice = replace(KNOWN, ch_names=("Cz", "Cz", "O2"))
    assert np.array_equal(Layout.of(twice).matched(twice), X)
    with pytest.raises(ValueError, match="two channels called Cz"):
        Layout.of(KNOWN).matched(twice)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["svm", "mdm", "network"])
def test_answers_do_not_depend_on_the_order_or_the_unit_of_the_channels(estimator) -> None:
    fitted = estimator.fit(KNOWN, Y)
    answers = fitted.predict(KNOWN)
    turned = replace(KNOWN, X=X[:, ::-1].copy(), ch_names=NAMES[::-1])
    assert np.array_equal(fitted.predict(turned), answers)
    for factor in (1e-6, 1e-3, 1e3, 1e6, 1e9):
        with pytest.warns(UserWarning, match="in another unit, such as volts for microvolts"):
            assert np.array_equal(fitted.predict(factor * X), answers)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted.predict(10 * X)
        fitted.predict(X / 20)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["svm", "mdm", "network"])
def test_missing_channels_and_other_rates_are_named(estimator) -> None:
    fitted = estimator.fit(KNOWN, Y)
    with pytest.raises(ValueError, match="lacks the channel Fp1 of the fit"):
        fitted.predict(replace(KNOWN, ch_names=("Fz", "Cz", "O2")))
    with pytest.raises(ValueError, match="X has 250 Hz, and was fitted to 100 Hz"):
        fitted.predict(replace(KNOWN, sfreq=250.0))
    with pytest.raises(ValueError, match="expected 3 channels as in fit, got 2"):
        fitted.predict(X[:, :2])


def test_matrices_in_another_unit_are_brought_to_that_of_the_fit() -> None:
    C = AugmentedCovariance(2, 1).transform(X)
    fitted = SPDNetClassifier(dims=(3,), epochs=2).fit(C, Y)
    chances = fitted.predict_proba(C)
    with pytest.warns(UserWarning, match="in another unit"):
        np.testing.assert_allclose(fitted.predict_proba(1e-12 * C), chances, rtol=1e-9)


def test_samples_of_every_size_that_the_fit_saw_are_left_alone() -> None:
    sizes = 10.0 ** np.linspace(-6, 6, 40)
    layout = Layout.of(replace(KNOWN, X=sizes[:, None, None] * X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (1e-6, 1.0, 1e6):
            assert np.array_equal(layout.matched(replace(KNOWN, X=size * X)), size * X)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=["svm", "mdm", "network"])
def test_mne_epochs_and_arrays_of_their_eeg_are_one(estimator) -> None:
    rng = np.random.default_rng(1)
    trigger = np.zeros((40, 1, 80))
    trigger[:, 0, 5] = Y
    data = np.concatenate([1e-6 * X, 1e-4 * rng.standard_normal((40, 1, 80)), trigger], 1)
    info = mne.create_info([*NAMES, "EOG", "STI"], 100.0, other(["eeg"] * 3 + ["eog", "stim"]))
    events = np.column_stack([np.arange(40), np.zeros(40, int), Y])
    epochs = mne.EpochsArray(data, info, events, verbose="error")
    by_object = estimator.fit(epochs).predict(epochs)
    assert estimator.classes_.tolist() == [0, 1]
    assert estimator.layout_.ch_names == NAMES
    assert np.array_equal(estimator.fit(1e6 * (1e-6 * X), Y).predict(1e6 * (1e-6 * X)), by_object)
    assert np.array_equal(read_epochs(epochs).X, 1e6 * (1e-6 * X))


def test_labels_of_rejected_epochs_are_dropped_with_them() -> None:
    raw = np.concatenate(list(1e-6 * X), -1)
    raw[0, 80 * 3 + 10] = 1.0  # in epoch 3
    events = np.column_stack([80 * np.arange(40), np.zeros(40, int), Y + 1])
    made = mne.io.RawArray(raw, mne.create_info(3, 100.0, "eeg"), verbose="error")

    def epochs() -> mne.Epochs:
        return mne.Epochs(made, events, tmin=0, tmax=0.79, baseline=None, reject={"eeg": 1e-2}, verbose="error")

    assert len(epochs().events) == 40
    for y in (None, Y + 1):
        fitted = ACMClassifier((2, 1), "mdm").fit(epochs(), y)
        assert (fitted.predict(1e6 * (1e-6 * X)) == Y + 1).mean() > 0.9
    grouped = ACMClassifier(orders=(1, 2), lags=(1,), classifier="mdm", inner_cv=GroupKFold(2))
    grouped.fit(epochs(), Y + 1, np.arange(40) // 4)
    SPDNetClassifier((2,), front="augmented", epochs=1).fit(epochs(), None, np.arange(40) // 20)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ACMClassifier((2, 1)).fit(epochs(), Y[:20])


def test_what_was_seen_in_fit_is_saved_with_the_classifier(tmp_path) -> None:
    for i, estimator in enumerate((ACMClassifier((2, 1)), small())):
        fitted = estimator.fit(KNOWN, Y)
        fitted.save(tmp_path / str(i))
        assert type(fitted).load(tmp_path / str(i)).layout_ == fitted.layout_
    noted = ACMClassifier((2, 1)).fit(X, Y)
    noted.save(tmp_path / "noted", sfreq=100.0, ch_names=list(NAMES))
    layout = ACMClassifier.load(tmp_path / "noted").layout_
    assert (layout.ch_names, layout.sfreq) == (NAMES, 100.0)


def test_runs_of_before_know_no_layout_and_are_taken_by_place(tmp_path) -> None:
    for i, estimator in enumerate((ACMClassifier((2, 1)), small())):
        fitted = estimator.fit(X, Y)
        fitted.save(tmp_path / str(i), layout=None, sfreq=100.0)
        loaded = type(fitted).load(tmp_path / str(i))
        assert loaded.layout_ == Layout(3, None, 100.0, None)
        assert np.array_equal(loaded.predict(X), fitted.predict(X))


def test_matrices_and_epochs_are_told_apart() -> None:
    with pytest.raises(ValueError, match="got epochs; take front='augmented'"):
        SPDNetClassifier().fit(KNOWN, Y)


def test_a_model_of_one_signal_or_of_mne_epochs_is_that_of_their_arrays() -> None:
    epochs = mne.EpochsArray(1e-6 * X, mne.create_info(list(NAMES), 100.0, "eeg"), verbose="error")
    np.testing.assert_allclose(yule_walker(epochs, 2).A, yule_walker(X, 2).A, rtol=1e-9)
    np.testing.assert_array_equal(yule_walker(X[0], 2).A, yule_walker(X[:1], 2).A)


def test_splits_of_scikit_learn_keep_mne_epochs_what_they_are() -> None:
    """Such a split is a list of single epochs: names, units and channel types are still those of MNE."""
    generator, y = np.random.default_rng(0), np.repeat([1, 2], 8)
    X = generator.standard_normal((16, 3, 60)) * 1e-5
    X[y == 2, 0] *= 3
    X[:, 2] = y[:, None]  # the trigger, which tells the class
    events = np.column_stack([np.arange(16) * 100, np.zeros(16, int), y])
    info = mne.create_info(["Fz", "Cz", "STI"], 100.0, other(["eeg", "eeg", "stim"]))
    epochs = mne.EpochsArray(X, info, events, verbose="ERROR")
    whole, parts = read_epochs(epochs), read_epochs([epochs[i] for i in range(16)])
    assert parts.ch_names == whole.ch_names == ("Fz", "Cz")
    np.testing.assert_array_equal(parts.X, whole.X)
    folds = StratifiedKFold(2)
    of_epochs = cross_val_score(ACMClassifier((1, 1), "mdm"), epochs, y, cv=folds, error_score=other("raise"))
    of_arrays = cross_val_score(ACMClassifier((1, 1), "mdm"), whole.X, y, cv=folds, error_score=other("raise"))
    np.testing.assert_array_equal(of_epochs, of_arrays)
