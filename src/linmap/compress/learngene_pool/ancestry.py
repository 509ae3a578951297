"""The ancestry model: what its blocks and their attention give, recorded while it runs, or once for a data set."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.compress.encoders import find_encoder
from linmap.compress.learngene_pool.members import as_member, first
from linmap.data.fingerprints import content_fingerprint
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.training.batches import reader, samples_of


class Features(NamedTuple):
    """What a model gives, and what it gives inside."""

    logits: Float[Tensor, "batch classes"]
    attention: Sequence[Tensor] | Mapping[int, Tensor]
    """(batch, tokens, d) for each block: the attention after its projection, before the residual is added."""
    blocks: Sequence[Tensor] | Mapping[int, Tensor]
    """(batch, tokens, d): the output of each block."""


def record(model: Any, x: Tensor) -> Features:
    """Run a member and keep what its blocks and their attention give, with gradients where they are on.

    Parameters
    ----------
    model
        A member, or what `as_member` makes one of.
    x
        What it embeds.
    """
    member = as_member(model)
    with outputs_of([block.attn for block in member.blocks]) as attention:
        h, outputs = member.embed(x), []
        for block in member.blocks:
            h = block(h)
            outputs.append(h)
    return Features(member.head(member.norm(h)[:, 0]), attention, outputs)


@contextmanager
def outputs_of(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what modules give, in the order in which they run."""
    outputs: list[Tensor] = []
    hooks = [module.register_forward_hook(lambda m, i, out: outputs.append(first(out))) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


class Ancestry:
    """A teacher, which is asked without gradients, in evaluation mode, on the device of the question.

    Parameters
    ----------
    model
        A member, what `as_member` makes one of, or another model that `find_encoder` knows and whose output has
        `logits`, such as `Dinov2ForImageClassification`, whose head reads more than the CLS token.

    Raises
    ------
    TypeError
        If it is none of these.
    """

    def __init__(self, model: Any) -> None:
        self.attention: list[nn.Module] | None = None
        """Of a model that is no member: what gives the attention of each block."""
        try:
            self.model = as_member(model)
            self.blocks, self.width = self.model.blocks, self.model.embed_dim
        except TypeError as error:
            try:
                encoder = find_encoder(model)
            except TypeError:
                raise error from None
            self.model, self.blocks, self.width = model, encoder.blocks, encoder.dim
            self.attention = [cast(nn.Module, encoder.part(block, "output")) for block in encoder.blocks]

    def prepare(self) -> None:
        """Put it into evaluation mode, with a warning where any part of it was not."""
        if any(module.training for module in self.model.modules()):
            warnings.warn(
                "the teacher is in training mode; it is switched to evaluation mode, where drop path and dropout are "
                "off. Call teacher.eval() before.",
                UserWarning,
                stacklevel=4,
            )
            self.model.eval()

    def digest(self, out: Any) -> str | None:
        """What its blocks are known by in the checkpoints of a student in `out`; None where it keeps none.

        Without the head, which may be fitted anew in each process.
        """
        return None if out is None else content_fingerprint([dict(block.state_dict()) for block in self.blocks])[:16]

    @torch.no_grad()
    def features(self, x: Tensor) -> Features:
        """What it gives, inside too."""
        model = self.model.to(x.device)
        if self.attention is None:
            return record(model, x)
        with outputs_of(self.attention) as attention, outputs_of(self.blocks) as blocks:
            return Features(self._logits(model(x)), attention, blocks)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        model = self.model.to(x.device)
        if self.attention is not None:
            return self._logits(model(x))
        h = model.embed(x)
        for block in model.blocks:
            h = block(h)
        return model.head(model.norm(h)[:, 0])

    def _logits(self, output: Any) -> Tensor:
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            raise ArgumentTypeError(
                f"{type(self.model).__name__} gives no logits; give the backbone a head: as_member(model, "
                f"head=nn.Linear({self.width}, n_classes))."
            )
        return logits


def ancestry(model: Any) -> Ancestry:
    """A model as a teacher."""
    return model if isinstance(model, Ancestry) else Ancestry(model)


class RecordedTeacher(Dataset):
    """Samples (x, y), each with what a teacher made of it; made by `record_teacher`."""

    def __init__(
        self, x: Tensor, y: Tensor, logits: Tensor, attention: dict[int, Tensor], blocks: dict[int, Tensor]
    ) -> None:
        self.x, self.y, self.logits, self.attention, self.blocks = x, y, logits, attention, blocks

    def __len__(self) -> int:
        return len(self.x)

    def fingerprinted(self) -> tuple[Tensor, Tensor, list[int]]:
        """Not what the teacher made of the samples, whose last digits differ from machine to machine."""
        return self.x, self.y, sorted(self.blocks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor, Features]:
        at = torch.as_tensor(indices)
        dtype = self.logits.dtype
        attention, blocks = (
            {j: values[at].to(dtype) for j, values in kept.items()} for kept in (self.attention, self.blocks)
        )
        return self.x[at], self.y[at], Features(self.logits[at], attention, blocks)

    def check(self, needed: Sequence[int]) -> None:
        """Refuse to be used for other blocks than those that were recorded."""
        if missing := sorted(set(needed) - set(self.blocks)):
            raise ArgumentError(
                f"the recorded teacher has blocks {sorted(self.blocks)}, and the points need block {missing[0]}; "
                "record it too."
            )


def record_teacher(
    teacher: Any,
    data: Dataset,
    blocks: Sequence[int] = (),
    *,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float16,
) -> RecordedTeacher:
    """Run a teacher over a data set once, for several students and epochs; for data that no augmentation changes.

    Parameters
    ----------
    teacher
        The ancestry model.
    data
        Samples (x, y).
    blocks
        The teacher's blocks that `points` of `distill` name; none for the logits alone.
    batch_size
        Samples of a forward pass.
    dtype
        Of the kept features: two numbers a token, channel and block. Logits keep theirs.

    Raises
    ------
    ValueError
        If the data are empty, a block is not there, or a feature does not fit into `dtype`.
    """
    source = ancestry(teacher)
    source.prepare()
    if bad := [j for j in blocks if not 0 <= j < len(source.blocks)]:
        raise ArgumentError(f"blocks names {bad[0]}; the teacher has blocks 0..{len(source.blocks) - 1}.")
    read = reader(data, next(source.model.parameters()).device)
    xs, ys, logits = [], [], []
    attention: dict[int, list[Tensor]] = {j: [] for j in blocks}
    outputs: dict[int, list[Tensor]] = {j: [] for j in blocks}
    for indices in torch.arange(samples_of(data)).split(batch_size):
        x, y = read(indices)
        found = source.features(x)
        xs.append(x.cpu())
        ys.append(y.cpu())
        logits.append(found.logits.cpu())
        for kept, new in ((attention, found.attention), (outputs, found.blocks)):
            for j in blocks:
                kept[j].append(_converted(new[j], dtype))
    joined = ({j: torch.cat(parts) for j, parts in kept.items()} for kept in (attention, outputs))
    return RecordedTeacher(torch.cat(xs), torch.cat(ys), torch.cat(logits), *joined)


def _converted(features: Tensor, dtype: torch.dtype) -> Tensor:
    kept = features.to("cpu", dtype)
    if not bool(torch.isfinite(kept).all()):
        raise ArgumentError(
            f"features of the teacher are not finite in {dtype} (largest {float(features.abs().max()):.3g}); record "
            "them with dtype=torch.float32."
        )
    return kept
