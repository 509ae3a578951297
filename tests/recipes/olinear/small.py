"""Settings that fit a small table in a second."""

from typing import Any

SMALL: dict[str, Any] = {"horizon": 6, "lookback": 12, "d_model": 8, "embed": 2, "layers": 1, "epochs": 2, "lr": 5e-3}
