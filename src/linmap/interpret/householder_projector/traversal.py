"""Moving along directions: images on the way, how far to go, and how much each direction changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.interpret.householder_projector.arguments import (
    check_finite,
    check_floating,
    check_number,
    check_whole,
    widened,
)

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
        If w is not 3-D, a slot is out of range, the direction has another length than i or is not finite, or the
        alphas are not at least one finite number.
    """
    mask = slot_mask(w, slot)
    check_directions("direction", direction, 1, w.shape[-1])
    steps = _steps(alphas)
    return torch.stack([synthesis(moved(w, mask, alpha * direction)) for alpha in steps])


def _steps(alphas: Any) -> list[float]:
    given = alphas.tolist() if isinstance(alphas, Tensor | np.ndarray) else alphas
    if not isinstance(given, Iterable) or isinstance(given, str) or not (steps := list(given)):
        raise ArgumentError(f"alphas must be a sequence of at least one step, got {alphas!r}.")
    for step in steps:
        check_number("alphas", step.item() if isinstance(step, Tensor) else step)
    return [float(step) for step in steps]


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
        If w is not (S, i) with S > 1, the direction has another length than i, n is less than 1, or n_std is not
        finite.
    """
    check_floating("w", w, 2, "(S, i)")
    if len(w) < 2:
        raise ArgumentError(f"w must have at least two samples for a standard deviation, got {len(w)}.")
    check_directions("direction", direction, 1, w.shape[-1])
    n = check_whole("n", n, 1, 2**31)
    check_number("n_std", n_std)
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
        before = flat(synthesis(w.clone()), len(w))  # a synthesis may work in place
        changes = [
            torch.linalg.vector_norm(flat(synthesis(moved(w, mask, eps * d)), len(w)) - before, dim=1).mean() / abs(eps)
            for d in directions
        ]
    change = torch.stack(changes)
    return change.detach().argsort(descending=True, stable=True), change.to(w.dtype)


# -- what the functions share ------------------------------------------------------------------------------------------


def slot_mask(w: Any, slot: Slot) -> Float[Tensor, " n_slots"]:
    """Ones at the slots to move, or an error about w or a slot."""
    check_floating("w", w, 3, "(B, n_slots, i)")
    given = slot.tolist() if isinstance(slot, Tensor | np.ndarray) else slot
    chosen = list(given) if isinstance(given, Iterable) else [given]
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
    check_finite(name, value)


def check_step(eps: float) -> None:
    check_number("eps", eps)
    if not eps:
        raise ArgumentError(f"eps must be a number other than zero, got {eps!r}.")


def flat(images: Tensor, n: int) -> Float[Tensor, "B features"]:
    """The images, or features, of n > 0 samples as rows; half precision as float32."""
    if n == 0:
        raise ArgumentError("there must be at least one sample of w, got none.")
    if not isinstance(images, Tensor) or images.ndim == 0 or len(images) != n:
        came = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ArgumentError(f"synthesis and features must give a row for each of {n} samples, got {came}.")
    return widened(images).flatten(1) if images.ndim > 1 else widened(images)[:, None]


def derivatives_of(*inputs: Tensor) -> Any:
    """Record a graph only where a derivative by one of the inputs is wanted."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    return torch.set_grad_enabled(wanted)
