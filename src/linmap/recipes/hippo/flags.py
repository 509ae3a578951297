"""The flags of HiPPO's verbs: the parameters of `S4Classifier`, and what the command line needs beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, Other, flags, named

if TYPE_CHECKING:
    from linmap.data.sequences import Dataset
else:
    Dataset = named("linmap.data.sequences:Dataset")


@flags
class Fit(Derived):
    """Flags of `linmap fit hippo`."""

    OF = "linmap.sequence.s4.estimators:S4Classifier"
    LEAVE = ("random_state",)
    NAMES: ClassVar = {"n_layers": "layers"}
    OTHER: ClassVar = {"n_layers": Other(2, "half the time on a CPU, and enough for the few series of most files")}
    dataset: Dataset = "mnist-small"
    """Data that stand in for --data: images pixel by pixel (in the package), or series that ship with aeon."""
    drop: tuple[str, ...] = ()
    """Columns of CSV files to leave out, such as the time."""
    task: Literal["auto", "classification", "regression"] = "auto"
    """auto: regression where the labels are numbers with a fraction, classification otherwise."""
    held_out: float = 0.2
    """Share of your series that is not trained on but scored; 0 trains on all. Named data bring a test part."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must be a share in [0, 1).")


@dataclass(frozen=True)
class Apply:
    """Flags of `linmap apply` with a fitted hippo."""

    dataset: Dataset = "mnist-small"
    """Data that stand in for --data; its test part is used."""
    drop: tuple[str, ...] = ()
    """Columns of CSV files to leave out; those that the fit left out when none are named."""
    rate: float = 1.0
    """Sampling step of your series in units of that in training: 2 for every other sample. Not for streams."""
    state: Path | None = None
    """File of a stream's state: read if it exists, so that the stream continues, and written at the end."""
    save_every: int = 0
    """Samples of a stream after which the state is also written on the way; 0 for never."""


@flags
class Compare(Derived):
    """Flags of `linmap compare hippo`; the GRU has the same width and training."""

    OF = Fit.OF
    LEAVE = ("random_state", "lr")
    NAMES = Fit.NAMES
    OTHER: ClassVar = {
        "n_layers": Fit.OTHER["n_layers"],
        "d_model": Other(32, "a training for each method and seed: a minute or two in all"),
        "epochs": Other(None, "few series need more passes: about 360 steps of training, 8 to 40 passes"),
        "batch_size": Other(None, "16 where there are fewer than 1,000 series to train on, 50 otherwise"),
    }
    dataset: Dataset = "mnist-small"
    """Data that stand in for --data: images pixel by pixel (in the package), or series that ship with aeon."""
    drop: tuple[str, ...] = ()
    """Columns of CSV files to leave out, such as the time."""
    epochs: int | None = None
    """Passes over the training series; from their number when left out, for about 360 steps."""
    batch_size: int | None = None
    """Series of one step; from their number when left out."""
    held_out: float = 0.25
    """Share of the series that each seed draws to test on."""
    seeds: int = 3
    """Seeds, each with a training of every method and test series of its own."""
    rates: tuple[float, ...] = (1e-2,)
    """Learning rates; of several, each method takes the one that is best on a part of the training series."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or not self.rates:
            raise ArgumentError("compare hippo needs at least one seed and one rate.")
        if not 0 < self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must be a share between 0 and 1.")
