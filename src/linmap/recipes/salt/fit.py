"""Fitting with SALT: a segmenter to images and masks, or a language model or classifier to texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap import artifacts
from linmap.adapt import SaltConfig, salt_regularization
from linmap.adapt.segmentation import TARGETS, Segmenter, dice, hd95, probabilities, segmentation_loss
from linmap.data.masks import Augmented, MaskedImages, embedded_ultrasound, load_masked_images
from linmap.errors import DataError
from linmap.recipes.finetuning.fit import Method, fine_tune
from linmap.recipes.job import FitJob
from linmap.recipes.salt.flags import FitImages, Texts
from linmap.training import TrainingConfig, TrainingHistory, train

Adapt = Callable[[nn.Module], None]


def fit(settings: FitImages | Texts, job: FitJob) -> dict[str, Any]:
    """Adapt a segmenter to a folder of images and masks, or an .npz of them; to ultrasound images without either.

    For texts, and their flags: linmap fit salt --data train.jsonl --help
    """
    if isinstance(settings, Texts):
        return fine_tune(settings, job, method(settings))
    return _fit_segmenter(settings, job)


def method(settings: Texts) -> Method:
    """What SALT brings to fine-tuning on texts."""

    def penalty(model: nn.Module) -> Tensor:
        return settings.regularization * salt_regularization(model)

    return Method("salt", "language", lambda steps: SaltConfig(**settings.options()),
                  penalty=penalty if settings.regularization else None)  # fmt: skip


def _fit_segmenter(settings: FitImages, job: FitJob) -> dict[str, Any]:
    """Adapt EfficientNet-lite0 to a folder of images and masks (or an .npz), and save what was trained."""
    config = settings.training(job.seed)  # refuses what does not go together before any work
    data = load(job.data, settings.size, settings.label)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(job.seed)).tolist()
    held = max(1, round(settings.validation * len(data)))
    if len(data) - held < 1:
        raise DataError(f"{job.data}: {len(data)} image is too few to train on and to choose the best epoch on.")
    model = build(partial(adapt, **settings.adapter(), train_norms=settings.train_norms), job.seed)
    history = train_segmenter(
        model, data[order[held:]], config, settings.adapter_lr, augment=settings.augment,
        regularization=settings.regularization, validation=data[order[:held]], out=job.out / "training",
        resume=job.resume,
    )  # fmt: skip
    kept = trained_state(model)
    described = {"task": "segmentation", "size": settings.size, "train_norms": settings.train_norms}
    artifacts.save(job.out, "salt", described | settings.adapter(), kept, job.seed)
    measured = measure(model, data[order[:held]])
    return {
        "artifact": str(job.out), "images": len(data), "parameters": sum(p.numel() for p in trained(model)),
        "epochs": len(history.epochs), "best_epoch": history.best_epoch,
        "validation_dice": round(float(np.mean(measured["dice"])), 4), "seconds": round(history.seconds, 1),
    }  # fmt: skip


def load(path: Path | None, size: int, label: int | None) -> MaskedImages:
    """The user's images and masks, or the embedded ultrasound, of which the vessels (2) are to be found."""
    if path is None:
        return embedded_ultrasound("train", size, 2 if label is None else label)
    return load_masked_images(path, size, label)


# -- the model -------------------------------------------------------------------------------------------------------


def build(adapt: Adapt | None, seed: int) -> Segmenter:
    """A segmenter with adapters in its encoder, drawn from the seed."""
    torch.manual_seed(seed)
    model = Segmenter()
    if adapt is not None:
        adapt(model.encoder)
    return model


def adapt(encoder: nn.Module, *, train_norms: bool = False, **options: Any) -> None:
    """Put SALT on the 1 x 1 convolutions."""
    norms = ("norm",) if train_norms else ()
    inject_adapter_in_model(SaltConfig(target_modules=TARGETS, also_train=norms, **options), encoder)


def trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What a fitted segmenter is made of beyond the encoder that everybody has."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = model.state_dict()
    return {name: value for name, value in state.items() if name in names or "fingerprint_" in name}


# -- training and measuring ------------------------------------------------------------------------------------------


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
    """Dice plus focal loss; encoder and decoder at a learning rate each.

    `augment` changes the images at random, `losses` receives the training loss of every step; `options` are those of
    `linmap.training.train`.
    """

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = segmentation_loss(model(batch[0]), batch[1])
        if losses is not None:
            losses.append(float(value.detach()))
        if regularization:
            value = value + regularization * salt_regularization(model)
        return value

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        assert isinstance(model, Segmenter)
        encoder, decoder = model.trainable()
        found = [{"params": decoder}]
        return [*found, {"params": encoder, "lr": adapter_lr}] if encoder else found

    def validate(model: nn.Module) -> dict[str, float]:
        assert validation is not None
        measured = measure(model, validation)
        return {"loss": 1 - float(np.mean(measured["dice"]))}

    samples = Augmented(data) if augment else TensorDataset(data.images, data.masks)
    return train(
        model, loss, samples, config=config, validate=None if validation is None else validate,
        parameter_groups=groups, **options,
    )  # fmt: skip


def measure(model: nn.Module, data: MaskedImages) -> dict[str, list[float]]:
    """Dice and HD95 of each image at threshold 0.5."""
    masks = (probabilities(model, data.images) > 0.5).numpy()[:, 0]
    pairs = list(zip(masks, data.masks[:, 0].numpy(), strict=True))
    return {"dice": [dice(*pair) for pair in pairs], "hd95": [hd95(*pair) for pair in pairs]}
