"""The flags of `linmap compare linearscope` and `linmap apply linearscope`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SIDE = 224
"""Pixels on a side of what EfficientNet-lite0 reads."""
LABELS = {285: "Egyptian cat", 967: "espresso", 698: "palace", 985: "daisy", 281: "tabby", 282: "tiger cat"}
"""ImageNet classes that the embedded photographs meet."""


@dataclass(frozen=True)
class Settings:
    """What `linmap compare linearscope` measures."""

    deleted: float = 0.1
    """Share of the pixels that the deletion test sets to zero."""
    random_masks: int = 10
    """Random deletions per photograph."""
    singular: int = 8
    """Singular values of the super-resolution maps."""
    digits: int = 2000
    """MNIST digits that the image-to-image network learns from (at most 2500)."""
    epochs: int = 4
    """Passes over these digits."""


PRESETS = {"quick": Settings(), "full": Settings(random_masks=50, epochs=16)}


@dataclass(frozen=True)
class ApplySettings:
    """What `linmap apply linearscope` reads off a network."""

    model: str = "efficientnet-lite0"
    """efficientnet-lite0, fsrcnn-x2, fsrcnn-x3, fsrcnn-x4, fsrcnn-small-x2, or package.module:function, a function of
    yours without arguments that returns an nn.Module in eval mode (or a module's class or variable)."""
    target: int | None = None
    """Flat index of the output to explain; the largest logit, or the middle pixel, when left out."""
    side: int | None = None
    """The image is cut to its largest centred square and resized to this many pixels; 224, or 32 for fsrcnn."""
    grey: bool = False
    """Give your own model one luminance channel in [0, 1] instead of (pixel - mean) / std."""
    mean: float = 127.0
    """Subtracted from the pixels (0 to 255)."""
    std: float = 128.0
    """Divides them."""
    singular: int = 4
    """Singular triplets drawn."""
    mode: Literal["record", "parallel"] = "record"
    """record keeps the decisions of the image; parallel recomputes them for every product."""
    smooth: Literal["secant", "taylor"] = "secant"
    """Smooth units as secants from the origin or as tangents."""
    gate: Literal["left", "right"] | None = None
    """Which factor of an unclear product is frozen."""
    allow_secant: bool = False
    """Allow divisions, exponentials, logarithms and powers of the input."""
    strict: bool = True
    """Refuse operations without a frozen form instead of taking them as constants."""
