"""`EmbeddingUpgrade`: new queries for an old gallery, from pairs of old and new vectors of the same items."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.linear_model import RidgeCV
from sklearn.utils.validation import check_is_fitted

from linmap import artifacts
from linmap.errors import ArtifactError
from linmap.retrieve.bt2.frozen import WEIGHTS, FittedMap, Objective, closed_form, trained
from linmap.retrieve.bt2.head import check_sizes
from linmap.retrieve.bt2.mixed import Calibration
from linmap.retrieve.bt2.pairs import (
    alignment_p_value,
    check_vectors,
    join,
    self_retrieval_ranks,
    unit,
    warn_if_not_unit,
)

Pairs = tuple[np.ndarray, np.ndarray]
LEAST_HELD_OUT, MOST_HELD_OUT = 5, 2000
ROWS = 8192  # of a block that is transformed at once
SIGNIFICANT = 0.05
CALIBRATION_ROWS = 500


class EmbeddingUpgrade(BaseEstimator):
    """A new embedding model on an index of the old one's vectors (BT² with both models frozen).

    `transform_query` turns new vectors into what the old index is searched with; `transform` gives the vectors to store
    from now on, whose first d_old coordinates can be compared with old vectors, and whose whole is as good as the new
    model's own (exactly so with the closed form).

    Parameters
    ----------
    n_extra
        Dimensions added to the new model's own, for what only the old model knows.
    method
        "procrustes" is the closed form; "trained" goes on from there by gradient steps; "auto" trains only with
        4 d_new pairs or more, and takes what is trained only where held-out items find their old vectors clearly
        better.
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
        method: Literal["auto", "procrustes", "trained"] = "auto",
        C: float = 2.0,
        random_state: int = 0,
        new_model: str = "new",
        old_model: str = "old",
    ) -> None:
        self.n_extra = n_extra
        self.method = method
        self.C = C
        self.random_state = random_state
        self.new_model = new_model
        self.old_model = old_model

    def fit(self, X_new: Any, Y_old: Any, val: tuple[Any, Any] | None = None, *, ids: tuple | None = None) -> Self:
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
        X, Y = check_vectors("X_new", X_new), check_vectors("Y_old", Y_old)
        if ids is not None:
            X, Y = self._joined(X, Y, *ids)
        if len(X) != len(Y):
            raise ValueError(
                f"X_new has {len(X)} rows and Y_old {len(Y)}: row i of both must be the same item; "
                "ids=(ids_new, ids_old) pairs them by id."
            )
        check_sizes(X.shape[1], Y.shape[1], self.n_extra)
        norms = warn_if_not_unit("Y_old", Y)
        X, Y = unit(X), unit(Y)
        self.d_new_, self.d_old_ = self.n_features_in_, _ = X.shape[1], Y.shape[1]
        self.report_: dict[str, Any] = {
            "pairs": len(X), "d_new": self.d_new_, "d_old": self.d_old_, "n_extra": self.n_extra,
            "width": self.d_new_ + self.n_extra, "rank": _rank(X, Y), "old_lengths": list(norms),
        }  # fmt: skip
        train, held_out = self._split((X, Y), val)
        self.map_ = self._chosen((X, Y) if val is None else train, train, held_out)
        self._describe_similarity(X, Y)
        self.calibration_ = self._calibrated(*(held_out or train))
        self.report_["verdict"] = _verdict(self.report_)
        return self

    # -- use ---------------------------------------------------------------------------------------------------------

    def transform_query(self, X: Any) -> Float[np.ndarray, "rows d_old"]:
        """What to search the old index with: unit vectors of the old dimension."""
        return self._in_blocks(X, lambda part: self.map_.compatible(part), self.d_old_)

    def transform(self, X: Any) -> Float[np.ndarray, "rows width"]:
        """Vectors to store from now on, d_new + n_extra wide; the first d_old compare with old vectors."""
        fitted, width = self.map_, self.d_new_ + self.n_extra
        if fitted.network is None:
            both = np.concatenate([fitted.A, fitted.B], 1)
            return self._in_blocks(X, lambda part: part @ both.astype(part.dtype), width)

        def whole(f: np.ndarray) -> np.ndarray:
            parts = np.concatenate([fitted.extra(f), f], 1) @ fitted.A.astype(f.dtype)
            return np.concatenate([parts, f @ fitted.B.astype(f.dtype)], 1)

        return self._in_blocks(X, whole, width)

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
        """The matrix that makes a new vector a query of the old index, up to its length.

        Raises
        ------
        ValueError
            If the fitted map is not one matrix, because n_extra dimensions are learned.
        """
        check_is_fitted(self)
        if self.map_.network is not None:
            raise ValueError(f"with n_extra = {self.n_extra} trained dimensions the map is not one matrix.")
        return self.map_.A

    def faiss_transform(self) -> Any:
        """`query_matrix` as a `faiss.LinearTransform`, for an `IndexPreTransform` before an index of old vectors."""
        try:
            import faiss
        except ImportError:
            raise ImportError("faiss is not installed: pip install 'linmap[retrieve]'.") from None
        transform = faiss.LinearTransform(self.d_new_, self.d_old_, False)
        faiss.copy_array_to_vector(self.query_matrix().T.astype(np.float32).ravel(), transform.A)
        transform.is_trained = True
        return transform

    # -- artifact ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors`."""
        check_is_fitted(self)
        arrays = {"A": self.map_.A, "B": self.map_.B, "similarity": self.similarity_}
        if self.map_.network is not None:
            arrays |= dict(zip(("W1", "b1", "W2", "b2"), self.map_.network, strict=True))
        config = {
            "parameters": self.get_params(), "d_new": self.d_new_, "d_old": self.d_old_, "report": self.report_,
            "calibration": asdict(self.calibration_), "sha256": _digest(arrays),
        }  # fmt: skip
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
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        new = cls(**config["parameters"])
        for what, asked, fitted in (("new", new_model, new.new_model), ("old", old_model, new.old_model)):
            if asked is not None and asked != fitted:
                raise ArtifactError(
                    f"{folder} was fitted for the {what} model {fitted!r}, not {asked!r}; fit the pair anew."
                )
        if _digest(arrays) != config["sha256"]:
            raise ArtifactError(f"{folder}: the arrays are not those that config.json speaks of; fit the run again.")
        network = tuple(arrays[name] for name in ("W1", "b1", "W2", "b2")) if "W1" in arrays else None
        new.map_ = FittedMap(arrays["A"], arrays["B"], network)  # pyright: ignore[reportArgumentType]
        new.d_new_, new.d_old_, new.report_ = config["d_new"], config["d_old"], config["report"]
        new.n_features_in_, new.similarity_ = new.d_new_, arrays["similarity"]
        new.calibration_ = Calibration(*(tuple(config["calibration"][name]) for name in ("old", "new")))
        return new

    # -- how it is fitted --------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        if self.method not in ("auto", "procrustes", "trained"):
            raise ValueError(f"method must be 'auto', 'procrustes' or 'trained', got {self.method!r}.")
        if not self.C > 0:
            raise ValueError(f"C must be positive, got {self.C}.")

    def _joined(self, X: np.ndarray, Y: np.ndarray, ids_new: Any, ids_old: Any) -> Pairs:
        ids_new, ids_old = list(ids_new), list(ids_old)
        if (len(ids_new), len(ids_old)) != (len(X), len(Y)):
            raise ValueError(f"ids hold {len(ids_new)} and {len(ids_old)} values for {len(X)} and {len(Y)} rows.")
        left, right = join(ids_new, ids_old)
        return X[left], Y[right]

    def _split(self, pairs: Pairs, val: tuple[Any, Any] | None) -> tuple[Pairs, Pairs | None]:
        """The pairs to fit and those to choose by."""
        X, Y = pairs
        if val is not None:
            X_val, Y_val = check_vectors("val[0]", val[0], X.shape[1]), check_vectors("val[1]", val[1], Y.shape[1])
            if len(X_val) != len(Y_val):
                raise ValueError(f"val holds {len(X_val)} new and {len(Y_val)} old vectors; it needs pairs.")
            return pairs, (unit(X_val), unit(Y_val))
        count = min(len(X) // 5, MOST_HELD_OUT)
        if count < LEAST_HELD_OUT:
            return pairs, None
        order = np.random.default_rng(self.random_state).permutation(len(X))
        held, rest = order[:count], order[count:]
        return (X[rest], Y[rest]), (X[held], Y[held])

    def _chosen(self, pairs: Pairs, train: Pairs, held_out: Pairs | None) -> FittedMap:
        """The best candidate by held-out self-retrieval, fitted once more to all pairs."""
        n_extra, C, seed = self.n_extra, self.C, self.random_state
        first = closed_form(*train, n_extra, C)
        report = self.report_
        report["held_out"] = 0 if held_out is None else len(held_out[0])
        report["candidates"] = {}
        if held_out is None:
            report["chosen"] = "procrustes"
            warnings.warn(f"{len(train[0])} pairs are too few to hold any out: nothing tells how well the fit "
                          "generalises, or whether the pairs belong together.", stacklevel=3)  # fmt: skip
            if self.method != "trained":
                return closed_form(*pairs, n_extra, C)
        else:
            self._check_alignment(first, held_out)
        if held_out is not None:
            reciprocal = {"procrustes": self._reciprocal_ranks(first, train, held_out)}
            report["candidates"]["procrustes"] = _figures(reciprocal["procrustes"])
        if self.method == "procrustes" or (self.method == "auto" and len(pairs[0]) < 4 * self.d_new_):
            report["chosen"] = "procrustes"
            report["reason"] = "asked for" if self.method == "procrustes" else (
                f"{len(pairs[0])} pairs are fewer than 4 d_new = {4 * self.d_new_}: training would overfit"
            )  # fmt: skip
            return closed_form(*pairs, n_extra, C)
        if held_out is None:
            report["chosen"], report["reason"] = "trained: contrast", "asked for"
            return trained(*pairs, n_extra, C, "contrast", seed)[0]

        def score(fitted: FittedMap) -> float:
            return float(self._reciprocal_ranks(fitted, train, held_out).mean())

        epochs = {}
        objectives: dict[str, Objective] = {f"trained: {objective}": objective for objective in WEIGHTS}
        for name, objective in objectives.items():
            fitted, epochs[name] = trained(*train, n_extra, C, objective, seed, score)
            reciprocal[name] = self._reciprocal_ranks(fitted, train, held_out)
            report["candidates"][name] = _figures(reciprocal[name]) | {"epochs": epochs[name]}
        name = max(epochs, key=lambda name: reciprocal[name].mean())
        gain = reciprocal[name] - reciprocal["procrustes"]
        error = float(gain.std(ddof=1) / np.sqrt(len(gain)))
        if self.method == "auto" and gain.mean() <= error:
            report["chosen"] = "procrustes"
            report["reason"] = (
                f"training gains {gain.mean():+.4f} in held-out MRR, within its standard error {error:.4f}"
            )
            return closed_form(*pairs, n_extra, C)
        report["chosen"] = name
        report["reason"] = f"held-out MRR {gain.mean():+.4f} against Procrustes, standard error {error:.4f}"
        objective = objectives[name]
        return trained(*pairs, n_extra, C, objective, seed, epochs=epochs[name])[0]

    def _reciprocal_ranks(self, fitted: FittedMap, train: Pairs, held_out: Pairs) -> Float[np.ndarray, " queries"]:
        """1 / rank of the own old vector of held-out items among the old vectors of all pairs."""
        gallery = np.concatenate([train[1], held_out[1]])
        return 1 / self_retrieval_ranks(fitted.compatible(held_out[0]), held_out[1], gallery)

    def _check_alignment(self, fitted: FittedMap, held_out: Pairs) -> None:
        p = alignment_p_value(fitted.compatible(held_out[0]), held_out[1], self.random_state)
        self.report_["alignment_p_value"] = p
        if p > SIGNIFICANT:
            message = (
                f"pairs look misaligned: held-out partners are no more similar than shuffled ones (p = {p:.3f}). Row i "
                "of X_new and of Y_old must be the same item; ids=(ids_new, ids_old) pairs them by id."
            )
            if self.method == "auto":
                raise ValueError(message + " method='procrustes' fits them all the same.")
            warnings.warn(message, stacklevel=4)

    def _describe_similarity(self, X: np.ndarray, Y: np.ndarray) -> None:
        """Ridge from old vectors to the similarity that pairs have in the folds that were not fitted."""
        folds = np.array_split(np.random.default_rng(self.random_state).permutation(len(X)), min(5, len(X)))
        similarity = np.empty(len(X))
        for fold in folds:
            rest = np.setdiff1d(np.arange(len(X)), fold) if len(folds) > 1 else fold
            fitted = closed_form(X[rest], Y[rest], self.n_extra, self.C)
            similarity[fold] = (fitted.compatible(X[fold]) * Y[fold]).sum(1)
        ridge = RidgeCV(np.logspace(-3, 2, 6)).fit(Y, similarity)
        self.similarity_ = np.append(np.asarray(ridge.coef_), float(ridge.intercept_))

    def _calibrated(self, X: np.ndarray, Y: np.ndarray) -> Calibration:
        X, Y = X[:CALIBRATION_ROWS], Y[:CALIBRATION_ROWS]
        others = ~np.eye(len(X), dtype=bool)
        if not others.any():
            return Calibration((0.0, 1.0), (0.0, 1.0))
        whole = unit(self.transform(X))
        statistics = []
        for scores in ((self.map_.compatible(X) @ Y.T)[others], (whole @ whole.T)[others]):
            statistics.append((float(scores.mean()), float(scores.std()) or 1.0))
        return Calibration(*statistics)

    def _in_blocks(self, X: Any, function: Any, width: int) -> np.ndarray:
        """`function` of unit vectors, some rows at a time; float32 stays float32, float16 becomes it, else float64."""
        check_is_fitted(self)
        X = X.detach().cpu().numpy() if hasattr(X, "detach") else np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.d_new_:
            raise ValueError(
                f"X must be a matrix of {self.d_new_} columns, the dimensions of the new model {self.new_model!r} (the "
                f"old one is {self.old_model!r}, with {self.d_old_}); got the shape {X.shape}."
            )
        dtype = np.float32 if X.dtype in (np.float16, np.float32) else np.float64
        out = np.empty((len(X), width), dtype)
        for start in range(0, len(X), ROWS):
            part = np.asarray(X[start : start + ROWS], dtype)
            lengths = np.sqrt(np.einsum("ij,ij->i", part, part))
            wrong = ~np.isfinite(lengths) | (lengths == 0)
            if wrong.any():
                row = int(wrong.argmax())
                raise ValueError(f"X: row {start + row} is {'zero' if lengths[row] == 0 else 'not finite'}.")
            out[start : start + ROWS] = function(part / lengths[:, None])
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


def _figures(reciprocal: np.ndarray) -> dict[str, float]:
    ranks = 1 / reciprocal
    return {"mrr": float(reciprocal.mean()), "recall@1": float((ranks <= 1).mean()),
            "recall@10": float((ranks <= 10).mean())}  # fmt: skip


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


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
