"""The setting of the studies: SmolLM2-135M, all blocks, on WikiText-2."""

from __future__ import annotations

from typing import Any

from linmap.compress.flatquant.baselines import BASELINES
from linmap.data import find
from linmap.data.text import read_text
from linmap.recipes.flatquant.compare import Task, Texts, texts
from linmap.recipes.flatquant.flags import Compare
from studies.study import Job

WIKITEXT = "text/wikitext2_raw_{}.txt"
METHODS = tuple(slug for slug in BASELINES if slug != "flatquant-distilled")
TINY: dict[str, Any] = {"windows": 4, "length": 16, "epochs": 1, "blocks": 1, "test_windows": 2, "test_length": 16}
TINY_METHODS = ("flatquant-rtn", "quarot")


def task_of(job: Job, clip_start: str = "search", **more: Any) -> Task:
    """The model and the texts; tiny ones need no file that the package lacks."""
    if job.tiny:
        return Task(Compare(**TINY, clip_start=clip_start), texts(None), **more)
    settings = Compare(blocks=None, test_windows=12, test_length=512, clip_start=clip_start)
    return Task(settings, wikitext(), **more)


def wikitext() -> Texts:
    """Articles to calibrate on, and others to test on."""
    how = "Put it there (the raw test split of WikiText-2, cut in two)."
    calibration, test = (read_text(find(WIKITEXT.format(part), how)) for part in ("calib", "test"))
    return Texts(calibration, test, ("24 articles of WikiText-2", "36 others"))
