"""Flags of `linmap fit | apply | compare lie_decomposition`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, Other, flags

CLASSIFIER = "linmap.shapes.lie_decomposition.classifier:LieClassifier"


@flags
class Images(Derived):
    """What fitting and comparing share."""

    OF = CLASSIFIER
    LEAVE = ("random_state",)

    size: int = 20
    """Pixels of a side that the network sees, at least 3 times the kernel less 1."""
    margin: float = 0.2
    """Border that is laid around each image, so that moved images stay inside, as a share of its side."""
    held_out: float = 0.2
    """Share of the images that is only tested on."""

    def __post_init__(self) -> None:
        kernel: int = self.kernel_size  # pyright: ignore[reportAttributeAccessIssue] (derived from the classifier)
        if kernel < 1 or kernel % 2 == 0:
            raise ArgumentError(f"kernel_size={kernel} must be odd and positive.")
        if self.size < 3 * kernel - 1:
            raise ArgumentError(f"size={self.size} must be at least {3 * kernel - 1}, for kernels of {kernel} pixels.")
        if not 0 <= self.margin <= 2:
            raise ArgumentError(f"margin={self.margin} must lie between 0 and 2.")
        if not 0 < self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must lie between 0 and 1.")


@flags
class Fit(Images):
    """Train a network on a matrix group to tell images apart."""

    OF = CLASSIFIER
    LEAVE = ("random_state",)


@flags
class Compare(Images):
    """Compare networks on matrix groups with convolutional networks, on clean and on warped test images."""

    OF = CLASSIFIER
    LEAVE = ("random_state",)
    OTHER: ClassVar = {"epochs": Other(8, "all networks in three minutes on two cores")}

    images: int | None = 2000
    """Images to train on at most, drawn by chance; None: all."""
    tested: int | None = 500
    """Images to test on at most; None: all."""
    rotation: float = 20.0
    """Largest turn of the warped images either way, in degrees."""
    shear: float = 0.2
    """Largest shear of x along y."""
    scale: float = 0.2
    """Each axis is scaled by 1 - scale to 1 + scale."""
    shift: float = 0.1
    """Largest shift along each axis, as a share of the side with its border."""
    seeds: int = 1
    """Seeds of every network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seeds", "images", "tested"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ArgumentError(f"{name}={value} must be at least 1.")
        for name in ("rotation", "shear", "scale", "shift"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"{name}={getattr(self, name)} must not be negative.")
        if self.scale >= 0.5:
            raise ArgumentError(f"scale={self.scale} must be below 0.5: images are also warped twice as far.")


@dataclass(frozen=True)
class Apply:
    """Classify --data, a folder of images or an .npz, by a fitted network; without it, the embedded test digits."""
