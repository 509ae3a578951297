"""`PointCloudClassifier`: a network behind a canonical pose, with the manners of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.data.labels import Classes, class_numbers, decoded, encoded
from linmap.data.schema import Range
from linmap.errors import ArgumentError
from linmap.shapes.tinvnn.clouds import Batch, Clouds, check_clouds, padded
from linmap.shapes.tinvnn.embedding import TinvEmbedding
from linmap.shapes.tinvnn.networks import EdgeConvNet, PointNet
from linmap.shapes.tinvnn.points import check_choice, check_whole
from linmap.shapes.tinvnn.training_draws import TrainingDraws, rotations, subsets
from linmap.shapes.tinvnn.wrapper import TinvWrapper
from linmap.training import TrainingConfig, TrainingHistory, private, train
from linmap.training.saving import SavedEstimator

Representation = Literal["raw", "pca", "moment", "frames", "random"]
Network = Literal["pointnet", "edgeconv"]
Augment = Literal["none", "so3"]
POINTS_AT_ONCE = 2**13
"""In a batch of predictions, padding and frames included: what lies between two layers then fits into the cache."""


class Learnt(Classes):
    """What a run says beside parameters and weights."""

    dim: Annotated[int, Range(1, 2**16)]


class PointCloudClassifier(ClassifierMixin, SavedEstimator, BaseEstimator):
    """Classes of point sets, whatever their pose.

    Parameters
    ----------
    representation
        What the network sees. "moment": the canonical pose with the signs of `moment_signs`. "frames": the same,
        averaged over all signs while training as well. "random": random signs in training, averaged over all in
        prediction. "pca": principal axes with the eigensolver's signs. "raw": the coordinates, centred and scaled to
        root mean square 1.
    network
        "pointnet" or "edgeconv".
    n_points
        Points of each cloud that a training step draws at random; all of them by default. Prediction uses all.
    epochs, batch_size, lr
        Of AdamW, whose rate rises over a tenth of the steps and falls linearly to zero.
    augment
        "so3": each cloud of a step is turned at random before anything else; for "raw".
    reflections
        Whether mirror images count as the same.
    k
        Neighbours of "edgeconv".
    weight_decay
        Of AdamW.
    label_smoothing
        Share of the target that all classes get alike.
    dropout
        Before the outputs.
    validation_fraction
        Share of the samples of each class that is held out, drawn with `random_state`; the weights of the epoch with
        the smallest loss there are kept.
    random_state
        Seed; nothing else decides, and no global generator is read or set.

    Attributes
    ----------
    classes_
        The classes.
    model_
        The network with its embedding.
    history_
        Of the training.
    """

    SYSTEM = "tinvnn"
    LEARNT = Learnt

    def __init__(
        self,
        representation: Representation = "moment",
        network: Network = "pointnet",
        n_points: int | None = None,
        epochs: int = 50,
        batch_size: int = 32,
        lr: float = 3e-3,
        augment: Augment = "none",
        reflections: bool = True,
        k: int = 20,
        weight_decay: float = 0.01,
        label_smoothing: float = 0.1,
        dropout: float = 0.0,
        validation_fraction: float = 0.0,
        random_state: int = 0,
    ) -> None:
        self.representation = representation
        self.network = network
        self.n_points = n_points
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.augment: Augment = augment
        self.reflections = reflections
        self.k = k
        self.weight_decay = weight_decay
        self.label_smoothing = label_smoothing
        self.dropout = dropout
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    # -- fit and predict -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        validation: tuple[Any, ArrayLike] | None = None,
        checkpoints: Path | str | None = None,
        resume: bool = False,
    ) -> Self:
        """Train.

        Parameters
        ----------
        X
            (n, points, d), or a list of arrays (points_i, d).
        y
            The class of each.
        validation
            Held-out clouds and their classes, in place of `validation_fraction`.
        checkpoints, resume
            Folder for checkpoints, and whether to go on from the last one.

        Raises
        ------
        TypeError, ValueError
            If a cloud, y or a parameter is not as above.
        """
        self._check_parameters()
        clouds = check_clouds(X)
        classes, target = class_numbers(y)
        if len(target) != len(clouds):
            raise ArgumentError(f"y must have one class for each of {len(clouds)} clouds, got {len(target)}.")
        self.classes_ = classes
        self.n_features_in_ = clouds[0].shape[1]
        if validation is not None:
            held_out = self._known(*validation)
        else:
            kept, held = self._parts(target)
            held_out = Clouds([clouds[i] for i in held], torch.from_numpy(target[held])) if len(held) else None
            clouds, target = [clouds[i] for i in kept], target[kept]
        self.model_ = self.build()
        data = Clouds(clouds, torch.from_numpy(target))
        self.history_: TrainingHistory | None = train(
            self.model_,
            self._loss,
            data,
            config=self.training_config(len(data)),
            out=checkpoints,
            resume=resume,
            validate=None if held_out is None else self._validation(held_out),
            description="TinvNN",
            seed_globally=False,
            settings=self.get_params(),
        )
        self.model_.cpu()
        return self

    def build(self) -> PosedClassifier:
        """The untrained network, drawn with `random_state` and nothing else."""
        dim, classes = self.n_features_in_, len(self.classes_)
        with private(self.random_state):
            if self.network == "pointnet":
                net: nn.Module = PointNet(dim, classes, dropout=self.dropout)
            else:
                net = EdgeConvNet(dim, classes, self.k, dropout=self.dropout)
        embedding = None
        if self.representation != "raw":
            signs: Any = {"pca": "none"}.get(self.representation, self.representation)
            embedding = TinvEmbedding(signs=signs, reflections=self.reflections)
        return PosedClassifier(net, embedding, self.n_points, self.augment, self.random_state)

    def training_config(self, samples: int) -> TrainingConfig:
        """AdamW with a linear rise and fall of the rate."""
        size = min(self.batch_size, samples)
        steps = self.epochs * -(-samples // size)
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=size,
            lr=self.lr,
            optimizer="adamw",
            weight_decay=self.weight_decay,
            schedule="linear",
            warmup_steps=steps // 10,
            clip_norm=1.0,
            seed=self.random_state,
        )

    def predict_proba(self, X: Any) -> Float64[np.ndarray, "n classes"]:
        """Probability of each of `classes_`."""
        check_is_fitted(self, "model_")
        clouds = check_clouds(X, self.n_features_in_)
        return self._logits(clouds).double().softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The class of each cloud."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]

    # -- saving --------------------------------------------------------------------------------------------------------

    def _learnt(self) -> dict[str, Any]:
        return {**encoded(self.classes_), "dim": self.n_features_in_}

    def _restore(self, config: Mapping[str, Any]) -> None:
        self.classes_, self.n_features_in_ = decoded(config), config["dim"]

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        check_choice("representation", self.representation, Representation)
        check_choice("network", self.network, Network)
        check_choice("augment", self.augment, Augment)
        if self.n_points is not None:
            check_whole("n_points", self.n_points, 2)
        for name, least in (("epochs", 1), ("batch_size", 1), ("k", 1), ("random_state", 0)):
            check_whole(name, getattr(self, name), least)
        for name in ("label_smoothing", "dropout", "validation_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} must be at least 0 and below 1.")

    def _parts(self, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices for training, and those of each class that are held out."""
        rng = np.random.default_rng(self.random_state)
        held = []
        for label in range(len(self.classes_)) if self.validation_fraction else ():
            members = rng.permutation(np.flatnonzero(target == label))
            held.append(members[: round(self.validation_fraction * len(members))])
        out = np.sort(np.concatenate(held)) if held else np.array([], np.int64)
        return np.setdiff1d(np.arange(len(target)), out), out

    def _known(self, X: Any, y: ArrayLike) -> Clouds:
        clouds, labels = check_clouds(X, self.n_features_in_), column_or_1d(y)
        if len(labels) != len(clouds):
            raise ArgumentError(f"validation has {len(clouds)} clouds and {len(labels)} classes.")
        if unknown := set(labels.tolist()) - set(self.classes_.tolist()):
            raise ArgumentError(f"validation has the class {sorted(unknown)[0]!r}, which training has not.")
        return Clouds(clouds, torch.from_numpy(np.searchsorted(self.classes_, labels)))

    def _loss(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        X, mask, target = batch
        return F.cross_entropy(model(X, mask), target, label_smoothing=self.label_smoothing)

    def _validation(self, held_out: Clouds) -> Callable[[nn.Module], dict[str, float]]:
        def validate(_: nn.Module) -> dict[str, float]:
            logits = self._logits(held_out.clouds)
            right = (logits.argmax(1) == held_out.targets).double().mean()
            return {"loss": float(F.cross_entropy(logits, held_out.targets)), "accuracy": float(right)}

        return validate

    @torch.no_grad()
    def _logits(self, clouds: Any) -> Float[Tensor, "n classes"]:
        self.model_.eval()
        device = next(self.model_.parameters()).device
        order = np.argsort([len(cloud) for cloud in clouds], kind="stable")
        outputs = torch.empty(len(clouds), len(self.classes_))
        frames = 2**self.n_features_in_ if self.representation in ("frames", "random") else 1
        while len(order):
            count = max(1, POINTS_AT_ONCE // (frames * len(clouds[order[min(len(order), 256) - 1]])))
            rows, order = order[: min(count, 256)], order[min(count, 256) :]
            X, mask = padded([clouds[i] for i in rows])
            mask = None if mask is None else mask.to(device)
            outputs[torch.from_numpy(rows)] = self.model_(X.to(device), mask).float().cpu()
        return outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array, tags.input_tags.two_d_array = True, False
        return tags


class PosedClassifier(nn.Module):
    """A classifier of clouds: what training does to them, the pose, and the network.

    Parameters
    ----------
    net
        Of (B, n, d) and a mask.
    embedding
        None for coordinates that are only centred and scaled.
    n_points, augment
        As of `PointCloudClassifier`.
    seed
        Of what training draws.
    """

    def __init__(
        self, net: nn.Module, embedding: TinvEmbedding | None, n_points: int | None, augment: Augment, seed: int
    ) -> None:
        super().__init__()
        self.wrapper = TinvWrapper(net, embedding)
        self.raw, self.n_points, self.augment = embedding is None, n_points, augment
        self.draws = TrainingDraws(seed)

    def forward(
        self, X: Float[Tensor, "batch n d"], mask: Bool[Tensor, "batch n"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        generator = None
        if self.training:
            generator = self.draws.next()
            if self.n_points is not None:
                X, mask = subsets(X, mask, self.n_points, generator)
            if self.augment == "so3":
                X = X @ rotations(len(X), X.shape[-1], generator).to(X)
        if self.raw:
            H = centred_and_scaled(X, mask)
            return self.wrapper.net(H) if mask is None else self.wrapper.net(H, mask)
        return self.wrapper(X, mask, generator)


def centred_and_scaled(X: Float[Tensor, "batch n d"], mask: Bool[Tensor, "batch n"] | None) -> Tensor:
    """Mean zero and root mean square 1 in the orientation that the points came in."""
    there = torch.ones_like(X[..., :1]) if mask is None else mask.unsqueeze(-1).to(X)
    count = there.sum(1, keepdim=True).double()
    centred = (X.double() - (X.double() * there).sum(1, keepdim=True) / count) * there
    size = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
    return (centred / torch.where(size > 0, size, 1.0)).to(X.dtype)
