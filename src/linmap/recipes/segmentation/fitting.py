"""Train a segmenter on images and masks, save it, and use it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap import artifacts
from linmap.data import find
from linmap.data.masks import Augmented, MaskedImages, embedded_ultrasound, load_images, load_masked_images, resized
from linmap.errors import ArtifactError, DataError, UsageError
from linmap.recipes.job import ApplyJob, FitJob
from linmap.recipes.segmentation.metrics import dice, hd95, segmentation_loss
from linmap.recipes.segmentation.model import TARGETS, Segmenter, probabilities
from linmap.recipes.segmentation.settings import SegmentationSettings
from linmap.training import TrainingConfig, TrainingHistory, train

Adapt = Callable[[nn.Module], None]


def fit(settings: SegmentationSettings, job: FitJob) -> dict[str, Any]:
    """Adapt EfficientNet-lite0 to a folder of images and masks (or an .npz), and save what was trained."""
    data = load(job.data, settings, "train")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(job.seed)).tolist()
    held = max(1, round(settings.validation * len(data)))
    if len(data) - held < 1:
        raise DataError(f"{job.data}: {len(data)} image is too few to train on and to choose the best epoch on.")
    model = build(partial(adapt, **settings.adapter(), train_norms=settings.train_norms), job.seed)
    history = train_segmenter(
        model, data[order[held:]], settings.training(job.seed), settings, settings.adapter_lr,
        validation=data[order[:held]], out=job.out / "training", resume=job.resume,
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


def apply(settings: object, job: ApplyJob) -> dict[str, Any]:
    """Write the mask of every image as a PNG of 0 and 255 at the image's size; Dice too where there are masks."""
    if job.artifact is None:
        raise UsageError("salt needs a fitted run: `linmap fit salt --data FOLDER --out DIR`, then apply DIR.")
    model, config = load_segmenter(job.artifact)
    out = job.out or job.artifact / "masks"
    if out.suffix or out.is_file():
        raise UsageError(f"--out {out}: masks are written into a folder; give one.")
    images, shapes = load_images(job.data or find("salt/usgra_test.npz", "Reinstall linmap."), config["size"])
    found = probabilities(model, images)
    pixels = 0.0
    for probability, (name, shape) in zip(found, shapes.items(), strict=True):
        mask = (resized(probability[0], shape)[0] > 0.5).numpy()
        pixels += float(mask.mean())
        with artifacts.atomic_path(out / f"{name}.png") as partial_file:
            Image.fromarray(255 * mask.astype(np.uint8)).save(partial_file)
    return {"masks": str(out), "images": len(images), "share_of_pixels": round(pixels / len(images), 4)}


def load(path: Path | None, settings: SegmentationSettings, part: str) -> MaskedImages:
    """The user's images, or the embedded ones."""
    if path is None:
        return embedded_ultrasound(part, settings.size, 2 if settings.label is None else settings.label)
    return load_masked_images(path, settings.size, settings.label)


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
    from peft import inject_adapter_in_model

    from linmap.adapt import SaltConfig

    norms = ("norm",) if train_norms else ()
    inject_adapter_in_model(SaltConfig(target_modules=TARGETS, also_train=norms, **options), encoder)


def trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What a fitted segmenter is made of beyond the encoder that everybody has."""
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = model.state_dict()
    return {name: value for name, value in state.items() if name in names or "fingerprint_" in name}


def load_segmenter(folder: Path) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter that `fit` saved in a folder, in evaluation mode, and its settings.

    Raises
    ------
    ArtifactError
        If the folder holds no readable segmenter.
    """
    config, tensors = artifacts.load(folder, "salt")
    try:
        if config["task"] != "segmentation":
            raise ArtifactError(f"{folder} holds an adapter of texts, not a segmenter.")
        options = {name: config[name] for name in ("ratio", "r", "relu", "train_norms")}
        model = build(partial(adapt, **options), seed=0)
        expected = set(trained_state(model))
        if expected != set(tensors):
            raise ArtifactError(f"{folder} is damaged: its arrays are not those of a segmenter; fit it again.")
        model.load_state_dict(tensors, strict=False)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{folder} is damaged ({error}); fit it again.") from None
    return model.eval(), config


# -- training and measuring ------------------------------------------------------------------------------------------


def train_segmenter(
    model: Segmenter,
    data: MaskedImages,
    config: TrainingConfig,
    settings: SegmentationSettings,
    adapter_lr: float,
    *,
    validation: MaskedImages | None = None,
    losses: list[float] | None = None,
    **options: Any,
) -> TrainingHistory:
    """Dice plus focal loss; encoder and decoder at a learning rate each.

    `losses` receives the training loss of every step; `options` are those of `linmap.training.train`.
    """

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        value = segmentation_loss(model(batch[0]), batch[1])
        if losses is not None:
            losses.append(float(value.detach()))
        if settings.regularization:
            from linmap.adapt import salt_regularization

            value = value + settings.regularization * salt_regularization(model)
        return value

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        encoder, decoder = model.trainable()  # pyright: ignore[reportCallIssue]
        found = [{"params": decoder}]
        return [*found, {"params": encoder, "lr": adapter_lr}] if encoder else found

    def validate(model: nn.Module) -> dict[str, float]:
        assert validation is not None
        measured = measure(model, validation)
        return {"loss": 1 - float(np.mean(measured["dice"]))}

    samples = Augmented(data) if settings.augment else TensorDataset(data.images, data.masks)
    return train(
        model, loss, samples, config=config, validate=None if validation is None else validate,
        parameter_groups=groups, **options,
    )  # fmt: skip


def measure(model: nn.Module, data: MaskedImages) -> dict[str, list[float]]:
    """Dice and HD95 of each image at threshold 0.5."""
    masks = (probabilities(model, data.images) > 0.5).numpy()[:, 0]
    pairs = list(zip(masks, data.masks[:, 0].numpy(), strict=True))
    return {"dice": [dice(*pair) for pair in pairs], "hd95": [hd95(*pair) for pair in pairs]}
