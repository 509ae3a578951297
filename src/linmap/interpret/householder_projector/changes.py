"""What directions do to images: how much each changes, and how much alike the changes are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.interpret.householder_projector.traversal import Synthesis, moved, slot_mask

BATCH = 64
"""Images that are made at once."""


def in_batches(function: Synthesis, x: Tensor) -> Tensor:
    """`function` of the rows of `x` in batches, no gradient."""
    with torch.no_grad():
        return torch.cat([function(part) for part in x.split(BATCH)])


def stepped(
    w: Float[Tensor, "batch slots i"], slot: int | Sequence[int], step: Float[Tensor, " i"]
) -> Float[Tensor, "batch slots i"]:
    """Styles with `step` added at one slot or several."""
    return moved(w, slot_mask(w, slot), step)


def image_changes(
    synthesis: Synthesis,
    w: Float[Tensor, "samples slots i"],
    slots: Sequence[int],
    steps: Float[Tensor, "k i"],
) -> Float[Tensor, "k samples ..."]:
    """Images after each step at its slot, less the images before.

    Parameters
    ----------
    synthesis
        From styles to images.
    w
        Styles.
    slots, steps
        A slot and a vector a direction.

    Raises
    ------
    ValueError
        If there is not a slot for each step.
    """
    if len(slots) != len(steps):
        raise ArgumentError(f"slots must have one number for each of {len(steps)} steps, got {len(slots)}.")
    before = in_batches(synthesis, w.clone())  # a synthesis may work in place
    after = [in_batches(synthesis, stepped(w, slot, step)) - before for slot, step in zip(slots, steps, strict=True)]
    return torch.stack(after)


def change_sizes(changes: Float[Tensor, "k samples ..."]) -> Float[Tensor, " k"]:
    """The mean Euclidean norm over the samples, a direction."""
    return changes.flatten(2).norm(dim=2).mean(1)


def entanglements(changes: Float[Tensor, "k samples ..."]) -> Float[Tensor, " samples"]:
    """At every sample, mean |cos| between the changes of two different directions: 0 where no two change alike.

    A change of nothing at all counts as orthogonal.

    Raises
    ------
    ValueError
        If there are fewer than two directions.
    """
    k = len(changes)
    if k < 2:
        raise ArgumentError(f"changes must be of 2 directions at least, got {k}.")
    flat = changes.detach().flatten(2).transpose(0, 1).double()
    unit = flat / flat.norm(dim=2, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)
    pairs = torch.ones(k, k, dtype=torch.bool).triu(1)
    return (unit @ unit.mT).abs()[:, pairs].mean(1)


def entanglement(changes: Float[Tensor, "k samples ..."]) -> float:
    """The mean of `entanglements` over the samples."""
    return float(entanglements(changes).mean())
