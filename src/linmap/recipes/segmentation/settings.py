"""The flags of `linmap fit salt` and `linmap compare salt` for images with masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from linmap.errors import ArgumentError
from linmap.recipes.language.flags import flag, listed
from linmap.training import TrainingConfig


@dataclass(frozen=True)
class SegmentationSettings:
    """Flags of `linmap fit salt` for a folder of images and masks, and of `linmap compare salt`."""

    ONLY_FOR: ClassVar = {
        "fit": ("train_norms", "adapter_lr"),
        "compare": ("images", "seeds", "rates", "lora_rank"),
    }

    label: int | None = None
    """Value of the masks that is to be found; needed where they hold several. The embedded ultrasound: 1 nerves,
    2 vessels (2 when left out)."""
    size: int = 192
    """Pixels of a side that images are resized to; a multiple of 32."""
    ratio: float = 0.1
    """Share of the singular values of a weight that are scaled and shifted."""
    r: int = 8
    """Rank of the update of the others."""
    relu: Literal["all", "diag", "none"] = "all"
    """What keeps singular values from turning negative: all (as published), diag (on the diagonal alone), none."""
    regularization: float = 0.0
    """Weight of the penalty on changes of the singular values and on the update."""
    train_norms: bool = True
    """Train scale and shift of the normalisation layers too."""
    epochs: int = 40
    """Passes over the images."""
    batch_size: int = 4
    """Images of one step."""
    lr: float = 3e-3
    """Learning rate of the decoder, before it falls linearly."""
    adapter_lr: float = 3e-3
    """Learning rate of the adapters."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    augment: bool = True
    """Mirror, turn, scale and brighten the training images at random."""
    validation: float = 0.2
    """`fit`: share of the images on which the best epoch is chosen. `compare`: share of all training images, from the
    last, on which the learning rates are."""
    images: tuple[int, ...] = (20, 60, 120)
    """Numbers of training images."""
    seeds: int = 3
    """Seeds of every method."""
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    """Learning rates that every method chooses from."""
    lora_rank: int = 2
    """Rank of LoRA; SALT takes the largest rank with no more parameters."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ArgumentError(f"--size {self.size} must be a multiple of 32, for the encoder halves it five times.")
        if not 0 < self.validation < 1:
            raise ArgumentError(f"--validation {self.validation} must lie between 0 and 1.")
        for name in ("lr", "adapter_lr"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{flag(name)} {getattr(self, name)} must be positive.")
        for name in ("images", "rates"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ArgumentError(f"{flag(name)} {listed(getattr(self, name))}: expected positive numbers.")
        if min(self.images) < 4:
            raise ArgumentError(f"--images {listed(self.images)}: at least 4 are needed, to train on and to choose on.")
        for name in ("seeds", "lora_rank", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{flag(name)} {getattr(self, name)} must be at least 1.")
        if self.regularization < 0 or self.weight_decay < 0:
            raise ArgumentError("--regularization and --weight-decay must not be negative.")

    def training(self, seed: int) -> TrainingConfig:
        return TrainingConfig(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, optimizer="adamw", schedule="linear",
            weight_decay=self.weight_decay, seed=seed,
        )  # fmt: skip

    def adapter(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("ratio", "r", "relu")}


PRESETS = {
    "quick": SegmentationSettings(size=96, epochs=10, lr=1e-2, images=(20,), rates=(3e-3, 1e-2), validation=0.3),
    "full": SegmentationSettings(epochs=15, validation=0.3),
}
