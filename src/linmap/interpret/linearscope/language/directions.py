"""Singular vectors of a token's operator, decoded into words by the two embedding matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.interpret.linearscope.interpreter import AffineInterpreter
from linmap.interpret.linearscope.language.tokens import Token, tokens_of
from linmap.interpret.linearscope.parts import block

TOLERANCE = 1e-4
"""Relative accuracy of the singular values: more does not change a word."""


@dataclass(frozen=True)
class Direction:
    """One singular triplet: reading along `reads`, the model writes along `writes`, `gain` times as strongly.

    Attributes
    ----------
    gain
        The singular value.
    strength
        How strongly this text's own embedding points along the input direction: strength * gain is written. The sign of
        the pair is chosen so that it is positive.
    writes, writes_against
        The tokens whose logits the output direction raises and lowers most, by the unembedding.
    reads, reads_against
        The tokens whose embeddings point along the input direction most, and against it.
    by_token
        The share of the input direction at each position, summing to 1.
    output, input
        The vectors: u (width,), of the hidden state behind the final norm; v (tokens, width).
    """

    gain: float
    strength: float
    writes: list[Token]
    writes_against: list[Token]
    reads: list[Token]
    reads_against: list[Token]
    by_token: Float[Tensor, " tokens"]
    output: Float[Tensor, " width"]
    input: Float[Tensor, "tokens width"]


def directions_of(
    hidden: AffineInterpreter, model: Any, tokenizer: Any, position: int | None, k: int, words: int
) -> list[Direction]:
    """The k strongest, each decoded into `words` words on either side; see `LanguageReading.directions`.

    `hidden` is the part of the reading that ends in the last hidden state, behind the final norm.
    """
    x = hidden.input[0].detach()
    vocabulary = min(len(layer.weight) for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    if not 1 <= words <= vocabulary:
        raise ArgumentError(f"words={words} must be between 1 and the {vocabulary} tokens of the vocabulary.")
    U, S, Vh = block(hidden, position, len(x) - 1).svd(k, tol=TOLERANCE)
    return [
        _decoded(float(gain), u, v.reshape(-1, x.shape[1]), x, model, tokenizer, position, words)
        for u, gain, v in zip(U.mT, S, Vh, strict=True)
    ]


@torch.no_grad()
def _decoded(
    gain: float, u: Tensor, v: Tensor, x: Tensor, model: Any, tokenizer: Any, position: int | None, words: int
) -> Direction:
    whole = torch.zeros_like(x)
    whole[slice(None) if position is None else slice(position, position + 1)] = v
    strength = float((whole * x).sum())
    if strength < 0:
        u, whole, strength = -u, -whole, -strength
    energy = whole.square().sum(1)
    strongest = whole[int(energy.argmax())]
    written = _times(model.get_output_embeddings(), u)
    read = _times(model.get_input_embeddings(), strongest)
    for_, against, reads, not_read = (
        tokens_of(scores.topk(words).indices.tolist(), tokenizer) for scores in (written, -written, read, -read)
    )
    return Direction(gain, strength, for_, against, reads, not_read, energy / energy.sum(), u, whole)


def _times(layer: Any, vector: Tensor) -> Tensor:
    """The product of a layer's matrix (vocabulary, width) with a vector, with what an adapter adds to the matrix."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        return layer.weight @ vector
    if any(isinstance(module, nn.Embedding) for module in layer.modules()):
        return layer(torch.arange(len(layer.weight), device=vector.device)) @ vector
    return layer(vector[None])[0] - layer(torch.zeros_like(vector)[None])[0]
