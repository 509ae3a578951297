"""What tokens take from one another: attention's mixing as matrices, and the share of every token in a reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.interpret.linearscope.interpreter import AffineInterpreter


@dataclass(frozen=True)
class AttentionMap:
    """The matrices by which one attention mixes its values at x."""

    module: str
    """Path of the layer."""
    weights: Float[Tensor, "heads to from"]
    """The probabilities: row i says from which tokens token i takes values, and how much."""


def attention_maps(interp: AffineInterpreter) -> list[AttentionMap]:
    """The mixing of every attention that leads from x to y, in the order of the forward.

    Raises
    ------
    ValueError
        If there is no attention on the way.
    """
    steps = [step for step in interp.tape().steps if step.mixing is not None]
    if not steps:
        raise ArgumentError("the reading goes through no attention whose softmax mixes values.")
    maps = []
    for step in steps:
        assert step.mixing is not None
        maps.append(AttentionMap(step.place.module, step.mixing.reshape(-1, *step.mixing.shape[-2:])))
    return maps


def rollout(maps: Sequence[AttentionMap] | Sequence[Tensor], residual: float = 0.5) -> Float[Tensor, "to from"]:
    """Attention rollout: the product over layers of residual I + (1 - residual) A, with A the mean over heads.

    It multiplies probabilities only. What the values, the output projections, the norms and the feed-forward layers do
    to what is mixed is not in it; `token_shares` has all of that.

    References
    ----------
    Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020.
    """
    if not 0 <= residual <= 1:
        raise ArgumentError(f"residual is the share of the residual connection, between 0 and 1; got {residual}.")
    product: Tensor | None = None
    for one in maps:
        weights = one.weights if isinstance(one, AttentionMap) else one
        mean = weights.mean(0)
        if mean.shape[0] != mean.shape[1]:
            raise ArgumentError(f"rollout needs square attention maps, got {tuple(mean.shape)}.")
        layer = residual * torch.eye(len(mean), dtype=mean.dtype, device=mean.device) + (1 - residual) * mean
        product = layer if product is None else layer @ product
    if product is None:
        raise ArgumentError("rollout needs at least one attention map.")
    return product


@torch.no_grad()
def token_contributions(interp: AffineInterpreter, batch_size: int = 16) -> Float[Tensor, " tokens *outputs"]:
    """What every token adds to the output: F applied to (x - origin) with all other tokens set to zero.

    The contributions of all tokens and the residual add up to the output exactly.

    Parameters
    ----------
    interp
        A reading whose input is (1, tokens, features); the first axis behind the batch axis counts as tokens.
    batch_size
        Products with F at a time.
    """
    moved = (interp.input - interp.origin).reshape(interp.input_shape)
    tokens = torch.arange(len(moved), device=moved.device)
    parts = []
    for group in tokens.split(batch_size):
        probes = torch.zeros(len(group), *moved.shape, dtype=moved.dtype, device=moved.device)
        probes[torch.arange(len(group)), group] = moved[group]
        parts.append(interp.matvec(probes.flatten(1)))
    return torch.cat(parts).reshape(-1, *interp.output_shape)


@torch.no_grad()
def token_shares(interp: AffineInterpreter, batch_size: int = 16) -> Float[Tensor, "to from_and_residual"]:
    """How much of every output token comes from every input token: rollout with the maps that the network really has.

    Entry (i, j) is <y_i, c_ij> / <y_i, y_i>, with c_ij what token j adds to the output vector y_i; the last column is
    the residual's share. A row adds up to 1 exactly. Shares may be negative or above 1, where tokens pull against one
    another. The product over layers is taken by F itself, feed-forward layers, norms and residual connections included.

    Parameters
    ----------
    interp
        A reading from (1, tokens, features) to (1, tokens, features), such as one that ends in a layer's residual
        stream.
    batch_size
        Products with F at a time.
    """
    if len(interp.output_shape) != 2:
        raise ArgumentError(
            f"token_shares needs an output (1, tokens, features), got {tuple(interp.output.shape)}; end the reading in "
            "a layer's residual stream (to=)."
        )
    y = interp.output.reshape(interp.output_shape)
    terms = torch.cat([token_contributions(interp, batch_size), interp.residual.reshape(1, *interp.output_shape)])
    return torch.einsum("jik,ik->ij", terms, y) / y.square().sum(-1, keepdim=True)
