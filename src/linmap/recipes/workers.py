"""The flags of `linmap apply` for systems that go through files part by part (`linmap.data.engines.map_records`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Who does the work, and whether it begins anew."""

    n_jobs: int = 1
    """Worker processes; -1 for all cores."""
    engine: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: Ray Data, also on a cluster. The result is the same, byte for byte."""
    resume: bool = False
    """Keep what an interrupted run with the same flags has finished."""
