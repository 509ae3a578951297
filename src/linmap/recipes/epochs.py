"""What the summary of a command says of a file of epochs."""

from __future__ import annotations

from typing import Any

from linmap.data.epochs import Epochs
from linmap.signals.layout import Layout, channel_names


def say_channels(summary: dict[str, Any], epochs: Epochs, fitted: Layout | None = None) -> None:
    """Add the channels that were left out, and what could not be compared with the epochs of the fit or looks wrong."""
    if epochs.left_out:
        summary["left_out"] = list(epochs.left_out)
    if fitted is not None and fitted.ch_names is not None and channel_names(epochs.ch_names) is None:
        summary.setdefault("notes", []).append("the file does not name its channels; they were taken in the order of "
                                               "the fit")  # fmt: skip
    channels, times = epochs.X.shape[1:]
    if channels > times:
        summary.setdefault("notes", []).append(
            f"X has {channels} channels of {times} samples; if it is the other way round, save X.transpose(0, 2, 1)"
        )
