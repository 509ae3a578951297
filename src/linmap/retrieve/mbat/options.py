"""What decides a vector, in one frozen record: the options of `JSONVectorizer` and what `fit` has learnt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np

from linmap.retrieve.mbat.codebook import FORMAT, Structure, check_dim
from linmap.retrieve.mbat.paths import Place, Wildcard, format_path

Strings = Literal["mixed", "words", "exact", "ngrams"]
Numbers = Literal["level", "exact", "quantile", "thermometer"]
Arrays = Literal["sequence", "bag", "both"]
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

    dim: int = 2048
    operators: Structure = "signed_permutation"
    strings: Strings | Callable[[str], Any] = "mixed"
    numbers: Numbers = "level"
    arrays: Arrays = "sequence"
    level_norm: Literal["none", "unit"] = "none"
    normalize: Literal["l2", "none"] = "l2"
    ignore: Sequence[Any] = ()
    weights: Mapping[str, float] | None = None
    dates: bool = False
    seed: str = ""
    dtype: str = "float32"
    number_exact: float = 0.2
    number_scale: Literal["asinh"] | tuple[float, float] = "asinh"
    thermometer_levels: int = 64
    key_presence: float = 0.0
    path_backoff: float = 0.0
    max_depth: int = 1000
    default: Callable[[Any], Any] | None = None
    cache_bytes: int = 512 << 20
    quantiles: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Sorted values seen by `fit` at each path, indices replaced by [*]."""

    def __post_init__(self) -> None:
        check_dim(self.dim, self.operators)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "strings" and callable(value)):
                hint = " (or a function from a string to a vector)" if name == "strings" else ""
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}{hint}, got {value!r}.")
        if not 0 <= self.number_exact <= 1:
            raise ValueError(f"number_exact is a share between 0 and 1, got {self.number_exact!r}.")
        for name in ("key_presence", "path_backoff"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is a weight of at least 0, got {getattr(self, name)!r}.")
        for name, least in (("max_depth", 1), ("thermometer_levels", 2), ("cache_bytes", 1 << 20)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
        if self.number_scale != "asinh":
            low, high = self.number_scale
            if not low < high:
                raise ValueError(f"number_scale must be 'asinh' or (low, high) with low < high, got {self.number_scale!r}.")
        if self.dtype == "int32" and not (self.integral and self.normalize == "none"):
            raise ValueError(
                "dtype='int32' needs vectors of integers: strings='exact', numbers='exact', level_norm='none', "
                "normalize='none', and no dates, fractional weights, arrays='both', key_presence or path_backoff."
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
            and not self.dates
            and all(float(weight).is_integer() for weight in weights)
        )

    @property
    def linear(self) -> bool:
        """The vector before normalisation is the sum of the bound leaves."""
        return self.level_norm == "none"

    def quantiles_at(self, place: Place) -> np.ndarray | None:
        return self.quantiles.get(collapsed_path(place))

    def as_json(self) -> dict[str, Any]:
        """Every option that decides the vectors, as JSON; `from_json` reads it back unless `strings` is a function."""
        skipped = {"cache_bytes", "max_depth", "default", "dtype"}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skipped}
        if callable(self.strings):
            values["strings"] = f"function {getattr(self.strings, '__module__', '')}.{getattr(self.strings, '__qualname__', type(self.strings).__qualname__)}"
        values["ignore"] = [list(p) if not isinstance(p, str) else p for p in self.ignore]
        values["weights"] = dict(self.weights or {})
        values["number_scale"] = self.number_scale if self.number_scale == "asinh" else list(self.number_scale)
        values["quantiles"] = {path: np.asarray(knots).tolist() for path, knots in sorted(self.quantiles.items())}
        return {"format": FORMAT, **values}

    def fingerprint(self, codebook: str = "") -> str:
        """SHA-256 of all options that decide the vectors; vectors with different ones must not be compared."""
        text = json.dumps(self.as_json() | {"codebook": codebook}, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


def collapsed_path(place: Place) -> str:
    """The path with every index replaced by [*]: what the items of an array have in common."""
    return format_path([Wildcard.ITEM if isinstance(step, int) else step for step in place.path()])
