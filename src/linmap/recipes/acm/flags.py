"""Flags of `linmap fit | apply | compare acm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from linmap.recipes.derived import Derived, Other, flags

NO_FLAGS = ("cv", "drop", "C", "kernel", "scoring", "n_epochs", "common_window", "random_state")
WHY = "the published grid has five times as many pairs, of larger matrices; this one takes seconds"
FOLDS = {"inner_cv": "folds"}
GRID = {"orders": Other((1, 2, 3, 4, 6), WHY), "lags": Other((1, 2, 4, 8), WHY)}


@dataclass(frozen=True, kw_only=True)
class Epochs(Derived):
    """What becomes of epochs."""

    estimator: Literal["oas", "lwf", "cov", "scm"] = "oas"
    """Estimator of the covariances; oas and lwf shrink them."""
    band: tuple[float, float] | None = None
    """Band-pass each epoch (Hz, Hz); better filter the continuous recording before."""


@flags
class Fit(Epochs):
    """Flags of `linmap fit acm`."""

    OF = "linmap.signals.acm.classifier:ACMClassifier"
    LEAVE = NO_FLAGS
    NAMES = FOLDS
    OTHER = GRID

    method: Literal["grid", "mdop", "afnn", "aic", "aicc", "bic", "hq"] = "grid"
    """How order and lag are chosen: grid (cross-validated), or mdop, afnn, aic, aicc, bic, hq (without labels)."""
    order: int | None = None
    """Order; with --lag, nothing is searched."""
    lag: int | None = None
    """Lag in samples."""
    classifier: Literal["tgsp+svm", "mdm"] = "tgsp+svm"
    """tgsp+svm: tangent space and support vector machine; mdm: minimum distance to the class means."""
    folds: int = 3
    """Inner folds of the search; epochs of one group, where the file names groups, stay together."""


@dataclass(frozen=True)
class Apply:
    """`linmap apply` with a fitted acm has no flags of its own."""


@flags
class Compare(Epochs):
    """Flags of `linmap compare acm`; --data is a file of epochs, or a folder with one for each subject."""

    OF = "linmap.signals.acm.classifier:ACMClassifier"
    LEAVE = (*NO_FLAGS, "method", "classifier", "inner_cv")
    OTHER = GRID

    network_epochs: int = 30
    """Passes of the network over the training epochs; 0 leaves it out."""
