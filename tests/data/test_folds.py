"""Folds of a file: each part tests once, sessions and groups stay whole, and every class can be learned."""

import numpy as np
import pytest

from linmap.data.covariances import Covariances, hdm05
from linmap.data.epochs import Epochs, mamem
from linmap.data.folds import folds, hold_out
from linmap.errors import DataError


def test_every_sample_tests_once_chooses_once_and_trains_otherwise() -> None:
    X = np.arange(40.0).reshape(40, 1, 1)
    found = folds(Covariances(X, np.arange(40) % 2), 0)
    assert [fold.name for fold in found] == [f"fold {i}" for i in range(1, 6)]
    for fold in found:
        parts = [part.X.ravel().tolist() for part in (fold.train, fold.validation, fold.test)]
        assert sorted(x for part in parts for x in part) == X.ravel().tolist()
        assert fold.overlap == len(parts[2]) / len(parts[0]) == 8 / 24
    assert sorted(x for fold in found for x in fold.test.X.ravel()) == X.ravel().tolist()
    assert [fold.validation.X.tolist() for fold in found] == [found[i - 1].test.X.tolist() for i in range(5)]


def test_sessions_are_parts_in_their_order() -> None:
    found = folds(mamem(0), 0)
    assert [fold.name for fold in found] == [f"session {i}" for i in range(5)]
    last = found[-1]  # the official split
    assert [len(part) for part in (last.train, last.validation, last.test)] == [300, 100, 100]
    assert [set(part.session.tolist()) for part in (last.validation, last.test) if part.session is not None] == [
        {3},
        {4},
    ]
    actors = folds(hdm05(subset=True), 0)
    assert [fold.name for fold in actors] == [f"domain {name}" for name in ("bd", "bk", "dg", "mm", "tr")]
    X, y = np.zeros((28, 1, 1)), np.arange(28) % 2
    assert [fold.name for fold in folds(Covariances(X, y, np.arange(28) // 4), 0)] == [
        "domain 0, domain 1",
        "domain 2",
        "domain 3, domain 4",
        "domain 5",
        "domain 6",
    ]


def test_groups_are_never_on_two_sides() -> None:
    for fold in folds(mamem(0).take(slice(0, 100)), 0):
        groups = [
            set(part.group.tolist()) for part in (fold.train, fold.validation, fold.test) if part.group is not None
        ]
        assert len(set.union(*groups)) == sum(map(len, groups)) == 25


def test_samples_that_cannot_be_split_are_refused() -> None:
    y = np.arange(12) % 2
    epochs = Epochs(np.zeros((12, 1, 4)), y, None, ("C3",), np.arange(12) // 4, name="mine")
    with pytest.raises(
        DataError, match="mine: where session 0 tests and session 2 chooses, no sample of class 2 is left"
    ):
        folds(Epochs(epochs.X, np.where(np.arange(12) < 4, 2, y), None, ("C3",), epochs.session, name="mine"), 0)
    with pytest.raises(DataError, match="few: the samples cannot be split into five parts"):
        folds(Covariances(np.zeros((4, 1, 1)), np.arange(4) % 2, name="few"), 0)
    with pytest.raises(DataError, match="mine: session is missing for epoch 0"):
        folds(Epochs(epochs.X, epochs.y, None, ("C3",), np.where(np.arange(12) < 1, np.nan, 1.0), name="mine"), 0)


def test_named_domains_are_held_out_or_the_last_one() -> None:
    domains = np.array([2, 1, 3, 1])
    assert hold_out(domains, ("1", "2")).tolist() == [True, True, False, True]
    assert hold_out(domains).tolist() == [False, False, True, False]
    assert not hold_out(np.array([7, 7])).any()
    with pytest.raises(ValueError, match="held_out=5: the file has 1, 2, 3"):
        hold_out(domains, ("5",))


def test_a_single_class_is_refused_before_any_work() -> None:
    X = np.ones((30, 2, 2))
    for samples in (
        Covariances(X, np.full(30, "a"), np.arange(30) // 10, "mine"),
        Covariances(X, np.full(30, "a"), None, "mine"),
    ):
        with pytest.raises(DataError, match="mine: all samples are of the class a"):
            folds(samples, 0)
