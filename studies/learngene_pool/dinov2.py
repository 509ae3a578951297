"""DINOv2-small with a linear head as the ancestry model: digits of 98 x 98, auxiliaries of widths 96, 192 and 384.

Rates, from 600 digits to train on and 200 to validate on, 10 passes in batches of 32, one seed. Width 384 from the
ancestry's blocks: .510 at 3e-5, .530 at 1e-4, .515 at 3e-4, .475 at 1e-3; from nothing .605 at 5e-4, so that with three
of twelve blocks the start from the ancestry's is no help. Width 96: .345 at 1e-3, .455 at 3e-3; width 192: .570 and
.495, so 1e-3 serves both. Tuning the pool (least squares, 150 further digits to validate on, one seed): stitched models
go from .295 to .315 at 3e-5, to .277 at 1e-4, to .230 at 5e-4.
"""

from __future__ import annotations

from dataclasses import replace

from torch.utils.data import TensorDataset

from linmap.recipes.learngene_pool import images
from linmap.recipes.learngene_pool.flags import Compare
from studies.learngene_pool.protocol import findings
from studies.study import Findings, Job

SETTINGS = Compare(
    model="dinov2-small", size=98, widths=(96, 192, 384), heads=(2, 3, 6), depth=3, epochs=4, tune_epochs=3,
    tune_lr=3e-5, images=400, batch_size=16, nearest=True,
)  # fmt: skip
TINY = replace(SETTINGS, size=28, widths=(12, 384), heads=(2, 6), depth=1, epochs=1, tune_epochs=1, images=40)
TESTED = 150


def dinov2(job: Job) -> Findings:
    """The widest auxiliary starts from the ancestry's blocks."""
    return measured(job, others=True)


def starts(job: Job) -> Findings:
    """The order of the starts of the stitches alone, which is cheap enough for several seeds."""
    return measured(job, others=False)


def measured(job: Job, others: bool) -> Findings:
    """Distilled auxiliaries, and where asked for `others`: from the labels alone, and each width by itself."""
    settings = replace(TINY if job.tiny else SETTINGS, seeds=len(job.seeds))
    data = images.load(settings, None, 0, settings.images)
    kept = 20 if job.tiny else TESTED
    data = replace(data, test=TensorDataset(*(part[:kept] for part in data.test.tensors)))
    setting = (
        f"{len(data.train)} digits of {settings.size} x {settings.size}; auxiliaries of {settings.depth} blocks, "
        f"distilled for {settings.epochs} passes, the widest from the ancestry's blocks, {settings.tune_epochs} passes "
        "of tuning"
    )
    three = ("lstsq", "pinv", "transform")
    return findings(settings, data, job, three, setting, each_alone=False, widths_alone=others, others=others)
