"""Labelled samples split into parts to train on, to choose by and to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from linmap.data.covariances import Covariances
from linmap.data.epochs import Epochs
from linmap.errors import ArgumentError, DataError

FOLDS = 5
Samples = TypeVar("Samples", Covariances, Epochs, Covariances | Epochs)


@dataclass(frozen=True)
class Fold(Generic[Samples]):
    """One split of a file."""

    name: str
    """The sessions that test, or the number of the fold."""
    train: Samples
    validation: Samples
    test: Samples

    @property
    def overlap(self) -> float:
        """Test samples over training samples, as `linmap.experiment.paired` takes it."""
        return len(self.test) / len(self.train)


def folds(samples: Samples, seed: int) -> list[Fold[Samples]]:
    """Five parts, each of which tests once while the one before it chooses and the others train.

    Where there are three sessions or more (of matrices: domains), the parts are sessions in their order, and as many as
    there are where that is fewer; otherwise they are stratified by class, and keep epochs of one group together.

    Raises
    ------
    DataError
        If there are too few samples or a single class, or the training part of a fold lacks a class.
    """
    labels = samples.labels()
    if len(set(labels.tolist())) < 2:
        raise DataError(f"{samples.name}: all samples are of the class {labels[0]}; two classes or more are needed.")
    word = "domain" if isinstance(samples, Covariances) else "session"
    sessions = domains_of(samples)
    names, part = (
        _by_session(word, sessions)
        if sessions is not None and len(np.unique(sessions)) >= 3
        else _stratified(samples, labels, seed)
    )
    found = []
    for i, name in enumerate(names):
        test, validation = part == i, part == (i - 1) % len(names)
        train = ~(test | validation)
        if absent := sorted(set(labels.tolist()) - set(labels[train].tolist()), key=str):
            raise DataError(
                f"{samples.name}: where {name} tests and {names[i - 1]} chooses, no sample of class {absent[0]} is "
                "left to train by; give more samples of it, in more sessions or groups."
            )
        found.append(Fold(name, samples.take(train), samples.take(validation), samples.take(test)))
    return found


def domains_of(samples: Covariances | Epochs) -> np.ndarray | None:
    """The domain of each matrix, or the session of each epoch, (n,); None where the file does not say it.

    Raises
    ------
    DataError
        If some have one and others do not.
    """
    return samples.domain if isinstance(samples, Covariances) else samples.known("session")


def hold_out(domains: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """A mask of the samples of these domains, (n,); of the last one without names, and of none where it is the only.

    Raises
    ------
    ValueError
        If there is no such domain.
    """
    distinct, written = np.unique(domains), domains.astype(str)
    if unknown := set(names) - set(written):
        raise ArgumentError(f"held_out={sorted(unknown)[0]}: the file has {', '.join(np.unique(written))}.")
    return np.isin(written, list(names)) if names else (domains == distinct[-1]) & (len(distinct) > 1)


def _by_session(word: str, sessions: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names of the parts, and the part of each sample."""
    distinct, index = np.unique(sessions, return_inverse=True)
    n = min(FOLDS, len(distinct))
    part = np.arange(len(distinct)) * n // len(distinct)
    names = [", ".join(f"{word} {name}" for name in distinct[part == i].tolist()) for i in range(n)]
    return names, part[index]


def _stratified(samples: Covariances | Epochs, labels: np.ndarray, seed: int) -> tuple[list[str], np.ndarray]:
    group = samples.known("group") if isinstance(samples, Epochs) else None
    splits = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    part = np.zeros(len(labels), np.int64)
    try:
        for i, (_, rows) in enumerate(splits.split(labels, labels, np.arange(len(labels)) if group is None else group)):
            part[rows] = i
    except ValueError as error:
        raise DataError(f"{samples.name}: the samples cannot be split into five parts ({error}).") from None
    return [f"fold {i + 1}" for i in range(FOLDS)], part
