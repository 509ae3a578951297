"""Sets of covariance matrices: NumPy archives, and real ones of human motion (HDM05)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Shaped

from linmap.data import EMBEDDED, find, require_content
from linmap.data.arrays import held_names, read_as_they_are, read_npz
from linmap.data.epochs import Epochs, load_epochs
from linmap.data.labels import one_for_each
from linmap.errors import DataError


@dataclass(frozen=True)
class Covariances:
    """Symmetric positive semi-definite matrices, with classes and domains where they are known."""

    X: Float64[np.ndarray, "count n n"]
    y: Shaped[np.ndarray, " count"] | None
    domain: Shaped[np.ndarray, " count"] | None = None
    """Subject or session of each."""
    name: str = ""

    def __len__(self) -> int:
        return len(self.X)

    def take(self, rows: np.ndarray) -> Covariances:
        """Those matrices alone, in that order; `rows` may also be a mask."""
        y, domain = (None if part is None else part[rows] for part in (self.y, self.domain))
        return replace(self, X=self.X[rows], y=y, domain=domain)

    def labels(self) -> np.ndarray:
        """The classes; DataError where there are none."""
        if self.y is None:
            raise DataError(f"{self.name}: there are no classes; an archive needs an array y.")
        return self.y


def load_covariances(path: Path | str) -> Covariances:
    """Matrices from an `.npz` archive.

    Parameters
    ----------
    path
        With `X` (count, n, n) or `cov_triu` (count, n (n + 1) / 2), the upper triangles row by row; where known `y`
        and `domain`, a number or a text for each.

    Raises
    ------
    DataError
        If the file cannot be used: the message names the array, and the first matrix that is wrong.
    """
    path = Path(path)
    require_content(path)
    arrays = read_npz(path, only=("X", "cov_triu"))
    texts = read_as_they_are(path, ("y", "domain"))
    if "X" in arrays:
        X = arrays["X"]
    elif "cov_triu" in arrays:
        X = unpacked(arrays["cov_triu"])
    else:
        raise DataError(
            f"{path} has no array 'X' of matrices; it holds {', '.join(sorted(held_names(path))) or 'nothing'}."
        )
    if X.ndim != 3 or X.shape[1] != X.shape[2] or 0 in X.shape or X.dtype.kind not in "iuf":
        raise DataError(f"{path}: X must be (count, n, n) of real numbers, got {X.dtype} of shape {X.shape}.")
    texts = {name: one_for_each(values, len(X), f"{path}: {name}", "matrices") for name, values in texts.items()}
    X = X.astype(np.float64)
    wrong = np.abs(X - X.swapaxes(1, 2)).max((1, 2)) > 1e-4 * np.abs(X).max((1, 2))
    if wrong.any():
        raise DataError(f"{path}: matrix {int(wrong.argmax())} is not symmetric; save (X + X.T) / 2 if that is meant.")
    return Covariances(semidefinite(X, str(path)), texts.get("y"), texts.get("domain"), path.stem)


def unpacked(triangles: np.ndarray) -> Float64[np.ndarray, "count n n"]:
    """Symmetric matrices from their upper triangles, row by row, diagonal included.

    Raises
    ------
    DataError
        If the number of entries is none of a triangle.
    """
    n = int((2 * triangles.shape[-1]) ** 0.5)
    if triangles.ndim != 2 or n * (n + 1) // 2 != triangles.shape[-1]:
        raise DataError(f"cov_triu must be (count, n (n + 1) / 2), got shape {triangles.shape}.")
    X = np.zeros((len(triangles), n, n))
    rows, columns = np.triu_indices(n)
    X[:, rows, columns] = X[:, columns, rows] = triangles
    return X


def semidefinite(X: Float64[np.ndarray, "count n n"], name: str) -> Float64[np.ndarray, "count n n"]:
    """Without the slightly negative eigenvalues that rounding to float32 leaves.

    Raises
    ------
    DataError
        If a matrix has an eigenvalue that is negative by more than that.
    """
    a, U = np.linalg.eigh((X + X.swapaxes(1, 2)) / 2)
    worst = a[:, 0] / np.maximum(np.abs(a).max(1), np.finfo(np.float64).tiny)
    if worst.min() < -1e-5:
        i = int(worst.argmin())
        raise DataError(
            f"{name}: matrix {i} is not positive semi-definite: it has the eigenvalue {a[i, 0]:.3g} beside "
            f"{a[i, -1]:.3g}."
        )
    if worst.min() >= 0:
        return X
    return (U * np.maximum(a, 0)[:, None]) @ U.swapaxes(1, 2)


def hdm05(subset: bool = False) -> Covariances:
    """Motion capture: 288 clips of 11 actions by 5 actors, as covariances (93 x 93, trace 1) of joint positions.

    Severely ill-conditioned: singular as they are, condition number near 1e6 with 1e-6 on the diagonal. `domain` is the
    actor. Mueller et al. 2007, HDM05, CC BY-SA 3.0: the data used in this project was obtained from HDM05.

    Parameters
    ----------
    subset
        The 110 clips that come with the package: two of each action and actor.

    Raises
    ------
    FileNotFoundError
        If all clips are asked for, and the file is in none of the places where `linmap.data.find` looks.
    """
    path = EMBEDDED / "hdm05_110clips.npz"
    if not subset:
        path = find("spd/hdm05_11class.npz", "a subset of 110 clips is: hdm05(subset=True).")
    names = ("class_names", "subject_names")
    arrays = read_npz(path, ("cov_triu", "y", "subject"), ignore=names)
    actions, actors = read_as_they_are(path, names).values()
    X = semidefinite(unpacked(arrays["cov_triu"]), str(path))
    return Covariances(X, actions[arrays["y"]], actors[arrays["subject"]], "HDM05, 11 actions")


def load_matrices_or_epochs(path: Path, signals: bool = False) -> Covariances | Epochs:
    """Matrices or epochs: an `.npz` with X (n, c, c) or cov_triu, or with X (n, channels, time), or a `.fif`.

    Parameters
    ----------
    path
        The file.
    signals
        Whether epochs are meant where X has as many samples as channels and is not symmetric.

    Raises
    ------
    DataError
        If the file cannot be used.
    """
    if path.suffix == ".npz" and path.exists():
        X = read_as_they_are(path, ("X",)).get("X", np.array(0))
        square = X.ndim != 3 or X.shape[1] == X.shape[2]
        if square and not (signals and X.ndim == 3 and X.dtype.kind in "iuf" and not np.allclose(X, X.mT)):
            return load_covariances(path)
    return load_epochs(path)
