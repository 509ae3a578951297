"""`TinvMDS`: classical multidimensional scaling with the signs and axes of the embedding, for points and distances."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float64
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from linmap.data.arrays import array_of
from linmap.errors import ArgumentError, ArgumentTypeError, DataError
from linmap.shapes.tinvnn.points import callers_level, check_choice, check_whole
from linmap.shapes.tinvnn.scales import Scale
from linmap.shapes.tinvnn.signs import column_signs
from linmap.shapes.tinvnn.symmetry import choose
from linmap.shapes.tinvnn.ties import tied_to_next

Dissimilarity = Literal["euclidean", "precomputed"]
Solver = Literal["auto", "dense", "lanczos", "landmark"]
TAU, TIE_TOL = 1e-6, 1e-7
NOISE = 1e-12
"""Of the largest eigenvalue, up to which an eigenvalue counts as zero."""
DENSE_BELOW, LANDMARK_FROM = 300, 5000
TRIPLES = 4096
BROKEN = 0.2
"""Share of triples without the triangle inequality from which distances look squared."""


class Spectrum(NamedTuple):
    """What a solver found of B = -J D² J / 2."""

    eigenvalues: Float64[np.ndarray, " k"]
    """Decreasing."""
    coordinates: Float64[np.ndarray, "n k"]
    """Principal coordinates, zero for eigenvalues that are not positive."""
    squares: Float64[np.ndarray, " n"]
    """The diagonal of B: squared distances to the mean."""
    stress: float
    unit: float
    """The size of the points."""


class TinvMDS(TransformerMixin, BaseEstimator):
    """Coordinates from points or from distances, the same for every copy and every order of them.

    Parameters
    ----------
    n_components
        Columns of the embedding.
    dissimilarity
        "euclidean": X holds points (n, d). "precomputed": X holds dissimilarities (n, n).
    solver
        "dense": all eigenvalues. "lanczos": the largest ones. "landmark": from distances to some points; exact where
        these span the space. "auto": the d x d matrix of points; for distances dense below 300 points, landmarks from
        5,000 on, and Lanczos between.
    scale
        What the embedding is divided by: "rms", "maxdist", "maxnorm", or "none" as in scikit-learn's `ClassicalMDS`.
    n_landmarks
        50, or n_components + 1 if that is more, by default; all points where there are fewer.
    random_state
        A seed or a generator of NumPy: the start of Lanczos, which changes nothing beyond rounding.

    Attributes
    ----------
    embedding_
        (n, n_components).
    eigenvalues_
        The largest ones of B before scaling, negative ones as they are.
    scale_
        What the embedding was divided by.
    stress_
        Sum of the negative eigenvalues over that of all, in absolute values; nan where the solver does not see all.
    """

    def __init__(
        self,
        n_components: int = 2,
        dissimilarity: Dissimilarity = "euclidean",
        solver: Solver = "auto",
        scale: Scale = "rms",
        n_landmarks: int | None = None,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
    ) -> None:
        self.n_components = n_components
        self.dissimilarity = dissimilarity
        self.solver: Solver = solver
        self.scale: Scale = scale
        self.n_landmarks = n_landmarks
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Embed X; y is ignored.

        Raises
        ------
        TypeError, ValueError
            If X or a parameter is not as above; each fault of a matrix has its own message.
        """
        check_choice("dissimilarity", self.dissimilarity, Dissimilarity)
        check_choice("solver", self.solver, Solver)
        check_choice("scale", self.scale, Scale)
        array = _numbers(X)
        given = self.dissimilarity == "precomputed"
        array = _check_distances(array) if given else _check_points(array)
        unit, array = _into_range(array, given)
        n, q = len(array), self.n_components
        if isinstance(q, bool) or not isinstance(q, int | np.integer) or not 1 <= q <= n - 1:
            raise ArgumentError(
                f"n_components={q!r} must be a whole number from 1 to {n - 1}, one less than the points."
            )
        self._check_numbers(int(q))
        spectrum = self._spectrum(array, given)
        with np.errstate(over="ignore"):
            self.eigenvalues_ = spectrum.eigenvalues[:q] * unit * unit
        self.stress_ = spectrum.stress
        embedding = _canonical(spectrum, q)
        size = _size(self.scale, array, given, spectrum)
        self.scale_ = 1.0 if self.scale == "none" else size * unit
        self.embedding_ = embedding * unit if self.scale == "none" else embedding / size
        self.n_features_in_ = array.shape[1]
        return self

    def _check_numbers(self, q: int) -> None:
        if self.n_landmarks is not None:
            check_whole("n_landmarks", self.n_landmarks, q + 1)
        if not isinstance(self.random_state, np.random.RandomState | np.random.Generator | None):
            check_whole("random_state", self.random_state, 0)

    def fit_transform(self, X: Any, y: None = None) -> Float64[np.ndarray, "n q"]:
        """Embed X and return the embedding."""
        return self.fit(X).embedding_

    def _spectrum(self, array: np.ndarray, given: bool) -> Spectrum:
        n, solver, q = len(array), self.solver, int(self.n_components)
        if solver == "auto":
            if not given and array.shape[1] <= n:
                return _of_points(array, q)
            solver = "dense" if n < DENSE_BELOW else "landmark" if n >= LANDMARK_FROM else "lanczos"
        if solver == "landmark":
            return _by_landmarks(array, given, q, min(n, self.n_landmarks or max(50, q + 1)))
        D = array if given else _distances(array, array)
        if solver == "lanczos" and q + 3 < n and D.any():
            return _by_lanczos(D, q, self.random_state)
        return _dense(D, q)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.dissimilarity == "precomputed"
        return tags


# -- solvers -----------------------------------------------------------------------------------------------------------


def _of_points(X: Float64[np.ndarray, "n d"], q: int) -> Spectrum:
    """The d x d matrix has the non-zero eigenvalues of B."""
    Xc = _centred_points(X)
    values, V = np.linalg.eigh(Xc.T @ Xc)
    values, coordinates = np.maximum(values[::-1], 0), Xc @ V[:, ::-1]
    if q > len(values):
        values = np.append(values, np.zeros(q - len(values)))
        coordinates = np.pad(coordinates, ((0, 0), (0, q - coordinates.shape[1])))
    return _finished(values, coordinates, np.square(Xc).sum(1), 0.0)


def _dense(D: Float64[np.ndarray, "n n"], q: int) -> Spectrum:
    B = _centred(np.square(D))
    values, U = eigh(B)
    values, U = values[::-1], U[:, ::-1]
    total = np.abs(values).sum()
    stress = float(np.abs(values[values < -NOISE * np.abs(values).max()]).sum() / total) if total else 0.0
    coordinates = U * np.sqrt(np.maximum(values, 0))
    return _finished(values, coordinates, B.diagonal().copy(), stress)


def _by_lanczos(D: Float64[np.ndarray, "n n"], q: int, seed: Any) -> Spectrum:
    squares = np.square(D)
    rows = squares.mean(1)
    n, middle = len(D), rows.mean()

    def product(v: np.ndarray) -> np.ndarray:
        v = v.ravel() - v.mean()
        w = squares @ v
        return -0.5 * (w - w.mean())

    B = LinearOperator((n, n), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(0 if seed is None else seed).normal(size=n)
    count = min(q + 2, n - 1)
    while True:
        values, U = eigsh(B, k=count, which="LA", v0=start - start.mean(), tol=0)
        values, U = values[::-1], U[:, ::-1]
        largest = np.abs(values).max()
        if count == n - 1 or values[-1] <= NOISE * largest or values[q - 1] - values[-1] > TIE_TOL * largest:
            break
        count = min(2 * count, n - 1)  # a block of equal eigenvalues goes on beyond the last
    coordinates = U * np.sqrt(np.maximum(values, 0))
    return _finished(values, coordinates, rows - middle / 2, float("nan"))


def _by_landmarks(array: np.ndarray, given: bool, q: int, count: int) -> Spectrum:
    """Landmarks by max-min distance; the others are placed by their distances to them (de Silva and Tenenbaum 2004)."""
    n = len(array)
    chosen, rows = [], []
    nearest, new = np.full(n, np.inf), None
    for _ in range(count):
        if new is None:  # from the point that is farthest from the mean, whatever the order of the points
            new = int((array.mean(1) if given else np.square(array - array.mean(0)).sum(1)).argmax())
        chosen.append(new)
        rows.append(array[new] if given else _distances(array[new : new + 1], array)[0])
        nearest = np.minimum(nearest, rows[-1])
        new = int(nearest.argmax())
    squares = np.square(np.stack(rows))
    B = _centred(squares[:, chosen])
    values, U = np.linalg.eigh(B)
    largest = max(np.abs(values).max(), np.finfo(float).tiny)
    used = values > 1e-10 * largest
    inverse = (U[:, used] / np.sqrt(values[used])).T
    Y = -0.5 * (inverse @ (squares - squares[:, chosen].mean(1, keepdims=True))).T
    found = _of_points(Y, q)
    return found._replace(stress=float("nan"))


def _finished(values: np.ndarray, coordinates: np.ndarray, squares: np.ndarray, stress: float) -> Spectrum:
    unit = float(np.sqrt(max(squares.mean(), 0)))
    return Spectrum(values, coordinates, squares, stress, unit)


def _centred_points(X: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    difference = X - X[0]
    return difference - difference.mean(0)


def _centred(squares: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    B = -0.5 * (squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean())
    return (B + B.T) / 2


def _canonical(spectrum: Spectrum, q: int) -> Float64[np.ndarray, "n q"]:
    """The columns with the embedding's rules for signs and equal eigenvalues."""
    values = torch.from_numpy(spectrum.eigenvalues.copy())
    n, largest = len(spectrum.coordinates), float(values.abs().max())
    kept = values > NOISE * largest
    last = q
    tied = tied_to_next(values[None], kept[None], TIE_TOL)[0].tolist() if len(values) > 1 else []
    while last < len(values) and tied[last - 1]:
        last += 1
    P = torch.from_numpy(np.ascontiguousarray(spectrum.coordinates[:, :last].T)) / (spectrum.unit or 1.0)
    P = P * kept[:last, None]
    count = torch.tensor(float(n), dtype=torch.float64)
    signs, ambiguous, _ = column_signs(P[None, :q], count[None], TAU)
    if any(tied[: last - 1]) or (ambiguous[0] & kept[:q]).any():
        squares = torch.from_numpy(spectrum.squares) / (spectrum.unit**2 or 1.0)
        chosen = choose(P, squares, count, tied[: last - 1], kept[:last], q, TAU, None)
        H = (chosen.rotation.mT @ P)[:q]
    else:
        H = P[:q] * signs[0][:, None]
    return np.ascontiguousarray(H.T.numpy()) * (spectrum.unit or 1.0)


# -- sizes and distances -----------------------------------------------------------------------------------------------


def _size(scale: Scale, array: np.ndarray, given: bool, spectrum: Spectrum) -> float:
    if scale == "none":
        return 1.0
    squares = spectrum.squares if given else np.square(_centred_points(array)).sum(1)
    if scale == "rms":
        size = float(np.sqrt(np.square(array).mean() / 2 if given else squares.mean()))
    elif scale == "maxnorm":
        size = float(np.sqrt(max(squares.max(), 0)))
    elif given:
        size = float(array.max())
    else:
        size = max(float(_distances(part, array).max()) for part in np.array_split(array, 1 + len(array) // 1000))
    if size == 0:
        warnings.warn(
            "all points are equal: the embedding is zero, and scale_ is set to 1.", stacklevel=callers_level()
        )
    return size or 1.0


def _distances(A: Float64[np.ndarray, "m d"], B: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "m n"]:
    """By differences, so that offsets are harmless."""
    squares = np.zeros((len(A), len(B)))
    for a, b in zip(A.T, B.T, strict=True):
        squares += np.square(a[:, None] - b)
    return np.sqrt(squares)


# -- what comes in -----------------------------------------------------------------------------------------------------


def _into_range(array: np.ndarray, given: bool) -> tuple[float, np.ndarray]:
    """Divide what would overflow or vanish when it is squared by its largest value; also the divisor, else 1."""
    if not given:
        largest = float(np.abs(array / 2 - array[0] / 2).max() * 2)
        if largest == 0 or 1e-30 < largest < 1e30:
            return 1.0, array
        if not np.isfinite(largest):
            raise DataError("X has points whose differences overflow; divide it by a power of ten.")
        return largest, (array - array[0]) / largest
    largest = float(array.max())
    return (1.0, array) if largest == 0 or 1e-30 < largest < 1e30 else (largest, array / largest)


def _numbers(X: Any) -> Float64[np.ndarray, "rows columns"]:
    if hasattr(X, "toarray"):
        raise ArgumentTypeError("X is sparse; pass X.toarray(): a missing entry is no distance of 0.")
    try:
        array = array_of(X)
    except ValueError as error:
        raise ArgumentError(f"X must be (n, d) or (n, n), rows of one length: {error}") from None
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ArgumentTypeError(f"X must hold real numbers: {error}.") from None
    if array.dtype.kind not in "fiu":
        kind = ArgumentError if array.dtype.kind == "c" else ArgumentTypeError
        raise kind(f"X must hold real numbers, got {array.dtype}. Complex data not supported.")
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(
            f"X must be (n, d) or (n, n) of at least one row, got shape {array.shape}. Reshape your data: a single "
            f"sample is X.reshape(1, -1). Found array with {array.shape[0] if array.ndim else 0} sample(s) and "
            f"{array.shape[1] if array.ndim > 1 else 0} feature(s) (shape={array.shape}) while a minimum of 1 is "
            "required."
        )
    return array.astype(np.float64)


def _check_points(X: np.ndarray) -> np.ndarray:
    if not np.isfinite(X).all():
        row = int((~np.isfinite(X)).any(1).argmax())
        raise DataError(f"X is not finite: point {row} holds NaN or inf.")
    if len(X) < 2:
        raise ArgumentError("X holds 1 point (n_samples = 1); scaling needs two or more.")
    return X


def _check_distances(D: np.ndarray) -> np.ndarray:
    if D.shape[0] != D.shape[1]:
        raise ArgumentError(f"X must be square for dissimilarity='precomputed', got shape {D.shape}.")
    if len(D) < 2:
        raise ArgumentError("X holds 1 point; scaling needs two or more.")
    if not np.isfinite(D).all():
        row, column = np.argwhere(~np.isfinite(D))[0]
        raise DataError(f"X is not finite: entry ({row}, {column}) is {D[row, column]}.")
    largest = np.abs(D).max()
    if np.abs(D.diagonal()).max() > 1e-6 * largest:
        where = int(np.abs(D.diagonal()).argmax())
        raise DataError(f"X must have a zero diagonal, as distances to itself; entry ({where}, {where}) is not zero.")
    if D.min() < 0:
        row, column = np.unravel_index(D.argmin(), D.shape)
        raise DataError(f"X has a negative dissimilarity at ({row}, {column}): {D.min():.6g}.")
    if (difference := np.abs(D - D.T)).max() > 1e-6 * largest:
        row, column = np.unravel_index(difference.argmax(), D.shape)
        raise DataError(
            f"X is not symmetric: entry ({row}, {column}) is {D[row, column]:.6g} and entry ({column}, {row}) "
            f"{D[column, row]:.6g}; take (X + X.T) / 2 if that is meant."
        )
    D = (D + D.T) / 2
    np.fill_diagonal(D, 0.0)
    _warn_of_squares(D)
    return D


def _warn_of_squares(D: np.ndarray) -> None:
    """Squared distances break the triangle inequality for many triples."""
    n = len(D)
    if n < 3:
        return
    i, j, k = np.random.default_rng(0).integers(0, n, (3, TRIPLES))
    different = (i != j) & (j != k) & (i != k)
    sides = np.sort(np.stack([D[i, j], D[j, k], D[i, k]])[:, different], axis=0)
    broken = (sides[2] > (sides[0] + sides[1]) * (1 + 1e-9)).mean()
    if broken > BROKEN:
        warnings.warn(
            f"{broken:.0%} of triples break the triangle inequality: are these squared distances? Pass their roots.",
            stacklevel=callers_level(),
        )
