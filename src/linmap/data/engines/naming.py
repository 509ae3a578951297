"""Ids that stand for several records of one run.

A record without an id goes by its number, and an id that is no text by how JSON writes it. Where that makes two records
one, linmap has mixed them up and not the user: the run ends. What has one id in the file keeps it, and is told.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from linmap.data.engines.shards import Names
from linmap.errors import DataError

BY_ID, BY_NUMBER = 'by their own "id"', "by their numbers"
Place = tuple[int, str]
"""The number of a record, and the letter for where its id comes from."""


def check_names(parts: Callable[[], Iterator[Names]], source: Path | str) -> str:
    """Warn of ids that come more than once in a file; `parts` gives the names of all records in their order.

    Returns
    -------
    str
        What the records are called by, for summaries.

    Raises
    ------
    DataError
        If records have one id for different reasons: by their number, by a number, or by a text.
    """
    told, origins = "", Counter[str]()
    for name, (first, second) in _repeated(parts, origins):
        if first[1] != second[1]:
            raise DataError(
                f"{source}: {_reason(*first, name)}, and {_reason(*second, name)}, so that both would be called "
                f"{name!r}; give every record an id of its own, or call all by their numbers with ids='number'."
            )
        told = told or f"{name!r} is that of the records {first[0]} and {second[0]}"
    if told:
        warnings.warn(
            f"{source}: an id stands for several records ({told}); no store takes both. ids='number' calls records by "
            "their numbers.",
            stacklevel=4,
        )
    return named_by(origins.total() - origins["n"], origins["n"])


def named_by(ids: int, numbers: int) -> str:
    """So many records are called by an id of theirs, and so many by their numbers."""
    if ids and numbers:
        return f"{ids:,} {BY_ID}, {numbers:,} {BY_NUMBER}"
    return BY_ID if ids else BY_NUMBER


def _repeated(parts: Callable[[], Iterator[Names]], origins: Counter[str]) -> Iterator[tuple[str, tuple[Place, Place]]]:
    """Ids of two records or more, each with the first and the first other one, of another origin where there is one.

    Eight bytes for each record are held, for the ids themselves may not fit into memory. `origins` counts where ids
    come from.
    """
    hashes = []
    for names in parts():
        hashes.append(np.fromiter(map(hash, names.ids), np.int64, len(names.ids)))
        origins.update(names.origins)
    if not hashes:
        return
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    suspects = set(values[counts > 1].tolist())
    if not suspects:
        return
    first: dict[str, Place] = {}
    second: dict[str, Place] = {}
    number = 0
    for names in parts():
        for name, origin in zip(names.ids, names.origins, strict=True):
            if hash(name) in suspects:
                if name not in first:
                    first[name] = number, origin
                elif name not in second or (second[name][1] == first[name][1] != origin):
                    second[name] = number, origin
            number += 1
    yield from ((name, (first[name], place)) for name, place in second.items())


def _reason(number: int, origin: str, name: str) -> str:
    if origin == "n":
        return f"record {number} has no id and goes by its number"
    return f"record {number} has the id " + (f"{name!r}, a text" if origin == "t" else f"{name}, no text")
