"""`ACMClassifier`: order and lag, covariances and classifier in one scikit-learn estimator."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

import numpy as np
import torch
from jaxtyping import Float64
from pyriemann.classification import MDM
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.metrics import get_scorer
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from linmap import artifacts
from linmap.data.labels import Classes, decoded, encoded
from linmap.data.schema import Range, typed
from linmap.errors import ArgumentError
from linmap.geometry.delays import Drop, window
from linmap.signals.acm.estimation import Estimator, augmented_covariances, check_estimator
from linmap.signals.acm.search import Split, order_lag_grid, search
from linmap.signals.acm.selection import select_order_lag
from linmap.signals.acm.svm import Kernel, Machine, TangentSpaceSVM
from linmap.signals.acm.tangent import one_thread
from linmap.signals.layout import Layout, labelled, read_epochs

SYSTEM = "acm"
COSTS = (0.5, 1.0, 1.5)  # the published grid, with both kernels
KERNELS: tuple[Kernel, ...] = ("linear", "rbf")
FIXED = (1.0, "rbf")  # scikit-learn's default, which is used without a search
Method = Literal["grid", "mdop", "afnn", "aic", "aicc", "bic", "hq"]
Head = Literal["tgsp+svm", "mdm"]


def _accuracy(classifier: Any, X: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's "accuracy" without its checks, which would take as long as a small machine's training."""
    return float((classifier.predict(X) == y).mean())


def _listed(given: Any, default: tuple) -> tuple:
    """One value, or several, or the default for None."""
    if given is None:
        return default
    return (given,) if np.isscalar(given) else tuple(given)


class Saved(Classes):
    """What `ACMClassifier.save` says beside the arrays."""

    order: Annotated[int, Range(0, 2**16)]
    lag: Annotated[int, Range(0, 2**24)]
    channels: Annotated[int, Range(1, 2**16)]
    classifier: Head
    estimator: str
    drop: Any
    head: dict[str, Any]


class SavedHead(TypedDict):
    """What it says of the support vector machine."""

    C: Annotated[float, Range(0)]
    kernel: Kernel
    gamma: float


class ACMClassifier(TransformerMixin, ClassifierMixin, BaseEstimator):
    """Classify EEG epochs by their augmented covariances (arXiv 2302.04508).

    Parameters
    ----------
    method
        How order and lag are chosen, from the epochs given to `fit` alone. "grid": by cross-validated score over
        `orders` x `lags`. "mdop", "afnn", "aic", "aicc", "bic", "hq": by `select_order_lag`, without labels.
        (order, lag): these.
    classifier
        "tgsp+svm": tangent space at the affine-invariant mean, support vector machine. "mdm": minimum distance to the
        class means. Or any classifier of covariances, such as pyRiemann's.
    orders
        Orders that the grid and the information criteria try; those that do not fit into the epochs are left out.
    lags
        Lags that the grid tries, in samples.
    inner_cv
        Inner folds of the search: a number (stratified, shuffled with `random_state`), a splitter, or pairs of row
        numbers.
    estimator, drop
        As of `AugmentedCovariance`.
    C, kernel
        Of the support vector machine: values, or lists to search over. When None, the published grid (C of .5, 1, 1.5;
        linear and rbf) with method "grid", else C = 1 and rbf.
    scoring
        scikit-learn's name of the score that the search maximises, or a scorer.
    n_epochs
        Epochs that the choice without labels draws; all when None.
    common_window
        Estimate all orders of a lag on the same samples in the search, which is faster for many orders.
    n_jobs
        Threads of the search, each with its own candidates.
    random_state
        Of inner folds and drawn epochs.
    cv
        Another name of `inner_cv`, which it overrides where given.

    Attributes
    ----------
    order_, lag_
        What was chosen.
    cv_results_
        Scores of all candidates as in `GridSearchCV`, and `best_params_`, `best_score_`; only after a search.
    per_epoch_
        Each epoch's own order and lag; only after a choice without labels.
    layout_
        Channels, sampling rate and size of the epochs of `fit`.
    classifier_
        The fitted classifier of covariances.
    classes_
        The classes.
    """

    method: Method | tuple[int, int]
    drop: Drop

    def __init__(
        self,
        method: Method | tuple[int, int] = "grid",
        classifier: Head | BaseEstimator = "tgsp+svm",
        orders: Sequence[int] = tuple(range(1, 11)),
        lags: Sequence[int] = tuple(range(1, 11)),
        inner_cv: Any = 3,
        estimator: Estimator = "oas",
        drop: Drop = "official",
        C: float | Sequence[float] | None = None,
        kernel: Kernel | Sequence[Kernel] | None = None,
        scoring: Any = "accuracy",
        n_epochs: int | None = None,
        common_window: bool = False,
        n_jobs: int | None = None,
        random_state: int | None = 42,
        cv: Any = None,
    ) -> None:
        self.method = method
        self.classifier = classifier
        self.orders = orders
        self.lags = lags
        self.inner_cv = inner_cv
        self.estimator = estimator
        self.drop = drop
        self.C = C
        self.kernel = kernel
        self.scoring = scoring
        self.n_epochs = n_epochs
        self.common_window = common_window
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.cv = cv

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Choose order and lag, and train.

        Parameters
        ----------
        X
            (epochs, channels, times), MNE `Epochs`, whose good EEG channels are taken in microvolts, or
            `linmap.data.epochs.Epochs`.
        y
            The class of each epoch; None takes the event codes of MNE `Epochs`.
        groups
            For a splitter that needs them, such as `GroupKFold`: pieces of one trial are one group.

        Raises
        ------
        ValueError
            If X, y or a parameter is not what it should be, there is a single class, or no candidate is admissible.
        """
        given, y, groups = labelled(X, y, groups)
        epochs, labels = given.X, column_or_1d(y, warn=True)
        check_consistent_length(epochs, labels)
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        if len(self.classes_) < 2:
            raise ArgumentError(f"y holds a single class, {self.classes_[0]}; a classifier needs two at least.")
        self.layout_, self.n_channels_in_ = Layout.of(given), epochs.shape[1]
        pairs, heads = self._pairs(epochs), self._heads()
        if len(pairs) * len(heads) > 1:
            chosen = self._search(epochs, labels, groups, pairs, heads)
        else:
            chosen = (*pairs[0], *heads[0])
        self.order_, self.lag_, C, kernel = chosen
        with one_thread():
            self.classifier_ = self._head(C, kernel).fit(self._covariances(epochs), labels)
        return self

    # -- choices -------------------------------------------------------------------------------------------------------

    def _pairs(self, X: Float64[np.ndarray, "epochs channels times"]) -> list[tuple[int, int]]:
        if isinstance(self.method, str) and self.method == "grid":
            return order_lag_grid(self.orders, self.lags, X.shape[1], X.shape[2], self.estimator, self.drop)
        if isinstance(self.method, str):
            found = select_order_lag(
                X, self.method, n_epochs=self.n_epochs, orders=tuple(self.orders), random_state=self.random_state
            )
            self.per_epoch_ = found.per_epoch
            return [(found.order, found.lag)]
        try:
            order, lag = self.method
        except (TypeError, ValueError):
            raise ArgumentError(f"method must be a name or (order, lag), got {self.method!r}.") from None
        window(X.shape[-1], order, lag, drop=self.drop)
        return [(int(order), int(lag))]

    def _heads(self) -> list[tuple[float | None, Kernel | None]]:
        """The (C, kernel) to try; nothing to try for another classifier than the support vector machine."""
        if self.classifier != "tgsp+svm":
            if not (self.classifier == "mdm" or isinstance(self.classifier, BaseEstimator)):
                raise ArgumentError(
                    f"classifier must be 'tgsp+svm', 'mdm' or a classifier of covariances, got {self.classifier!r}."
                )
            if self.C is not None or self.kernel is not None:
                raise ArgumentError("C and kernel belong to classifier='tgsp+svm'; leave them None.")
            return [(None, None)]
        defaults = (COSTS, KERNELS) if self.method == "grid" else ((FIXED[0],), (FIXED[1],))
        costs, kernels = _listed(self.C, defaults[0]), _listed(self.kernel, defaults[1])
        if not set(kernels) <= set(KERNELS) or not kernels:
            raise ArgumentError(f"kernel must be 'linear' or 'rbf', got {self.kernel!r}.")
        if not costs or not all(isinstance(C, int | float | np.number) and C > 0 for C in costs):
            raise ArgumentError(f"C must be positive, got {self.C!r}.")
        return list(itertools.product(costs, kernels))

    def _head(self, C: float | None, kernel: Kernel | None) -> Any:
        if self.classifier == "tgsp+svm":
            assert C is not None
            assert kernel is not None
            return TangentSpaceSVM(C, kernel)
        return MDM(metric="riemann") if isinstance(self.classifier, str) else clone(self.classifier)

    def _splits(self, X: np.ndarray, y: np.ndarray, groups: Any) -> list[Split]:
        inner: Any = self.inner_cv if self.cv is None else self.cv
        if isinstance(inner, int | np.integer):
            least = int(np.unique(y, return_counts=True)[1].min())
            if inner > least:
                raise ArgumentError(f"inner_cv = {inner} folds need {inner} epochs of every class, there are {least}.")
            inner = StratifiedKFold(int(inner), shuffle=True, random_state=self.random_state)
        splitter: Any = check_cv(inner, y, classifier=True)
        return list(splitter.split(X, y, groups))

    def _search(
        self, X: np.ndarray, y: np.ndarray, groups: Any, pairs: list[tuple[int, int]], heads: list
    ) -> tuple[int, int, float | None, Kernel | None]:
        scorer = _accuracy if self.scoring == "accuracy" else get_scorer(self.scoring)
        found = search(
            X, y, self._splits(X, y, groups), pairs, heads if self.classifier == "tgsp+svm" else self._head(None, None),
            scorer, estimator=self.estimator, drop=self.drop, common_window=self.common_window, n_jobs=self.n_jobs,
        )  # fmt: skip
        best = found.best
        self.cv_results_ = found.results()
        self.best_params_ = vars(best)
        self.best_score_ = float(self.cv_results_["mean_test_score"].max())
        return best.order, best.lag, best.C, best.kernel

    # -- use -----------------------------------------------------------------------------------------------------------

    def _covariances(self, X: Float64[np.ndarray, "epochs channels times"]) -> Float64[np.ndarray, "epochs size size"]:
        return augmented_covariances(X, window(X.shape[-1], self.order_, self.lag_, drop=self.drop), self.estimator)

    def transform(self, X: Any) -> Float64[np.ndarray, "epochs size size"]:
        """The augmented covariances of the chosen order and lag.

        Channels that have names are put in the order of the fit; epochs in another unit, as volts for microvolts, are
        brought to that of the fit, with a warning.

        Raises
        ------
        ValueError
            If X has other channels or another sampling rate than in `fit`, or is too short.
        """
        check_is_fitted(self, "classifier_")
        return self._covariances(self.layout_.matched(read_epochs(X)))

    def _apply(self, name: str, X: Any) -> np.ndarray:
        matrices = self.transform(X)
        with one_thread():
            return getattr(self.classifier_, name)(matrices)

    def predict(self, X: Any) -> np.ndarray:
        """The class of each epoch; epochs may be longer or shorter than in `fit`."""
        return self._apply("predict", X)

    def predict_proba(self, X: Any) -> Float64[np.ndarray, "epochs classes"]:
        """Probabilities: Platt's for the support vector machine, the softmax of squared distances for MDM."""
        return self._apply("predict_proba", X)

    def decision_function(self, X: Any) -> np.ndarray:
        """One value for each epoch of two classes (positive: the second), else one for each class."""
        check_is_fitted(self, "classifier_")
        if hasattr(self.classifier_, "decision_function"):
            return self._apply("decision_function", X)
        distances = self._apply("transform", X)  # to the means of the classes
        return distances[:, 0] - distances[:, 1] if len(self.classes_) == 2 else -distances

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    # -- saving --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str, **notes: Any) -> None:
        """Write order, lag and the classifier's arrays into `folder`; `notes` go into its `config.json`.

        Raises
        ------
        ValueError
            If `classifier` or `estimator` is an object of another library, whose arrays are not known.
        """
        check_is_fitted(self, "classifier_")
        if not isinstance(self.classifier, str) or not isinstance(self.estimator, str):
            raise ArgumentError(
                "only classifiers and estimators that are named can be saved; keep your own object with "
                "its library's means."
            )
        if isinstance(self.classifier_, TangentSpaceSVM):
            arrays: dict[str, Any] = {"reference": self.classifier_.reference_}
            arrays |= {
                f"svm.{name}": value
                for name, value in vars(self.classifier_.machine_).items()
                if isinstance(value, np.ndarray)
            }
            head = {
                "kernel": self.classifier_.machine_.kernel,
                "gamma": self.classifier_.machine_.gamma,
                "C": self.classifier_.C,
            }
        else:
            arrays, head = {"means": self.classifier_.covmeans_}, {}
        config = {
            "classifier": self.classifier, "order": self.order_, "lag": self.lag_, "estimator": self.estimator,
            "drop": self.drop, "channels": self.n_channels_in_, **encoded(self.classes_), "head": head,
            "layout": self.layout_.to_dict(), **notes,
        }  # fmt: skip
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        artifacts.save(folder, SYSTEM, artifacts.plain(config), tensors, seed=self.random_state or 0)

    @classmethod
    def load(cls, folder: Path | str) -> ACMClassifier:
        """A classifier as `save` wrote it; its `method` is the (order, lag) that had been chosen.

        Raises
        ------
        ArtifactError
            If the folder holds no readable run of acm.
        """
        config, tensors = artifacts.load(folder, SYSTEM)
        with artifacts.reading(folder):
            typed(Saved, config, "config")
            check_estimator(config["estimator"])
            if config["classifier"] == "tgsp+svm":
                typed(SavedHead, config["head"], "head")
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            order, lag, head = config["order"], config["lag"], config["head"]
            self = cls(
                (order, lag),
                config["classifier"],
                estimator=config["estimator"],
                drop=config["drop"],
                C=head.get("C"),
                kernel=head.get("kernel"),
            )
            self.order_, self.lag_, self.n_channels_in_ = order, lag, config["channels"]
            self.layout_ = Layout.kept(config, config["channels"])
            self.classes_ = decoded(config)
            self.classifier_ = self._head(head.get("C"), head.get("kernel"))
            if isinstance(self.classifier_, TangentSpaceSVM):
                self.classifier_.classes_ = self.classes_
                parts = {name.removeprefix("svm."): value for name, value in arrays.items() if name.startswith("svm.")}
                self.classifier_.reference_ = arrays["reference"]
                self.classifier_.machine_ = Machine(**parts, kernel=head["kernel"], gamma=head["gamma"])
                self.classifier_.check()
            else:
                self.classifier_.fit(arrays["means"], self.classes_).covmeans_ = arrays["means"]
        return self
