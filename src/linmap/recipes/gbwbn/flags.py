"""Flags of `linmap fit | apply | compare gbwbn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from linmap.recipes.derived import Derived, Other, flags

Front = Literal["matrices", "augmented", "convolution"]
FITTED = {"front": Other(None, "the file says whether it holds matrices or epochs")}
COMPARED = FITTED | {
    "epochs": Other(None, "25, or more of a small file: thirty networks are trained where fit trains one, with 100")
}


@flags
class Fit(Derived):
    """Flags of `linmap fit gbwbn`; without --data, embedded covariances of human motion (HDM05)."""

    OF = "linmap.signals.gbwbn.classifier:SPDNetClassifier"
    LEAVE = ("random_state",)
    OTHER = FITTED

    norm: Literal["gbw", "aim", "lem", "none"] = "gbw"
    """gbw: Bures-Wasserstein; aim, lem: affine-invariant and log-Euclidean (spd_learn); none."""
    front: Front | None = None
    """Of epochs: their augmented covariance (the default), or trained filters before it (convolution)."""
    domains: bool = False
    """Statistics for each domain (matrices) or session (epochs) of the file."""
    held_out: tuple[str, ...] = ()
    """Domains or sessions that the weights are chosen by; the last one where left out and there are two or more."""


@dataclass(frozen=True)
class Apply:
    """Flags of `linmap apply` with a fitted gbwbn."""

    adapt: bool = False
    """Give each domain of the file the statistics of its own samples first, without looking at labels."""


@flags
class Compare(Derived):
    """Flags of `linmap compare gbwbn`; --data is a file of matrices or of epochs, as `fit` takes it."""

    OF = "linmap.signals.gbwbn.classifier:SPDNetClassifier"
    LEAVE = ("norm", "theta", "recalibrate", "random_state")
    OTHER = COMPARED

    epochs: int | None = None
    """Passes of every network; 25 when left out, and on small files as many as make 75 steps, up to 100."""
    thetas: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Powers of the metric, of which the validation part chooses one."""
    front: Front | None = None
    """Of epochs: their augmented covariance (the default), or trained filters before it (convolution)."""
