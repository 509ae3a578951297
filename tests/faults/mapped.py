"""What the verb apply does with a folder of records, without a system: its workers start in a moment."""

from __future__ import annotations

from typing import cast

import numpy as np

from linmap.data.engines import map_records
from linmap.data.engines.mapping import Engine


def values(records: list) -> np.ndarray:
    return np.array([[record.document["x"]] for record in records])


def mapped(words: list[str]) -> int:
    """Given a folder, an engine and a number of workers, and perhaps --resume."""
    source, engine, n_jobs, *more = words
    try:
        map_records(source, "v.npy", values, engine=cast(Engine, engine), n_jobs=int(n_jobs), resume="--resume" in more)
    except KeyboardInterrupt:
        return 130
    return 0
