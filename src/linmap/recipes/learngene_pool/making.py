"""The steps from an ancestry model to a tuned pool, as the command line takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linmap.compress.conversion import plain_vision_transformer
from linmap.compress.learngene_pool import (
    LearngenePool,
    RecordedTeacher,
    Transforms,
    VisionTransformer,
    distill,
    record_teacher,
    supervision_points,
    teacher_blocks,
)
from linmap.data.models import load_pretrained, model_folder
from linmap.errors import ArgumentError, UsageError
from linmap.recipes.learngene_pool.flags import Images
from linmap.recipes.learngene_pool.images import Labelled, Shifted
from linmap.training import TrainingConfig, train

WIDTHS, HEADS, DEPTH = (32, 96), (2, 3), 3  # of auxiliaries, without a model
BATCH = 64  # of forward passes
INVERSE_PENALTY = 0.05  # of the head: there may be fewer images than features


@dataclass(frozen=True)
class Shapes:
    """Of the auxiliaries."""

    widths: tuple[int, ...]
    heads: tuple[int, ...]
    depth: int


def training(settings: Images, images: int, epochs: int, lr: float, seed: int) -> TrainingConfig:
    """AdamW, whose rate rises over a tenth of the steps and falls linearly."""
    warmup = epochs * -(-images // settings.batch_size) // 10
    return TrainingConfig(
        **settings.options() | {"epochs": epochs, "lr": lr}, optimizer="adamw", schedule="linear", warmup_steps=warmup,
        seed=seed,
    )  # fmt: skip


# -- the ancestry model ------------------------------------------------------------------------------------------------


def ancestry(settings: Images, data: Labelled, seed: int, out: Path | None, resume: bool) -> VisionTransformer:
    """The model of --model with a linear head fitted on the images; or a small one, trained on them."""
    if settings.model is not None:
        return pretrained(settings.model, data)
    widths, heads, depth = settings.widths or WIDTHS, settings.heads, settings.depth or DEPTH
    count = heads[-1] if heads else HEADS[-1] if widths == WIDTHS else default_heads(widths[-1], 32)
    if data.size % settings.patch:
        raise ArgumentError(f"size={data.size} must be a multiple of patch={settings.patch}.")
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(data.size, settings.patch, data.channels, len(data.classes), widths[-1], 2 * depth, count,
                              generator=generator)  # fmt: skip
    config = training(settings, len(data.train), settings.ancestry_epochs, settings.lr, seed)
    train(model, cross_entropy, Shifted(data.train), config=config, out=out, resume=resume, description="ancestry")
    return model


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """Of the labels; a batch may hold more than images and labels."""
    return F.cross_entropy(model(batch[0]), batch[1])


def pretrained(name: str, data: Labelled) -> VisionTransformer:
    """A model of Transformers with a linear head on the CLS token, by logistic regression."""
    model = load_pretrained(model_folder(name, "images"), "encoder", "float32")
    try:
        plain = plain_vision_transformer(model, data.size, len(data.classes), generator=torch.Generator())
    except (TypeError, ValueError) as error:
        raise UsageError(f"--model {name}: {error}") from None
    x, y = data.train.tensors
    with torch.no_grad():
        features = torch.cat([plain.forward_features(part)[:, 0] for part in x.split(BATCH)])
    fit_head(cast(nn.Linear, plain.head), features, y)
    return plain


def fit_head(head: nn.Linear, features: Tensor, y: Tensor) -> None:
    """Logistic regression on features of unit variance, as a linear layer on features as they are."""
    from sklearn.linear_model import LogisticRegression

    features = features.double()
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    fitted = LogisticRegression(C=INVERSE_PENALTY, max_iter=500).fit(((features - mean) / std).numpy(), y.numpy())
    weight, bias = torch.as_tensor(fitted.coef_), torch.as_tensor(fitted.intercept_)
    if len(weight) == 1:  # of two classes there is one row
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = weight / std
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias - weight @ mean)


# -- auxiliaries -------------------------------------------------------------------------------------------------------


def shapes(settings: Images, teacher: VisionTransformer) -> Shapes:
    """Those of the flags, and what stands in for what they leave out."""
    d, per_head = teacher.embed_dim, teacher.embed_dim // teacher.num_heads
    if settings.model is None:
        widths, depth = settings.widths or WIDTHS, settings.depth or DEPTH
        heads = settings.heads or (HEADS if widths == WIDTHS else None)
    else:
        widths = settings.widths or (d // 4, d // 2, d)
        heads, depth = settings.heads, settings.depth or max(1, len(teacher.blocks) // 2)
    heads = heads or tuple(default_heads(width, per_head) for width in widths)
    if len(heads) != len(widths):
        raise ArgumentError(f"heads={heads} must name a number for each of widths={widths}.")
    return Shapes(tuple(widths), tuple(heads), depth)


def default_heads(width: int, per_head: int) -> int:
    """So many that a head has `per_head` channels, or as few less as the width can be divided by."""
    return next(heads for heads in range(-(-width // per_head), width + 1) if width % heads == 0)


def new_members(
    teacher: VisionTransformer, found: Shapes, seed: int, from_teacher: bool
) -> list[VisionTransformer]:  # fmt: skip
    """Auxiliaries before any training."""
    members = []
    for number, (width, heads) in enumerate(zip(found.widths, found.heads, strict=True)):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        member = VisionTransformer(
            teacher.image_size, teacher.patch_size, teacher.in_channels, teacher.n_classes, width, found.depth, heads,
            mlp_ratio=teacher.mlp_ratio if width == teacher.embed_dim else 4.0, generator=generator,
        )  # fmt: skip
        same = (width, heads) == (teacher.embed_dim, teacher.num_heads) and found.depth <= len(teacher.blocks)
        members.append(teacher_blocks(member, teacher) if same and from_teacher else member)
    return members


def points_of(number: int) -> str:
    """The narrowest auxiliary is supervised at three depths, the others at the end, as in the paper."""
    return "end" if number else "front,end"


def recorded(teacher: VisionTransformer, found: Shapes, data: Labelled) -> RecordedTeacher:
    """What the ancestry model makes of the training images, once."""
    pairs = [supervision_points(points_of(k), found.depth, len(teacher.blocks)) for k in range(len(found.widths))]
    return record_teacher(teacher, data.train, sorted({j for part in pairs for _, j in part}), batch_size=BATCH)


def distilled(
    settings: Images, teacher: VisionTransformer, members: Sequence[VisionTransformer], answers: RecordedTeacher,
    seed: int, out: Path | None = None, resume: bool = False,
) -> dict[int, Transforms]:  # fmt: skip
    """Train every auxiliary on what was recorded; the transforms of each."""
    found = {}
    for number, member in enumerate(members):
        config = training(settings, len(answers), settings.epochs, settings.lr, seed)
        _, found[number] = distill(
            teacher, member, answers, config=config, points=points_of(number),
            out=out and out / f"auxiliary-{number}", resume=resume,
        )  # fmt: skip
    return found


# -- the pool ----------------------------------------------------------------------------------------------------------


def stitched(
    pool: LearngenePool, method: str, answers: RecordedTeacher, transforms: dict[int, Transforms], seed: int,
    out: Path | None = None, resume: bool = False,
) -> LearngenePool:  # fmt: skip
    """The pool, with its stitches at their start."""
    options: dict[str, Any] = {"transforms": transforms}
    if method == "lstsq":
        options = {"data": list(answers.x.split(BATCH)), "out": out and out / "stitches", "resume": resume}
    elif method == "random":
        options = {"generator": torch.Generator().manual_seed(seed)}
    pool.init_stitches(method, **options)
    return pool


def tuned(
    settings: Images, teacher: VisionTransformer, pool: LearngenePool, answers: RecordedTeacher, seed: int,
    out: Path | None = None, resume: bool = False,
) -> None:  # fmt: skip
    """Train the models of the pool in turn."""
    config = training(settings, len(answers), settings.tune_epochs, settings.tune_lr, seed)
    pool.fit(
        answers, config=config, sampler=settings.sampler, teacher=teacher, kd_weight=settings.kd_weight,
        out=out and out / "tuning", resume=resume,
    )  # fmt: skip


def accuracy(model: nn.Module, data: Labelled) -> float:
    """Share of the test images whose class is found."""
    return float(right(model, data).float().mean())


@torch.no_grad()
def right(model: nn.Module, data: Labelled, **options: Any) -> Tensor:
    """Of each test image, whether its class is found; in evaluation mode."""
    x, y = data.test.tensors
    model.eval()
    return torch.cat([model(part, **options).argmax(-1) for part in x.split(256)]) == y
