"""`LanguageReading`: a language model at one text, as the affine map from its tokens to what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError, OutOfRangeError
from linmap.interpret.linearscope.interpreter import AffineInterpreter
from linmap.interpret.linearscope.language.directions import Direction, directions_of
from linmap.interpret.linearscope.language.faithfulness import last_logits
from linmap.interpret.linearscope.language.lens import Lens, lens_of
from linmap.interpret.linearscope.language.streams import Streams, blocks_of
from linmap.interpret.linearscope.language.tokens import Token, target_id, text_ids, tokens_of
from linmap.interpret.linearscope.mixing import attention_maps, rollout
from linmap.interpret.linearscope.parts import part
from linmap.interpret.linearscope.scope import LinearScope

ADDS_UP = 1e-3
"""How far the contributions of a layer may miss the logit, as a share of their absolute sum."""


@dataclass(frozen=True)
class Prediction:
    """A token that may come next."""

    token: Token
    logit: float
    probability: float


@dataclass(frozen=True)
class Contributions:
    """What every position adds to a logit, or to the difference of two: values.sum() + residual = value.

    Attributes
    ----------
    target, against
        The token whose logit this is, and the one whose logit is taken off it (None: the logit alone).
    layer
        How many blocks lie before the vectors that contribute; None for the input embeddings.
    values
        A number a position, (tokens,).
    residual
        What the biases (position embeddings and the origin among them) add whatever the vectors are.
    value
        The logit, or the difference.
    """

    target: Token
    against: Token | None
    layer: int | None
    values: Float[Tensor, " tokens"]
    residual: float
    value: float


class LanguageReading:
    """A language model read at one text: y = F x + r, exact at x.

    x holds the embeddings of the tokens, (1, tokens, width), y the logits of what comes next. Attention holds its
    probabilities, gates and norms their values on this text; so all that is read here tells how the model came to this
    answer on this text, not what it would answer to another one.

    Parameters
    ----------
    interp
        The map; from `LinearScope.at(ids, logits_to_keep=1)`.
    model, tokenizer
        Of Transformers, or shaped like it.
    ids
        The tokens.

    Attributes
    ----------
    tokens
        Of the text.
    interp
        The map itself, with all that an `AffineInterpreter` can do.
    """

    def __init__(self, interp: AffineInterpreter, model: nn.Module, tokenizer: Any, ids: list[int]) -> None:
        self.interp, self.model, self.tokenizer = interp, model, tokenizer
        self.tokens = tokens_of(ids, tokenizer)
        self.logits = interp.output.reshape(-1, interp.output.shape[-1])[-1]
        """Of every token of the vocabulary, (vocabulary,)."""

    # -- what comes next -----------------------------------------------------------------------------------------------

    def predictions(self, k: int = 10) -> list[Prediction]:
        """The k likeliest next tokens, the likeliest first."""
        if not 1 <= k <= len(self.logits):
            raise ArgumentError(f"k={k} must be between 1 and the {len(self.logits)} tokens of the vocabulary.")
        probabilities = self.logits.softmax(0)
        best = self.logits.topk(k).indices.tolist()
        tokens = tokens_of(best, self.tokenizer)
        return [
            Prediction(token, float(self.logits[i]), float(probabilities[i]))
            for token, i in zip(tokens, best, strict=True)
        ]

    def token(self, target: int | str | None = None) -> Token:
        """A token by its text or id; the likeliest next one when left out. Errors as of `tokens.target_id`."""
        context = "".join(token.text for token in self.tokens if not token.special)
        found = (
            int(self.logits.argmax())
            if target is None
            else target_id(target, self.tokenizer, len(self.logits), context)
        )
        return tokens_of([found], self.tokenizer)[0]

    # -- who decides it ------------------------------------------------------------------------------------------------

    def contributions(
        self, target: int | str | None = None, against: int | str | None = None, layer: int | None = None
    ) -> Contributions:
        """What every position adds to the logit of `target`, or to its lead over `against`.

        Parameters
        ----------
        target
            A token by its text or id; the likeliest next one when left out.
        against
            Another: its logit is taken off.
        layer
            Take the residual stream behind that many blocks (0 to depth) in place of the input embeddings.

        Raises
        ------
        ArgumentError, OutOfRangeError
            If there is no such token or layer, or the two tokens are the same.
        """
        chosen, other, u = self._cotangent(target, against)
        value = float((u * self.logits).sum())
        if layer is None:
            gradient = self.streams.input_gradient(u)
            values = (gradient * (self.interp.input - self.interp.origin)[0]).sum(-1)
            residual = float((u * self.interp.residual.reshape(-1, len(u))[-1]).sum())
            return Contributions(chosen, other, None, values.detach(), residual, value)
        by_layer, residuals = self.layer_contributions(target, against)
        if not 0 <= layer < len(by_layer):
            raise OutOfRangeError(f"layer {layer} is out of range: the stream has layers 0 to {len(by_layer) - 1}.")
        return Contributions(chosen, other, layer, by_layer[layer], float(residuals[layer]), value)

    def layer_contributions(
        self, target: int | str | None = None, against: int | str | None = None
    ) -> tuple[Float[Tensor, "layers tokens"], Float[Tensor, " layers"]]:
        """The same for the residual stream behind 0 ... depth blocks, in one backward pass, and each layer's residual.

        Every line with its residual adds up to the same logit.

        Raises
        ------
        ArgumentError
            As of `contributions`; or if something else than the stream leads past a block of this model.
        """
        _, _, u = self._cotangent(target, against)
        gradients, residuals = self.streams.gradients(u)
        values = (gradients * self.streams.values).sum(-1)
        missed = (values.double().sum(1).cpu() + residuals - float((u * self.logits).sum())).abs()
        scale = values.abs().double().sum(1).cpu() + residuals.abs() + 1e-6
        if not bool((missed <= ADDS_UP * scale).all()):
            worst = int((missed / scale).argmax())
            raise ArgumentError(
                f"the residual stream at layer {worst} is not all that leads on in {type(self.model).__name__}: its "
                f"contributions miss the logit by {float(missed[worst]):.2g}; read the input's instead."
            )
        return values.detach(), residuals

    def _cotangent(
        self, target: int | str | None, against: int | str | None
    ) -> tuple[Token, Token | None, Float[Tensor, " vocabulary"]]:
        chosen = self.token(target)
        other = None if against is None else self.token(against)
        u = torch.zeros_like(self.logits)
        u[chosen.id] = 1
        if other is not None:
            if other.id == chosen.id:
                raise ArgumentError(f"target and against are the same token, {chosen.text!r}; name two.")
            u[other.id] -= 1
        return chosen, other, u

    @cached_property
    def streams(self) -> Streams:
        """The residual stream between the blocks."""
        return Streams(self.interp.tape(), self.interp.input, *blocks_of(self.model))

    # -- what it thinks in ---------------------------------------------------------------------------------------------

    def directions(self, position: int | None = None, k: int = 4, words: int = 8) -> list[Direction]:
        """The strongest singular triplets of the map from one token's embedding to the last hidden state, in words.

        The hidden state is that behind the final norm, which is held at its scale on this text: the product with a row
        of the unembedding matrix is then the very logit.

        Parameters
        ----------
        position
            Of the token; all tokens together when left out.
        k
            How many.
        words
            How many words each direction is decoded into, on either side.
        """
        if position is not None and not -len(self.tokens) <= position < len(self.tokens):
            raise OutOfRangeError(f"position {position} is out of range: the text has {len(self.tokens)} tokens.")
        place = None if position is None else position % len(self.tokens)
        return directions_of(self._hidden, self.model, self.tokenizer, place, k, words)

    def lens(self, positions: int = 32) -> Lens:
        """What the model would say at the last `positions` positions if it stopped behind each block."""
        return lens_of(self.streams, self.model, self.tokenizer, self.logits, positions)

    def mixing(self) -> Float[Tensor, "layers heads tokens tokens"]:
        """Attention's probabilities as held in the reading: row p says from which positions p takes values."""
        return torch.stack([one.weights for one in attention_maps(self.interp)])

    def rollout(self) -> Float[Tensor, "tokens tokens"]:
        """The product over the layers of the mean mixing of each (`linearscope.rollout`).

        It says along which positions information could flow, not what it did to the answer.
        """
        return rollout(attention_maps(self.interp))

    @cached_property
    def _hidden(self) -> AffineInterpreter:
        """The part of the reading that ends in the last hidden state."""
        return part(self.interp, to=self.streams.hidden)


def read_text(scope: LinearScope, text: str, tokenizer: Any) -> LanguageReading:
    """`LinearScope.text`: a language model's reading at a text.

    Raises
    ------
    TypeError, ValueError
        As of `LinearScope.at`; or if the model is no decoder with an unembedding, or the text has no tokens.
    """
    model: Any = scope.model
    if getattr(model, "get_output_embeddings", None) is None or model.get_output_embeddings() is None:
        raise ArgumentTypeError(
            f"{type(model).__name__} has no unembedding (get_output_embeddings): it says no next token. Give a causal "
            "language model, or read this one with LinearScope.at."
        )
    if getattr(getattr(model, "config", None), "is_decoder", None) is False:  # of BERT and its kin; decoders lack it
        raise ArgumentTypeError(
            f"{type(model).__name__} looks at later tokens too (config.is_decoder=False): it fills gaps and says no "
            "next token. Read it with LinearScope.at."
        )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ArgumentTypeError(f"{type(model).__name__} has an encoder beside its decoder; give a decoder alone.")
    return read_ids(scope, text_ids(text, tokenizer), tokenizer)


def read_ids(scope: LinearScope, ids: Sequence[int], tokenizer: Any) -> LanguageReading:
    """The same for a text that is cut into tokens already.

    Raises
    ------
    TypeError, ValueError
        As of `read_text`.
    """
    model: Any = scope.model
    for name, path in (("from_", scope.from_), ("to", scope.to)):
        if path is not None:
            raise ArgumentError(
                f"{name}={path!r}: a text is read from its embeddings to the logits; leave {name} out, or read the ids "
                "with LinearScope.at."
            )
    if scope.mode == "parallel":
        raise ArgumentError("mode='parallel' keeps no operations, which a text is read from; use mode='record'.")
    longest = getattr(model.config, "max_position_embeddings", None)
    if isinstance(longest, int) and len(ids) > longest:
        raise ArgumentError(f"text has {len(ids)} tokens, and the model {longest} positions; shorten it.")
    device = next(model.parameters()).device
    interp = scope.at(torch.tensor([list(ids)], device=device), **last_logits(model))
    return LanguageReading(interp, model, tokenizer, list(ids))
