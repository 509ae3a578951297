"""Canonical directions of a k-space: those along which the generator's exact Jacobian is orthogonal."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vmap

from linmap.interpret.householder_projector.sefa import signed
from linmap.interpret.householder_projector.traversal import (
    Slot,
    Synthesis,
    check_directions,
    derivatives_of,
    flat,
    moved,
    slot_mask,
)

AT_ONCE = 80  # tangent images that are held at once


def jacobian_basis(
    synthesis: Synthesis, w: Float[Tensor, "S n_slots i"], slot: Slot, directions: Float[Tensor, "k i"]
) -> tuple[Float[Tensor, "k i"], Float[Tensor, " k"]]:
    """Turn directions within the space that they span until they change the images independently, to first order.

    J, the derivative of the image by the k steps along the directions, is computed exactly, all k columns in one
    forward-mode pass, and never by pixels. The rotation makes the mean over the samples of J^T J diagonal.

    Parameters
    ----------
    synthesis, w, slot
        As in `traverse`. Every operation of the synthesis must have a forward-mode derivative; a network should be in
        evaluation mode.
    directions
        Orthonormal rows.

    Returns
    -------
    directions, values
        (k, i), with a positive entry of largest magnitude, and the eigenvalues (k,), in descending order: the mean
        squared change of the image for a small step, over the step's square.

    Raises
    ------
    ValueError
        As `traverse`.
    """
    mask = slot_mask(w, slot)
    check_directions("directions", directions, 2, w.shape[-1])
    with derivatives_of(w, directions):
        gram = _mean_gram(synthesis, w, mask, directions)
        values, rotation = torch.linalg.eigh(gram)
        turned = rotation.mT.flip(0).to(directions) @ directions
    return signed(turned), values.flip(0).clamp_min(0).to(directions.dtype)


def _mean_gram(synthesis: Synthesis, w: Tensor, mask: Tensor, directions: Tensor) -> Float[Tensor, "k k"]:
    """The mean over the samples of J^T J, in float64."""
    k = len(directions)
    steps = torch.eye(k).to(w)

    def gram(part: Tensor) -> Tensor:
        def images(alpha: Tensor) -> Tensor:
            return flat(synthesis(moved(part, mask, alpha @ directions.to(w))), len(part))

        def column(step: Tensor) -> Tensor:
            return jvp(images, (torch.zeros_like(step),), (step,))[1]

        J = vmap(column, randomness="same")(steps).flatten(1)  # (k, samples * pixels): a sum over both is wanted
        return (J @ J.mT).double()

    return torch.stack([gram(part) for part in w.split(max(1, AT_ONCE // k))]).sum(0) / len(w)
