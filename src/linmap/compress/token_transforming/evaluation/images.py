"""Images that a vision transformer reads, with or without classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.encoders import find_encoder
from linmap.compress.token_transforming import Compressed, TokenTransform
from linmap.compress.token_transforming.evaluation.predictions import Head
from linmap.compress.token_transforming.evaluation.subject import Measure, Subject, blocks_of, plain_macs, restored
from linmap.compress.token_transforming.evaluation.ways import early_enough, stages
from linmap.data.image_preparation import ImagePreparation
from linmap.data.image_sets import ImageSet
from linmap.errors import ArgumentError

PATCHES = Measure("patch cosine", "higher", 1.0, 0.02)
POOLED = Measure("class cosine", "higher", 1.0, 0.02)
ACCURACY = Measure("accuracy", "higher", math.nan, 0.01)


class Images(Subject):
    """A vision transformer and images.

    Parameters
    ----------
    model
        In eval mode, as Transformers loads it.
    images
        Read when they are needed.
    preparation
        What the model wants of them.
    batch_size
        Images that go through together.
    predicts
        Whether a classifier runs with its head.
    """

    what = "images"
    keeps = (0.75, 0.65, 0.5, 0.35)
    places = "a quarter, half and three quarters of the depth, or earlier at the same cost"

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        preparation: ImagePreparation,
        batch_size: int,
        predicts: bool = False,
    ) -> None:
        self.images, self.preparation, self.batch_size = images, preparation, batch_size
        encoder = vision_tower(model)
        self.model, self.head = (model, Head(model, encoder)) if predicts else (encoder, None)
        self.names, self.measures = images.names, (PATCHES, POOLED)
        self.config = encoder.config
        self.depth = int(self.config.num_hidden_layers)
        self._inputs: tuple[int, Tensor] | None = None
        self._shape: tuple[int, ...] = ()

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def inputs(self, batch: int) -> Float[Tensor, "images 3 height width"]:
        """The prepared images of a batch; the last is kept."""
        if self._inputs is None or self._inputs[0] != batch:
            rows = range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.images)))
            prepared = self.preparation.batch(self.images[row] for row in rows)
            check_pixels(prepared, self.config)
            parameter = next(self.model.parameters())
            self._inputs = batch, prepared.to(parameter.device, parameter.dtype)
            self._shape = tuple(prepared.shape)
        return self._inputs[1]

    def example(self, batch: int) -> dict[str, Any]:
        x = self.inputs(batch)
        return {"pixel_values": x, **self._interpolation(x)}

    @torch.no_grad()
    def forward(self, batch: int) -> Any:
        return self.model(**self.example(batch))

    def features(self, batch: int, handle: Compressed | None = None) -> dict[str, Tensor]:
        found = self.encoded(batch)
        tokens = restored(handle, found.last_hidden_state)
        prefix = self.prefix
        if (pooled := getattr(found, "pooler_output", None)) is None:
            pooled = tokens[:, 0] if prefix else self._mean(found.last_hidden_state, handle)
        return {"pooled": pooled, "patches": tokens[:, prefix:]}

    def vectors(self, batch: int, handle: Compressed, kind: Literal["class", "mean", "both"]) -> Tensor:
        """One vector an image: the class token or what the model pools, the mean patch, or both."""
        found = self.encoded(batch)
        tokens = found.last_hidden_state
        prefix = self.prefix
        as_mean = not handle.transforms or tokens.shape[1] == prefix + 1  # a head that wants the mean has got it
        mean = tokens[:, prefix:].mean(1) if as_mean else handle.pool(tokens, skip=prefix)
        if (pooled := getattr(found, "pooler_output", None)) is None:
            pooled = tokens[:, 0] if prefix else mean
        return {"class": pooled, "mean": mean, "both": torch.cat([pooled, mean], 1)}[kind]

    def _mean(self, tokens: Tensor, handle: Compressed | None) -> Tensor:
        return tokens.mean(1) if handle is None else handle.pool(tokens)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of the last batch."""
        return self._shape[2] // self.config.patch_size, self._shape[3] // self.config.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image of the last batch."""
        return math.prod(self.grid)

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: of the class, of distillation, registers."""
        registers = int(getattr(self.config, "num_register_tokens", 0) or 0)
        distilled = int(self.config.model_type == "deit")
        return registers + distilled + int("siglip" not in self.config.model_type)

    @property
    def tokens(self) -> int:
        """Tokens of an image of the last batch."""
        return self.patches + self.prefix

    def budget(self, transform: TokenTransform, keep: float, at: Sequence[int] | None) -> dict[str, Any]:
        if not self._shape:
            self.inputs(0)
        sizes = self.tokens, self.config.hidden_size, self.depth
        blocks = blocks_of(self, at)
        if at is None:
            keep, blocks = early_enough(keep, blocks, *sizes)
        return {"stages": stages(transform, keep, blocks, *sizes)}

    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        patches = F.cosine_similarity(before["patches"], after["patches"], dim=-1).mean(-1)
        pooled = F.cosine_similarity(before["pooled"], after["pooled"], dim=-1)
        return {PATCHES.name: patches.tolist(), POOLED.name: pooled.tolist()}

    def macs(self, handle: Compressed | None) -> float:
        return float(plain_macs(self.model, self.tokens) if handle is None else handle.macs(self.tokens))

    def _interpolation(self, x: Tensor) -> dict[str, bool]:
        """Positions for another size than the model was trained at; DINOv2 interpolates by itself."""
        size = self.config.image_size
        trained = (size, size) if isinstance(size, int) else tuple(size)
        if tuple(x.shape[-2:]) == trained or "dinov2" in self.config.model_type:
            return {}
        return {"interpolate_pos_encoding": True}


class LabelledImages(Images):
    """With classes: a linear classifier, fitted on the features of the model as it is, is asked about the others.

    Parameters
    ----------
    model, images, preparation, batch_size
        As of `Images`; the images are those that are measured.
    train
        Other images of the same classes, which the classifier is fitted on.
    """

    def __init__(
        self, model: nn.Module, images: ImageSet, preparation: ImagePreparation, batch_size: int, train: ImageSet
    ) -> None:
        super().__init__(model, images, preparation, batch_size)
        self.measures = (ACCURACY, PATCHES, POOLED)
        self.train = train
        self._classifier: Any = None

    def classifier(self) -> Any:
        """Logistic regression on standardised features; fitted when it is first asked for."""
        if self._classifier is None:
            self._classifier = linear_classifier(self._described(), self.train.labels)
        return self._classifier

    def _described(self) -> np.ndarray:
        other = Images(self.model, self.train, self.preparation, self.batch_size)
        return np.concatenate([described(other.features(batch)) for batch in range(len(other))])

    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        assert self.images.labels is not None
        rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        right = self.classifier().predict(described(after)) == self.images.labels[rows]
        return {ACCURACY.name: right.astype(float).tolist()} | super().scores(before, after, batch)


def described(features: dict[str, Tensor]) -> Float[np.ndarray, "images width"]:
    """An image as its class token and its mean patch."""
    parts = [features["pooled"], features["patches"].mean(1)]
    return torch.cat(parts, 1).float().cpu().numpy()


def linear_classifier(features: Float[np.ndarray, "images width"], labels: np.ndarray | None) -> Any:
    """Logistic regression (C = 1) on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert labels is not None
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(features, labels)


def vision_tower(model: Any) -> Any:
    """The part of a model that reads images: CLIP and SigLIP have another for texts beside it, classifiers a head.

    Raises
    ------
    TypeError
        If it has no blocks that are recognised.
    """
    both = hasattr(model, "vision_model") and hasattr(model, "text_model")
    return find_encoder(model.vision_model if both else model).module


def check_pixels(images: Tensor, config: Any) -> None:
    """Refuse a size that patches do not divide."""
    patch = config.patch_size
    if images.shape[2] % patch or images.shape[3] % patch:
        raise ArgumentError(
            f"images of {images.shape[2]} x {images.shape[3]} pixels cannot be cut into patches of {patch} x "
            f"{patch}; give a multiple of {patch}."
        )
