"""`EmbeddingUpgrade`: new queries for an old gallery, from pairs of old and new vectors of the same items."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict, get_args

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import RidgeCV
from sklearn.utils.validation import check_is_fitted, validate_data

from linmap import artifacts
from linmap.data.schema import Range, check_parameters, typed
from linmap.errors import ArgumentError, ArtifactError
from linmap.retrieve.bt2.choosing import Method, Pairs, choose
from linmap.retrieve.bt2.frozen import FittedMap
from linmap.retrieve.bt2.head import check_sizes
from linmap.retrieve.bt2.mixed import Calibration, calibrate
from linmap.retrieve.bt2.pairs import as_numbers, check_vectors, join, unit, warn_if_not_unit

ROWS = 16_384  # of a block that is transformed at once
NETWORK = ("W1", "b1", "W2", "b2")
"""Names of the arrays that make n_extra dimensions."""
Write = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Gets rows, their lengths, and where to write what they become."""


class Saved(TypedDict):
    """What `save` says beside the arrays."""

    parameters: dict[str, Any]
    sha256: str
    d_new: Annotated[int, Range(1, 2**24)]
    d_old: Annotated[int, Range(1, 2**24)]
    report: dict[str, Any]
    calibration: dict[str, tuple[float, float]]


class EmbeddingUpgrade(TransformerMixin, BaseEstimator):
    """A new embedding model on an index of the old one's vectors (BT² with both models frozen).

    `transform_query` turns new vectors into what the old index is searched with; `transform` gives the vectors to store
    from now on, whose first d_old coordinates can be compared with old vectors, and whose whole is as good as the new
    model's own (exactly so with the closed form).

    Parameters
    ----------
    n_extra
        Dimensions added to the new model's own, for what only the old model knows.
    method
        "procrustes" is the closed form; "centred" takes the means of both sides away first and gives the old one back;
        "trained" goes on from the better of these by gradient steps. "auto" leaves "procrustes" only for what helps
        held-out items to find their own old vectors, by more than a standard error, and trains only with 4 d_new pairs
        or more.
    C
        Weight of the new model's part against the added one.
    random_state
        Seed of the held-out split, of training and of the permutation test.
    new_model, old_model
        Names of the two models, for error messages and the saved artifact.

    Attributes
    ----------
    report_
        What was fitted: pairs, rank, the held-out figures of every candidate, which was chosen, and why.
    map_
        The fitted matrices.
    calibration_
        For searches in mixed galleries.

    References
    ----------
    Zhou et al., "BT²: Backward-compatible Training with Basis Transformation", ICCV 2023 (arXiv 2211.03989).
    """

    def __init__(
        self,
        n_extra: int = 0,
        method: Method = "auto",
        C: float = 2.0,
        random_state: int = 0,
        new_model: str = "new",
        old_model: str = "old",
    ) -> None:
        self.n_extra = n_extra
        self.method: Method = method
        self.C = C
        self.random_state = random_state
        self.new_model = new_model
        self.old_model = old_model

    def fit(
        self, X_new: Any, Y_old: Any = None, val: tuple[Any, Any] | None = None, *, ids: tuple | None = None
    ) -> Self:
        """Fit to the vectors of the same items by both models.

        Parameters
        ----------
        X_new, Y_old
            One item a row, in the same order, unless `ids` are given.
        val
            A pair (X, Y) of further items to choose by; a fifth of the pairs is held out when None.
        ids
            (ids of X_new, ids of Y_old): rows are paired by these, and rows without a partner are left out.

        Raises
        ------
        ValueError
            If vectors are not finite or zero, sizes do not fit, or the pairs look misaligned.
        """
        self._check_parameters()
        if Y_old is None:
            raise ArgumentError(
                "EmbeddingUpgrade requires y to be passed, but the target y is None: the old model's vectors, Y_old."
            )
        X, Y = check_vectors("X_new", X_new), check_vectors("Y_old", Y_old)
        names: Any = X_new if hasattr(X_new, "columns") else X
        validate_data(self, names, skip_check_array=True)
        if ids is not None:
            X, Y = self._joined(X, Y, *ids)
        if len(X) != len(Y):
            raise ArgumentError(
                f"X_new has {len(X)} rows and Y_old {len(Y)}: row i of both must be the same item; "
                "ids=(ids_new, ids_old) pairs them by id."
            )
        check_sizes(X.shape[1], Y.shape[1], self.n_extra)
        norms = warn_if_not_unit("Y_old", Y)
        X, Y = unit(X), unit(Y)
        self.d_new_, self.d_old_ = self.n_features_in_, _ = X.shape[1], Y.shape[1]
        report: dict[str, Any] = {
            "pairs": len(X),
            "d_new": self.d_new_,
            "d_old": self.d_old_,
            "n_extra": self.n_extra,
            "width": self.d_new_ + self.n_extra,
            "rank": _rank(X, Y),
            "old_lengths": list(norms),
        }
        val = None if val is None else self._checked(*val)
        recipe, unseen, reasons = choose((X, Y), val, self.method, self.n_extra, self.C, self.random_state)
        self.map_ = recipe.fit((X, Y))
        queries = self.map_.compatible(X)
        if unseen is not None:
            X, Y, queries = unseen.X, unseen.Y, unseen.queries
        self.calibration_ = calibrate(queries, unit(self._stored(X)), Y)
        ridge = RidgeCV(np.logspace(-3, 2, 6)).fit(Y, (queries * Y).sum(1))
        self.similarity_ = np.append(np.asarray(ridge.coef_), float(ridge.intercept_))
        self.report_ = report | reasons
        self.report_["verdict"] = _verdict(self.report_)
        return self

    # -- use ---------------------------------------------------------------------------------------------------------

    def transform_query(self, X: Any) -> Float[np.ndarray, "rows d_old"]:
        """What to search the old index with: unit vectors of the old dimension."""
        check_is_fitted(self)

        def write(part: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
            out[:] = self.map_.compatible(part / lengths)

        return self._in_blocks(X, write, self.d_old_)

    def transform(self, X: Any) -> Float[np.ndarray, "rows width"]:
        """Vectors to store from now on, d_new + n_extra wide; the first d_old compare with old vectors."""
        return self._stored(X)

    def _stored(self, X: Any) -> Float[np.ndarray, "rows width"]:
        """`transform` in an array, whatever `set_output` asks of that."""
        check_is_fitted(self)
        fitted, width = self.map_, self.d_new_ + self.n_extra
        both = np.concatenate([fitted.A[-self.d_new_ :], fitted.B], 1)

        def write(part: np.ndarray, lengths: np.ndarray, out: np.ndarray) -> None:
            np.matmul(part, both.astype(part.dtype), out=out)
            out /= lengths
            if fitted.network is not None:
                out[:, : self.d_old_] += fitted.extra(part / lengths) @ fitted.A[: -self.d_new_].astype(part.dtype)

        return self._in_blocks(X, write, width)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """embeddingupgrade0, embeddingupgrade1, ...: coordinates have no meaning of their own."""
        check_is_fitted(self)
        return np.array([f"embeddingupgrade{i}" for i in range(self.d_new_ + self.n_extra)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        return tags

    def transform_batches(self, batches: Iterable[Any]) -> Iterator[Float[np.ndarray, "rows width"]]:
        """`transform` of one batch after the other."""
        return (self.transform(batch) for batch in batches)

    def predicted_similarity(self, Y: Any) -> Float[np.ndarray, " rows"]:
        """For old vectors, the cosine to be expected with what a new query of the same item is turned into.

        Embed those with the least first: there the old vectors serve worst.
        """
        check_is_fitted(self)
        Y = unit(check_vectors("Y", Y, self.d_old_))
        return Y @ self.similarity_[:-1] + self.similarity_[-1]

    def query_matrix(self) -> Float[np.ndarray, "d_new d_old"]:
        """The matrix that makes a new unit vector a query of the old index, up to its length and `query_offset`.

        Raises
        ------
        ValueError
            If the fitted map is not one matrix, because n_extra dimensions are learned.
        """
        check_is_fitted(self)
        if self.map_.network is not None:
            raise ArgumentError(f"with n_extra = {self.n_extra} trained dimensions the map is not one matrix.")
        return self.map_.A

    def query_offset(self) -> Float[np.ndarray, " d_old"]:
        """What is added to a new unit vector times `query_matrix`: zeros, unless the map is centred."""
        check_is_fitted(self)
        return np.zeros(self.d_old_) if self.map_.offset is None else self.map_.offset

    def faiss_transform(self) -> Any:
        """`query_matrix` and `query_offset` as a `faiss.LinearTransform`, for an `IndexPreTransform`.

        It stands before an index of old vectors, and is asked with unit vectors.
        """
        check_is_fitted(self)
        try:
            import faiss
        except ImportError:
            raise ImportError("faiss is not installed: pip install 'linmap[retrieve]'.") from None
        transform = faiss.LinearTransform(self.d_new_, self.d_old_, True)
        faiss.copy_array_to_vector(self.query_matrix().T.astype(np.float32).ravel(), transform.A)
        faiss.copy_array_to_vector(self.query_offset().astype(np.float32), transform.b)
        transform.is_trained = True
        return transform

    # -- artifact ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors`."""
        check_is_fitted(self)
        arrays = {"A": self.map_.A, "B": self.map_.B, "similarity": self.similarity_}
        if self.map_.offset is not None:
            arrays["offset"] = self.map_.offset
        if self.map_.network is not None:
            arrays |= dict(zip(NETWORK, self.map_.network, strict=True))
        config = {
            "parameters": self.get_params(),
            "d_new": self.d_new_,
            "d_old": self.d_old_,
            "report": self.report_,
            "calibration": asdict(self.calibration_),
            "sha256": _digest(arrays),
        }
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        artifacts.save(folder, "bt2", artifacts.plain(config), tensors, self.random_state)

    @classmethod
    def load(cls, folder: Path | str, new_model: str | None = None, old_model: str | None = None) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ArtifactError
            If there is none, it is damaged, or it was fitted for other models than those named here.
        """
        config, tensors = artifacts.load(folder, "bt2")
        with artifacts.reading(folder):
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            typed(Saved, config, "config")
            check_parameters(cls, config["parameters"])
            new = cls(**config["parameters"])
            for what, asked, fitted in (("new", new_model, new.new_model), ("old", old_model, new.old_model)):
                if asked is not None and asked != fitted:
                    raise ArtifactError(
                        f"{folder} was fitted for the {what} model {fitted!r}, not {asked!r}; fit the pair anew."
                    )
            if lacking := sorted({"A", "B", "similarity", *(NETWORK if new.n_extra else ())} - set(arrays)):
                raise ArgumentError(f"model.safetensors lacks {lacking[0]!r}")
            if _digest(arrays) != config["sha256"]:
                raise ArtifactError(
                    f"{folder}: the arrays are not those that config.json speaks of; fit the run again."
                )
            _check_arrays(arrays, config["d_new"], config["d_old"], new.n_extra)
            network: Any = tuple(arrays[name] for name in NETWORK) if "W1" in arrays else None
            new.map_ = FittedMap(arrays["A"], arrays["B"], network, arrays.get("offset"))
            new.d_new_, new.d_old_, new.report_ = config["d_new"], config["d_old"], config["report"]
            new.n_features_in_, new.similarity_ = new.d_new_, arrays["similarity"]
            new.calibration_ = Calibration(*(tuple(config["calibration"][name]) for name in ("old", "new")))
        return new

    # -- how it is fitted --------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        if self.method not in get_args(Method):
            raise ArgumentError(f"method must be one of {', '.join(get_args(Method))}, got {self.method!r}.")
        if not self.C > 0:
            raise ArgumentError(f"C must be positive, got {self.C}.")

    def _joined(self, X: np.ndarray, Y: np.ndarray, ids_new: Any, ids_old: Any) -> Pairs:
        ids_new, ids_old = list(ids_new), list(ids_old)
        if (len(ids_new), len(ids_old)) != (len(X), len(Y)):
            raise ArgumentError(f"ids hold {len(ids_new)} and {len(ids_old)} values for {len(X)} and {len(Y)} rows.")
        left, right = join(ids_new, ids_old)
        return X[left], Y[right]

    def _checked(self, X: Any, Y: Any) -> Pairs:
        X, Y = check_vectors("val[0]", X, self.d_new_), check_vectors("val[1]", Y, self.d_old_)
        if len(X) != len(Y):
            raise ArgumentError(f"val holds {len(X)} new and {len(Y)} old vectors; it needs pairs.")
        return unit(X), unit(Y)

    def _in_blocks(self, X: Any, write: Write, width: int) -> np.ndarray:
        """`write` of some rows at a time; float32 stays float32, float16 becomes it, else float64."""
        check_is_fitted(self)
        table, X = X, as_numbers("X", X)
        if X.ndim != 2 or X.shape[1] != self.d_new_:
            raise ArgumentError(
                f"X must be a matrix of {self.d_new_} columns, the dimensions of the new model {self.new_model!r} (the "
                f"old one is {self.old_model!r}, with {self.d_old_}); got the shape {X.shape}."
            )
        if hasattr(table, "columns"):  # in the order of the fit
            validate_data(self, table, reset=False, skip_check_array=True)
        dtype = np.float32 if X.dtype in (np.float16, np.float32) else np.float64
        out = np.empty((len(X), width), dtype)
        for start in range(0, len(X), ROWS):
            part = np.asarray(X[start : start + ROWS], dtype)
            lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
            wrong = ~np.isfinite(lengths) | (lengths == 0)
            if wrong.any():
                row = int(wrong.argmax())
                raise ArgumentError(
                    f"X: row {start + row} is {'zero' if lengths[row] == 0 else 'not finite (NaN or inf)'}."
                )
            write(part, lengths[:, None], out[start : start + ROWS])
        return out


def _rank(X: np.ndarray, Y: np.ndarray) -> int:
    """Of X^T Y, with a warning where pairs are too few to determine the map."""
    rank = int(np.linalg.matrix_rank(X.T @ Y))
    least = min(X.shape[1], Y.shape[1])
    if len(X) < least:
        warnings.warn(
            f"{len(X)} pairs are fewer than min(d_new, d_old) = {least}: the map is determined in {rank} directions "
            "only and arbitrary in the others; give more pairs.",
            stacklevel=4,
        )
    return rank


def _verdict(report: dict[str, Any]) -> str:
    held_out = report["candidates"].get(report["chosen"])
    if held_out is None:
        return "Too few pairs to say whether new queries find old vectors; give more pairs."
    found = f"{held_out['recall@1']:.0%} of held-out items find their own old vector first among {report['pairs']}, {held_out['recall@10']:.0%} among the first ten."  # noqa: E501
    if held_out["recall@10"] >= 0.9:
        return f"The old gallery can be searched with new queries as it is. {found}"
    if held_out["recall@10"] >= 0.5:
        return f"The old gallery is usable with new queries, a backfill will show. {found}"
    return f"The two models see different things: plan a backfill, and measure before you switch. {found}"


def _check_arrays(arrays: dict[str, np.ndarray], d_new: int, d_old: int, n_extra: int) -> None:
    """Refuse arrays, read from a file, that are not of these sizes."""
    check_sizes(d_new, d_old, n_extra)
    hidden = len(arrays["W1"]) if "W1" in arrays else 0
    shapes = {
        "A": (n_extra + d_new, d_old), "B": (d_new, n_extra + d_new - d_old), "similarity": (d_old + 1,),
        "offset": (d_old,), "W1": (hidden, d_new), "b1": (hidden,), "W2": (n_extra, hidden), "b2": (n_extra,),
    }  # fmt: skip
    for name, array in arrays.items():
        artifacts.check_array(name, array, shapes.get(name, array.shape))


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
