"""What decides a vector, in one frozen record: the options of `JSONVectorizer` and what `fit` has learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.retrieve.mbat.codebook import FORMAT, check_dim
from linmap.retrieve.mbat.paths import PathLike, Place, Wildcard, format_path
from linmap.retrieve.mbat.rarity import Rarity

DTYPES = ("float16", "float32", "float64", "int32")
# The widest of these is used inside; integers up to 2**24 (2**53) are exact in it.
_WORKING = {"float16": np.float32, "float32": np.float32, "float64": np.float64, "int32": np.float64}
_CHOICES = {
    "strings": ("mixed", "words", "exact", "ngrams"),
    "numbers": ("level", "exact", "quantile", "thermometer"),
    "arrays": ("sequence", "bag", "both"),
    "level_norm": ("none", "unit"),
    "normalize": ("l2", "none"),
    "dtype": DTYPES,
}


@dataclass(frozen=True)
class Options:
    """See `JSONVectorizer`, whose parameters these are.

    Raises
    ------
    ValueError
        If an option is not one of its choices, or two exclude each other; the message names it.
    """

    dim: Any = 2048
    operators: str = "signed_permutation"
    strings: str | Callable[[str], Any] = "mixed"
    numbers: str = "level"
    arrays: str = "sequence"
    level_norm: str = "none"
    normalize: str = "l2"
    ignore: Sequence[PathLike] = ()
    weights: Mapping[PathLike, float | int] | None = None
    dates: bool = False
    seed: Any = ""
    dtype: str = "float32"
    number_exact: float | int = 0.2
    number_scale: str | Sequence[float | int] = "asinh"
    thermometer_levels: int = 64
    key_presence: float | int = 0.0
    path_backoff: float | int = 0.0
    soft_keys: float | int = 0.0
    idf: float | int = 0.0
    max_depth: int = 1000
    max_values: int = 1_000_000
    default: Callable[[Any], Any] | None = None
    cache_bytes: int = 512 << 20
    quantiles: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Sorted values seen by `fit` at each path, indices replaced by [*]."""
    rarity: Rarity = field(default_factory=Rarity)
    """In how many documents `fit` has seen each part of a leaf; used if `idf`."""

    def __post_init__(self) -> None:
        check_dim(self.dim, self.operators)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "strings" and callable(value)):
                hint = " (or a function from a string to a vector)" if name == "strings" else ""
                raise ArgumentError(f"{name} must be one of {', '.join(map(repr, choices))}{hint}, got {value!r}.")
        if not isinstance(self.seed, str):
            raise ArgumentTypeError(
                f"seed must be a text, got {self.seed!r} of type {type(self.seed).__name__}; use str(seed)."
            )
        for name in ("number_exact", "soft_keys"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name} is a share between 0 and 1, got {getattr(self, name)!r}.")
        if self.soft_keys and not self.key_presence:
            raise ArgumentError(
                f"soft_keys={self.soft_keys!r} is the share of words in the atoms that key_presence adds, but "
                "key_presence=0; give both, such as key_presence=0.5, soft_keys=0.5."
            )
        for name in ("key_presence", "path_backoff", "idf"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ArgumentError(f"{name} is a weight of at least 0, got {getattr(self, name)!r}.")
        for name, least in (("max_depth", 1), ("max_values", 1), ("thermometer_levels", 2), ("cache_bytes", 1 << 20)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ArgumentError(f"{name} must be an integer of at least {least}, got {value!r}.")
        scale = self.number_scale
        if scale != "asinh" and (isinstance(scale, str) or len(scale) != 2 or not float(scale[0]) < float(scale[1])):
            raise ArgumentError(f"number_scale must be 'asinh' or (low, high) with low < high, got {scale!r}.")
        if self.dtype == "int32" and not (self.integral and self.normalize == "none"):
            raise ArgumentError(
                "dtype='int32' needs vectors of integers: strings='exact', numbers='exact', level_norm='none', "
                "normalize='none', and no dates, idf, soft_keys, arrays='both', nor fractional weights, key_presence "
                "or path_backoff."
            )

    @property
    def working_dtype(self) -> np.dtype:
        return np.dtype(_WORKING[self.dtype])

    @property
    def integral(self) -> bool:
        """Every vector before normalisation has integer entries."""
        weights = [*(self.weights or {}).values(), self.key_presence, self.path_backoff]
        return (
            self.operators == "signed_permutation"
            and self.strings == self.numbers == "exact"
            and self.arrays != "both"
            and self.level_norm == "none"
            and not (self.dates or self.soft_keys or self.idf)
            and all(float(weight).is_integer() for weight in weights)
        )

    @property
    def linear_scale(self) -> tuple[float, float] | None:
        """(low, high) of a linear number scale; None for the asinh scale."""
        if isinstance(self.number_scale, str):
            return None
        low, high = self.number_scale
        return float(low), float(high)

    @property
    def linear(self) -> bool:
        """The vector before normalisation is the sum of the bound leaves."""
        return self.level_norm == "none"

    def quantiles_at(self, place: Place) -> np.ndarray | None:
        return self.quantiles.get(collapsed_path(place))

    def as_json(self) -> dict[str, Any]:
        """Every option that decides the vectors, as JSON; `from_json` reads it back unless `strings` is a function."""
        skipped = {"cache_bytes", "max_depth", "max_values", "default", "dtype", "rarity"}
        skipped |= {name for name in ("soft_keys", "idf") if not getattr(self, name)}  # older fingerprints hold
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        if callable(self.strings):
            named = self.strings if hasattr(self.strings, "__qualname__") else type(self.strings)
            values["strings"] = f"function {named.__module__}.{named.__qualname__}"
        values["ignore"] = [_as_json_path(pattern) for pattern in self.ignore]
        values["weights"] = [[_as_json_path(pattern), weight] for pattern, weight in (self.weights or {}).items()]
        values["number_scale"] = self.number_scale if self.linear_scale is None else list(self.linear_scale)
        values["quantiles"] = {path: np.asarray(knots).tolist() for path, knots in sorted(self.quantiles.items())}
        if self.idf:
            values["rarity"] = self.rarity.as_json()
        return {"format": FORMAT, **values}

    def fingerprint(self, codebook: str = "") -> str:
        """SHA-256 of all options that decide the vectors; vectors with different ones must not be compared."""
        text = json.dumps(self.as_json() | {"codebook": codebook}, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def collapsed_path(place: Place) -> str:
    """The path with every index replaced by [*]: what the items of an array have in common."""
    return format_path([Wildcard.ITEM if isinstance(step, int) else step for step in place.path()])


def _as_json_path(path: PathLike) -> str | list:
    return path if isinstance(path, str) else list(path)
