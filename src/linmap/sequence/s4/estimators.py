"""`S4Classifier` and `S4Regressor`: state-space models in scikit-learn's manners, for series of any lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

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
from linmap.sequence.s4.model import SequenceModel
from linmap.training import TrainingConfig, TrainingHistory, train

SYSTEM = "hippo"
PREDICTION_SAMPLES = 2**20  # samples in a batch of predictions, padding included
Series = Sequence[np.ndarray] | np.ndarray


class _StateSpaceEstimator(BaseEstimator):
    """Parameters, training, saving and streaming of both."""

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
        dt: tuple[float, float] = (1e-3, 0.1),
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
        raise NotImplementedError

    @property
    def _outputs(self) -> int:
        raise NotImplementedError

    @staticmethod
    def _loss(output: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def _answers(self, outputs: Float32[Tensor, "n outputs"]) -> np.ndarray:
        raise NotImplementedError

    # -- fit and predict -----------------------------------------------------------------------------------------------

    def fit(self, X: Series, y: ArrayLike, *, checkpoints: Path | str | None = None, resume: bool = False) -> Self:
        """Train on series.

        Parameters
        ----------
        X
            (n, length, channels), or (n, length) for one channel, or a list of arrays (length_i, channels).
        y
            A class or a number for each series.
        checkpoints, resume
            Folder for checkpoints, and whether to go on from the last one.

        Raises
        ------
        ValueError
            If a series is empty, not finite or of other channels than the first, or y does not fit.
        """
        series = check_series(X)
        self.n_features_in_ = series[0].shape[1]
        targets = self._targets(y, len(series))
        self.mean_, self.scale_ = self._statistics(series)
        data = SeriesDataset([self._scaled(s) for s in series], targets)
        self.model_ = self.build()
        self.history_: TrainingHistory | None = train(
            self.model_, lambda model, batch: self._loss(model(batch[0], batch[1]), batch[2]), data,
            config=self.training_config(), out=checkpoints, resume=resume, description=type(self).__name__,
            parameter_groups=lambda model: model.optim_groups(self.lr, self.weight_decay),  # pyright: ignore
        )  # fmt: skip
        self.model_.cpu()
        return self

    def build(self) -> SequenceModel:
        """The untrained model, drawn with `random_state`."""
        torch.manual_seed(self.random_state)
        return SequenceModel(
            self.n_features_in_, self._outputs, self.n_layers, self.d_model, self.d_state, layer=self.layer,
            init=self.init, dt=self.dt, norm=self.norm, prenorm=self.prenorm, dropout=self.dropout,
            bidirectional=self.bidirectional, pooling=self.pooling,
        )  # fmt: skip

    def training_config(self) -> TrainingConfig:
        """AdamW and a cosine schedule."""
        return TrainingConfig(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, optimizer="adamw",
            weight_decay=self.weight_decay, schedule="cosine", seed=self.random_state,
        )  # fmt: skip

    def predict(self, X: Series, rate: float = 1.0) -> np.ndarray:
        """A class or a number for each series; `rate` is the sampling step in units of that in training."""
        return self._answers(self._output(X, rate))

    @torch.inference_mode()
    def _output(self, X: Series, rate: float = 1.0) -> Float32[Tensor, "n outputs"]:
        check_is_fitted(self, "model_")
        series = check_series(X)
        if series[0].shape[1] != self.n_features_in_:
            raise ValueError(f"X has {series[0].shape[1]} channels, and the model was fitted to {self.n_features_in_}.")
        order = np.argsort([len(s) for s in series], kind="stable")
        outputs = torch.empty(len(series), self._outputs)
        while len(order):
            count = max(1, PREDICTION_SAMPLES // len(series[order[min(len(order), 256) - 1]]))
            rows, order = order[: min(count, 256)], order[min(count, 256) :]
            x, lengths, _ = collate([self._scaled(series[i]) for i in rows], torch.zeros(len(rows)))
            outputs[torch.from_numpy(rows)] = self.model_(x, lengths, rate)
        return outputs

    # -- streams -------------------------------------------------------------------------------------------------------

    def stream(self) -> Stream:
        """One series that arrives sample by sample: each `update` answers from all samples so far."""
        check_is_fitted(self, "model_")
        if self.bidirectional:
            raise ValueError("a stream has no future to read: fit with bidirectional=False.")
        return Stream(self)

    # -- saving --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write parameters, scaler and weights into `folder`."""
        check_is_fitted(self, "model_")
        config = {"estimator": type(self).__name__, "parameters": self.get_params(), **self._learnt()}
        tensors = {"scaler.mean": torch.from_numpy(self.mean_), "scaler.scale": torch.from_numpy(self.scale_)}
        tensors |= {f"model.{name}": tensor for name, tensor in self.model_.state_dict().items()}
        artifacts.save(folder, SYSTEM, config, tensors, seed=self.random_state)

    def _learnt(self) -> dict[str, Any]:
        return {}

    def _restore(self, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        self.mean_, self.scale_ = (tensors.pop(f"scaler.{name}").numpy() for name in ("mean", "scale"))
        self.n_features_in_, self.history_ = len(self.mean_), None
        self.model_ = self.build()
        self.model_.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
        self.model_.eval()
        return self

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _statistics(self, series: list[np.ndarray]) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
        channels = series[0].shape[1]
        if not self.standardise:
            return np.zeros(channels), np.ones(channels)
        samples = np.concatenate(series).astype(np.float64)
        deviation = samples.std(0)
        return samples.mean(0), np.where(deviation > 0, deviation, 1.0)

    def _scaled(self, series: np.ndarray) -> Tensor:
        return torch.from_numpy(((series - self.mean_) / self.scale_).astype(np.float32))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags


class S4Classifier(ClassifierMixin, _StateSpaceEstimator):
    """Classes of series by a stack of state-space layers.

    Parameters
    ----------
    n_layers, d_model, d_state, layer, init, dt, norm, prenorm, dropout, bidirectional, pooling
        Of `SequenceModel`. 1 / dt is the length, in samples, of the dependencies that the layers see at first.
    epochs, batch_size, lr, weight_decay
        Of the training: AdamW, a cosine schedule, and no more than 1e-3 for the state matrices and steps.
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
            raise ValueError(f"y has one class, {self.classes_[0]}; a classifier needs two or more.")
        return torch.from_numpy(np.asarray(encoder.transform(labels), np.int64))

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
        return self._output(X, rate).double().softmax(-1).numpy()

    def _learnt(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist()}

    def _restore(self, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        self.classes_ = np.array(config["classes"])
        return super()._restore(config, tensors)


class S4Regressor(RegressorMixin, _StateSpaceEstimator):
    """A number for each series by a stack of state-space layers; parameters as of `S4Classifier`.

    Targets are standardised for the training.
    """

    def _targets(self, y: ArrayLike, n: int) -> Tensor:
        values = _column(y, n)
        if values.dtype.kind not in "biuf" or not np.isfinite(values.astype(np.float64)).all():
            raise ValueError(f"y must hold finite numbers, got {values.dtype}.")
        values = values.astype(np.float64)
        self.target_mean_, deviation = float(values.mean()), float(values.std())
        self.target_scale_ = deviation or 1.0
        return torch.from_numpy(((values - self.target_mean_) / self.target_scale_).astype(np.float32))

    @property
    def _outputs(self) -> int:
        return 1

    @staticmethod
    def _loss(output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output.squeeze(-1), target)

    def _answers(self, outputs: Tensor) -> np.ndarray:
        return outputs.squeeze(-1).double().numpy() * self.target_scale_ + self.target_mean_

    def _learnt(self) -> dict[str, Any]:
        return {"target": [self.target_mean_, self.target_scale_]}

    def _restore(self, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Self:
        self.target_mean_, self.target_scale_ = config["target"]
        return super()._restore(config, tensors)


def load_estimator(folder: Path | str) -> S4Classifier | S4Regressor:
    """What `S4Classifier.save` or `S4Regressor.save` wrote.

    Raises
    ------
    ArtifactError
        If the folder holds no such run.
    """
    config, tensors = artifacts.load(folder, SYSTEM)
    kind = {"S4Classifier": S4Classifier, "S4Regressor": S4Regressor}[config["estimator"]]
    parameters = config["parameters"] | {"dt": tuple(config["parameters"]["dt"])}
    return kind(**parameters)._restore(config, tensors)


class Stream:
    """The answers of an estimator to one series, after each of its samples, and the state between them."""

    def __init__(self, estimator: _StateSpaceEstimator) -> None:
        self.estimator = estimator
        self.model: nn.Module = estimator.model_.eval()
        self._state = estimator.model_.initial_state()
        self.count = 0

    @torch.inference_mode()
    def update(self, sample: ArrayLike) -> Float64[np.ndarray, " outputs"]:
        """Probabilities of the classes, or the number, from all samples so far.

        Raises
        ------
        ValueError
            If the sample is not finite, or has another number of channels.
        """
        values = np.atleast_1d(np.asarray(sample, np.float64))
        channels = self.estimator.n_features_in_
        if values.shape != (channels,) or not np.isfinite(values).all():
            raise ValueError(f"sample {self.count} must hold {channels} finite numbers, got {values.tolist()}.")
        output, self._state = self.estimator.model_.step(self.estimator._scaled(values[None]), self._state)
        self.count += 1
        if isinstance(self.estimator, S4Classifier):
            return output[0].double().softmax(-1).numpy()
        return self.estimator._answers(output)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to go on from here: real tensors, which safetensors can keep."""
        parts = {name: torch.view_as_real(t) if t.is_complex() else t for name, t in self._state.items()}
        return {name: t.clone() for name, t in parts.items()} | {"samples": torch.tensor(self.count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` has returned.

        Raises
        ------
        ValueError
            If it is of another model.
        """
        expected = self.estimator.model_.initial_state()
        restored = {}
        for name, like in expected.items():
            found = state.get(name)
            shape = (*like.shape, 2) if like.is_complex() else tuple(like.shape)
            if found is None or tuple(found.shape) != shape:
                got = "nothing" if found is None else f"shape {tuple(found.shape)}"
                raise ValueError(f"state: {name} must have shape {shape}, got {got}; it is of another model.")
            restored[name] = torch.view_as_complex(found.contiguous()) if like.is_complex() else found.clone()
        self._state, self.count = restored, int(state["samples"])


# -- series ------------------------------------------------------------------------------------------------------------


class SeriesDataset(torch.utils.data.Dataset):
    """Series with targets; a batch is padded to its longest."""

    def __init__(self, series: list[Tensor], targets: Tensor) -> None:
        self.series, self.targets = series, targets

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.series[i], self.targets[i]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor | None, Tensor]:
        return collate([self.series[i] for i in indices], self.targets[indices])


def collate(series: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Padded series (B, L, channels), their lengths (None where all are equal), targets."""
    lengths = torch.tensor([len(s) for s in series])
    if bool((lengths == lengths[0]).all()):
        return torch.stack(series), None, targets
    return nn.utils.rnn.pad_sequence(series, batch_first=True), lengths, targets


def check_series(X: Series) -> list[Float32[np.ndarray, "length channels"]]:
    """A list of (length, channels), float32.

    Raises
    ------
    ValueError
        If X is not of that form; the message names the first offending series.
    """
    if isinstance(X, np.ndarray) and X.dtype != object and X.ndim not in (2, 3):
        raise ValueError(f"X must be (n, length, channels), (n, length) or a list of series, got shape {X.shape}.")
    if len(X) == 0:
        raise ValueError("X holds no series.")
    checked = []
    for i, one in enumerate(X):
        values = np.asarray(one)
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) == 0 or values.dtype.kind not in "biuf":
            raise ValueError(f"X[{i}] must be real numbers (length, channels), got {values.dtype} {values.shape}.")
        if not np.isfinite(values).all():
            step, channel = np.argwhere(~np.isfinite(values))[0].tolist()
            raise ValueError(f"X[{i}] is not finite at step {step}, channel {channel}; fill gaps first.")
        if checked and values.shape[1] != checked[0].shape[1]:
            raise ValueError(f"X[{i}] has {values.shape[1]} channels, X[0] has {checked[0].shape[1]}.")
        checked.append(values.astype(np.float32))
    return checked


def _column(y: ArrayLike, n: int) -> np.ndarray:
    values = column_or_1d(np.asarray(y))
    if len(values) != n:
        raise ValueError(f"y has {len(values)} values for {n} series.")
    return values
