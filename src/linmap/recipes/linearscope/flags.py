"""The flags of `linmap compare linearscope` and `linmap apply linearscope`."""

from __future__ import annotations

from dataclasses import dataclass

from linmap.recipes.derived import Derived, flags


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what it is given of an image."""

    model: str = "efficientnet-lite0"
    """efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2, or package.module:function, a function of
    yours without arguments that returns an nn.Module in eval mode (or a module's class or variable)."""
    side: int | None = None
    """The image is cut to its largest centred square and resized to this many pixels; 224, or 32 for fsrcnn."""
    grey: bool = False
    """Give your own model one luminance channel in [0, 1] instead of (pixel - mean) / std."""
    mean: float = 127.0
    """Subtracted from the pixels (0 to 255)."""
    std: float = 128.0
    """Divides them."""


@flags
class Reading(Network, Derived):
    """How the network is read."""

    OF = "linmap.interpret.linearscope.scope:LinearScope"
    LEAVE = ("model", "strip_softmax", "output", "from_", "to", "batched")


@dataclass(frozen=True, kw_only=True)
class Compare(Reading):
    """What `linmap compare linearscope` measures."""

    deleted: float = 0.1
    """Share of the pixels that the deletion test sets to zero."""
    random_masks: int = 10
    """Random deletions of each image."""


@dataclass(frozen=True, kw_only=True)
class Apply(Reading):
    """What `linmap apply linearscope` reads off a network."""

    target: int | None = None
    """Flat index of the output to explain; the largest logit, or the middle pixel, when left out."""
    singular: int = 4
    """Singular triplets drawn."""
