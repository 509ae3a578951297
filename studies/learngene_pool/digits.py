"""The small protocol: digits of 28 x 28, an ancestry model of width 96 that is trained on them.

Two settings are set: 6,000 digits and five passes, and for quick runs 2,000 digits and three passes, where distilled
auxiliaries are to be 10 points ahead. 2,500 digits are what linmap carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.data.image_sets import image_set_of
from linmap.data.image_tensors import Labelled, labelled
from linmap.recipes.learngene_pool import images
from linmap.recipes.learngene_pool.flags import Compare
from studies.learngene_pool.protocol import STARTS, findings
from studies.study import Findings, Job

SETTINGS = Compare(epochs=5, tune_epochs=3, ancestry_epochs=15, images=None, teacher_blocks=False)
FEW = replace(SETTINGS, epochs=3, images=2000)
WHOLE = replace(SETTINGS, images=6000)
TESTED = 1000
TINY = replace(SETTINGS, epochs=1, tune_epochs=1, ancestry_epochs=1, images=64, widths=(8, 12), heads=(2, 3))


def digits(job: Job) -> Findings:
    """2,500 digits to train on, 500 to test on."""
    return measured(job, SETTINGS, STARTS)


def few_passes(job: Job) -> Findings:
    """2,000 digits, three passes: where little training is paid for, does distilling buy ten points?"""
    return measured(job, FEW, ("lstsq",))


def six_thousand(job: Job) -> Findings:
    """6,000 digits to train on, 1,000 to test on."""
    path = find("mnist/mnist_12k.npz", "It is not part of linmap; set LINMAP_DATA.")
    arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
    most, tested = (TINY.images, 20) if job.tiny else (WHOLE.images, TESTED)
    train, test = (
        image_set_of(arrays[f"x_{part}"][:n], arrays[f"y_{part}"][:n])
        for part, n in (("train", most), ("test", tested))
    )
    data = labelled(train, test, images.preparation_of(WHOLE), grey=True)
    return measured(job, WHOLE, STARTS, data)


def measured(job: Job, settings: Compare, starts: Sequence[str], data: Labelled | None = None) -> Findings:
    """The pools of these starts, after so many passes."""
    settings = replace(TINY if job.tiny else settings, seeds=len(job.seeds))
    data = images.load(settings, None, 0, settings.images) if data is None else data
    setting = (
        f"{len(data.train)} digits of 28 x 28, patches of 7; auxiliaries of three blocks, distilled for "
        f"{settings.epochs} passes from nothing, {settings.tune_epochs} passes of tuning"
    )
    return findings(settings, data, job, starts, setting)
