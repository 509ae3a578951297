"""`JSONVectorizer`: JSON documents to vectors, in scikit-learn's manners."""

from __future__ import annotations

import itertools
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Num, Shaped
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from linmap.errors import ArgumentError, DataError
from linmap.processes import workers
from linmap.retrieve.mbat.bound_leaves import BoundLeaves, serial_threads
from linmap.retrieve.mbat.capacity import capacity, dimension_for
from linmap.retrieve.mbat.codebook import FORMAT, Codebook
from linmap.retrieve.mbat.decoding import FALSE_ALARMS, Breakdown, Decoded, Decoder, similarity_breakdown
from linmap.retrieve.mbat.documents import iterate_documents
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.learning import learn
from linmap.retrieve.mbat.options import Options, collapsed_path
from linmap.retrieve.mbat.paths import PathLike, parse_path
from linmap.retrieve.mbat.rarity import Rarity

MISSING = object()
"""For `JSONVectorizer.update`: the field is not there (which differs from null)."""


class JSONVectorizer(TransformerMixin, BaseEstimator):
    """One vector of fixed length for each JSON document: no schema, no training, similar documents nearby.

    An object is the sum of its values, each bound to its key by the key's orthogonal operator; an array binds its
    items by powers of one operator. Norms and angles survive any depth, and a value can be read back from the
    vector by its path. The vector is the same on every machine: all atoms and operators come from a hash ("mbat/1").

    Parameters
    ----------
    dim
        D, length of the vectors; 2048 is enough for similarity, `dimension_for` says what reading values back takes.
    operators
        "signed_permutation" (integers stay integers), "hadamard" (dim a power of two) or "dense" (dim up to 2048).
    strings
        "mixed" (equal strings and common words), "words", "exact" (readable back), "ngrams" (typos), or a function
        from a string to an embedding vector.
    numbers
        "level" (near numbers are similar on a logarithmic scale), "quantile" (near in the path's distribution, which
        `fit` learns), "exact", or "thermometer".
    arrays
        "sequence" (an item counts with its index), "bag" (in any order) or "both" (half of each). An item put in
        front shifts all the others in a "sequence"; for sets of codes "bag" or "both" is often better.
    level_norm
        "none" (every leaf counts the same), or "unit" (every object and array is scaled to norm sqrt(D), so that a
        long array cannot drown ten fields).
    normalize
        "l2" (unit vectors) or "none" (the raw sum).
    ignore
        Path patterns of what is left out, such as ("**.id", "meta"); see `linmap.retrieve.mbat.paths`.
    weights
        Path pattern -> factor of the leaves there and below; the last that matches counts.
    dates
        Take ISO-8601 dates in strings as points in time: near dates are similar.
    seed
        Any text; vectors of different seeds are unrelated.
    dtype
        "float32", "float64", "float16", or "int32" for exact vectors.
    n_jobs
        Threads; -1 for all cores. Results do not depend on it.
    codebook
        An object with `.atom(kind, token)` and `.operator(kind, token)` in place of the format's own codebook.
    number_exact
        Share of a number's exact atom beside its level, so that 100 and 101 differ.
    number_scale
        "asinh" (covers ±1e6), or (low, high) for a linear scale.
    thermometer_levels
        Number of thresholds of numbers="thermometer".
    key_presence
        Weight of an atom "has this key", which makes documents with the same fields similar whatever the values.
    path_backoff
        Weight of the leaves without their path, which keeps some similarity when a field moves.
    soft_keys
        Share of a key's words in its atom of key_presence: "birth_date" is similar to "dateOfBirth".
    idf
        Weigh each part of a leaf (word, literal, number, key) by its rarity at its path, which `fit` learns, to this
        power: 0 for not at all, 1 for 1 + log((1 + documents) / (1 + documents with it)), 0.5 for its root.
    max_depth
        Deepest nesting that is accepted.
    max_values
        Most values of one document (items of its objects and arrays, but for what is ignored) that are accepted: a
        vector tells some dozens of them apart, and each takes time.
    default
        Function that turns a value that is not JSON (a date, a Decimal) into one that is.
    cache_bytes
        Memory for the vectors and operators met before; indices and codebook add up to a third of it.

    Attributes
    ----------
    fingerprint_
        SHA-256 of all options that decide the vectors; keep it with them, and compare only vectors with the same.

    References
    ----------
    S. I. Gallant, "Orthogonal Matrices for MBAT Vector Symbolic Architectures, and a 'Soft' VSA Representation for
    JSON", arXiv 2202.04771 (2022).

    Examples
    --------
    >>> vectors = JSONVectorizer(ignore=["**.id"]).transform([{"id": 1, "name": "Ada"}, {"id": 2, "name": "Ada"}])
    >>> round(float(vectors[0] @ vectors[1]), 6)
    1.0
    """

    def __init__(
        self,
        dim: Any = 2048,
        operators: str = "signed_permutation",
        strings: str | Callable[[str], Any] = "mixed",
        numbers: str = "level",
        arrays: str = "sequence",
        level_norm: str = "none",
        normalize: str = "l2",
        ignore: Sequence[PathLike] = (),
        weights: Mapping[PathLike, float | int] | None = None,
        dates: bool = False,
        seed: Any = "",
        dtype: str = "float32",
        n_jobs: int = 1,
        codebook: Any = None,
        number_exact: float | int = 0.2,
        number_scale: str | Sequence[float | int] = "asinh",
        thermometer_levels: int = 64,
        key_presence: float | int = 0.0,
        path_backoff: float | int = 0.0,
        soft_keys: float | int = 0.0,
        idf: float | int = 0.0,
        max_depth: int = 1000,
        max_values: int = 1_000_000,
        default: Callable[[Any], Any] | None = None,
        cache_bytes: int = 512 << 20,
    ) -> None:
        self.dim = dim
        self.operators = operators
        self.strings = strings
        self.numbers = numbers
        self.arrays = arrays
        self.level_norm = level_norm
        self.normalize = normalize
        self.ignore = ignore
        self.weights = weights
        self.dates = dates
        self.seed = seed
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.codebook = codebook
        self.number_exact = number_exact
        self.number_scale = number_scale
        self.thermometer_levels = thermometer_levels
        self.key_presence = key_presence
        self.path_backoff = path_backoff
        self.soft_keys = soft_keys
        self.idf = idf
        self.max_depth = max_depth
        self.max_values = max_values
        self.default = default
        self.cache_bytes = cache_bytes
        self._options()  # a wrong parameter is told where it is given

    # -- scikit-learn --------------------------------------------------------------------------------------------------

    def fit(self, documents: Any, y: Any = None, *, parse: bool | None = None) -> Self:
        """Learn the distribution of numbers at each path (numbers="quantile") and how rare its values are (idf > 0)."""
        encoder = Encoder(self._options(), self.codebook)
        seen = iterate_documents(documents, parse) if self._learns else ()
        self.quantiles_, self.rarity_ = learn(encoder, seen)
        return self

    def transform(self, documents: Any, *, parse: bool | None = None) -> Shaped[np.ndarray, "documents dim"]:
        """The vectors of a list of documents, one row each.

        Parameters
        ----------
        documents
            Parsed documents (any JSON values); or, with `parse=True`, JSON texts (str or bytes).
        parse
            True: texts are parsed. False: a text is a string value. None: as False, but a text that looks like a
            JSON object or array is refused.

        Raises
        ------
        TypeError
            If `documents` is not a list of documents, or a document holds something that is not JSON.
        DataError
            If a number is NaN or infinite, a text is not Unicode or not JSON, or a document is nested too deep.
        """
        batches = list(self.transform_stream(documents, parse=parse))
        return np.concatenate(batches) if batches else np.empty((0, self.dim), self.dtype)

    def transform_stream(
        self, documents: Any, *, batch_size: int = 1024, parse: bool | None = None
    ) -> Iterator[Shaped[np.ndarray, "batch dim"]]:
        """The same for a stream of documents, as arrays of up to `batch_size` rows; memory stays bounded."""
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {batch_size!r}.")
        state = self._state()
        source = iterate_documents(documents, parse)
        batches = enumerate(iter(lambda: list(itertools.islice(source, batch_size)), []))
        numbered = ((number * batch_size, batch) for number, batch in batches)
        if not state.encoder.options.linear:
            return (self._finish(_encode_each(state.encoder, batch, first)) for first, batch in numbered)
        return self._stream(state.bound_leaves, numbered)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """mbat0, mbat1, ...: coordinates have no meaning of their own."""
        return np.array([f"mbat{i}" for i in range(self.dim)], dtype=object)

    def get_feature_paths(self, documents: Any, *, parse: bool | None = None) -> list[str]:
        """The paths of all leaves of the documents, indices replaced by [*], in the order of first appearance."""
        encoder = self._state().encoder
        paths = (collapsed_path(p) for d in iterate_documents(documents, parse) for p, _ in encoder.walk(d))
        return list(dict.fromkeys(paths))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.dict = True
        tags.requires_fit = self._learns
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return not self._learns or hasattr(self, "quantiles_")

    @property
    def _learns(self) -> bool:
        """The vectors depend on the documents that `fit` has seen."""
        return self.numbers == "quantile" or self.idf > 0

    # -- the format ----------------------------------------------------------------------------------------------------

    @property
    def fingerprint_(self) -> str:
        return self._state().fingerprint

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse vectors that were made with other options.

        Raises
        ------
        DataError
            If the fingerprint is not this vectorizer's.
        """
        if fingerprint != self.fingerprint_:
            raise DataError(
                f"the vectors have the fingerprint {fingerprint[:12]}, this vectorizer {self.fingerprint_[:12]}: they "
                "were made with other options or another codebook, and must not be compared; encode them again."
            )

    def as_json(self) -> dict[str, Any]:
        """All options that decide the vectors, and what `fit` has learnt, as JSON; `from_json` reads it."""
        return self._state().encoder.options.as_json()

    @classmethod
    def from_json(cls, options: Mapping[str, Any], **others: Any) -> Self:
        """The vectorizer that `as_json` wrote down; `others` are parameters that decide no vector (n_jobs, dtype).

        Raises
        ------
        DataError
            If the options are of another format, or hold a function.
        """
        options = dict(options)
        if options.pop("format", None) != FORMAT or str(options["strings"]).startswith("function "):
            raise DataError("the options cannot be read back: they are of another format, or strings was a function.")
        quantiles = {path: np.array(knots) for path, knots in options.pop("quantiles").items()}
        rarity = Rarity.from_json(options.pop("rarity", Rarity().as_json()))
        options["ignore"] = tuple(_hashable(pattern) for pattern in options["ignore"])
        options["weights"] = {_hashable(pattern): weight for pattern, weight in options["weights"]} or None
        vectorizer = cls(**options, **others)
        if vectorizer._learns:
            vectorizer.quantiles_, vectorizer.rarity_ = quantiles, rarity
        return vectorizer

    # -- reading vectors -----------------------------------------------------------------------------------------------

    def get(
        self,
        vector: Num[np.ndarray, " dim"],
        path: PathLike,
        candidates: Sequence[Any],
        *,
        false_alarms: float = FALSE_ALARMS,
    ) -> Decoded | None:
        """The value that a vector holds at a path, among candidates: (value, score, margin, z), or None.

        Parameters
        ----------
        vector
            One vector, normalised or not.
        path
            "patient.address[0].state", "/patient/address/0/state" or ("patient", "address", 0, "state").
        candidates
            Values that it may be (any JSON values).
        false_alarms
            Share of the questions about absent values that may be answered all the same; a large number answers always.

        Raises
        ------
        ValueError
            If the path cannot be read, there are no candidates, or the vector has another length.
        """
        return self._state().decoder.get(vector, path, candidates, false_alarms)

    def get_number(self, vector: Num[np.ndarray, " dim"], path: PathLike) -> Decoded | None:
        """The number at a path, without candidates, as precise as its level code; None if there is none."""
        return self._state().decoder.get_number(vector, path)

    def decode(self, vector: Num[np.ndarray, " dim"], schema: Mapping[Any, Sequence[Any]]) -> dict[str, Decoded | None]:
        """The values at many paths together: the most certain is decoded first and subtracted, which helps the next.

        Parameters
        ----------
        vector
            One vector, normalised or not.
        schema
            Path -> candidates.
        """
        return self._state().decoder.decode(vector, schema)

    def has(self, vector: Num[np.ndarray, " dim"], path: PathLike) -> Decoded | None:
        """Whether a key is there, whatever its value (needs key_presence > 0); None if not."""
        return self._state().decoder.has(vector, path)

    def array_length(self, vector: Num[np.ndarray, " dim"], path: PathLike, candidates: Sequence[Any]) -> int:
        """How many items from the first on are recognised among the candidates."""
        return self._state().decoder.array_length(vector, path, candidates)

    def update(self, vector: Num[np.ndarray, " dim"], path: PathLike, old: Any, new: Any) -> Num[np.ndarray, " dim"]:
        """The vector after the value at `path` has changed from `old` to `new`, in O(D): V + R_p (V(new) - V(old)).

        `MISSING` stands for a field that was not there or is taken away; a container must not become empty by it.

        Raises
        ------
        ValueError
            If vectors are normalised or not linear in the leaves (needs normalize="none", level_norm="none").
        """
        options, encoder = self._state().encoder.options, self._state().encoder
        if options.normalize != "none" or not options.linear:
            raise ArgumentError(
                "update needs normalize='none' and level_norm='none': a unit vector has forgotten its length; encode "
                "with normalize='none' and divide by the norm afterwards."
            )
        place = encoder.place(parse_path(path))
        change = np.zeros(options.dim, options.working_dtype)
        for value, sign in ((old, -1), (new, 1)):
            if value is not MISSING:
                change = change + sign * encoder.encode(value, place)
                if options.key_presence and isinstance(place.step, str) and place.parent and not place.ignored:
                    change = change + sign * encoder.bind(place.parent, encoder.presence(place.step, place.parent))
        return (vector + change).astype(vector.dtype)

    def similarity_breakdown(self, a: Any, b: Any) -> Breakdown:
        """Why two documents (not vectors) are similar: the cosine as a sum over the paths that both have."""
        return similarity_breakdown(self._state().encoder, a, b)

    def describe(self, value: Any, candidates: int = 1000) -> dict[str, Any]:
        """How much a document, or a raw vector (normalize="none"), holds against what the dimension can give back.

        Warns if a leaf would be read back with a probability below 0.99 among `candidates` values. Similarity needs
        far less.
        """
        if isinstance(value, np.ndarray):
            if self.normalize != "none":
                raise ArgumentError(
                    "a unit vector does not show its number of leaves; pass the document, or normalize='none'."
                )
            leaves, depth = max(1, round(float(value.astype(np.float64) @ value) / self.dim)), None
        else:
            depths = [place.depth for place, _ in self._state().encoder.walk(value)]
            leaves, depth = max(1, len(depths)), max(depths, default=0)
        probability = capacity(self.dim, leaves, candidates)
        if probability < 0.99:
            warnings.warn(
                f"{leaves} leaves in {self.dim} dimensions: one of {candidates} values is read back with probability "
                f"{probability:.2f}; raise dim to {dimension_for(leaves, candidates, 0.99)} to read values reliably.",
                stacklevel=2,
            )
        return {"dim": self.dim, "leaves": leaves, "depth": depth, "candidates": candidates, "probability": probability}

    # -- private -------------------------------------------------------------------------------------------------------

    def _options(self, **learnt: Any) -> Options:
        names = set(self.get_params(deep=False)) - {"n_jobs", "codebook"}
        if isinstance(self.n_jobs, bool) or not isinstance(self.n_jobs, int):
            raise ArgumentError(f"n_jobs={self.n_jobs!r} must be a whole number of at least 1, or -1 for all cores.")
        workers(self.n_jobs)
        return Options(**{name: getattr(self, name) for name in names}, **learnt)

    def _state(self) -> _State:
        """Encoder and caches for the current parameters; made anew when `set_params` or `fit` has changed them."""
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                "numbers='quantile' learns the distribution of each path, and idf how rare its values are: call fit on "
                "documents first."
            )
        quantiles, rarity = getattr(self, "quantiles_", None), getattr(self, "rarity_", None)
        key = (repr(self.get_params(deep=False)), id(quantiles), id(rarity), id(self.codebook))
        state = self.__dict__.get("_made")
        if state is None or state.key != key:
            learnt = {"quantiles": quantiles, "rarity": rarity} if self._learns else {}
            encoder = Encoder(self._options(**learnt), self.codebook)
            state = self._made = _State(key, encoder, _codebook_name(self.codebook))
        return state

    def _stream(self, table: BoundLeaves, batches: Iterator[tuple[int, list[Any]]]) -> Iterator[np.ndarray]:
        threads = workers(self.n_jobs)
        if threads == 1:
            for first, batch in batches:
                yield self._finish(table.gather(batch, first)())
            return
        # This thread finds rows, the others sum them: sums release the interpreter's lock.
        with serial_threads(threads - 1) as pool:
            waiting: deque = deque()
            for first, batch in batches:
                sums = table.gather(batch, first)
                waiting.append(pool.submit(lambda sums=sums: self._finish(sums())))
                table.keep_until_done(waiting[-1])
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _finish(self, sums: torch.Tensor) -> np.ndarray:
        if self.normalize == "l2":
            norms = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
            sums.div_(norms.clamp_min_(torch.finfo(sums.dtype).tiny))  # a document that is all ignored stays zero
        return sums.numpy().astype(self.dtype, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_made"}


class _State:
    """What a vectorizer builds from its parameters."""

    def __init__(self, key: tuple, encoder: Encoder, codebook_name: str) -> None:
        self.key, self.encoder, self.decoder = key, encoder, Decoder(encoder)
        self.fingerprint = encoder.options.fingerprint(codebook_name)
        self._bound_leaves: BoundLeaves | None = None

    @property
    def bound_leaves(self) -> BoundLeaves:
        if self._bound_leaves is None:
            self._bound_leaves = BoundLeaves(self.encoder)
        return self._bound_leaves


def _codebook_name(codebook: Any) -> str:
    """What stands for the codebook in the fingerprint: nothing for the format's own, which the options determine."""
    if codebook is None:
        return ""
    return (
        repr(codebook)
        if isinstance(codebook, Codebook)
        else f"{type(codebook).__module__}.{type(codebook).__qualname__}"
    )


def _hashable(pattern: str | list) -> str | tuple:
    return pattern if isinstance(pattern, str) else tuple(pattern)


def _encode_each(encoder: Encoder, batch: list[Any], first: int) -> torch.Tensor:
    vectors = []
    for number, document in enumerate(batch, first):
        try:
            vectors.append(encoder.encode(document))
        except (TypeError, DataError) as error:
            raise type(error)(f"document {number}, {error}") from None
    return torch.from_numpy(np.stack(vectors))
