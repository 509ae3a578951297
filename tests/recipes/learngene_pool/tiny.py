"""Images and models of a few numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

TINY: dict[str, Any] = {
    "size": 14, "widths": (8, 12), "heads": (2, 2), "depth": 2, "ancestry_epochs": 1, "epochs": 1, "tune_epochs": 1,
}  # fmt: skip


def write_archive(path: Path, classes: int = 3, each: int = 10) -> Path:
    """Grey images whose brightest quarter tells the class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    images = random.integers(0, 100, (len(labels), 14, 14))
    for image, label in zip(images, labels, strict=True):
        image[7 * (label // 2) : 7 * (label // 2) + 7, 7 * (label % 2) : 7 * (label % 2) + 7] += 150
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def save_dinov2(folder: Path) -> Path:
    """A small DINOv2 as Transformers saves it, with its preprocessor."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=7)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor().save_pretrained(folder)
    return folder
