"""What a data set is known by when a run is resumed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from linmap.data.fingerprints import content_fingerprint
from linmap.training.batches import reader, samples_of
from linmap.training.checkpoint import random_state, set_random_state

ITEMS = 8
"""Evenly spaced samples that stand for a data set that is not in memory."""
GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def data_fingerprint(data: Dataset, source: Any = None) -> str | None:
    """A digest of what a data set holds; None where it cannot be told.

    Of tensors and arrays in memory (`TensorDataset`, a list, `Subset` and `ConcatDataset` of these) all is read, up to
    the limit of `content_fingerprint`. A data set of another kind says what it holds by a method `fingerprinted()`,
    which returns arrays, numbers, text, and lists of these. Of one that does not, `ITEMS` samples are read, twice with
    the same seeds; where they differ, or it has a generator of its own, it cannot be told. `source`, where it is given,
    stands for all that.
    """
    name, length = type(data).__name__, samples_of(data)
    try:
        held = _held(data) if source is None else source
        if held is not None:
            return content_fingerprint((name, length, held))
        if _has_generator(data):
            return None
        read = reader(data, torch.device("cpu"))
        first, second = (content_fingerprint((name, length, _samples(read, length))) for _ in range(2))
    except Exception:  # of the user's data set: training meets it where it happens
        return None
    return first if first == second else None


def _held(data: Any) -> Any:
    """What is in memory of a data set; None where that is not known."""
    if (declared := getattr(data, "fingerprinted", None)) is not None:
        return declared()
    if type(data) is TensorDataset:
        return data.tensors
    if isinstance(data, Subset):
        held = _held(data.dataset)
        return None if held is None else (list(data.indices), held)
    if isinstance(data, ConcatDataset):
        parts = [_held(part) for part in data.datasets]
        return None if any(part is None for part in parts) else parts
    return data if isinstance(data, list | tuple | np.ndarray | Tensor) else None


def _has_generator(data: Any) -> bool:
    """Whether reading a sample may change what the data set, or one inside it, draws next."""
    values = list(getattr(data, "__dict__", {}).values())
    inner = [value for value in values if isinstance(value, Dataset) and value is not data]
    return any(isinstance(value, GENERATORS) for value in values) or any(map(_has_generator, inner))


def _samples(read: Callable[[Tensor], Any], length: int) -> list[Any]:
    """Evenly spaced samples, read with fixed seeds; the global generators stay as they are."""
    state = random_state(torch.device("cpu"))
    try:
        torch.random.default_generator.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 (what a data set may draw from)
        random.seed(0)
        return [read(index) for index in torch.linspace(0, length - 1, min(ITEMS, length)).round().long().split(1)]
    finally:
        set_random_state(state, torch.device("cpu"))
