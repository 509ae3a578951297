"""The flags of `linmap compare linearscope` and `linmap apply linearscope`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, flags


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and what it is given of an image or a text."""

    model: str | None = None
    """efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2; dinov2-small (images) or smollm2-135m
    (texts); a folder of Transformers or an id on the Hub; or package.module:function, a function of yours without
    arguments that returns an nn.Module in eval mode (or a module's class or variable). When left out, smollm2-135m for
    --data of text and efficientnet-lite0 otherwise."""
    side: int | None = None
    """Images: cut to the largest centred square and resized to this many pixels; 224, 32 for fsrcnn, and as its
    preprocessor_config.json says for a folder."""
    grey: bool = False
    """Images: give your own model one luminance channel in [0, 1] instead of (pixel - mean) / std."""
    mean: float = 127.0
    """Images: subtracted from the pixels (0 to 255)."""
    std: float = 128.0
    """Images: divides them."""

    IMAGES: ClassVar[tuple[str, ...]] = ("side", "grey", "mean", "std")
    """Flags of images."""
    TEXTS: ClassVar[tuple[str, ...]] = ()
    """Flags of texts."""

    def given(self, names: tuple[str, ...]) -> list[str]:
        """Those of the flags that have another value than their default."""
        defaults = {field.name: field.default for field in fields(self)}
        return [name for name in names if getattr(self, name) != defaults[name]]


@flags
class Reading(Network, Derived):
    """How the network is read."""

    OF = "linmap.interpret.linearscope.scope:LinearScope"
    LEAVE = ("model", "strip_softmax", "output", "from_", "to", "batched")


@dataclass(frozen=True, kw_only=True)
class Compare(Reading):
    """What `linmap compare linearscope` measures."""

    deleted: float = 0.1
    """Images: share of the pixels that the deletion test sets to zero."""
    random_masks: int = 10
    """Images: random deletions of each."""
    prompts: int = 8
    """Texts: how many, spread over those of --data."""
    length: int = 24
    """Texts: tokens of a prompt at most; of longer ones the last."""
    steps: int = 4
    """Texts: points of integrated gradients, a forward and a backward pass each; 4 take about as long as a reading."""
    without: Literal["removed", "zeroed"] = "removed"
    """Texts: how a token is taken away, out of the text or by an embedding of zeros in its place."""

    IMAGES = (*Reading.IMAGES, "deleted", "random_masks")
    TEXTS = ("prompts", "length", "steps", "without")

    def __post_init__(self) -> None:
        for name, least in (("prompts", 1), ("length", 4), ("steps", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name}={getattr(self, name)} must be {least} or more.")


@dataclass(frozen=True, kw_only=True)
class Apply(Reading):
    """What `linmap apply linearscope` reads off a network."""

    target: str | None = None
    """The output to explain. Images: its flat index; the largest logit, or the middle pixel, when left out. Texts: the
    next token, with the space in front of it (" Paris"); the likeliest when left out."""
    against: str | None = None
    """Texts: another token; the lead of --target over it is explained."""
    at: tuple[int, int] | None = None
    """dinov2-small: the point of the photograph (x y, in its pixels) whose saliency is explained; the most salient
    when left out."""
    singular: int = 4
    """Singular triplets that are shown; of texts, for each of the two tokens that add most, most of the work there. 0
    leaves them out."""
    positions: int = 24
    """Texts: the last positions of which the map of layers says a word; 0 leaves it out."""

    IMAGES = (*Reading.IMAGES, "at")
    TEXTS = ("against", "positions")

    def __post_init__(self) -> None:
        for name, least in (("singular", 0), ("positions", 0)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name}={getattr(self, name)} must be {least} or more.")
