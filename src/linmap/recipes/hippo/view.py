"""A signal that is kept in a few numbers, sample by sample: how much of its past they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from linmap.data import EMBEDDED
from linmap.recipes.view import Asked, Seen, whole
from linmap.sequence.hippo import OnlineProjection

HOURS = 1_000
MOST = 128
"""Numbers of a state."""
FIRST = 32


class MemoryView:
    """The oil temperature of ETTh1, and what HiPPO-LegS remembers of it at any time."""

    def __init__(self, seen: Seen) -> None:
        table = pd.read_csv(EMBEDDED / "ETTh1.csv").iloc[-HOURS:]
        self.times = table["date"].str[:16].tolist()
        self.signal = table["OT"].to_numpy(np.float64, copy=True)
        self._states: tuple[int, torch.Tensor] | None = None  # of the latest size, after every sample

    def start(self) -> dict[str, Any]:
        """The signal, and the memory of its end."""
        return {"times": self.times, "signal": self.signal, "most": MOST, **self.answer({"size": FIRST, "now": HOURS})}

    def answer(self, asked: Asked) -> dict[str, Any]:
        """What so many numbers (`size`) remember when so many samples (`now`) were seen: a value for each of these
        samples, and the root mean square of what is missed, over the standard deviation of the samples."""
        size, now = whole(asked, "size", MOST + 1, 1), whole(asked, "now", HOURS + 1, 2)
        memory = OnlineProjection("legs", size)
        if self._states is None or self._states[0] != size:
            self._states = size, memory.extend(self.signal)
        memory.restore({"coefficients": self._states[1][now - 1], "count": torch.tensor(now)})
        remembered = memory.reconstruct(np.arange(now) + 0.5).numpy()[::-1]
        past = self.signal[:now]
        missed = float(np.sqrt(np.mean((past - remembered) ** 2)) / past.std())
        return {"size": size, "now": now, "remembered": remembered, "missed": missed}
