"""`LieClassifier`: a `LieResNet` with the manners of scikit-learn, trained by `linmap.training`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from linmap.data.arrays import array_of
from linmap.data.labels import Classes, class_numbers, decoded, encoded
from linmap.data.schema import Range
from linmap.errors import ArgumentError, ArgumentTypeError, check_count
from linmap.geometry.groups import SO2, GLnPlus, HaarSampler, LogNormalSampler, PolarGroup, Sampler, SLn
from linmap.shapes.lie_decomposition.checks import check_choice
from linmap.shapes.lie_decomposition.coordinates import Angle
from linmap.shapes.lie_decomposition.network import LieResNet
from linmap.training import TrainingConfig, TrainingHistory, private, train
from linmap.training.saving import SavedEstimator

WARMUP = 50  # steps
LARGEST = float(np.finfo(np.float32).max)
BATCH = 64  # images of one forward pass in prediction
Group = Literal["sl2", "gl2", "so2"]
SamplerName = Literal["haar", "lognormal"]


Size = Annotated[int, Range(1, 2**16)]


class Learnt(Classes):
    """What a run says beside parameters and weights."""

    shape: tuple[Size, Size, Size]


class LieClassifier(ClassifierMixin, SavedEstimator, BaseEstimator):
    """Classes of images, invariant to a group as far as the samples reach, without augmentation.

    Parameters
    ----------
    group
        "so2": rotations; "sl2": with shears and stretches that keep areas; "gl2": with all scales.
    num_samples
        Group samples of each layer, at most 1024.
    channels
        Channels of each layer.
    hidden
        Width of the kernel networks.
    head
        Width of the head.
    kernel_size
        Height and width of the kernels.
    separable
        Make kernels products of one over the group and one over space, which is many times faster.
    angle
        What kernels see of a rotation: "cos_sin", its cosine and sine; "radians", its angle in [0, 2 pi), as the
        authors' do.
    sampler
        "haar": `HaarSampler` with `radius` and `scale_range`; "lognormal": the authors' `LogNormalSampler` with `var`.
    radius
        Largest stretch of the "haar" samples: singular values from exp(-radius) to exp(radius).
    scale_range
        Largest logarithm of the scale of "haar" samples of "gl2".
    var
        Variance of the logarithms of the "lognormal" samples.
    early_pool
        Halve the images before the block of two convolutions, not after it: a quarter of its work.
    epochs
        Passes over the training images.
    lr
        Learning rate of Adam, after it has risen and before it falls.
    batch_size
        Images of one step.
    weight_decay
        Weight decay of Adam.
    dropout
        Share of the head's features that training drops.
    deterministic
        Draw the samples once, instead of anew for each step.
    eval_draws
        Draws of samples whose logits are averaged in prediction, where samples are not deterministic.
    random_state
        Seed.

    Attributes
    ----------
    classes_
        The classes.
    model_
        The `LieResNet`.
    history_
        Of the training.
    """

    SYSTEM = "lie_decomposition"
    LEARNT = Learnt

    def __init__(
        self,
        group: Group = "sl2",
        num_samples: int = 8,
        channels: int = 24,
        hidden: int = 32,
        head: int = 128,
        kernel_size: int = 5,
        separable: bool = True,
        angle: Angle = "cos_sin",
        sampler: SamplerName = "haar",
        radius: float = 0.3,
        scale_range: float = 0.2,
        var: float = 0.1,
        early_pool: bool = True,
        epochs: int = 20,
        lr: float = 2e-3,
        batch_size: int = 32,
        weight_decay: float = 0.0,
        dropout: float = 0.0,
        deterministic: bool = True,
        eval_draws: int = 1,
        random_state: int = 0,
    ) -> None:
        self.group: Group = group
        self.angle: Angle = angle
        self.sampler: SamplerName = sampler
        self.num_samples, self.channels, self.hidden, self.head = num_samples, channels, hidden, head
        self.kernel_size, self.separable = kernel_size, separable
        self.radius, self.scale_range, self.var = radius, scale_range, var
        self.early_pool = early_pool
        self.epochs, self.lr, self.batch_size, self.weight_decay = epochs, lr, batch_size, weight_decay
        self.dropout, self.deterministic, self.eval_draws = dropout, deterministic, eval_draws
        self.random_state = random_state

    # -- fit and predict -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        checkpoints: Path | str | None = None,
        resume: bool = False,
    ) -> Self:
        """Train.

        Parameters
        ----------
        X, y
            Images (n, height, width) or (n, channels, height, width) of floating point, and the class of each.
        validation
            (X, y): the weights of the epoch with the smallest loss there are kept.
        checkpoints, resume
            Folder for checkpoints, and whether to go on from the last one.

        Raises
        ------
        ValueError
            If X or y are of another form, hold values that are not finite, or do not go together, or a parameter is
            out of its range.
        TypeError
            If X is not of floating point.
        """
        images = check_images(X)
        classes, target = class_numbers(y)
        _same_length("y", target, images)
        self.classes_ = classes
        self._shape = images.shape[1:]
        self.model_ = self.build()
        held_out = None if validation is None else self._held_out(*validation)
        self.history_: TrainingHistory | None = train(
            self.model_,
            _loss,
            TensorDataset(images, torch.from_numpy(target)),
            config=self.training_config(len(images)),
            validate=held_out,
            out=checkpoints,
            resume=resume,
            description="LieResNet",
            callbacks=[_Draws(self.model_)],
            seed_globally=False,
            settings=self.get_params(),
        )
        self.model_.cpu()
        return self

    def build(self) -> LieResNet:
        """The untrained network, drawn with `random_state` from a generator of its own."""
        check_count("random_state", self.random_state, 0)
        for name in ("separable", "early_pool", "deterministic"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ArgumentTypeError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        group = self._group()
        with private(self.random_state) as source:
            return LieResNet(
                group,
                self._shape[0],
                len(self.classes_),
                num_samples=self.num_samples,
                channels=self.channels,
                kernel_size=self.kernel_size,
                hidden=self.hidden,
                head=self.head,
                dropout=self.dropout,
                sampler=self._sampler(group),
                angle=self.angle,
                separable=self.separable,
                early_pool=self.early_pool,
                deterministic=self.deterministic,
                eval_draws=self.eval_draws,
                generator=source.on("cpu"),
            )

    def training_config(self, samples: int) -> TrainingConfig:
        """Adam, with a rate that rises over `WARMUP` steps, or a tenth of a short run, and falls linearly to 0."""
        size = min(check_count("batch_size", self.batch_size), samples)
        steps = check_count("epochs", self.epochs) * -(-samples // size)
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule="linear",
            warmup_steps=min(WARMUP, steps // 10),
            seed=self.random_state,
        )

    def predict_proba(self, X: ArrayLike) -> Float64[np.ndarray, "n classes"]:
        """Probability of each of `classes_`; the samples of all images are the same, drawn from `random_state`."""
        check_is_fitted(self, "model_")
        images = self._known(X)
        with torch.inference_mode():
            logits = torch.cat([self._logits(self.model_, batch) for batch in images.split(BATCH)])
        if not bool(logits.isfinite().all()):
            image = int((~logits.isfinite().all(1)).nonzero()[0])
            raise ArgumentError(f"X[{image}] gives no finite logits; its values are far from those of the fit.")
        return logits.double().softmax(-1).numpy()

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The class of each image."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]

    # -- saving --------------------------------------------------------------------------------------------------------

    def _learnt(self) -> dict[str, Any]:
        return {**encoded(self.classes_), "shape": list(self._shape)}

    def _restore(self, config: Mapping[str, Any]) -> None:
        self.classes_, self._shape = decoded(config), tuple(config["shape"])

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _group(self) -> PolarGroup:
        check_choice("group", self.group, Group)
        return SO2() if self.group == "so2" else SLn(2) if self.group == "sl2" else GLnPlus(2)

    def _sampler(self, group: PolarGroup) -> Sampler:
        check_choice("sampler", self.sampler, SamplerName)
        if self.sampler == "lognormal":
            return LogNormalSampler(group, self.var)
        return HaarSampler(group, self.radius, self.scale_range)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """In evaluation mode, with the draws of `random_state`."""
        return model(images, generator=Generator().manual_seed(self.random_state))

    def _known(self, X: ArrayLike) -> Tensor:
        """Images of the size of the fit."""
        images = check_images(X)
        if images.shape[1:] != self._shape:
            raise ArgumentError(
                f"X holds images of (channels, height, width) = {tuple(images.shape[1:])}, and was fitted to "
                f"{tuple(self._shape)}."
            )
        return images

    def _held_out(self, X: ArrayLike, y: ArrayLike) -> Any:
        images, labels = self._known(X), np.asarray(y)
        _same_length("validation y", labels, images)
        if unknown := set(labels.tolist()) - set(self.classes_.tolist()):
            raise ArgumentError(f"validation has the class {sorted(unknown)[0]!r}, which training has not.")
        target = torch.from_numpy(np.searchsorted(self.classes_, labels))

        def validate(model: nn.Module) -> dict[str, float]:
            device = next(model.parameters()).device
            logits = torch.cat([self._logits(model, batch.to(device)).cpu() for batch in images.split(BATCH)])
            right = (logits.argmax(1) == target).double().mean()
            return {"loss": float(F.cross_entropy(logits, target)), "accuracy": float(right)}

        return validate

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.two_d_array = False
        return tags


class _Draws:
    """Keeps the number of the next draw with the checkpoints of a run."""

    def __init__(self, model: LieResNet) -> None:
        self.draws = model.draws

    def __call__(self, model: nn.Module, step: int) -> None:
        pass

    def state_dict(self) -> dict[str, int]:
        return {"trained": self.draws.trained, "evaluated": self.draws.evaluated}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.draws.trained, self.draws.evaluated = state["trained"], state["evaluated"]


def check_images(X: ArrayLike) -> Tensor:
    """Images as float32 (n, channels, height, width).

    Raises
    ------
    ValueError
        If X is not of the form (n, height, width) or (n, channels, height, width), is empty, or not finite.
    TypeError
        If X is not of floating point.
    """
    try:
        values = array_of(X)
    except ValueError:
        raise ArgumentError("X must be images of one size, floating point, got images of several sizes.") from None
    if values.dtype == object:
        try:
            values = values.astype(float)
        except (TypeError, ValueError):
            raise ArgumentTypeError("X must be images of one size, floating point, got objects.") from None
    if values.ndim not in (3, 4):
        raise ArgumentError(
            f"X must be images (n, height, width) or (n, channels, height, width), got shape {values.shape}"
            f"{'; reshape flat rows to images' if values.ndim == 2 else ''}."
        )
    if values.dtype.kind != "f":
        raise ArgumentTypeError(f"X must be floating point, got {values.dtype}; scale images to [0, 1]: X / 255.")
    if not values.size:
        raise ArgumentError(f"X holds no image: its shape is {values.shape}.")
    finite = np.isfinite(values)
    if not finite.all():
        first = np.argwhere(~finite)[0].tolist()
        raise ArgumentError(f"X{first} is {values[tuple(first)]}; all values must be finite.")
    if (size := float(np.abs(values).max())) > LARGEST:
        raise ArgumentError(f"X has values up to {size:.3g}, which float32 cannot hold; scale images to [0, 1].")
    images = torch.from_numpy(np.array(values, np.float32))
    return images.unsqueeze(1) if images.ndim == 3 else images


def _loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _same_length(name: str, values: np.ndarray, images: Tensor) -> None:
    if values.shape != (len(images),):
        raise ArgumentError(f"{name} must have one value for each of {len(images)} images, got shape {values.shape}.")
