"""The whole way: from an ancestry model and labelled samples to a tuned pool."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.compress.learngene_pool.ancestry import RecordedTeacher, ancestry, record_teacher
from linmap.compress.learngene_pool.distillation import distill
from linmap.compress.learngene_pool.inheritance import teacher_blocks
from linmap.compress.learngene_pool.losses import Transforms, supervision_points
from linmap.compress.learngene_pool.members import as_member, evaluating
from linmap.compress.learngene_pool.pool import LearngenePool
from linmap.compress.vision_transformer import VisionTransformer
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.training import TrainingConfig
from linmap.training.batches import reader, samples_of

BATCH = 64  # of forward passes


def make_pool(
    teacher: Any,
    members: Sequence[Any],
    data: Dataset,
    *,
    distillation: TrainingConfig | Sequence[TrainingConfig],
    tuning: TrainingConfig,
    stitches: str = "lstsq",
    sampler: str = "uniform",
    kd_weight: float = 0.5,
    out: Path | str | None = None,
    resume: bool = False,
    **options: Any,
) -> LearngenePool:
    """Distil an ancestry model into auxiliaries, stitch these, and tune the pool.

    The teacher runs once over the data; so the data are not augmented, and are held in memory with its features.

    Parameters
    ----------
    teacher
        The ancestry model, as of `distill`.
    members
        The auxiliaries, from narrow to wide, such as `auxiliaries` makes; they are trained in place.
    data
        Samples (x, y), y a class or a row of probabilities.
    distillation, tuning
        The training of each auxiliary (one for all, or one for each), and of the pool.
    stitches
        How they start, as of `LearngenePool.init_stitches`; "random" draws with the seed of `tuning`.
    sampler, kd_weight
        As of `LearngenePool.fit`.
    out, resume
        Folder of checkpoints, and whether to go on from the last one, in whichever step that was.
    **options
        As of `LearngenePool`.

    Returns
    -------
    pool
        In evaluation mode; nothing is evaluated yet.
    """
    folder = None if out is None else Path(out)
    pool = LearngenePool(members, **options)  # refuses what cannot be stitched, before any work
    answers = recorded(teacher, members, data)
    transforms = distilled(teacher, members, answers, distillation, folder, resume)
    stitched(pool, stitches, answers, transforms, tuning.seed, folder, resume)
    pool.fit(
        answers,
        config=tuning,
        sampler=sampler,
        teacher=teacher,
        kd_weight=kd_weight,
        out=folder and folder / "tuning",
        resume=resume,
    )
    return pool


# -- models ------------------------------------------------------------------------------------------------------------


def auxiliaries(
    teacher: VisionTransformer,
    widths: Sequence[int],
    depth: int,
    *,
    heads: Sequence[int] | None = None,
    from_teacher: bool = True,
    seed: int = 0,
) -> list[VisionTransformer]:
    """Untrained vision transformers for the images of a teacher.

    Parameters
    ----------
    teacher
        Its image and patch size, channels and classes become theirs.
    widths, depth
        Of the auxiliaries; all have one depth.
    heads
        Of each; if None, of as many channels as the teacher's, or a little fewer.
    from_teacher
        Start one of the teacher's width and heads from its blocks (`teacher_blocks`).
    seed
        Of the weights.

    Raises
    ------
    ValueError
        If a size is out of its range, or heads are not as many as widths.
    TypeError
        If the teacher is another model.
    """
    if not isinstance(teacher, VisionTransformer):
        raise ArgumentTypeError(
            f"teacher is a {type(teacher).__name__}; make it a VisionTransformer with "
            "linmap.compress.conversion.plain_vision_transformer, or build the auxiliaries yourself."
        )
    d, h = teacher.embed_dim, teacher.num_heads
    heads = [default_heads(width, d // h) for width in widths] if heads is None else heads
    if len(heads) != len(widths):
        raise ArgumentError(f"heads={tuple(heads)} must name a number for each of widths={tuple(widths)}.")
    found = []
    for number, (width, count) in enumerate(zip(widths, heads, strict=True)):
        member = VisionTransformer(
            teacher.image_size,
            teacher.patch_size,
            teacher.in_channels,
            teacher.n_classes,
            width,
            depth,
            count,
            mlp_ratio=teacher.mlp_ratio if width == d else 4.0,
            generator=torch.Generator().manual_seed(1000 * seed + number),
        )
        inherits = from_teacher and fits_blocks(member, teacher)
        found.append(teacher_blocks(member, teacher) if inherits else member)
    return found


def fits_blocks(member: VisionTransformer, teacher: VisionTransformer) -> bool:
    """Whether `teacher_blocks` can start a member: it has the teacher's width and heads, and is no deeper."""
    same = (member.embed_dim, member.num_heads) == (teacher.embed_dim, teacher.num_heads)
    return same and len(member.blocks) <= len(teacher.blocks)


def default_heads(width: int, per_head: int) -> int:
    """So many that a head has `per_head` channels, or as few less as the width can be divided by."""
    return next(heads for heads in range(-(-width // per_head), width + 1) if width % heads == 0)


def fit_head(model: Any, data: Dataset, *, inverse_penalty: float = 0.05, batch_size: int = BATCH) -> Any:
    """Give a member the linear head of a logistic regression on its CLS features; all else stays as it is.

    Parameters
    ----------
    model
        A member, or what `as_member` makes one of, whose head is an `nn.Linear`.
    data
        Samples (x, y), with y from all classes of the head.
    inverse_penalty
        C of scikit-learn's `LogisticRegression`, on features of unit variance.
    batch_size
        Samples of a forward pass.

    Returns
    -------
    model
        The model itself.

    Raises
    ------
    ValueError
        If the data do not have all classes of the head, and no others.
    TypeError
        If the head is not linear.
    """
    member = as_member(model)
    if not isinstance(member.head, nn.Linear):
        raise ArgumentTypeError(f"the head is a {type(member.head).__name__}; a linear one can be fitted.")
    read, features, labels = reader(data, next(member.parameters()).device), [], []
    with evaluating(member):
        for indices in torch.arange(samples_of(data)).split(batch_size):
            x, y, *_ = read(indices)
            h = member.embed(x)
            for block in member.blocks:
                h = block(h)
            features.append(member.norm(h)[:, 0].cpu())
            labels.append(y.cpu())
    regress(member.head, torch.cat(features), torch.cat(labels), inverse_penalty)
    return model


def regress(head: nn.Linear, features: Float[Tensor, "n d"], y: Int[Tensor, " n"], inverse_penalty: float) -> None:
    """Logistic regression on features of unit variance, as a linear layer on features as they are."""
    from sklearn.linear_model import LogisticRegression

    if sorted(set(y.tolist())) != list(range(head.out_features)):
        raise ArgumentError(
            f"the data have classes {sorted(set(y.tolist()))}; the head has {head.out_features}, numbered from 0, and "
            "needs samples of each."
        )
    features = features.double()
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    fitted = LogisticRegression(C=inverse_penalty, max_iter=500).fit(((features - mean) / std).numpy(), y.numpy())
    weight, bias = torch.as_tensor(fitted.coef_), torch.as_tensor(fitted.intercept_)
    if len(weight) == 1:  # of two classes there is one row
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = weight / std
    with torch.no_grad():
        head.weight.copy_(weight)
        if head.bias is not None:
            head.bias.copy_(bias - weight @ mean)


# -- steps -------------------------------------------------------------------------------------------------------------


def points_of(number: int) -> str:
    """The narrowest auxiliary is supervised at three depths, the others at the end, as in the paper."""
    return "end" if number else "front,end"


def recorded(teacher: Any, members: Sequence[Any], data: Dataset) -> RecordedTeacher:
    """What the teacher makes of the data, with the blocks that the members learn from."""
    depth = len(ancestry(teacher).blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `distill` says it
        pairs = [supervision_points(points_of(k), len(as_member(m).blocks), depth) for k, m in enumerate(members)]
    return record_teacher(teacher, data, sorted({j for part in pairs for _, j in part}), batch_size=BATCH)


def distilled(
    teacher: Any,
    members: Sequence[Any],
    answers: RecordedTeacher,
    config: TrainingConfig | Sequence[TrainingConfig],
    out: Path | None = None,
    resume: bool = False,
) -> dict[int, Transforms]:
    """Train every member on what was recorded, all alike or each as its own configuration says; the transforms of each.

    Raises
    ------
    ValueError
        If configurations are not as many as members.
    """
    configs = [config] * len(members) if isinstance(config, TrainingConfig) else list(config)
    if len(configs) != len(members):
        raise ArgumentError(f"distillation has {len(configs)} configurations; there are {len(members)} members.")
    return {
        number: distill(
            teacher,
            member,
            answers,
            config=configs[number],
            points=points_of(number),
            out=out and out / f"auxiliary-{number}",
            resume=resume,
        )[1]
        for number, member in enumerate(members)
    }


def stitched(
    pool: LearngenePool,
    method: str,
    answers: RecordedTeacher,
    transforms: Mapping[int, Transforms],
    seed: int,
    out: Path | None = None,
    resume: bool = False,
) -> LearngenePool:
    """The pool, with its stitches at their start."""
    options: dict[str, Any] = {"transforms": transforms}
    if method == "lstsq":
        options = {"data": list(answers.x.split(BATCH)), "out": out and out / "stitches", "resume": resume}
    elif method == "random":
        options = {"generator": torch.Generator().manual_seed(seed)}
    pool.init_stitches(method, **options)
    return pool
