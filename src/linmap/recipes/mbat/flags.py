"""The flags of MBAT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from linmap.recipes.derived import Derived, Other, flags
from linmap.recipes.job import Workers


@flags
class Apply(Derived, Workers):
    """Flags of `linmap apply mbat`."""

    OF = "linmap.retrieve.mbat.vectorizer:JSONVectorizer"
    LEAVE = ("operators", "codebook", "number_exact", "number_scale", "thermometer_levels", "max_depth", "default",
             "cache_bytes")  # fmt: skip
    OTHER: ClassVar = {
        "weights": Other((), "pairs are written PATTERN=FACTOR on the command line"),
        "n_jobs": Other(2, "files are encoded by processes, of which nearly every machine can run two"),
    }

    dim: int = 2048
    """Length of the vectors."""
    strings: Literal["mixed", "words", "exact", "ngrams"] = "mixed"
    """mixed: equal strings and common words; ngrams: forgives typos."""
    numbers: Literal["level", "quantile", "exact", "thermometer"] = "level"
    """level: near on a logarithmic scale; quantile: near in the distribution of the file."""
    arrays: Literal["sequence", "bag", "both"] = "sequence"
    """Whether the items of an array count with their index, in any order, or half and half."""
    level_norm: Literal["none", "unit"] = "none"
    """unit: a long array weighs no more than a short one."""
    normalize: Literal["l2", "none"] = "l2"
    """l2: unit vectors; none: the raw sums, from which values are read back."""
    ignore: tuple[str, ...] = ()
    """Path patterns to leave out, e.g. '**.id' 'meta'."""
    weights: tuple[str, ...] = ()
    """Factors by path pattern, e.g. 'patient.name=3'."""
    seed: str = ""
    """Vectors of different seeds are unrelated."""
    dtype: Literal["float32", "float16"] = "float32"
    """float16: files of half the size."""
    n_jobs: int = 2
    """Worker processes; -1 for all cores."""
    records_at: str | None = None
    """Where a file holds its records, e.g. Records, features or data.items, if it is not one array of them."""
    ids: Literal["given", "number"] = "given"
    """given: a record goes by its "id" (also MongoDB's {"$oid": ...}), or by its number where it has none; number: by
    its number in the file."""
    decompress: bool = False
    """Read .gz, .bz2, .xz and .zst, each file as one shard, by one worker."""


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Flags of `linmap compare mbat`; --data FILE holds records {"id": ..., "label": ..., "doc": ...}."""

    dim: int = 2048
    """Length of all vectors."""
    folds: int = 5
    """Folds of the cross-validation."""
    seeds: int = 1
    """Cross-validations with different folds."""
    choose: bool = False
    """Also choose between the defaults and weights by rarity, by inner folds of the training records."""
