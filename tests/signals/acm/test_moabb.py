"""The estimators inside MOABB's evaluations: its fake data set, and MAMEM wrapped as one of its data sets."""

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from pyriemann.classification import MDM
from sklearn.pipeline import make_pipeline

from linmap.data.epochs import mamem
from linmap.signals.acm import ACMClassifier, AugmentedCovariance

pytest.importorskip("moabb")
from moabb.datasets.base import BaseDataset
from moabb.datasets.fake import FakeDataset
from moabb.evaluations import CrossSessionEvaluation, WithinSessionEvaluation
from moabb.paradigms import SSVEP, LeftRightImagery

GAP = 25  # samples of silence between the epochs, which were cut from a recording that is not there


class Mamem(BaseDataset):
    """Two sessions of one embedded subject, three of the five flicker frequencies."""

    def __init__(self) -> None:
        super().__init__([3], 2, {"a": 1, "b": 2, "c": 3}, "Mamem", [0, 1], "ssvep")

    def _get_single_subject_data(self, subject: int) -> dict[str, dict[str, Any]]:
        return {str(session): {"0": self._raw(subject - 1, session)} for session in range(2)}

    def _raw(self, subject: int, session: int) -> Any:
        epochs = mamem(subject)
        epochs = epochs.take((epochs.session == session) & (epochs.labels() < 3))
        X = np.pad(epochs.X - epochs.X.mean(-1, keepdims=True), ((0, 0), (0, 0), (GAP, GAP)))
        step = X.shape[-1]
        stim = np.zeros(len(X) * step)
        stim[GAP + step * np.arange(len(X))] = epochs.labels() + 1
        data = np.vstack([np.concatenate(list(X), -1) * 1e-6, stim])
        names = ["PO7", "PO3", "POz", "PO4", "PO8", "O1", "Oz", "O2", "stim"]
        kinds: Any = ["eeg"] * 8 + ["stim"]  # MNE declares one kind for all
        return mne.io.RawArray(data, mne.create_info(names, 125.0, kinds), verbose="error")

    def data_path(self, *_: Any, **__: Any) -> None:
        raise AssertionError("the data come with linmap")


PIPELINES = {
    "plain": make_pipeline(AugmentedCovariance(), MDM()),
    "augmented": make_pipeline(AugmentedCovariance(2, 4), MDM()),
    "searched": ACMClassifier("grid", "mdm", orders=(1, 2), lags=(4,), inner_cv=2),
}


def evaluated(kind: type, paradigm: Any, dataset: Any, folder: Path) -> Any:
    evaluation = kind(paradigm, [dataset], random_state=0, overwrite=True, hdf5_path=str(folder))
    return evaluation.process(PIPELINES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [WithinSessionEvaluation, CrossSessionEvaluation])
def test_the_fake_data_set(kind: type, tmp_path: Path) -> None:
    dataset = FakeDataset(
        ["left_hand", "right_hand"], n_sessions=2, n_runs=1, n_subjects=1, n_events=20, duration=80, seed=0
    )
    results = evaluated(kind, LeftRightImagery(tmax=1), dataset, tmp_path)
    assert set(results["pipeline"]) == set(PIPELINES)
    assert results["score"].between(0, 1).all()
    assert len(results) == 2 * len(PIPELINES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [WithinSessionEvaluation, CrossSessionEvaluation])
def test_real_epochs_as_a_data_set(kind: type, tmp_path: Path) -> None:
    results = evaluated(kind, SSVEP(n_classes=3, fmin=4, fmax=35, tmax=0.992), Mamem(), tmp_path)
    assert set(results["session"]) == {"0", "1"}
    assert set(results["channels"]) == {8}
    scores = results.pivot_table("score", "session", "pipeline")
    assert scores.map(lambda score: 0.15 < score < 0.7).all(axis=None)
    assert (scores["augmented"] != scores["plain"]).any()
