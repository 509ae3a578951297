"""All that is told of one text: gathered once, for the page, the JSON file and the tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import LinmapError
from linmap.interpret.linearscope.language.directions import Direction
from linmap.interpret.linearscope.language.lens import Lens
from linmap.interpret.linearscope.language.reading import Contributions, LanguageReading, Prediction
from linmap.interpret.linearscope.language.tokens import Token, quoted
from linmap.interpret.linearscope.mixing import attention_maps, rollout

NEXT = 10
"""Likeliest next tokens that are listed."""


@dataclass
class Summary:
    """What a reading tells of a text.

    Attributes
    ----------
    tokens, contributions, predictions
        Of the text, what each adds, and what may come next.
    layers, residuals
        Contributions of the residual stream behind every block, and what the biases after it add.
    lens, mixing, rollout
        As of the reading; None where they cannot be read.
    directions
        By position.
    notes
        What could not be read, and why.
    """

    tokens: list[Token]
    contributions: Contributions
    predictions: list[Prediction]
    layers: Float[Tensor, "layers tokens"] | None = None
    residuals: Float[Tensor, " layers"] | None = None
    lens: Lens | None = None
    mixing: Float[Tensor, "layers tokens tokens"] | None = None
    """Mean over the heads."""
    rollout: Float[Tensor, "tokens tokens"] | None = None
    directions: dict[int, list[Direction]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def quantity(self) -> str:
        """What is explained, in words."""
        target, against = self.contributions.target, self.contributions.against
        if against is None:
            return f"the logit of {quoted(target)}"
        return f"the lead of {quoted(target)} over {quoted(against)}"

    def answer(self) -> str:
        """The sum in one sentence."""
        found = self.contributions
        order = found.values.argsort(descending=True).tolist()
        best = [f"{quoted(self.tokens[i])} {float(found.values[i]):+.2f}" for i in order[:3] if found.values[i] > 0]
        biases = f", the biases {found.residual:+.2f}" if abs(found.residual) > 5e-3 else ""
        most = f"; most by {', '.join(best)}" if best else ""
        start = f"{self.quantity[0].upper()}{self.quantity[1:]}"
        return f"{start} is {found.value:.2f}: the tokens add {float(found.values.sum()):+.2f}{biases}{most}."

    def plain(self) -> dict[str, Any]:
        """As plain JSON values, tokens by text and id."""
        found = self.contributions
        return {
            "tokens": [{"id": token.id, "text": token.text} for token in self.tokens],
            "target": _named(found.target),
            "against": _named(found.against) if found.against else None,
            "value": found.value,
            "residual": found.residual,
            "contributions": found.values.tolist(),
            "predictions": [
                _named(p.token) | {"logit": p.logit, "probability": p.probability} for p in self.predictions
            ],
            "layers": None if self.layers is None else self.layers.tolist(),
            "layer_residuals": None if self.residuals is None else self.residuals.tolist(),
            "lens": None if self.lens is None else _plain_lens(self.lens),
            "rollout": None if self.rollout is None else self.rollout[-1].tolist(),
            "directions": {str(place): [_plain(one) for one in found] for place, found in self.directions.items()},
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row a token, for a table."""
        rollout = None if self.rollout is None else self.rollout[-1].tolist()
        return [
            {"position": i, "id": token.id, "token": token.text, "contribution": float(self.contributions.values[i])}
            | ({} if rollout is None else {"attention_rollout": rollout[i]})
            for i, token in enumerate(self.tokens)
        ]

    def layer_rows(self) -> list[dict[str, Any]]:
        """A row a layer and position, for a table."""
        if self.layers is None:
            return []
        said = {}
        if self.lens is not None:
            for name, read in (("logit_lens", self.lens.logit), ("carried", self.lens.carried)):
                for layer, tokens in enumerate(read.tokens):
                    for place, position in enumerate(self.lens.positions):
                        cell = {
                            name: tokens[place].text,
                            f"{name}_probability": float(read.probabilities[layer, place]),
                        }
                        said[layer, position] = said.get((layer, position), {}) | cell
        empty = dict.fromkeys(next(iter(said.values()))) if said else {}
        return [
            {"layer": layer, "position": i, "token": token.text, "contribution": float(self.layers[layer, i])}
            | said.get((layer, i), empty)
            for layer in range(len(self.layers))
            for i, token in enumerate(self.tokens)
        ]


def summary_of(
    reading: LanguageReading,
    target: int | str | None = None,
    against: int | str | None = None,
    *,
    directions: int = 4,
    positions: int = 2,
    lens: int = 24,
) -> Summary:
    """Gather a reading.

    Parameters
    ----------
    reading
        Of a text.
    target, against
        As of `LanguageReading.contributions`.
    directions
        Singular triplets a token; none for 0.
    positions
        Tokens whose operator is decoded: those that add most to the value, whatever its sign.
    lens
        Positions of the lenses, the last ones; none for 0.
    """
    found = Summary(
        reading.tokens, reading.contributions(target, against), reading.predictions(min(NEXT, len(reading.logits)))
    )

    def read(what: str, work: Callable[[], Any]) -> Any:
        """A part that this model may not have."""
        try:
            return work()
        except LinmapError as error:
            found.notes.append(f"{what}: {error}")
            return None

    by_layer = read("contributions by layer", lambda: reading.layer_contributions(target, against))
    if by_layer is not None:
        found.layers, found.residuals = by_layer
    maps = read("attention's mixing", lambda: attention_maps(reading.interp))
    if maps is not None:
        found.mixing, found.rollout = torch.stack([one.weights.mean(0) for one in maps]), rollout(maps)
    found.lens = read("the lenses", lambda: reading.lens(lens)) if lens else None
    order = found.contributions.values.abs().argsort(descending=True).tolist()
    for place in order[: positions if directions else 0]:
        triplets = read("directions", lambda place=place: reading.directions(place, directions))
        if triplets is None:
            break
        found.directions[place] = triplets
    return found


def _named(token: Token) -> dict[str, Any]:
    return {"id": token.id, "text": token.text}


def _plain(direction: Direction) -> dict[str, Any]:
    words = ("writes", "writes_against", "reads", "reads_against")
    found: dict[str, Any] = {name: [_named(token) for token in getattr(direction, name)] for name in words}
    return {"gain": direction.gain, "strength": direction.strength} | found


def _plain_lens(lens: Lens) -> dict[str, Any]:
    return {"positions": lens.positions} | {
        name: {
            "tokens": [[token.text for token in row] for row in read.tokens],
            "probabilities": read.probabilities.tolist(),
        }
        for name, read in (("logit", lens.logit), ("carried", lens.carried))
    }
