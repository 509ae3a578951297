"""Fitting with SALT: a segmenter to images and masks, or a language model or classifier to texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linmap.adapt import SaltConfig, salt_regularization
from linmap.adapt.segmentation import build_segmenter as build
from linmap.adapt.segmentation import measure, save_segmenter, train_segmenter
from linmap.adapt.segmentation import put_salt as adapt
from linmap.adapt.segmentation.training import Adapt as Adapt
from linmap.data.masks import MaskedImages, embedded_ultrasound, load_masked_images
from linmap.errors import DataError
from linmap.recipes.finetuning.fit import fit_texts
from linmap.recipes.job import FitJob
from linmap.recipes.salt.flags import FitImages, Texts


def fit(settings: FitImages | Texts, job: FitJob) -> dict[str, Any]:
    """Adapt a segmenter to a folder of images and masks, or an .npz of them; to ultrasound images without either.

    For texts, and their flags: linmap fit salt --data train.jsonl --help
    """
    return _fit_texts(settings, job) if isinstance(settings, Texts) else _fit_segmenter(settings, job)


def _fit_texts(settings: Texts, job: FitJob) -> dict[str, Any]:
    """Fine-tune a language model or a classifier."""

    def penalty(model: nn.Module) -> Tensor:
        return settings.regularization * salt_regularization(model)

    options = settings.options(target_modules=settings.targets())
    return fit_texts(
        settings,
        job,
        "language",
        lambda steps: SaltConfig(**options),
        penalty if settings.regularization else None,
        {"regularization": settings.regularization},
    )


def _fit_segmenter(settings: FitImages, job: FitJob) -> dict[str, Any]:
    """Adapt EfficientNet-lite0 to a folder of images and masks (or an .npz), and save what was trained."""
    config = settings.training(job.seed)  # refuses what does not go together before any work
    data = load(job.data, settings.size, settings.label)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(job.seed)).tolist()
    held = max(1, round(settings.validation * len(data)))
    if len(data) - held < 1:
        raise DataError(f"{job.data}: {len(data)} image is too few to train on and to choose the best epoch on.")
    model = build(partial(adapt, **settings.adapter()), job.seed)
    history = train_segmenter(
        model, data[order[held:]], config, settings.adapter_lr, augment=settings.augment,
        regularization=settings.regularization, validation=data[order[:held]], out=job.out / "training",
        resume=job.resume, settings=settings.adapter(),
    )  # fmt: skip
    save_segmenter(job.out, model, settings.size, settings.adapter(), job.seed)
    measured = measure(model, data[order[:held]])
    return {
        "artifact": str(job.out), "images": len(data), "parameters": trained_parameters(model),
        "epochs": len(history.epochs), "best_epoch": history.best_epoch,
        "validation_dice": round(float(np.mean(measured["dice"])), 4), "seconds": round(history.seconds, 1),
    }  # fmt: skip


def load(path: Path | None, size: int, label: int | None) -> MaskedImages:
    """The user's images and masks, or the embedded ultrasound, of which the vessels (2) are to be found."""
    if path is None:
        return embedded_ultrasound("train", size, 2 if label is None else label)
    return load_masked_images(path, size, label)


def trained_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
