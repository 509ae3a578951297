"""`S4Classifier` and `S4Regressor`: state-space models with scikit-learn's interface, for series of any lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor, nn
from torch.nn import functional as F

from linmap import artifacts
from linmap.data.labels import decoded, encoded
from linmap.data.scaling import Standardiser
from linmap.data.schema import Range
from linmap.errors import ArgumentError
from linmap.sequence.s4.model import SequenceModel
from linmap.sequence.s4.series import Series, SeriesDataset, check_series, collate
from linmap.sequence.s4.stream import Stream
from linmap.training import TrainingConfig, TrainingHistory, private, train
from linmap.training.saving import SavedEstimator

PREDICTION_SAMPLES = 2**20  # samples in a batch of predictions, padding included


class Learnt(TypedDict):
    """What a run says beside parameters and weights."""

    dt: tuple[Annotated[float, Range(1e-12, 1e6)], Annotated[float, Range(1e-12, 1e6)]]


class _StateSpaceEstimator(SavedEstimator, BaseEstimator):
    """Parameters, training, saving and streaming of both."""

    SYSTEM, PREFIX = "hippo", "model."
    LEARNT = Learnt

    layer: Literal["s4d", "s4"]
    norm: Literal["layer", "batch"]
    pooling: Literal["mean", "last"]

    def __init__(
        self,
        n_layers: int = 4,
        d_model: int = 64,
        d_state: int = 64,
        *,
        layer: Literal["s4d", "s4"] = "s4d",
        init: str | None = None,
        dt: tuple[float, float] | None = None,
        norm: Literal["layer", "batch"] = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        pooling: Literal["mean", "last"] = "mean",
        epochs: int = 20,
        batch_size: int = 32,
        lr: float = 1e-2,
        weight_decay: float = 0.01,
        standardise: bool = True,
        random_state: int = 0,
    ) -> None:
        self.n_layers = n_layers
        self.d_model = d_model
        self.d_state = d_state
        self.layer = layer
        self.init = init
        self.dt = dt
        self.norm = norm
        self.prenorm = prenorm
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.standardise = standardise
        self.random_state = random_state

    # -- what the two differ in ----------------------------------------------------------------------------------------

    def _targets(self, y: ArrayLike, n: int) -> Tensor:
        """What is learnt from y; sets what the answers are made from."""
        raise NotImplementedError

    def _known_targets(self, y: ArrayLike, n: int) -> Tensor:
        """The same of held-out series."""
        raise NotImplementedError

    @staticmethod
    def _score(output: Tensor, target: Tensor) -> float:
        """Accuracy, or the coefficient of determination."""
        raise NotImplementedError

    @property
    def _outputs(self) -> int:
        raise NotImplementedError

    @staticmethod
    def _loss(output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def _answers(self, outputs: Float32[Tensor, "n outputs"]) -> np.ndarray:
        raise NotImplementedError

    def _soft_answers(self, outputs: Float32[Tensor, "n outputs"]) -> np.ndarray:
        """(n, answers): what a stream answers after a sample."""
        raise NotImplementedError

    # -- fit and predict -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Series,
        y: ArrayLike,
        *,
        validation: tuple[Series, ArrayLike] | None = None,
        checkpoints: Path | str | None = None,
        resume: bool = False,
    ) -> Self:
        """Train on series.

        Parameters
        ----------
        X
            (n, length, channels), or (n, length) for one channel, or a list of arrays (length_i, channels); DataFrames
            do as well. Standardised in float64, so that large offsets keep their digits.
        y
            A class or a number for each series.
        validation
            Held-out series and their classes or numbers: scored after every epoch (`history_`), and the weights of
            the epoch with the lowest loss are kept. Without it, those of the last epoch.
        checkpoints, resume
            Folder for checkpoints, and whether to continue from the last one.

        Raises
        ------
        ValueError
            If a series is empty, not finite or of other channels than the first, or y does not fit.
        TypeError
            If X is sparse or holds something that is no number.
        """
        series = check_series(X)
        self.n_features_in_ = series[0].shape[1]
        targets = self._targets(y, len(series))
        self.mean_, self.scale_ = self._statistics(series)
        self.dt_ = timescales(max(map(len, series))) if self.dt is None else self.dt
        data = SeriesDataset([self._scaled(s) for s in series], targets)
        self.model_ = self.build()
        self.history_: TrainingHistory | None = train(
            self.model_,
            lambda model, batch: self._loss(model(batch[0], batch[1]), batch[2]),
            data,
            config=self.training_config(),
            out=checkpoints,
            resume=resume,
            description=type(self).__name__,
            validate=None if validation is None else self._validation(*validation),
            parameter_groups=lambda model: model.optim_groups(self.lr, self.weight_decay),  # pyright: ignore
            seed_globally=False,
            settings=self.get_params(),
        )
        self.model_.cpu()
        return self

    def build(self) -> SequenceModel:
        """The untrained model, drawn with `random_state` and nothing else."""
        with private(self.random_state):
            return SequenceModel(
                self.n_features_in_, self._outputs, self.n_layers, self.d_model, self.d_state, layer=self.layer,
                init=self.init, dt=self.dt_, norm=self.norm, prenorm=self.prenorm, dropout=self.dropout,
                bidirectional=self.bidirectional, pooling=self.pooling,
            )  # fmt: skip

    def training_config(self) -> TrainingConfig:
        """AdamW and a cosine schedule."""
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            optimizer="adamw",
            weight_decay=self.weight_decay,
            schedule="cosine",
            seed=self.random_state,
        )

    def predict(self, X: Series, rate: float = 1.0) -> np.ndarray:
        """A class or a number for each series; `rate` is the sampling step in units of that in training."""
        return self._answers(self._output(X, rate))

    def _validation(self, X: Series, y: ArrayLike) -> Callable[[nn.Module], dict[str, float]]:
        targets = self._known_targets(y, len(check_series(X)))

        def validate(model: nn.Module) -> dict[str, float]:
            outputs = self._output(X)
            return {"loss": float(self._loss(outputs, targets)), "score": self._score(outputs, targets)}

        return validate

    @torch.inference_mode()
    def _output(self, X: Series, rate: float = 1.0) -> Float32[Tensor, "n outputs"]:
        check_is_fitted(self, "model_")
        series = check_series(X)
        if series[0].shape[1] != self.n_features_in_:
            raise ArgumentError(
                f"X has {series[0].shape[1]} channels, and the model was fitted to {self.n_features_in_}."
            )
        order = np.argsort([len(s) for s in series], kind="stable")
        outputs = torch.empty(len(series), self._outputs, dtype=torch.float32)
        while len(order):
            count = max(1, PREDICTION_SAMPLES // len(series[order[min(len(order), 256) - 1]]))
            rows, order = order[: min(count, 256)], order[min(count, 256) :]
            x, lengths, _ = collate([self._scaled(series[i]) for i in rows], torch.zeros(len(rows)))
            device = next(self.model_.parameters()).device
            lengths = None if lengths is None else lengths.to(device)
            outputs[torch.from_numpy(rows)] = self.model_(x.to(device), lengths, rate).float().cpu()
        return outputs

    # -- streams -------------------------------------------------------------------------------------------------------

    def stream(self) -> Stream:
        """One series that arrives sample by sample: each `update` answers from all samples so far."""
        check_is_fitted(self, "model_")
        if self.bidirectional:
            raise ArgumentError("a stream has no future to read: fit with bidirectional=False.")
        self.model_.cpu()
        return Stream(self.model_, self.n_features_in_, self._scaled, self._soft_answers)

    # -- saving --------------------------------------------------------------------------------------------------------

    @classmethod
    def _parameters(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        return {**saved, "dt": saved["dt"] and tuple(saved["dt"])}

    def _learnt(self) -> dict[str, Any]:
        return {"dt": self.dt_}

    def _restore(self, config: Mapping[str, Any]) -> None:
        self.dt_ = tuple(config["dt"])

    def _tensors(self) -> dict[str, Tensor]:
        return {"scaler.mean": torch.from_numpy(self.mean_), "scaler.scale": torch.from_numpy(self.scale_)}

    def _take(self, tensors: dict[str, Tensor]) -> None:
        scaler = Standardiser.take(tensors)
        self.mean_, self.scale_ = scaler.mean, scaler.scale
        self.n_features_in_ = len(self.mean_)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _statistics(self, series: list[np.ndarray]) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
        channels = series[0].shape[1]
        if not self.standardise:
            return np.zeros(channels), np.ones(channels)
        found = Standardiser.fit(np.concatenate(series, dtype=np.float64))
        return found.mean, found.scale

    def _scaled(self, series: np.ndarray) -> Tensor:
        return torch.from_numpy(Standardiser(self.mean_, self.scale_).standardise(series).astype(np.float32))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags


class S4Classifier(ClassifierMixin, _StateSpaceEstimator):
    """Classes of series by a stack of state-space layers.

    Parameters
    ----------
    n_layers
        State-space layers.
    d_model
        Features of a layer.
    d_state
        States of a feature.
    layer
        Diagonal state spaces (s4d), or HiPPO matrices as diagonal plus low rank (s4).
    init
        Where the states begin: lin, inv, inv2, quad, legs, fout, real, rand, diag or hippo; of s4: legs, fout, legt or
        hippo. lin for s4d and legs for s4 when left out.
    dt
        Range of the steps; 1 / dt is the length, in samples, of the dependencies that the layers see at first. From
        the longest series of the training when left out.
    norm
        Norm beside each layer.
    prenorm
        Norm before each layer, not after it.
    dropout
        Share of features that a training step drops.
    bidirectional
        Also read from the end; such a model cannot follow a stream.
    pooling
        What of all samples the answer is made from.
    epochs
        Passes over the training series.
    batch_size
        Series of one step.
    lr
        Learning rate; that of the state matrices and steps is at most 1e-3.
    weight_decay
        Weight decay of all but the state matrices and steps.
    standardise
        Bring each channel to mean 0 and variance 1 over the samples of training.
    random_state
        Seed.

    Attributes
    ----------
    classes_
        The classes.
    model_
        The `SequenceModel`.
    """

    def _targets(self, y: ArrayLike, n: int) -> Tensor:
        labels = _column(y, n)
        check_classification_targets(labels)
        encoder = LabelEncoder().fit(labels)
        self.classes_ = np.asarray(encoder.classes_)
        if len(self.classes_) < 2:
            raise ArgumentError(f"y has one class, {self.classes_[0]}; a classifier needs two or more.")
        return torch.from_numpy(np.asarray(encoder.transform(labels), np.int64))

    def _known_targets(self, y: ArrayLike, n: int) -> Tensor:
        labels = _column(y, n)
        if len(unknown := np.setdiff1d(labels, self.classes_)):
            raise ArgumentError(f"validation: the class {unknown[0]} is not among those of y.")
        return torch.from_numpy(np.searchsorted(self.classes_, labels))

    @staticmethod
    def _score(output: Tensor, target: Tensor) -> float:
        return float((output.argmax(-1) == target).double().mean())

    @property
    def _outputs(self) -> int:
        return len(self.classes_)

    @staticmethod
    def _loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def _answers(self, outputs: Tensor) -> np.ndarray:
        return self.classes_[outputs.argmax(-1).numpy()]

    def predict_proba(self, X: Series, rate: float = 1.0) -> Float64[np.ndarray, "n classes"]:
        """Probability of each of `classes_`."""
        return self._soft_answers(self._output(X, rate))

    def _soft_answers(self, outputs: Tensor) -> np.ndarray:
        return outputs.double().softmax(-1).numpy()

    def _learnt(self) -> dict[str, Any]:
        return {**super()._learnt(), **encoded(self.classes_)}

    def _restore(self, config: Mapping[str, Any]) -> None:
        super()._restore(config)
        self.classes_ = decoded(config)


class LearntTarget(Learnt):
    """What a run says beside parameters and weights."""

    target: tuple[float, float]


class S4Regressor(RegressorMixin, _StateSpaceEstimator):
    """A number for each series by a stack of state-space layers; parameters as of `S4Classifier`.

    Targets are standardised for the training.
    """

    LEARNT = LearntTarget

    def _targets(self, y: ArrayLike, n: int) -> Tensor:
        values = _numbers(y, n)
        found = Standardiser.fit(values[:, None])
        self.target_mean_, self.target_scale_ = float(found.mean[0]), float(found.scale[0])
        return self._known_targets(values, n)

    def _known_targets(self, y: ArrayLike, n: int) -> Tensor:
        return torch.from_numpy(((_numbers(y, n) - self.target_mean_) / self.target_scale_).astype(np.float32))

    @staticmethod
    def _score(output: Tensor, target: Tensor) -> float:
        return 1 - float((output.squeeze(-1) - target).square().mean() / target.var(correction=0).clamp(min=1e-12))

    @property
    def _outputs(self) -> int:
        return 1

    @staticmethod
    def _loss(output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output.squeeze(-1), target)

    def _answers(self, outputs: Tensor) -> np.ndarray:
        return outputs.squeeze(-1).double().numpy() * self.target_scale_ + self.target_mean_

    def _soft_answers(self, outputs: Tensor) -> np.ndarray:
        return self._answers(outputs)[:, None]

    def _learnt(self) -> dict[str, Any]:
        return {**super()._learnt(), "target": [self.target_mean_, self.target_scale_]}

    def _restore(self, config: Mapping[str, Any]) -> None:
        super()._restore(config)
        self.target_mean_, self.target_scale_ = config["target"]


def load_estimator(folder: Path | str) -> S4Classifier | S4Regressor:
    """What `S4Classifier.save` or `S4Regressor.save` wrote.

    Raises
    ------
    ArtifactError
        If the folder holds no such run.
    """
    config, _ = artifacts.load(folder, _StateSpaceEstimator.SYSTEM)
    with artifacts.reading(folder):
        kind = {kind.__name__: kind for kind in (S4Classifier, S4Regressor)}[config["estimator"]]
    return kind.load(folder)


def timescales(longest: int) -> tuple[float, float]:
    """A range of steps dt for series of up to `longest` samples: dependencies from the whole of a series down to a
    tenth of it, or to 10 samples where that is shorter."""
    return 1 / longest, max(0.1, min(1.0, 10 / longest))


def _numbers(y: ArrayLike, n: int) -> Float64[np.ndarray, " n"]:
    values = _column(y, n)
    try:
        numbers = values.astype(np.float64) if values.dtype.kind in "biufO" else None
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or not np.isfinite(numbers).all():
        raise ArgumentError(f"y must hold finite numbers, got {values.dtype}.")
    return numbers


def _column(y: ArrayLike, n: int) -> np.ndarray:
    """y as a vector of n values; one column is taken for one, with scikit-learn's warning."""
    if y is None:
        raise ArgumentError("fit requires y to be passed, but the target y is None: give a class or a number a series.")
    values = column_or_1d(np.asarray(y), warn=True)
    if len(values) != n:
        raise ArgumentError(f"y has {len(values)} values for {n} series; the samples are inconsistent.")
    if values.dtype.kind in "fc" and not np.isfinite(values).all():
        kind = "NaN" if np.isnan(values).any() else "infinity"
        raise ArgumentError(f"Input y contains {kind}; y must hold finite numbers.")
    return values
