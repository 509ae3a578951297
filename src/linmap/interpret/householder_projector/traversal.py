"""Moving along directions: images on the way, how far to go, and how much each direction changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.interpret.householder_projector.arguments import check_floating, check_whole, widened

Synthesis = Callable[[Tensor], Tensor]
Slot = int | Sequence[int]


@torch.no_grad()
def traverse(
    synthesis: Synthesis,
    w: Float[Tensor, "B n_slots i"],
    slot: Slot,
    direction: Float[Tensor, " i"],
    alphas: Iterable[float] | Float[Tensor, " n_alphas"],
) -> Float[Tensor, "n_alphas B ..."]:
    """Images with alpha times a direction added to the latent codes, at one slot or several. There is no gradient.

    Parameters
    ----------
    synthesis
        Images of codes (B, n_slots, i).
    w
        The codes; left unchanged.
    slot
        Number of a slot, or several.
    direction
        Not normalised here.
    alphas
        Steps.

    Raises
    ------
    ValueError
        If w is not 3-D, a slot is out of range, the direction has another length than i, or there are no alphas.
    """
    mask = slot_mask(w, slot)
    check_directions("direction", direction, 1, w.shape[-1])
    steps = [float(alpha) for alpha in alphas]
    if not steps:
        raise ArgumentError("alphas is empty; give at least one step.")
    return torch.stack([synthesis(moved(w, mask, alpha * direction)) for alpha in steps])


def traversal_range(
    w: Float[Tensor, "S i"], direction: Float[Tensor, " i"], *, n_std: float = 3.0, n: int = 7
) -> Float[Tensor, " n"]:
    """Steps from -n_std to n_std standard deviations of the codes along a direction.

    Parameters
    ----------
    w
        At least two latent codes.
    direction
        (i,).
    n_std
        How far, in standard deviations (n - 1).
    n
        How many steps.

    Raises
    ------
    ValueError
        If w is not (S, i) with S > 1, the direction has another length than i, or n is less than 1.
    """
    check_floating("w", w, 2, "(S, i)")
    if len(w) < 2:
        raise ArgumentError(f"w must have at least two samples for a standard deviation, got {len(w)}.")
    check_directions("direction", direction, 1, w.shape[-1])
    n = check_whole("n", n, 1, 2**31)
    along = widened(w) @ widened(direction).to(widened(w))
    return (along.std() * torch.linspace(-n_std, n_std, n).to(along)).to(w.dtype)


def rank_directions(
    synthesis: Synthesis,
    w: Float[Tensor, "S n_slots i"],
    slot: Slot,
    directions: Float[Tensor, "k i"],
    *,
    eps: float = 1.0,
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The order of directions by how much a step along them changes the images.

    Parameters
    ----------
    synthesis, w, slot
        As in `traverse`.
    directions
        As rows.
    eps
        Length of the step.

    Returns
    -------
    order, change
        The numbers of the directions, the largest change first, and the change of each (in the given order): the mean
        over the samples of |G(w + eps d) - G(w)| / eps.

    Raises
    ------
    ValueError
        As `traverse`, or if eps is zero.
    """
    mask = slot_mask(w, slot)
    check_directions("directions", directions, 2, w.shape[-1])
    check_step(eps)
    with derivatives_of(w, directions):
        before = flat(synthesis(w))
        changes = [
            torch.linalg.vector_norm(flat(synthesis(moved(w, mask, eps * d))) - before, dim=1).mean() / abs(eps)
            for d in directions
        ]
    change = torch.stack(changes)
    return change.detach().argsort(descending=True, stable=True), change.to(w.dtype)


# -- what the functions share ------------------------------------------------------------------------------------------


def slot_mask(w: Any, slot: Slot) -> Float[Tensor, " n_slots"]:
    """Ones at the slots to move, or an error about w or a slot."""
    check_floating("w", w, 3, "(B, n_slots, i)")
    chosen = list(slot) if isinstance(slot, Iterable) else [slot]
    if not chosen:
        raise ArgumentError("slot is empty; name at least one slot.")
    for number in chosen:
        check_whole("slot", number, 0, w.shape[1] - 1, f", w having {w.shape[1]} slots")
    mask = w.new_zeros(w.shape[1])
    mask[[int(number) for number in chosen]] = 1
    return mask


def moved(w: Float[Tensor, "B n_slots i"], mask: Tensor, shift: Tensor) -> Float[Tensor, "B n_slots i"]:
    """w with a shift of shape (i,) or (B, i) added at the slots of a mask."""
    return w + mask[:, None] * shift.to(w).unsqueeze(-2)


def check_directions(name: str, value: Any, ndim: int, n_features: int) -> None:
    check_floating(name, value, ndim, "(i,)" if ndim == 1 else "(k, i)")
    if value.shape[-1] != n_features or len(value) == 0:
        raise ArgumentError(
            f"{name} must have the {n_features} features of w on the last axis, got shape {tuple(value.shape)}."
        )


def check_step(eps: float) -> None:
    if not eps or eps != eps:
        raise ArgumentError(f"eps must be a number other than zero, got {eps!r}.")


def flat(images: Tensor) -> Float[Tensor, "B features"]:
    """Images as rows, half precision as float32."""
    return widened(images).reshape(len(images), -1)


def derivatives_of(*inputs: Tensor) -> Any:
    """Record a graph only where a derivative by one of the inputs is wanted."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    return torch.set_grad_enabled(wanted)
