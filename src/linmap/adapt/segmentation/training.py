"""A segmenter adapted to images and masks: built, trained, measured, saved and loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import torch
from jaxtyping import UInt8
from peft import inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap import artifacts
from linmap.adapt.salt import SaltConfig, salt_regularization
from linmap.adapt.salt.weight import Relu
from linmap.adapt.segmentation.metrics import dice, hd95, segmentation_loss
from linmap.adapt.segmentation.segmenter import TARGETS, Segmenter, probabilities
from linmap.data.masks import Augmented, MaskedImages, resized
from linmap.data.schema import Count, Range, typed
from linmap.errors import ArgumentError, ArtifactError
from linmap.training import TrainingConfig, TrainingHistory, train

Adapt = Callable[[nn.Module], None]
"""Makes what is to be trained of an encoder require a gradient."""


def put_salt(encoder: nn.Module, *, train_norms: bool = False, **options: Any) -> None:
    """Put SALT on the 1 x 1 convolutions of a segmenter's encoder.

    Parameters
    ----------
    encoder
        Of a `Segmenter`.
    train_norms
        Train scale and shift of the normalisation layers too.
    **options
        Of `SaltConfig`: `ratio`, `r`, `relu`, ...
    """
    norms = ("norm",) if train_norms else ()
    inject_adapter_in_model(SaltConfig(target_modules=TARGETS, also_train=norms, **options), encoder)


def build_segmenter(adapt: Adapt | None, seed: int) -> Segmenter:
    """A segmenter whose decoder and adapters are drawn from the seed; without `adapt`, the encoder stays frozen."""
    torch.manual_seed(seed)
    model = Segmenter()
    if adapt is not None:
        adapt(model.encoder)
    return model


def adapter_parameters(adapt: Adapt | None) -> int:
    """Trainable parameters of the encoder."""
    return sum(p.numel() for p in build_segmenter(adapt, 0).trainable()[0])


def salt_rank(ratio: float, budget: int) -> int:
    """The largest rank with which SALT has no more parameters: 2 k + 2 r (q - k) in each weight."""
    layers = [m for name, m in build_segmenter(None, 0).encoder.named_modules() if re.fullmatch(TARGETS, f".{name}")]
    sizes = [min(m.out_channels, m.in_channels) for m in layers if isinstance(m, nn.Conv2d)]
    tuned = [(q, max(1, int(ratio * q))) for q in sizes]
    r = 1
    while sum(2 * k + 2 * min(r + 1, q - k) * (q - k) for q, k in tuned) <= budget and r < max(sizes):
        r += 1
    return r


def train_segmenter(
    model: Segmenter,
    data: MaskedImages,
    config: TrainingConfig,
    adapter_lr: float,
    *,
    augment: bool = True,
    regularization: float = 0.0,
    validation: MaskedImages | None = None,
    losses: list[float] | None = None,
    **options: Any,
) -> TrainingHistory:
    """Train decoder and adapters on Dice plus focal loss.

    Parameters
    ----------
    model, data
        The segmenter, changed in place, and what it learns.
    config
        The training; its learning rate is the decoder's.
    adapter_lr
        Learning rate of what is trained in the encoder.
    augment
        Change the images at random.
    regularization
        Weight of SALT's penalty on changes of the singular values and on the update.
    validation
        Images on whose Dice the best epoch is chosen.
    losses
        Receives the training loss of every step, without the penalty.
    **options
        Of `linmap.training.train`: `out`, `resume`, `description`, ...
    """

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = segmentation_loss(model(batch[0]), batch[1])
        if losses is not None:
            losses.append(float(value.detach()))
        return value + regularization * salt_regularization(model) if regularization else value

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(model, Segmenter)
        encoder, decoder = model.trainable()
        found = [{"params": decoder}]
        return [*found, {"params": encoder, "lr": adapter_lr}] if encoder else found

    def validate(model: nn.Module) -> dict[str, float]:
        assert validation is not None
        return {"loss": 1 - float(np.mean(measure(model, validation)["dice"]))}

    samples = Augmented(data) if augment else TensorDataset(data.images, data.masks)
    settings = options.pop("settings", {}) | {"regularization": regularization}
    return train(
        model,
        loss,
        samples,
        config=config,
        validate=None if validation is None else validate,
        parameter_groups=groups,
        settings=settings,
        **options,
    )


def measure(model: nn.Module, data: MaskedImages) -> dict[str, list[float]]:
    """Dice ("dice") and the 95th percentile of the surface distances ("hd95") of each image, at threshold 0.5."""
    masks = (probabilities(model, data.images) > 0.5).numpy()[:, 0]
    pairs = list(zip(masks, data.masks[:, 0].numpy(), strict=True))
    return {"dice": [dice(*pair) for pair in pairs], "hd95": [hd95(*pair) for pair in pairs]}


def masks_of(
    model: nn.Module, images: Tensor, shapes: Mapping[str, tuple[int, int]]
) -> Iterator[tuple[str, UInt8[np.ndarray, "height width"]]]:
    """The name and the mask (0 and 1) of each image, at the size that it had.

    Parameters
    ----------
    model
        The segmenter.
    images, shapes
        From `linmap.data.masks.load_images`: (samples, 1, size, size), and the size of each image by its name.
    """
    for probability, (name, shape) in zip(probabilities(model, images), shapes.items(), strict=True):
        yield name, (resized(probability[0], shape)[0] > 0.5).numpy().astype(np.uint8)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What an adapted segmenter is made of beyond the encoder that everybody has."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name in names or "fingerprint_" in name}


def save_segmenter(folder: Path, model: nn.Module, size: int, options: Mapping[str, Any], seed: int = 0) -> None:
    """Write what was trained of a segmenter that `put_salt` adapted.

    Parameters
    ----------
    folder
        For `config.json` and `model.safetensors`.
    model
        The segmenter.
    size
        Pixels of a side that its images are resized to.
    options
        Those of `put_salt`: `ratio`, `r`, `relu` and `train_norms`.
    seed
        Of the training.
    """
    described = {"task": "segmentation", "size": size, **options}
    artifacts.save(folder, "salt", described, trained_state(model), seed)


class Saved(TypedDict):
    """What `save_segmenter` says of a segmenter."""

    task: Literal["segmentation"]
    size: Annotated[int, Range(32, 2**13)]
    ratio: Annotated[float, Range(0, 1)]
    r: Count
    relu: Relu
    train_norms: bool


def load_segmenter(folder: Path) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter of a folder, in evaluation mode, and how it was made ("size" is that of its images).

    Raises
    ------
    ArtifactError
        If the folder holds no readable segmenter.
    """
    config, tensors = artifacts.load(folder, "salt")
    if config.get("task", "segmentation") != "segmentation":
        raise ArtifactError(f"{folder} holds an adapter of texts, not a segmenter.")
    with artifacts.reading(folder):
        saved = typed(Saved, config, "config")
        if saved["size"] % 32:
            raise ArgumentError(f"size is {saved['size']}, no multiple of 32")
        options = {name: config[name] for name in ("ratio", "r", "relu", "train_norms")}
        model = build_segmenter(partial(put_salt, **options), seed=0)
        artifacts.check_names(tensors, trained_state(model), "model.safetensors")
        model.load_state_dict(tensors, strict=False)
    return model.eval(), config
