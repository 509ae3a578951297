"""The directions of a generator in one list: of which layer, how far codes spread along them, how much they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError, OutOfRangeError
from linmap.interpret.householder_projector.arguments import check_rank
from linmap.interpret.householder_projector.changes import change_sizes, image_changes, stepped
from linmap.interpret.householder_projector.generators import Generator, draw_codes
from linmap.interpret.householder_projector.jacobian import jacobian_basis
from linmap.interpret.householder_projector.layers import layer_matrix
from linmap.interpret.householder_projector.sefa import sefa

Order = Literal["change", "jacobian", "layer"]
SAMPLES, MEASURED = 4096, 16
"""Codes that deviations are taken over, and those that changes are measured at."""


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Unit vectors in the space of styles; the user counts them from 1."""

    vectors: Float[Tensor, "k i"]
    layers: tuple[str, ...]
    """Of each, the layer that reads it."""
    slots: tuple[int, ...]
    """Of each, the slot of that layer."""
    deviations: Float[Tensor, " k"]
    """Standard deviation of w along each, the unit that edits are given in."""
    changes: Float[Tensor, " k"]
    """Mean Euclidean norm of what one deviation changes in the image."""

    def __len__(self) -> int:
        return len(self.vectors)

    def step(self, number: int, amount: float) -> tuple[int, Float[Tensor, " i"]]:
        """The slot, and what is added there, for `amount` standard deviations along direction `number` (from 1).

        Raises
        ------
        IndexError
            If there is no such direction.
        """
        if not 1 <= number <= len(self):
            raise OutOfRangeError(f"there is no direction {number}; there are 1 to {len(self)}.")
        return self.slots[number - 1], amount * self.deviations[number - 1] * self.vectors[number - 1]

    def edited(self, w: Float[Tensor, "batch slots i"], edits: Mapping[int, float]) -> Float[Tensor, "batch slots i"]:
        """Styles after edits: standard deviations by the number of the direction."""
        for number, amount in edits.items():
            w = stepped(w, *self.step(number, amount))
        return w

    def first(self, k: int) -> DirectionSet:
        """The first `k` of them."""
        return replace(
            self, vectors=self.vectors[:k], layers=self.layers[:k], slots=self.slots[:k],
            deviations=self.deviations[:k], changes=self.changes[:k],
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """What is kept of them, beside the names of the layers."""
        slots = torch.tensor(self.slots, dtype=torch.int64)
        return {"vectors": self.vectors, "slots": slots, "deviations": self.deviations, "changes": self.changes}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], layers: Sequence[str]) -> DirectionSet:
        """The same again, of what `tensors` gave."""
        slots = tuple(int(slot) for slot in tensors["slots"])
        return cls(tensors["vectors"], tuple(layers), slots, tensors["deviations"], tensors["changes"])


def find_directions(
    generator: Generator,
    found: Mapping[str, Float[Tensor, "k i"]],
    slots: Mapping[str, int],
    *,
    order: Order = "change",
    seed: int = 0,
) -> DirectionSet:
    """The directions of several layers in one order, measured.

    Parameters
    ----------
    generator
        In evaluation mode.
    found
        By layer, orthonormal directions in rows, as `named_directions` or `sefa` gives them.
    slots
        By layer, the slot that it reads.
    order
        "change": by what one standard deviation changes in the image, the most first. "jacobian": within each layer
        first turned to the basis in which the mean squared Jacobian of the image is diagonal (exact, forward mode).
        "layer": as they come, layer by layer.
    seed
        Of the codes.

    Raises
    ------
    ValueError
        If there are no directions, or there is no such order.
    """
    if order not in get_args(Order):
        raise ArgumentError(f"order={order!r} must be one of {', '.join(get_args(Order))}.")
    if not found:
        raise ArgumentError("found must hold directions of one layer at least.")
    w = generator.mapping(draw_codes(generator, SAMPLES, seed)).detach()
    vectors, layers = [], []
    for name, rows in found.items():
        rows = rows.detach().to(w)
        if order == "jacobian":
            rows = jacobian_basis(generator.synthesis, w[:MEASURED], slots[name], rows)[0]
        vectors.append(rows)
        layers += [name] * len(rows)
    V, places = torch.cat(vectors), tuple(slots[name] for name in layers)
    along = torch.stack([w[:, slot] @ v for slot, v in zip(places, V, strict=True)])
    deviations = along.std(1)
    changes = change_sizes(image_changes(generator.synthesis, w[:MEASURED], places, deviations[:, None] * V))
    listed = DirectionSet(V, tuple(layers), places, deviations, changes)
    return listed if order == "layer" else _sorted(listed)


def _sorted(given: DirectionSet) -> DirectionSet:
    rows = given.changes.argsort(descending=True, stable=True)
    numbers = rows.tolist()
    return DirectionSet(
        given.vectors[rows],
        tuple(given.layers[i] for i in numbers),
        tuple(given.slots[i] for i in numbers),
        given.deviations[rows],
        given.changes[rows],
    )


def sefa_of(generator: Generator, layers: Mapping[str, int], rank: int) -> dict[str, Float[Tensor, "k i"]]:
    """SeFa's directions of plain layers: the leading right singular vectors of each one's weight.

    Raises
    ------
    ValueError
        If `rank` is more than a layer has, or a layer is not linear; the layer is named.
    """
    modules = dict(cast(nn.Module, generator).named_modules())
    found = {}
    for name in layers:
        try:
            if (matrix := layer_matrix(modules[name])) is not None:
                check_rank(rank, *matrix.shape)
            found[name] = sefa(modules[name], rank)[0]
        except (ArgumentError, ArgumentTypeError) as error:
            raise ArgumentError(f"layer {name!r}: {error}") from None
    return found
