"""The flags of `linmap fit hippo`, `linmap apply` with what it wrote, and `linmap compare hippo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linmap.data.sequences import Dataset
from linmap.errors import ArgumentError
from linmap.sequence.s4 import S4Classifier, S4Regressor

Layer = Literal["s4d", "s4"]
Kind = Literal["auto", "classification", "regression"]


@dataclass(frozen=True)
class Settings:
    """Flags of `linmap fit hippo`."""

    dataset: Dataset = "mnist-small"
    """Data that stand in for --data: images pixel by pixel (in the package), or series that ship with aeon."""
    task: Kind = "auto"
    """auto: regression where the labels are numbers with a fraction, classification otherwise."""
    held_out: float = 0.2
    """Share of your series that is not trained on but scored; 0 trains on all. Named data bring a test part."""
    layers: int = 2
    """State-space layers."""
    d_model: int = 64
    """Features of a layer."""
    d_state: int = 16
    """States of a feature."""
    layer: Layer = "s4d"
    """s4d: diagonal; s4: HiPPO matrices, diagonal plus low rank."""
    init: str | None = None
    """Where the states begin: lin, inv, inv2, quad, legs, fout, real, rand, diag, hippo; of s4: legs, fout, legt."""
    dt: tuple[float, float] | None = None
    """Range of the steps; 1 / dt is the length of dependencies in samples. From the longest series when left out."""
    norm: Literal["layer", "batch"] = "layer"
    """Norm beside each layer."""
    dropout: float = 0.0
    """Share of features that a training step drops."""
    bidirectional: bool = False
    """Also read from the end; such a model cannot follow a stream."""
    pooling: Literal["mean", "last"] = "mean"
    """What of all samples the answer is made from."""
    epochs: int = 20
    """Passes over the training series."""
    batch_size: int = 32
    """Series of one step."""
    lr: float = 1e-2
    """Learning rate; that of the state matrices and steps is at most 1e-3."""
    weight_decay: float = 0.01
    """Weight decay of all but the state matrices and steps."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 1:
            raise ArgumentError(f"held_out={self.held_out} must be a share in [0, 1).")

    def estimator(self, kind: type[S4Classifier | S4Regressor], seed: int) -> S4Classifier | S4Regressor:
        names = ("d_model", "d_state", "layer", "init", "dt", "norm", "dropout", "bidirectional", "pooling", "epochs",
                 "batch_size", "lr", "weight_decay")  # fmt: skip
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        return kind(self.layers, random_state=seed, **options)


@dataclass(frozen=True)
class ApplySettings:
    """Flags of `linmap apply` with a fitted hippo."""

    dataset: Dataset = "mnist-small"
    """Data that stand in for --data; its test part is used."""
    rate: float = 1.0
    """Sampling step of your series in units of that in training: 2 for every other sample. Not for streams."""
    state: Path | None = None
    """File of a stream's state: read where it is there, so that the stream goes on, and written at the end."""
    save_every: int = 0
    """Samples of a stream after which the state is also written on the way; 0 for never."""


@dataclass(frozen=True)
class Comparison:
    """Flags of `linmap compare hippo`."""

    tasks: tuple[str, ...] = ("mnist-small", "JapaneseVowels")
    """Of mnist-small, mnist, mnist-784, listops, ACSF1, OSULeaf, BasicMotions, JapaneseVowels, GunPoint; the first is
    the headline."""
    seeds: int = 1
    """Trainings of each method."""
    rates: tuple[float, ...] = (1e-2,)
    """Learning rates; of several, each method takes the one that is best on held-out training series."""
    inits: tuple[str, ...] = ()
    """Further state spaces on the headline task: inv, legs, ... of S4D; s4-legs, s4-fout, s4-legt."""
    epochs: int | None = None
    """Passes over the training series; that of the task when left out."""
    minirocket: bool = False
    """Also MiniRocket of aeon on the real series; it needs numba."""
    states: tuple[int, ...] = (8, 16, 32, 64)
    """Numbers of coefficients that the past of a signal is kept in."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or not self.rates or not self.states or not self.tasks:
            raise ArgumentError("compare hippo needs at least one task, seed, rate and number of states.")


PRESETS = {
    "quick": Comparison(),
    "full": Comparison(
        ("mnist", "listops", "ACSF1", "OSULeaf", "BasicMotions", "JapaneseVowels"), seeds=3, rates=(1e-2, 3e-3),
        inits=("inv", "legs", "s4-legs", "s4-fout"), minirocket=True,
    ),
}  # fmt: skip
