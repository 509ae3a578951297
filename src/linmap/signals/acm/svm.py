"""A support vector machine on tangent vectors, kept as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float64, Int64, Shaped
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from linmap.artifacts import check_array
from linmap.errors import ArgumentError
from linmap.signals.acm.tangent import mean_and_logarithms, tangent_vectors, vectors
from linmap.signals.layout import check_matrices

Kernel = Literal["linear", "rbf"]
CALIBRATION_FOLDS = 5


def scale_gamma(V: Float64[np.ndarray, "n entries"]) -> float:
    """scikit-learn's gamma="scale"."""
    variance = float(V.var())
    return 1 / (V.shape[1] * variance) if variance else 1.0


def gram(
    A: Float64[np.ndarray, "n entries"], B: Float64[np.ndarray, "m entries"], kernel: Kernel, gamma: float
) -> Float64[np.ndarray, "n m"]:
    """Kernel values between the rows of A and of B."""
    products = A @ B.T
    if kernel == "linear":
        return products
    squared = (A**2).sum(1)[:, None] + (B**2).sum(1) - 2 * products
    return np.exp(-gamma * np.maximum(squared, 0))


@dataclass(frozen=True)
class Machine:
    """One-against-one support vector machines as libsvm keeps them, of two classes or more."""

    vectors: Float64[np.ndarray, "support entries"]
    dual: Float64[np.ndarray, "others support"]
    intercept: Float64[np.ndarray, " pairs"]
    counts: Int64[np.ndarray, " classes"]
    """Support vectors of each class; they stand class by class."""
    platt: Float64[np.ndarray, "outputs 2"]
    """Slope and offset of the sigmoid of each output; no row where there were too few epochs to fit them."""
    kernel: Kernel
    gamma: float

    @classmethod
    def fit(cls, V: Float64[np.ndarray, "n entries"], y: np.ndarray, C: float, kernel: Kernel) -> Machine:
        """Train on vectors and their classes."""
        gamma = scale_gamma(V)
        K = gram(V, V, kernel, gamma)
        svc = SVC(C=C, kernel="precomputed", random_state=0).fit(K, y)
        return cls(V[svc.support_], np.array(svc.dual_coef_), np.array(svc.intercept_), svc.n_support_.astype(np.int64),
                   _sigmoids(K, y, C), kernel, gamma)  # fmt: skip

    def check(self, n_classes: int, size: int) -> None:
        """Refuse arrays that are not of so many classes, or not of matrices of this size.

        Raises
        ------
        ValueError
            With the first one.
        """
        n, outputs = len(self.vectors), 1 if n_classes == 2 else n_classes
        shapes = {
            "vectors": (n, size * (size + 1) // 2),
            "dual": (n_classes - 1, n),
            "intercept": (n_classes * (n_classes - 1) // 2,),
            "counts": (n_classes,),
            "platt": (outputs if len(self.platt) else 0, 2),
        }
        for name, shape in shapes.items():
            kinds = "i" if name == "counts" else "f"
            check_array(f"svm.{name} of {n_classes} classes", getattr(self, name), shape, kinds)
        if self.counts.min() < 0 or self.counts.sum() != n:
            raise ArgumentError(f"svm.counts are {self.counts.tolist()}, of {n} support vectors")

    def pairs(self, V: Float64[np.ndarray, "n entries"]) -> Float64[np.ndarray, "n pairs"]:
        """A value for each pair of classes (i, j), i < j, positive for i; of two classes alone, for the second."""
        K = gram(V, self.vectors, self.kernel, self.gamma)
        ends = np.cumsum(self.counts)
        own = [slice(end - count, end) for end, count in zip(ends, self.counts, strict=True)]
        values = [
            K[:, own[i]] @ self.dual[j - 1, own[i]] + K[:, own[j]] @ self.dual[i, own[j]]
            for i in range(len(own))
            for j in range(i + 1, len(own))
        ]
        return np.stack(values, 1) + self.intercept

    def decisions(self, V: Float64[np.ndarray, "n entries"]) -> Float64[np.ndarray, "n outputs"]:
        """One value of two classes, positive for the second; else one for each class: its votes, and between 0 and 1/3
        for how clear they were, as scikit-learn has it."""
        values = self.pairs(V)
        if len(self.counts) == 2:
            return values
        votes, sums = self._votes(values)
        return votes + sums / (3 * (np.abs(sums) + 1))

    def winners(self, V: Float64[np.ndarray, "n entries"]) -> Int64[np.ndarray, " n"]:
        """The index of the class with most votes, of several the first, as libsvm has it."""
        values = self.pairs(V)
        return (values[:, 0] > 0).astype(np.int64) if len(self.counts) == 2 else self._votes(values)[0].argmax(1)

    def _votes(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n_classes = len(self.counts)
        votes, sums = np.zeros((2, len(values), n_classes))
        first, second = np.triu_indices(n_classes, 1)
        for pair, (i, j) in enumerate(zip(first, second, strict=True)):
            won = values[:, pair] > 0
            votes[:, i] += won
            votes[:, j] += ~won
            sums[:, i] += values[:, pair]
            sums[:, j] -= values[:, pair]
        return votes, sums

    def probabilities(self, V: Float64[np.ndarray, "n entries"]) -> Float64[np.ndarray, "n classes"]:
        """Platt's sigmoids of the decisions, scaled to sum to 1."""
        if not len(self.platt):
            raise ArgumentError(
                "probabilities need at least two epochs of each class in fit; use predict or decision_function."
            )
        found = expit(-(self.decisions(V) * self.platt[:, 0] + self.platt[:, 1]))
        if len(self.counts) == 2:
            return np.hstack([1 - found, found])
        total = found.sum(1, keepdims=True)
        return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / found.shape[1])


def _sigmoids(K: Float64[np.ndarray, "n n"], y: np.ndarray, C: float) -> Float64[np.ndarray, "outputs 2"]:
    """Slopes and offsets, from decisions that cross-validation makes."""
    folds = min(CALIBRATION_FOLDS, int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return np.zeros((0, 2))
    splits = StratifiedKFold(folds, shuffle=True, random_state=0)
    options: dict[str, Any] = {"method": "sigmoid", "ensemble": False, "cv": splits}
    svc: Any = SVC(C=C, kernel="precomputed", random_state=0)
    calibrated: Any = CalibratedClassifierCV(svc, **options)
    calibrated.fit(K, y)
    return np.array([[sigmoid.a_, sigmoid.b_] for sigmoid in calibrated.calibrated_classifiers_[0].calibrators])


class TangentSpaceSVM(ClassifierMixin, BaseEstimator):
    """Covariances -> tangent space at their affine-invariant mean -> support vector machine.

    Parameters
    ----------
    C
        Cost of errors.
    kernel
        "linear" or "rbf", the latter with scikit-learn's gamma="scale".

    Attributes
    ----------
    classes_, reference_, machine_
        The classes, the mean, and the arrays of the machine.
    """

    def __init__(self, C: float = 1.0, kernel: Kernel = "rbf") -> None:
        self.C = C
        self.kernel = kernel

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the mean, map to the tangent space and train.

        Raises
        ------
        ValueError
            If X is not (n, size, size) of finite real numbers, y has not two classes or more, one for each matrix, or a
            parameter is not what it should be.
        """
        if self.kernel not in ("linear", "rbf"):
            raise ArgumentError(f"kernel must be 'linear' or 'rbf', got {self.kernel!r}.")
        matrices = check_matrices(X)
        if y is None:
            raise ArgumentError("y is missing: give the class of each matrix.")
        labels = column_or_1d(y, warn=True)
        check_consistent_length(matrices, labels)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ArgumentError(f"y holds a single class, {self.classes_[0]}; a classifier needs two at least.")
        self.n_features_in_ = matrices.shape[-1]
        self.reference_, W = mean_and_logarithms(matrices)
        self.machine_ = Machine.fit(vectors(W), labels, self.C, self.kernel)
        return self

    def check(self) -> None:
        """Refuse a mean and a machine, read from a file, that do not belong together.

        Raises
        ------
        ValueError
            With what is wrong.
        """
        n = len(self.reference_)
        check_array("reference", self.reference_, (n, n))
        if not np.linalg.eigvalsh(self.reference_)[0] > 0:
            raise ArgumentError("reference is not positive definite")
        self.machine_.check(len(self.classes_), n)

    def _vectors(self, X: Any) -> Float64[np.ndarray, "n entries"]:
        check_is_fitted(self, "machine_")
        matrices = check_matrices(X)
        if matrices.shape[-1] != self.reference_.shape[-1]:
            raise ArgumentError(
                f"X holds matrices of {matrices.shape[-1]} rows, and was fitted to {len(self.reference_)}."
            )
        return tangent_vectors(matrices, self.reference_)

    def decision_function(self, X: Any) -> Float64[np.ndarray, ...]:
        """One value for each epoch of two classes, else one for each class."""
        vectors_of_X = self._vectors(X)
        values = self.machine_.decisions(vectors_of_X)
        return values[:, 0] if len(self.classes_) == 2 else values

    def predict(self, X: Any) -> Shaped[np.ndarray, " n"]:
        """The class of each matrix."""
        vectors_of_X = self._vectors(X)
        return self.classes_[self.machine_.winners(vectors_of_X)]

    def predict_proba(self, X: Any) -> Float64[np.ndarray, "n classes"]:
        """Probabilities by Platt's method, fitted to cross-validated decisions; their largest may differ from
        `predict`'s."""
        vectors_of_X = self._vectors(X)
        return self.machine_.probabilities(vectors_of_X)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags
