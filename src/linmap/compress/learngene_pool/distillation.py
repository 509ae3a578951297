"""Step 1: auxiliaries learn from the ancestry model, from its logits and from what its blocks give.

Deviations from the official code, all ours: the matrices T are trained (its PyTorch script leaves them out of the
optimiser) and not decayed, and the teacher is in evaluation mode.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.compress.learngene_pool.ancestry import Features, RecordedTeacher, ancestry, record
from linmap.compress.learngene_pool.losses import (
    DEFAULT_ALPHA,
    Transforms,
    check_weights,
    distillation_loss,
    supervision_points,
)
from linmap.compress.learngene_pool.members import as_member
from linmap.errors import ArgumentTypeError
from linmap.training import TrainingConfig, train


class Distillation(nn.Module):
    """Student and transforms as one model, which gives the loss."""

    def __init__(self, student: nn.Module, transforms: Transforms, options: dict[str, Any]) -> None:
        super().__init__()
        self.student, self.transforms, self.options = student, transforms, options

    def forward(self, x: Tensor, y: Tensor, teacher: Features) -> Float[Tensor, ""]:
        transforms = None if self.options["kind"] == "logits" else self.transforms
        return distillation_loss(record(self.student, x), teacher, y, transforms, **self.options).total

    def parameter_groups(self, _: nn.Module) -> list[dict[str, Any]]:
        """Decay would shrink T, and with it the targets."""
        trained = [p for p in self.student.parameters() if p.requires_grad]
        return [{"params": trained}, {"params": list(self.transforms.parameters()), "weight_decay": 0.0}]


def distill(
    teacher: Any,
    student: Any,
    data: Dataset,
    *,
    config: TrainingConfig,
    points: str | Sequence[tuple[int, int]] = "front,end",
    alpha: float = DEFAULT_ALPHA,
    T: float = 1.0,
    kind: str = "all",
    kd_reduction: str = "batchmean",
    transforms: Transforms | None = None,
    out: Path | str | None = None,
    resume: bool = False,
) -> tuple[Any, Transforms]:
    """Train an auxiliary to give what the ancestry model gives.

    One optimiser trains student and transforms, these without weight decay.

    Parameters
    ----------
    teacher
        The ancestry model: a member, what `as_member` makes one of, or another vision transformer or BERT encoder whose
        output has logits. It is put into evaluation mode (with a warning, where it is not), gets no gradient and does
        not change.
    student
        A member, or what `as_member` makes one of.
    data
        Samples (x, y), y a class or a row of probabilities; or what `record_teacher` made, so that the teacher does not
        run again.
    config
        Of the training. The paper's: AdamW, weight decay 0.05, 100 epochs, batches of 256 a device.
    points, alpha, T, kind, kd_reduction
        As of `supervision_points`, `distillation_loss` and `kd_loss`.
    transforms
        What to go on training; drawn with config.seed if None.
    out, resume
        Folder of checkpoints, and whether to go on from the last one.

    Returns
    -------
    student, transforms
        The student itself, in evaluation mode.

    Raises
    ------
    ValueError
        If an argument is out of its range, or sizes of teacher and student do not fit.
    TypeError
        If one of them is not recognised.
    """
    if not isinstance(config, TrainingConfig):
        raise ArgumentTypeError(f"config must be a linmap.training.TrainingConfig, got {type(config).__name__}.")
    source, member = ancestry(teacher), as_member(student)
    pairs = supervision_points(points, len(member.blocks), len(source.blocks))
    check_weights(kind, alpha)
    source.prepare()
    if transforms is None:
        generator = torch.Generator().manual_seed(config.seed)
        dtype = next(p.dtype for p in member.parameters())
        transforms = Transforms(source.width, member.embed_dim, len(pairs), generator=generator, dtype=dtype)
    options = {"points": pairs, "alpha": alpha, "T": T, "kind": kind, "kd_reduction": kd_reduction}
    model = Distillation(member, transforms, options)
    if isinstance(data, RecordedTeacher):
        data.check([j for _, j in pairs] if kind != "logits" else [])
    before = [float(cast(nn.Linear, map).weight.detach().norm()) for map in transforms.T_map]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x, y, *recorded = batch
        return model(x, y, recorded[0] if recorded else source.features(x))

    settings = options | {"teacher": source.digest(out)}
    train(
        model, loss, data, config=config, out=out, resume=resume, description="distillation",
        parameter_groups=model.parameter_groups, seed_globally=False, settings=settings,
    )  # fmt: skip
    _warn_of_collapse(transforms, before)
    if isinstance(student, nn.Module):
        student.eval()
    return student, transforms


def _warn_of_collapse(transforms: Transforms, before: Sequence[float]) -> None:
    """T is on the side of the target: T = 0 and H_s = 0 match perfectly."""
    for k, (map, start) in enumerate(zip(transforms.T_map, before, strict=True)):
        now = float(cast(nn.Linear, map).weight.detach().norm())
        if now < 0.1 * start:
            warnings.warn(
                f"T_map[{k}] shrank from norm {start:.3g} to {now:.3g}: features of teacher and student are matched by "
                "making both small; raise alpha, or lower the learning rate.",
                UserWarning,
                stacklevel=3,
            )
