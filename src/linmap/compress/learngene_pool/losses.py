"""The loss of the distillation: supervised blocks, the maps T between widths, and the terms.

The terms and their weights are the paper's. The soft cross-entropy is a mean over samples, ours; the official code's is
one over samples and classes, which divides it by 1000 on ImageNet: `reduction="mean"` is theirs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from linmap.compress.learngene_pool.ancestry import Features
from linmap.errors import ArgumentError

KINDS = ("logits", "logits+rep", "all")
NAMED_POINTS = {"end": (3,), "mid,end": (2, 3), "front,end": (1, 2, 3)}
"""The thirds of the depth at whose ends a student is supervised."""
ABLATION_ALPHA = 0.5  # of "logits" and "logits+rep", in the paper
DEFAULT_ALPHA = 0.1


def supervision_points(
    points: str | Sequence[tuple[int, int]], student_depth: int, teacher_depth: int
) -> list[tuple[int, int]]:
    """Which block of the student learns from which block of the teacher.

    Parameters
    ----------
    points
        "end", "mid,end" or "front,end": the blocks ceil(k D / 3) - 1, k = 3, k = 2..3 or k = 1..3, of depths D of
        student and teacher; in the paper "front,end" is for the narrowest auxiliary. Or the list itself.
    student_depth, teacher_depth
        Numbers of blocks.

    Returns
    -------
    pairs
        (student block, teacher block), from 0.

    Raises
    ------
    ValueError
        If the words are unknown, a block is not there, or the list is empty.
    """
    depths = {"student_depth": student_depth, "teacher_depth": teacher_depth}
    for name, depth in depths.items():
        if depth < 1:
            raise ArgumentError(f"{name}={depth} must be at least 1.")
    if not isinstance(points, str):
        return checked_points(points, student_depth, teacher_depth)
    if points not in NAMED_POINTS:
        raise ArgumentError(f"points={points!r} must be one of {', '.join(map(repr, NAMED_POINTS))}, or pairs of ids.")
    thirds = NAMED_POINTS[points]
    pairs = [tuple(math.ceil(k * depth / 3) - 1 for depth in depths.values()) for k in thirds]
    odd = [f"{name}={depth} is no multiple of 3" for name, depth in depths.items() if depth % 3]
    if odd and thirds != (3,):
        warnings.warn(
            f"points={points!r} are at thirds of the depth, and {' and '.join(odd)}: the rule "
            f"ceil(k * depth / 3) - 1 gives the pairs {pairs} (student block, teacher block).",
            UserWarning,
            stacklevel=2,
        )
    return [(student, teacher) for student, teacher in pairs]


def checked_points(points: Any, student_depth: int, teacher_depth: int) -> list[tuple[int, int]]:
    """Pairs of blocks that are there."""
    try:
        pairs = [(index(i), index(j)) for i, j in points]
    except (TypeError, ValueError):
        raise ArgumentError(f"points={points!r} must be pairs of ids: [(student block, teacher block), ...].") from None
    if not pairs:
        raise ArgumentError("points is empty; name a pair (student block, teacher block) or more.")
    for i, j in pairs:
        for what, block, depth in (("student", i, student_depth), ("teacher", j, teacher_depth)):
            if not 0 <= block < depth:
                raise ArgumentError(f"points has block {block} of the {what}, whose depth is {depth}: 0..{depth - 1}.")
    return pairs


class Transforms(nn.Module):
    """T_att and T_map: affine maps from the teacher's width to the student's, a pair for each supervised block.

    Parameters
    ----------
    d_teacher, d_student
        Widths.
    n_points
        Supervised blocks.
    orthogonal
        Start from weights with orthonormal rows (columns, where the student is wider) and zero biases, so that the
        transpose undoes them; else as `nn.Linear` starts.
    generator
        Draws the start.
    dtype
        As in PyTorch.
    """

    def __init__(
        self,
        d_teacher: int,
        d_student: int,
        n_points: int,
        *,
        orthogonal: bool = False,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"d_teacher": d_teacher, "d_student": d_student, "n_points": n_points}.items():
            if value < 1:
                raise ArgumentError(f"{name}={value} must be at least 1.")

        def maps() -> nn.ModuleList:
            return nn.ModuleList(skip_init(nn.Linear, d_teacher, d_student, dtype=dtype) for _ in range(n_points))

        self.T_att, self.T_map = maps(), maps()
        bound = 1 / math.sqrt(d_teacher)
        for parameter in self.parameters():
            if not orthogonal:
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
            elif parameter.ndim == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.orthogonal_(parameter, generator=generator)


class DistillationLoss(NamedTuple):
    """The loss and its terms, scalars; terms that the kind leaves out are not in the total."""

    total: Tensor
    ce: Tensor
    kd: Tensor
    rep: Tensor
    att: Tensor


def kd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Tensor,
    T: float = 1.0,
    reduction: str = "batchmean",
) -> Float[Tensor, ""]:
    """Soft cross-entropy of the student's to the teacher's probabilities at temperature T.

    Parameters
    ----------
    student_logits, teacher_logits
        Of the same samples.
    T
        Temperature: logits are divided by it.
    reduction
        "batchmean": the sum over classes, the mean over samples, times T^2. "mean": the mean over samples and classes,
        without T^2, as in the official code.

    Raises
    ------
    ValueError
        If T is not positive, the reduction is another, or the logits are not of the same samples and classes.
    """
    if not (T > 0 and math.isfinite(T)):
        raise ArgumentError(f"T={T} must be positive.")
    if reduction not in ("batchmean", "mean"):
        raise ArgumentError(f"reduction={reduction!r} must be 'batchmean' or 'mean'.")
    if student_logits.shape != teacher_logits.shape:
        raise ArgumentError(
            f"logits of student and teacher have shapes {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}; give both the same samples and classes."
        )
    terms = -(teacher_logits / T).softmax(-1) * (student_logits / T).log_softmax(-1)
    return terms.mean() if reduction == "mean" else terms.sum(-1).mean() * T**2


def class_loss(logits: Float[Tensor, "batch classes"], y: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy to classes (batch,) or probabilities (batch, classes).

    Raises
    ------
    ValueError
        If y is neither, or names a class that is not there.
    """
    if y.shape == logits.shape and y.is_floating_point():
        return F.cross_entropy(logits, y.to(logits.dtype))
    if y.shape != logits.shape[:1] or y.is_floating_point():
        raise ArgumentError(
            f"y has shape {tuple(y.shape)} and type {y.dtype}; expected {len(logits)} classes (integers), or "
            f"probabilities of shape {tuple(logits.shape)}."
        )
    try:
        return F.cross_entropy(logits, y.long())
    except IndexError:
        n = logits.shape[1]
        raise ArgumentError(
            f"y has classes from {int(y.min())} to {int(y.max())}; the model has {n}, numbered 0 to {n - 1}."
        ) from None


def distillation_loss(
    student: Features,
    teacher: Features,
    y: Tensor,
    transforms: Transforms | None,
    *,
    points: Sequence[tuple[int, int]],
    alpha: float = DEFAULT_ALPHA,
    T: float = 1.0,
    kind: str = "all",
    kd_reduction: str = "batchmean",
) -> DistillationLoss:
    """alpha CE + (1 - alpha) (KD + REP + ATT).

    REP is the sum over points of the mean squared error of the student's block output from T_map[k] of the teacher's,
    over samples, tokens and channels; ATT is the same of attention outputs and T_att.

    Parameters
    ----------
    student, teacher
        What `record` gives.
    y
        Classes (batch,) or probabilities (batch, classes), as mixup makes them.
    transforms
        T_map and T_att of each point; None is for kind "logits", and leaves rep and att zero.
    points
        (student block, teacher block).
    alpha
        Share of the cross-entropy to y in "all".
    T, kd_reduction
        As of `kd_loss`.
    kind
        "all", or an ablation of the paper: "logits" is .5 CE + .5 KD, "logits+rep" is .5 CE + .5 (KD + REP); there
        alpha is left alone, or .5.

    Raises
    ------
    ValueError
        If an argument is out of its range, or shapes do not fit.
    """
    weight = check_weights(kind, alpha)
    ce = class_loss(student.logits, y)
    kd = kd_loss(student.logits, teacher.logits, T, kd_reduction)
    rep = att = ce.new_zeros(())
    if transforms is not None:
        if len(points) != len(transforms.T_map):
            raise ArgumentError(f"points has {len(points)} pairs, and transforms maps for {len(transforms.T_map)}.")
        points = checked_points(points, len(student.blocks), _depth(teacher.blocks))
        rep = _matching(student.blocks, teacher.blocks, transforms.T_map, points)
        att = _matching(student.attention, teacher.attention, transforms.T_att, points)
    elif kind != "logits":
        raise ArgumentError(f"kind={kind!r} needs transforms.")
    terms = {"logits": kd, "logits+rep": kd + rep, "all": kd + rep + att}
    return DistillationLoss(weight * ce + (1 - weight) * terms[kind], ce, kd, rep, att)


def check_weights(kind: str, alpha: float) -> float:
    """The share of the cross-entropy to y."""
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} must be one of {', '.join(KINDS)}.")
    if not 0 <= alpha <= 1:
        raise ArgumentError(f"alpha={alpha} must lie in [0, 1].")
    if kind == "all":
        return alpha
    if alpha not in (DEFAULT_ALPHA, ABLATION_ALPHA):
        raise ArgumentError(f"alpha={alpha} is of kind='all'; kind={kind!r} weighs both halves by 0.5. Leave it out.")
    return ABLATION_ALPHA


def _depth(blocks: Sequence[Tensor] | Mapping[int, Tensor]) -> int:
    """Blocks up to the last that is known."""
    return max(blocks, default=-1) + 1 if isinstance(blocks, Mapping) else len(blocks)


def _matching(student: Any, teacher: Any, maps: nn.ModuleList, points: Sequence[tuple[int, int]]) -> Tensor:
    terms = []
    for T, (i, j) in zip(maps, points, strict=True):
        h_s, h_t = student[i], teacher[j]
        if h_s.shape[:-1] != h_t.shape[:-1]:
            raise ArgumentError(
                f"student and teacher have {h_s.shape[-2]} and {h_t.shape[-2]} tokens, of {len(h_s)} and {len(h_t)} "
                "samples; their blocks are compared token by token, so give both one number of patches."
            )
        if (T.in_features, T.out_features) != (h_t.shape[-1], h_s.shape[-1]):
            raise ArgumentError(
                f"transforms map widths {T.in_features} -> {T.out_features}; teacher and student have widths "
                f"{h_t.shape[-1]} and {h_s.shape[-1]}."
            )
        terms.append(F.mse_loss(h_s, T(h_t.to(T.weight.dtype)).to(h_s.dtype)))
    return torch.stack(terms).sum()
