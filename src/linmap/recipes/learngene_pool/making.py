"""The ancestry model and the sizes of the auxiliaries, as the flags say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.compress.conversion import plain_vision_transformer
from linmap.compress.learngene_pool import VisionTransformer, auxiliaries, fit_head
from linmap.compress.learngene_pool.pipeline import default_heads, fits_blocks
from linmap.data.image_tensors import Labelled, Shifted
from linmap.data.models import load_pretrained, model_folder
from linmap.errors import ArgumentError, UsageError
from linmap.recipes.learngene_pool.flags import Images
from linmap.training import TrainingConfig, train

WIDTHS, HEADS, DEPTH = (32, 96), (2, 3), 3  # of auxiliaries, without a model
BLOCKS_LR = (
    1e-4  # of an auxiliary that starts from the blocks of a pretrained model; see studies/learngene_pool/dinov2.py
)


@dataclass(frozen=True)
class Shapes:
    """Of the auxiliaries."""

    widths: tuple[int, ...]
    heads: tuple[int, ...] | None
    depth: int

    def members(self, teacher: VisionTransformer, seed: int, from_teacher: bool) -> list[VisionTransformer]:
        """Auxiliaries before any training."""
        return auxiliaries(teacher, self.widths, self.depth, heads=self.heads, from_teacher=from_teacher, seed=seed)

    def distillation(
        self, settings: Images, teacher: VisionTransformer, images: int, epochs: int, seed: int, from_teacher: bool
    ) -> list[TrainingConfig]:
        """The training of each, as these begin."""
        starts, own = self.members(teacher, seed, from_teacher), settings.blocks_lr
        inherited = own if own is not None else settings.lr if settings.model is None else BLOCKS_LR
        rates = [inherited if from_teacher and fits_blocks(member, teacher) else settings.lr for member in starts]
        return [training(settings, images, epochs, lr, seed) for lr in rates]


def training(settings: Images, images: int, epochs: int, lr: float, seed: int) -> TrainingConfig:
    """AdamW, whose rate rises over a tenth of the steps and falls linearly."""
    warmup = epochs * -(-images // settings.batch_size) // 10
    return TrainingConfig(
        **settings.options() | {"epochs": epochs, "lr": lr},
        optimizer="adamw",
        schedule="linear",
        warmup_steps=warmup,
        seed=seed,
    )


def ancestry(settings: Images, data: Labelled, seed: int, out: Path | None, resume: bool) -> VisionTransformer:
    """The model of --model with a linear head fitted on the images; or a small one, trained on them."""
    if settings.model is not None:
        return pretrained(settings.model, data)
    widths, heads, depth = settings.widths or WIDTHS, settings.heads, settings.depth or DEPTH
    count = heads[-1] if heads else HEADS[-1] if widths == WIDTHS else default_heads(widths[-1], 32)
    if data.size % settings.patch:
        raise ArgumentError(f"size={data.size} must be a multiple of patch={settings.patch}.")
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(
        data.size, settings.patch, data.channels, len(data.classes), widths[-1], 2 * depth, count, generator=generator
    )
    config = training(settings, len(data.train), settings.ancestry_epochs, settings.lr, seed)
    train(model, cross_entropy, Shifted(data.train), config=config, out=out, resume=resume, description="ancestry")
    return model


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Of the labels; a batch may hold more than images and labels."""
    return F.cross_entropy(model(batch[0]), batch[1])


def pretrained(name: str, data: Labelled) -> VisionTransformer:
    """A model of Transformers with a linear head on the CLS token."""
    model = load_pretrained(model_folder(name, "images"), "encoder", "float32")
    try:
        plain = plain_vision_transformer(model, data.size, len(data.classes), generator=torch.Generator())
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model {name}: {error}") from None
    return fit_head(plain, data.train)


def shapes(settings: Images, teacher: VisionTransformer) -> Shapes:
    """Those of the flags, and what stands in for what they leave out."""
    d, heads = teacher.embed_dim, settings.heads
    if settings.model is not None:
        widths, depth = settings.widths or (d // 4, d // 2, d), settings.depth or max(1, len(teacher.blocks) // 2)
    else:
        widths, depth = settings.widths or WIDTHS, settings.depth or DEPTH
        heads = heads or (HEADS if widths == WIDTHS else None)
    return Shapes(widths, heads, depth)


def accuracy(model: nn.Module, data: Labelled) -> float:
    """Share of the test images whose class is found."""
    return float(right(model, data).float().mean())


@torch.no_grad()
def right(model: nn.Module, data: Labelled, **options: Any) -> Tensor:
    """Of each test image, whether its class is found; in evaluation mode."""
    x, y = data.test.tensors
    model.eval()
    return torch.cat([model(part, **options).argmax(-1) for part in x.split(256)]) == y
