"""Does a score name the tokens that decide? What is left of the answer as tokens go, and what each alone is worth."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linmap.errors import ArgumentError

Without = Literal["removed", "zeroed"]
"""How a token is taken away: out of the text, or its embedding set to zero in its place."""
TOGETHER = 512
"""Tokens that go through the model at once."""


@dataclass(frozen=True)
class Curve:
    """The answer as more and more tokens are taken away, the highest scores first.

    Attributes
    ----------
    shares
        Of the tokens that are gone, from 0 on.
    logits, probabilities
        Of the target, one a share.
    """

    shares: list[float]
    logits: list[float]
    probabilities: list[float]

    def area(self, values: Sequence[float]) -> float:
        """Below one of the two curves by the trapezoid rule, over the width of the shares."""
        pairs = zip(self.shares, self.shares[1:], values, values[1:], strict=False)
        return sum((b - a) * (u + v) / 2 for a, b, u, v in pairs) / (self.shares[-1] - self.shares[0])


def deletion_curve(
    model: nn.Module,
    ids: Sequence[int],
    target: int,
    scores: Float[Tensor, " tokens"],
    steps: int = 10,
    without: Without = "removed",
) -> Curve:
    """Take tokens away in the order of their scores, from none to all but one in `steps` equal steps.

    Parameters
    ----------
    model
        A causal language model of Transformers, in eval mode.
    ids
        The tokens of the text.
    target
        The token whose logit and probability after the text are followed.
    scores
        Of each token: the highest goes first.
    steps
        Points of the curve beside that of the whole text.
    without
        How a token is taken away.

    Raises
    ------
    ArgumentError
        If there are fewer than two tokens, or not one score a token.
    """
    return deletion_curves(model, ids, target, scores[None], steps, without)[0]


def deletion_curves(
    model: nn.Module,
    ids: Sequence[int],
    target: int,
    scores: Float[Tensor, "orders tokens"],
    steps: int = 10,
    without: Without = "removed",
) -> list[Curve]:
    """`deletion_curve` for several scores at once, which is faster than one after the other."""
    if len(ids) < 2 or scores.shape[1] != len(ids):
        raise ArgumentError(
            f"a curve needs two tokens or more and a score for each, got {len(ids)} and {scores.shape[1]}."
        )
    orders = scores.argsort(dim=1, descending=True, stable=True).cpu()
    counts = sorted({round(step * (len(ids) - 1) / steps) for step in range(steps + 1)})
    gone = torch.zeros(len(orders), len(counts), len(ids), dtype=torch.bool)
    for order, rows in zip(orders, gone, strict=True):
        for row, count in zip(rows, counts, strict=True):
            row[order[:count]] = True
    logits = logits_without(model, ids, gone.flatten(0, 1), without)
    probabilities = logits.softmax(-1)[:, target].reshape(len(orders), -1).tolist()
    shares = [count / len(ids) for count in counts]
    values = logits[:, target].reshape(len(orders), -1).tolist()
    return [Curve(shares, a, b) for a, b in zip(values, probabilities, strict=True)]


def ablation(
    model: nn.Module, ids: Sequence[int], target: int, without: Without = "removed"
) -> Float[Tensor, " tokens"]:
    """What each token is truly worth: how far the target's logit falls when that token alone is taken away."""
    whole = logits_without(model, ids, torch.zeros(1, len(ids), dtype=torch.bool), without)[0, target]
    alone = torch.eye(len(ids), dtype=torch.bool)
    return whole - logits_without(model, ids, alone, without)[:, target]


@torch.no_grad()
def logits_without(
    model: Any, ids: Sequence[int], gone: Bool[Tensor, "cases tokens"], without: Without = "removed"
) -> Float[Tensor, "cases vocabulary"]:
    """The logits of what comes next, for several ways of taking tokens away; those of one length go together."""
    if without not in ("removed", "zeroed"):
        raise ArgumentError(f"without must be 'removed' or 'zeroed', got {without!r}.")
    x = embedded(model, ids)
    found: dict[int, Tensor] = {}
    lengths = (~gone).sum(1).tolist() if without == "removed" else [len(ids)] * len(gone)
    for length in sorted(set(lengths)):
        cases = [case for case, own in enumerate(lengths) if own == length]
        size = max(1, TOGETHER // max(length, 1))
        for first in range(0, len(cases), size):
            part = cases[first : first + size]
            if without == "removed":
                batch = torch.cat([x[:, ~gone[case]] for case in part])
            else:
                batch = x.expand(len(part), -1, -1).masked_fill(gone[part].to(x.device)[..., None], 0)
            found |= dict(zip(part, next_logits(model, batch), strict=True))
    return torch.stack([found[case] for case in range(len(gone))])


def embedded(model: Any, ids: Sequence[int]) -> Float[Tensor, "1 tokens width"]:
    """The input embeddings of a text, on the model's device."""
    device = next(model.parameters()).device
    with torch.no_grad():
        return model.get_input_embeddings()(torch.tensor([list(ids)], device=device)).detach()


def next_logits(model: Any, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch vocabulary"]:
    """The logits behind the last token."""
    return model(inputs_embeds=x, use_cache=False, **last_logits(model)).logits[:, -1]


def last_logits(model: nn.Module) -> dict[str, int]:
    """The argument that spares a model all logits but the last token's, where its forward has one."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Spearman's, between two scores of the same tokens; 0 where one of them is constant."""
    ranks = torch.stack([_ranks(a), _ranks(b)])
    centred = ranks - ranks.mean(1, keepdim=True)
    scale = centred.norm(dim=1).prod()
    return float(centred.prod(0).sum() / scale) if scale else 0.0


def _ranks(values: Tensor) -> Tensor:
    """Places in the order, equal values sharing the mean of theirs."""
    values = values.detach().double().cpu()
    below = (values[:, None] > values).sum(1)
    same = (values[:, None] == values).sum(1)
    return below + (same - 1).double() / 2
