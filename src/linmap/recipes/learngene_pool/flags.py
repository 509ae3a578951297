"""The flags of Learngene Pool on images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, Other, flags

TRAINING = "linmap.training.config:TrainingConfig"
FIXED = (
    "max_steps", "optimizer", "betas", "momentum", "schedule", "warmup_steps", "warmup_epochs", "accumulation",
    "clip_norm", "precision", "patience", "checkpoint_every", "seed",
)  # fmt: skip
DECAY = Other(0.05, "that of the paper, with AdamW")
Stitches = Literal["lstsq", "transform", "pinv", "composed", "random"]


@flags
class Images(Derived):
    """What fitting and comparing share."""

    OF, LEAVE = TRAINING, FIXED
    OTHER: ClassVar = {"weight_decay": DECAY}

    model: str | None = None
    """The ancestry model: a ViT or DINOv2 as a folder that Transformers loads, an id on the Hugging Face Hub, or
    dinov2-small; a linear head is fitted on its features. When left out, a small one is trained on the images first."""
    size: int | None = None
    """Pixels of a side that images are resized to, a multiple of the patches'. When left out: what the folder of
    --model says, or 28."""
    patch: int = 7
    """Pixels of a side of a patch; with --model they are the model's own."""
    widths: tuple[int, ...] | None = None
    """Of the auxiliaries, from narrow to wide. When left out: a quarter, a half and all of the width of --model, or
    32 96."""
    heads: tuple[int, ...] | None = None
    """Attention heads of each. When left out: of the size of the ancestry's, or a little smaller."""
    depth: int | None = None
    """Blocks of each auxiliary. When left out: half of those of --model, or 3."""
    nearest: bool = False
    """Stitch only auxiliaries of neighbouring widths, and two at most, as in SN-Net."""
    teacher_blocks: bool = True
    """Start an auxiliary of the ancestry's width and heads from its blocks, not from nothing."""
    blocks_lr: float | None = None
    """Learning rate of such an auxiliary. When left out: 1e-4 with --model, else that of the others, --lr."""
    ancestry_epochs: int = 20
    """Passes over the images in which an ancestry model is trained, without --model."""
    tune_epochs: int = 10
    """Passes in which the pool is tuned."""
    tune_lr: float = 5e-4
    """Learning rate of that."""
    stitches: Stitches = "lstsq"
    """How stitches start: by least squares, from the matrices of the distillation (transform, as in the paper, pinv,
    composed), or random."""
    sampler: Literal["uniform", "budget", "sandwich"] = "uniform"
    """Which models a step of tuning trains: one of all, one by its MACs, or the smallest, the largest and another."""
    kd_weight: float = 0.5
    """Weight of the ancestry's answers, beside the labels, in tuning."""
    held_out: float = 0.2
    """Share of the images that is only tested on."""

    def __post_init__(self) -> None:
        for name in ("widths", "heads"):
            given = getattr(self, name)
            if given is not None and (not given or min(given) < 1):
                raise ArgumentError(f"{name}={given}: expected positive numbers.")
        if self.widths and list(self.widths) != sorted(self.widths):
            raise ArgumentError(f"widths={self.widths} must go from narrow to wide.")
        if self.heads and self.widths and len(self.heads) != len(self.widths):
            raise ArgumentError(f"heads={self.heads} must name a number for each of widths={self.widths}.")
        if odd := [pair for pair in zip(self.widths or (), self.heads or (), strict=False) if pair[0] % pair[1]]:
            raise ArgumentError(f"heads={odd[0][1]} does not divide the width {odd[0][0]}; give each width its heads.")
        for name in ("size", "patch", "depth", "ancestry_epochs", "tune_epochs"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ArgumentError(f"{name}={value} must be at least 1.")
        if not 0 < self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must lie between 0 and 1.")
        for name in ("tune_lr", "blocks_lr"):
            if (rate := getattr(self, name)) is not None and not rate > 0:
                raise ArgumentError(f"{name}={rate} must be positive.")
        if not self.kd_weight >= 0:
            raise ArgumentError(f"kd_weight={self.kd_weight} must not be negative.")


@flags
class Fit(Images):
    """Distil a model into a pool of models of many sizes, for images that are sorted into classes."""


@flags
class Compare(Images):
    """Compare a pool with other ways to models of many sizes."""

    OF, LEAVE = TRAINING, FIXED
    OTHER: ClassVar = {"weight_decay": DECAY, "epochs": Other(3, "all arms in three minutes on two cores")}

    ancestry_epochs: int = 8
    """Passes over the images in which an ancestry model is trained, without --model."""
    tune_epochs: int = 3
    """Passes in which the pool is tuned."""
    images: int | None = 2000
    """Images to train on at most, drawn by chance; None: all."""
    seeds: int = 2
    """Seeds of every method; the ancestry model is one for all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1:
            raise ArgumentError(f"seeds={self.seeds} must be at least 1.")
        if self.images is not None and self.images < 1:
            raise ArgumentError(f"images={self.images} must be at least 1.")


@dataclass(frozen=True)
class Apply:
    """Build one model of a fitted pool; with --data (a folder of images, or an .npz), also let it classify them.

    The folder of such a model, in the place of the pool, classifies --data into --out: a .csv, .parquet, or folder.
    """

    max_macs: float | None = None
    """Most multiply-accumulates for one image, such as 3e8."""
    max_params: float | None = None
    """Most parameters."""
    max_latency_ms: float | None = None
    """Most milliseconds for one image, measured on this machine."""
    id: int | None = None
    """Number of a model in descendants.csv, in the place of budgets."""
    objective: Literal["accuracy", "macs"] = "accuracy"
    """What the model has most of under the budgets: accuracy on the images held out, or MACs."""
    onnx: bool = False
    """Write model.onnx, too."""
