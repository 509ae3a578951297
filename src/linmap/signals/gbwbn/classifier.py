"""`SPDNetClassifier`: an SPDNet with the manners of scikit-learn, trained by `linmap.training`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap.data.labels import Classes, class_numbers, decoded, encoded, missing
from linmap.data.schema import Range
from linmap.errors import ArgumentError
from linmap.signals.gbwbn.fronts import AugmentedCovariance, ConvolutionalCovariance
from linmap.signals.gbwbn.layer import GBWBatchNorm
from linmap.signals.gbwbn.network import Norm, SPDNet
from linmap.signals.gbwbn.recalibration import recalibrate
from linmap.signals.layout import Layout, check_matrices, labelled, read_epochs, spread, unit_factor
from linmap.training import TrainingConfig, TrainingHistory, train
from linmap.training.randomness import private
from linmap.training.saving import SavedEstimator

Front = Literal["matrices", "augmented", "convolution"]
BATCH = 512  # samples of one forward pass in prediction


class Learnt(Classes):
    """What a run says beside parameters and weights."""

    domains: list[str] | list[int] | list[float]
    shape: list[Annotated[int, Range(1, 2**16)]]
    scale: Annotated[float, Range(1e-300)]


class SPDNetClassifier(ClassifierMixin, SavedEstimator, BaseEstimator):
    """Classes of covariance matrices, or of epochs, by an SPDNet with batch normalisation.

    Parameters
    ----------
    dims
        Sizes of the matrices after each BiMap. The default is one BiMap, to half of the input's size and at most 30.
    norm
        "gbw": Bures-Wasserstein; "aim", "lem": affine-invariant and log-Euclidean (spd_learn). None: no normalisation.
    theta
        Power of the deformation of the metric.
    learn_metric
        Train the metric matrix M.
    mean_iter
        Steps towards the Fréchet mean of a batch.
    front
        "matrices": X holds positive definite matrices (n, c, c). "augmented": X holds epochs (n, channels, time), and
        the network begins with their augmented covariance. "convolution": with trained filters in front of that.
    order
        Delayed copies in the augmented covariance of epochs.
    lag
        Samples between the delayed copies.
    eps
        Added to the diagonal of the matrices, whose mean trace is scaled to 1.
    floor
        Least eigenvalue after each ReEig.
    epochs
        Passes over the training samples.
    batch_size
        Samples of one step.
    lr
        Learning rate of Adam.
    weight_decay
        Weight decay; M, W and s of the normalisation are not decayed.
    recalibrate
        Compute the running statistics anew once trained.
    dtype
        Precision of the network.
    random_state
        Seed.

    Attributes
    ----------
    classes_
        The classes.
    domains_
        The domains that training saw, empty without.
    model_
        The `SPDNet`.
    history_
        Of the training.
    layout_
        Channels, sampling rate and size of the samples of `fit`.
    """

    SYSTEM = "gbwbn"
    LEARNT = Learnt

    def __init__(
        self,
        dims: Sequence[int] | None = None,
        norm: Norm | None = "gbw",
        theta: float = 0.5,
        learn_metric: bool = True,
        mean_iter: int = 1,
        front: Front = "matrices",
        order: int = 1,
        lag: int = 1,
        eps: float = 1e-6,
        floor: float = 1e-6,
        epochs: int = 100,
        batch_size: int = 30,
        lr: float = 2.5e-3,
        weight_decay: float = 0.0,
        recalibrate: bool = False,
        dtype: Literal["float32", "float64"] = "float64",
        random_state: int = 0,
    ) -> None:
        self.norm: Norm | None = norm
        self.dims, self.theta, self.learn_metric, self.mean_iter = dims, theta, learn_metric, mean_iter
        self.front, self.order, self.lag, self.eps, self.floor = front, order, lag, eps, floor
        self.epochs, self.batch_size, self.lr, self.weight_decay = epochs, batch_size, lr, weight_decay
        self.recalibrate, self.dtype, self.random_state = recalibrate, dtype, random_state

    # -- fit and predict -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        domains: ArrayLike | None = None,
        *,
        validation: tuple[Any, ...] | None = None,
        checkpoints: Path | str | None = None,
        resume: bool = False,
    ) -> Self:
        """Train.

        Parameters
        ----------
        X, y
            Matrices or epochs (see `front`), and the class of each. Epochs may also be MNE's, whose good EEG channels
            are taken in microvolts, and whose event codes are the classes where y is None, or
            `linmap.data.epochs.Epochs`.
        domains
            The subject or session of each, for statistics by domain (norm "gbw").
        validation
            (X, y) or (X, y, domains): the weights of the epoch with the smallest loss there are kept.
        checkpoints, resume
            Folder for checkpoints, and whether to go on from the last one.

        Raises
        ------
        ValueError
            If X is not of the form that `front` takes or holds values that are not finite, or y or domains do not fit.
        """
        samples, self.layout_, labels, domains = self._training_samples(X, y, domains)
        classes, target = class_numbers(labels)
        _same_length("y", target, samples)
        self.classes_ = classes
        self.n_features_in_, self._shape = samples.shape[1], samples.shape[1:]
        self.domains_ = _distinct_domains(domains)
        self.scale_ = self._unit(samples)
        data = self._dataset(samples, target, domains)
        self.model_ = self.build()
        held_out = None if validation is None else self._held_out(*validation)
        self.history_: TrainingHistory | None = train(
            self.model_, _loss, data, config=self.training_config(len(samples)), validate=held_out, out=checkpoints,
            resume=resume, description="SPDNet", parameter_groups=self._groups, seed_globally=False,
            settings={name: value for name, value in self.get_params().items() if name != "recalibrate"},
        )  # fmt: skip
        self.model_.cpu()
        if self.recalibrate and self.norm == "gbw":
            recalibrate(self.model_, [data.tensors], forward=lambda model, batch: _logits(model, batch))
        return self

    def build(self) -> SPDNet:
        """The untrained network, drawn with `random_state` from a generator of its own."""
        with private(self.random_state):
            return self._built()

    def _built(self) -> SPDNet:
        dtype, size = self._dtype, self._shape[0]
        options: dict[str, Any] = {}
        if self.norm == "gbw":
            options = {
                "theta": self.theta,
                "learn_metric": self.learn_metric,
                "mean_iter": self.mean_iter,
                "n_domains": len(self.domains_) or None,
            }
        elif len(self.domains_):
            raise ArgumentError(
                f"norm = {self.norm!r} has no statistics by domain; use norm='gbw', or leave domains out."
            )
        front = None
        if self.front == "augmented":
            front, size = AugmentedCovariance(self.order, self.lag, self.eps), self.order * size
        elif self.front == "convolution":
            front = ConvolutionalCovariance(size, order=self.order, lag=self.lag, dtype=dtype)
            size = 15 * self.order
        if size < 2:
            raise ArgumentError(
                "X has one channel, whose covariance is one number; take two or more, or a larger order."
            )
        dims = (max(2, min(30, size // 2)),) if self.dims is None else tuple(self.dims)
        return SPDNet((size, *dims), len(self.classes_), self.norm, floor=self.floor, front=front,
                      norm_options=options, dtype=dtype)  # fmt: skip

    def training_config(self, samples: int) -> TrainingConfig:
        """Adam at a constant rate; the batches are cut so that none is of a single sample."""
        size = min(self.batch_size, samples)
        while samples % size == 1 and size > 2:
            size -= 1
        return TrainingConfig(
            epochs=self.epochs, batch_size=size, lr=self.lr, weight_decay=self.weight_decay, seed=self.random_state
        )

    def predict_proba(self, X: Any, domains: ArrayLike | None = None) -> Float64[np.ndarray, "n classes"]:
        """Probability of each of `classes_`."""
        check_is_fitted(self, "model_")
        samples = self._known_samples(X)
        data = self._dataset(samples, np.zeros(len(samples), np.int64), domains)
        self.model_.eval()
        with torch.inference_mode():
            parts = [_logits(self.model_, batch) for batch in zip(*(t.split(BATCH) for t in data.tensors), strict=True)]
        return torch.cat(parts).double().softmax(-1).numpy()

    def predict(self, X: Any, domains: ArrayLike | None = None) -> np.ndarray:
        """The class of each sample."""
        chances = self.predict_proba(X, domains)
        return self.classes_[chances.argmax(1)]

    def adapt(self, X: Any, domains: ArrayLike) -> Self:
        """Give domains, new ones too, the statistics of samples without labels: how a network goes to a new subject.

        All parameters stay as they are.
        """
        check_is_fitted(self, "model_")
        if not len(self.domains_):
            raise ArgumentError("the classifier was fitted without domains; pass domains to fit.")
        new = np.setdiff1d(_distinct_domains(domains), self.domains_)
        self.domains_ = np.concatenate([self.domains_, new])
        for layer in self.model_.norms:
            if len(new) and isinstance(layer, GBWBatchNorm):
                layer.add_domains(len(new))
        samples = self._known_samples(X)
        data = self._dataset(samples, np.zeros(len(samples), np.int64), domains)
        recalibrate(self.model_, [data.tensors], forward=lambda model, batch: _logits(model, batch))
        return self

    # -- saving --------------------------------------------------------------------------------------------------------

    def _learnt(self) -> dict[str, Any]:
        return {
            **encoded(self.classes_),
            "domains": self.domains_.tolist(),
            "shape": list(self._shape),
            "scale": self.scale_,
            "layout": self.layout_.to_dict(),
        }

    def _restore(self, config: Mapping[str, Any]) -> None:
        self.classes_, self.domains_ = decoded(config), np.array(config["domains"])
        self._shape, self.scale_ = tuple(config["shape"]), config["scale"]
        self.n_features_in_ = self._shape[0]
        self.layout_ = Layout.kept(config, self._shape[0])

    # -- parts ---------------------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        if self.dtype not in ("float32", "float64"):
            raise ArgumentError(f"dtype must be 'float32' or 'float64', got {self.dtype!r}.")
        return torch.float32 if self.dtype == "float32" else torch.float64

    def _training_samples(self, X: Any, y: Any, domains: Any) -> tuple[np.ndarray, Layout, Any, Any]:
        """Samples, how they are laid out, and the class and the domain of each."""
        if self.front not in get_args(Front):
            raise ArgumentError(f"front must be one of {', '.join(get_args(Front))}, got {self.front!r}.")
        if self.front == "matrices":
            if hasattr(X, "sfreq") or hasattr(X, "get_data"):
                raise ArgumentError(
                    "X must hold matrices (n, c, c) for front='matrices', got epochs; take "
                    "front='augmented' or front='convolution'."
                )
            if y is None:
                raise ArgumentError("y is missing: give the class of each matrix.")
            samples = check_matrices(X)
            return samples, Layout(samples.shape[1], sizes=spread(_matrix_sizes(samples))), y, domains
        epochs, y, domains = labelled(X, y, domains)
        return epochs.X, Layout.of(epochs), y, domains

    def _known_samples(self, X: Any) -> np.ndarray:
        """Samples with the channels and in the unit of the fit."""
        if self.front == "matrices":
            samples = check_matrices(X)
            if samples.shape[1:] == self._shape:
                factor = unit_factor(_matrix_sizes(samples), self.layout_.sizes) ** 2
                samples = samples if factor == 1 else samples / factor
        else:
            samples = self.layout_.matched(read_epochs(X))
        if samples.shape[1:] != self._shape:
            raise ArgumentError(f"X holds samples of shape {samples.shape[1:]}, and was fitted to {self._shape}.")
        return samples

    def _unit(self, samples: np.ndarray) -> float:
        """What samples are divided by: matrices by their mean trace, epochs by their standard deviation."""
        if self.front == "matrices":
            return float(np.trace(samples, axis1=1, axis2=2).mean()) or 1.0
        return float(samples.std(-1).mean()) or 1.0

    def _dataset(self, samples: np.ndarray, target: np.ndarray, domains: ArrayLike | None) -> TensorDataset:
        if self.front == "augmented":  # its covariance takes the mean off; here it cannot cost digits of float32
            samples = samples - samples.mean(-1, keepdims=True)
        X = samples / self.scale_
        if self.front == "matrices":
            X = X + self.eps * np.eye(X.shape[-1])
        parts = [torch.from_numpy(X).to(self._dtype), torch.from_numpy(np.asarray(target, np.int64))]
        if (domains is None) == (len(self.domains_) > 0):
            raise ArgumentError("domains must be given here if and only if they were in fit.")
        if domains is not None:
            labels = np.asarray(domains)
            _same_length("domains", labels, samples)
            known = {label: i for i, label in enumerate(self.domains_.tolist())}
            unknown = [label for label in labels.tolist() if label not in known]
            if unknown:
                raise ArgumentError(f"domain {unknown[0]!r} was not in fit; call adapt with samples of it first.")
            parts.append(torch.tensor([known[label] for label in labels.tolist()]))
        return TensorDataset(*parts)

    def _held_out(self, X: Any, y: ArrayLike, domains: ArrayLike | None = None) -> Any:
        samples, labels = self._known_samples(X), np.asarray(y)
        _same_length("validation y", labels, samples)
        if unknown := set(labels.tolist()) - set(self.classes_.tolist()):
            raise ArgumentError(f"validation has the class {sorted(unknown)[0]!r}, which training has not.")
        batch = self._dataset(samples, np.searchsorted(self.classes_, labels), domains).tensors

        def validate(model: nn.Module) -> dict[str, float]:
            logits = _logits(model, batch)
            right = (logits.argmax(1) == batch[1]).double().mean()
            return {"loss": float(F.cross_entropy(logits, batch[1])), "accuracy": float(right)}

        return validate

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        kept = {id(p) for layer in model.modules() if isinstance(layer, GBWBatchNorm) for p in layer.parameters()}
        parameters = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if id(p) not in kept]},
            {"params": [p for p in parameters if id(p) in kept], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = False
        return tags


def _matrix_sizes(samples: np.ndarray) -> np.ndarray:
    """The root of the mean of each diagonal, which has the unit of the signals."""
    return np.sqrt(np.maximum(np.trace(samples, axis1=1, axis2=2), 0) / samples.shape[1])


def _distinct_domains(domains: ArrayLike | None) -> np.ndarray:
    labels = np.asarray([] if domains is None else domains)
    if missing(labels).any():
        raise ArgumentError(f"the domain of sample {int(missing(labels).argmax())} is missing; fill it in.")
    return np.unique(labels)


def _logits(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """batch: X, y and, where there are domains, these."""
    return model(batch[0], *batch[2:])


def _loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return F.cross_entropy(_logits(model, batch), batch[1])


def _same_length(name: str, values: np.ndarray, samples: np.ndarray) -> None:
    if values.shape != (len(samples),):
        raise ArgumentError(f"{name} must have one value for each of {len(samples)} samples, got shape {values.shape}.")
