"""The flags of OLinear's verbs: the parameters of `OLinearForecaster`, and what the command line needs beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, Other, flags, parameters

FORECASTER = "linmap.sequence.olinear.forecaster:OLinearForecaster"
TABLE = ("time_column", "id_column", "drop", "dayfirst", "monthfirst", "fill_gaps")
"""Flags that say how a table is read."""
HORIZON = Other(96, "the shortest of the literature, so that the command runs without flags")


@dataclass(frozen=True, kw_only=True)
class Reading(Derived):
    """Flags of every verb."""

    dataset: Literal["etth1", "ili"] = "etth1"
    """Embedded data that stands in for --data: etth1 (hourly, 7 series) or ili (weekly, 7 series)."""
    separator: str | None = None
    """What separates the cells of a CSV file; a comma, or a tab in a .tsv file, when left out."""
    decimal: str = "."
    """The decimal point of a CSV file."""

    def file(self) -> dict[str, Any]:
        """How the file is read."""
        return {"separator": self.separator, "decimal": self.decimal}

    def table(self) -> dict[str, Any]:
        """How the table in it is read: what was said."""
        return {name: value for name in TABLE if (value := getattr(self, name))}


@flags
class Fit(Reading):
    """Flags of `linmap fit olinear`; the defaults are the paper's for ETTh1."""

    OF = FORECASTER
    LEAVE = ("random_state",)
    NAMES: ClassVar = {"h": "horizon"}
    OTHER: ClassVar = {"h": HORIZON}


@flags
class Compare(Reading):
    """Flags of `linmap compare olinear`."""

    OF = FORECASTER
    LEAVE = ("random_state", "validation", "calibration", "interval_scale")
    NAMES: ClassVar = Fit.NAMES
    OTHER: ClassVar = {
        "h": HORIZON,
        "d_model": Other(128, "a small model, so that the comparison takes a minute or two on two cores"),
        "embed": Other(8, "likewise"),
        "epochs": Other(4, "likewise; its error changes little from there on"),
    }
    baseline_epochs: int = 6
    """Passes of the linear baselines."""
    seeds: int = 1
    """Trainings of every method; errors are means over them."""

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.baseline_epochs < 1:
            raise ArgumentError("compare olinear needs at least one seed and one epoch of the baselines.")


@flags
class Apply(Reading):
    """Flags of `linmap apply`; a table is read as that of the fit was, where nothing else is said."""

    OF = FORECASTER
    LEAVE = tuple(parameter.name for parameter in parameters(FORECASTER) if parameter.name not in TABLE)
    level: tuple[float, ...] = ()
    """Add intervals of these levels in percent, e.g. 80 95; needs a run with --calibration, or --recalibrate."""
    recalibrate: int = 0
    """Make the intervals from the last rows of the file, this many, instead of those that `fit` kept."""
    backtest: int = 0
    """Instead of the future, forecast from this many origins in the past, and compare with what came."""
    step_size: int = 0
    """`--backtest`: rows from one origin to the next; 0 for the horizon."""
    refit: int = 0
    """`--backtest`: fit anew at every so many origins, on the rows so far; 0 keeps the model as it is."""
    input_size: int = 0
    """`--backtest --refit`: fit to this many rows before the origin; 0 for all."""
