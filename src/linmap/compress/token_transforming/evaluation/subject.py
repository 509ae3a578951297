"""A model and its inputs: what goes in, what comes out, and how near that is to what the model gives as it is.

A subject runs a batch with or without merged tokens, restores what is dense, and scores the outcome against that of the
model as it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.token_transforming import Compressed, TokenTransform, compress
from linmap.compress.token_transforming.evaluation.predictions import Head
from linmap.errors import ArgumentError

QUARTERS = (0.25, 0.5, 0.75)
"""Of the depth, where models of images merge."""


@dataclass(frozen=True)
class Measure:
    """How near an outcome is to that of the model as it is."""

    name: str
    better: Literal["lower", "higher"]
    perfect: float
    """Its value where nothing is lost; of an accuracy it is measured."""
    lost: float
    """What may be lost where the user does not say."""
    digits: int = 3
    unit: str = ""


class Subject(ABC):
    """A model and its inputs.

    Attributes
    ----------
    names
        Of the inputs.
    measures
        What is scored; the first decides.
    depth
        Blocks of the model.
    head
        With a classifier whose predictions are wanted: the head that it has; else None.
    """

    what: ClassVar[str] = "inputs"
    keeps: ClassVar[tuple[float, ...]] = ()
    """Budgets where the user names none."""
    places: ClassVar[str] = ""
    """Where tokens are merged where the user names no block, in words."""
    names: Sequence[str]
    measures: Sequence[Measure]
    depth: int
    model: Any
    head: Head | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Batches."""

    @abstractmethod
    def forward(self, batch: int) -> Any:
        """What the model gives for a batch, as it comes out; this is what is timed."""

    def encoded(self, batch: int) -> Any:
        """What the encoder gives for a batch, also where a head stands around it."""
        found = self.forward(batch)
        return found if self.head is None else self.head.read(found)

    @abstractmethod
    def features(self, batch: int, handle: Compressed | None = None) -> dict[str, Tensor]:
        """What is compared, a row for each input; dense outputs restored."""

    @abstractmethod
    def example(self, batch: int) -> dict[str, Any]:
        """A batch as the model is called with it, by keyword."""

    @abstractmethod
    def budget(self, transform: TokenTransform, keep: Any, at: Sequence[int] | None) -> dict[str, Any]:
        """What `compress` is given for a share of tokens (or what else budgets are) that stays at some blocks."""

    def compressed(self, transform: TokenTransform, keep: Any, at: Sequence[int] | None) -> Compressed:
        """The model with fewer tokens inside, until the handle is removed."""
        return compress(self.model, **self.budget(transform, keep, at), transform=transform)

    @abstractmethod
    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        """By measure, one for each input."""

    def in_order(self) -> tuple[list[str], list[int]]:
        """The names in the order of the data, and where each is among the inputs of all batches."""
        return list(self.names), list(range(len(self.names)))

    @abstractmethod
    def macs(self, handle: Compressed | None) -> float:
        """Multiply-adds of one input in the model, of the last batch that went through."""


def blocks_of(subject: Subject, at: Sequence[int] | None) -> tuple[int, ...]:
    """The blocks in which tokens are merged.

    Raises
    ------
    ValueError
        If the model has no such block.
    """
    if at is None:
        return tuple(
            dict.fromkeys(max(1, round(share * subject.depth)) for share in QUARTERS if subject.depth > 1)
        ) or (0,)
    if wrong := [block for block in at if not 0 <= block < subject.depth]:
        raise ArgumentError(f"at = {wrong[0]}: the model has {subject.depth} blocks, numbered from 0.")
    return tuple(at)


def restored(handle: Compressed | None, tokens: Float[Tensor, "batch fewer width"]) -> Float[Tensor, "batch all width"]:
    """Tokens at all their places; those of dropped ones are taken from the nearest that stayed."""
    transforms = {} if handle is None else handle.transforms
    for layer in sorted(transforms, reverse=True):
        transform = transforms[layer]
        tokens = transform.restore(tokens, pruned="error" if transform.nearest is None else "nearest")
    return tokens


def plain_macs(model: nn.Module, n_tokens: int) -> int:
    """Of the model as it is."""
    with compress(model, schedule={}) as handle:
        return handle.macs(n_tokens)
