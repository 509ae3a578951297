"""What a model would say if it stopped behind a block, at every position: the logit lens, and an exact one beside it.

The logit lens (nostalgebraist, 2020) takes the residual stream h at a block and a position straight to the final norm
and the unembedding. It skips the blocks that follow. The carried lens sends the same h through those blocks as they
were frozen on this text, each position seeing itself alone: what the rest of the model, as it was here, makes of h.
Behind the last block both give the model's own answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.interpret.linearscope.language.streams import Streams
from linmap.interpret.linearscope.language.tokens import Token, tokens_of
from linmap.interpret.linearscope.tape import Step, Tape

AGREES = 1e-3
"""How far the unembedding of the last hidden state may lie from the model's own logits, as a share of the largest."""


@dataclass(frozen=True)
class Reading:
    """One lens: for every level of the stream (0 ... depth) and position its likeliest next token."""

    tokens: list[list[Token]]
    """By level, then by position."""
    probabilities: Float[Tensor, "levels positions"]
    """Of these tokens."""
    ids: Int[Tensor, "levels positions"]


@dataclass(frozen=True)
class Lens:
    """Both lenses at the last positions of a text."""

    positions: list[int]
    """Which positions of the text."""
    logit: Reading
    """The logit lens."""
    carried: Reading
    """The stream carried through the frozen rest of the model."""


@torch.no_grad()
def lens_of(streams: Streams, model: nn.Module, tokenizer: Any, logits: Tensor, positions: int) -> Lens:
    """See `LanguageReading.lens`.

    Raises
    ------
    ArgumentError
        If `positions` is not positive, or the model does more to its last hidden state than `unembedded`.
    """
    if positions < 1:
        raise ArgumentError(f"positions={positions} must be 1 or more.")
    tokens = streams.x.shape[1]
    shown = list(range(max(0, tokens - positions), tokens))
    norm = model.get_submodule(streams.hidden) if not streams.hidden.startswith(streams.blocks) else nn.Identity()
    straight = [norm(level[None])[0, shown] for level in streams.values]
    missed = (unembedded(model, straight[-1][-1]) - logits).abs().max()
    if not bool(missed <= AGREES * logits.abs().max()):
        raise ArgumentError(
            f"{type(model).__name__} does more to its last hidden state than a norm and the unembedding; the lens "
            "does not know it."
        )
    carried = [level[shown] for level in _carried(streams)]
    return Lens(shown, _read(straight, model, tokenizer), _read(carried, model, tokenizer))


def unembedded(model: Any, hidden: Tensor) -> Tensor:
    """Logits of a hidden state behind the final norm, with the scales that some families apply to them."""
    logits = model.get_output_embeddings()(hidden)
    config = getattr(model.config, "text_config", model.config)
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    return logits


def _read(hidden: list[Tensor], model: nn.Module, tokenizer: Any) -> Reading:
    ids, probabilities = [], []
    for level in hidden:
        logits = unembedded(model, level)
        best = logits.argmax(-1)
        ids.append(best)
        probabilities.append(logits.softmax(-1).gather(1, best[:, None])[:, 0])
    names = tokens_of(torch.stack(ids).flatten().tolist(), tokenizer)
    width = len(ids[0])
    rows = [names[first : first + width] for first in range(0, len(names), width)]
    return Reading(rows, torch.stack(probabilities).float().cpu(), torch.stack(ids).cpu())


def _carried(streams: Streams) -> list[Tensor]:
    """The stream of every level behind the final norm, carried there by the frozen blocks, each position by itself.

    All levels travel together: the value of a level joins the batch where it enters its block.
    """
    tape = streams.tape
    head = Tape.of(tape.steps, tape.start, tape.layers[streams.hidden, "end"])
    levels = dict(zip(streams.numbers, streams.values, strict=True))
    values: dict[int, Tensor] = {}
    if head.start in levels:
        values[head.start] = levels[head.start][None, None]
    for step, last in zip(head.steps, head.release, strict=True):
        if all(number in values for number in step.inputs):  # else it lies before the stream begins
            values[step.output] = _applied(step, tuple(values[number] for number in step.inputs))
        if step.output in levels:
            joined = levels[step.output][None, None]
            values[step.output] = torch.cat([values[step.output], joined]) if step.output in values else joined
        for number in last:
            values.pop(number, None)
    return list(values[head.end][:, 0])


def _applied(step: Step, probes: tuple[Tensor, ...]) -> Tensor:
    """A step on a batch of probes; of a step that mixes positions, what a position keeps of itself."""
    if step.mixing is not None:
        if len(step.inputs) > 1:
            raise ArgumentError("softmax='full' mixes positions by more than probabilities; use softmax='value'.")
        (values,), own = probes, step.mixing.diagonal(dim1=-2, dim2=-1)
        return values * own.reshape(step.shape[:-1])[..., None]
    if all(len(probe) == 1 for probe in probes):
        return step(tuple(probe[0] for probe in probes), True)[None]
    return torch.vmap(lambda rows: step(rows, True))(probes)
