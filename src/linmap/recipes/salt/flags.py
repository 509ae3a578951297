"""The flags of SALT, for images with masks and for texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from linmap.errors import ArgumentError, ArtifactError
from linmap.recipes.derived import Derived, Other, flags
from linmap.recipes.finetuning.flags import PEFT_FIELDS, Answering, FineTuning

if TYPE_CHECKING:
    from linmap.training import TrainingConfig

TEXTS = (".jsonl", ".json", ".csv", ".txt")
SALT, TRAINING = "linmap.adapt.salt.config:SaltConfig", "linmap.training.config:TrainingConfig"
SHARE = Other(0.1, "what SaltConfig takes where neither ratio nor k is given, and k is no flag")
TRAINED_ELSEWHERE = (
    "max_steps", "optimizer", "betas", "momentum", "schedule", "warmup_steps", "warmup_epochs", "accumulation",
    "clip_norm", "precision", "patience", "checkpoint_every", "seed",
)  # fmt: skip
SMALL = {
    "batch_size": Other(4, "there are few images"),
    "weight_decay": Other(1e-2, "few images are soon learnt by heart"),
}


@flags
class Texts(FineTuning):
    __doc__ = FineTuning.__doc__

    OF = SALT
    LEAVE = (*PEFT_FIELDS, "k", "init", "save_basis", "save")
    OTHER: ClassVar = {
        "ratio": SHARE,
        "relu": Other("diag", "all builds every weight at each step, several times slower in a language model"),
    }

    regularization: float = 0.0
    """Weight of the penalty on changes of the singular values and on the update."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regularization < 0:
            raise ArgumentError(f"regularization={self.regularization} must not be negative.")


@flags
class Images(Derived):
    """What fitting and comparing on images with masks share."""

    OF = SALT
    LEAVE = (*PEFT_FIELDS, "k", "r", "relu", "init", "save_basis", "save", "also_train")
    OTHER: ClassVar = {"ratio": SHARE}

    label: int | None = None
    """Value of the masks that is to be found; needed where they hold several. The embedded ultrasound: 1 nerves,
    2 vessels (2 when left out)."""
    size: int = 192
    """Pixels of a side that images are resized to; a multiple of 32."""
    augment: bool = True
    """Mirror, turn, scale and brighten the training images at random."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise ArgumentError(f"size={self.size} must be a multiple of 32, for the encoder halves it five times.")
        if not 0 < self.validation < 1:
            raise ArgumentError(f"validation={self.validation} must lie between 0 and 1.")

    def training(self, seed: int) -> TrainingConfig:
        """The training of a segmenter."""
        from linmap.training import TrainingConfig

        return TrainingConfig(**self.options(optimizer="adamw", schedule="linear", seed=seed))


@flags
class FitImages(Images):
    """Adapt a segmenter to a folder of images and masks, or an .npz of them; to ultrasound images without either.

    For texts, and their flags: linmap fit salt --data train.jsonl --help
    """

    OF, LEAVE = TRAINING, TRAINED_ELSEWHERE
    OTHER: ClassVar = SMALL | {
        "epochs": Other(40, "an epoch of few images is a second"),
        "lr": Other(3e-3, "of the decoder, which starts from nothing"),
    }

    lr: float = 3e-3
    """Learning rate of the decoder, before it falls linearly."""
    r: int = 8
    """Rank of the update of the other singular values."""
    relu: Literal["all", "diag", "none"] = "all"
    """What keeps singular values from turning negative: all (as published), diag (on the diagonal alone), none."""
    regularization: float = 0.0
    """Weight of the penalty on changes of the singular values and on the update."""
    train_norms: bool = True
    """Train scale and shift of the normalisation layers too."""
    adapter_lr: float = 3e-3
    """Learning rate of the adapters."""
    validation: float = 0.2
    """Share of the images on which the best epoch is chosen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.adapter_lr > 0:
            raise ArgumentError(f"adapter_lr={self.adapter_lr} must be positive.")
        if self.regularization < 0:
            raise ArgumentError(f"regularization={self.regularization} must not be negative.")

    def adapter(self) -> dict[str, Any]:
        """The arguments of SaltConfig that a fitted run remembers."""
        return self.options(Images, r=self.r, relu=self.relu, train_norms=self.train_norms)


@flags
class CompareImages(Images):
    """Compare ways to adapt a segmenter on a folder of images and masks, or an .npz; on ultrasound without --data.

    Every fourth image is for the test alone.
    """

    OF, LEAVE = TRAINING, TRAINED_ELSEWHERE
    OTHER: ClassVar = SMALL | {"lr": Other(1e-2, "of the decoder, which has only --epochs to learn")}

    lr: float = 1e-2
    """Learning rate of the decoder, before it falls linearly."""
    size: int = 96
    """Pixels of a side that images are resized to; a multiple of 32."""
    images: tuple[int, ...] = (20,)
    """Numbers of training images, the first ones."""
    seeds: int = 3
    """Seeds of every method."""
    rates: tuple[float, ...] = (3e-3, 1e-2)
    """Learning rates of the encoder that every method chooses from."""
    validation: float = 0.3
    """Share of the training images, the last ones, on which the learning rates are chosen."""
    lora_rank: int = 2
    """Rank of LoRA; SALT takes the largest rank with no more parameters."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images", "rates"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ArgumentError(f"{name}={getattr(self, name)}: expected positive numbers.")
        if min(self.images) < 4:
            raise ArgumentError(f"images={self.images}: at least 4 are needed, to train on and to choose on.")
        for name in ("seeds", "lora_rank"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} must be at least 1.")


@dataclass(frozen=True)
class Segmenting:
    """Write a mask for each image of a folder or an .npz."""


def fitting(path: Path | None) -> type:
    """The flags for a file of texts, or for images."""
    return Texts if path is not None and path.name.removesuffix(".gz").endswith(TEXTS) else FitImages


def applying(path: Path | None) -> type:
    """The flags for what was fitted to texts, or to images."""
    if path is None:
        return Answering
    from linmap.artifacts import read_config

    try:
        task = read_config(path)["config"].get("task")
    except ArtifactError:  # loading it says what is wrong with it
        task = None
    return Segmenting if task == "segmentation" else Answering
