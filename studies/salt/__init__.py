"""SALT: vessels and nerves in ultrasound images, from 20, 60 and 120 of them, beside other ways to adapt."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from linmap.adapt.segmentation import Segmenter, segmentation_loss
from linmap.data.masks import embedded_ultrasound
from linmap.experiment import Arm, Runs, Table, draw_all
from linmap.recipes.job import CompareJob
from linmap.recipes.salt.compare import (
    DRAWN,
    adapter_parameters,
    arms_of,
    columns_of,
    described,
    differences,
    limits,
    metrics_of,
    put_lora,
    run_arms,
    salt_rank,
    train_arm,
)
from linmap.recipes.salt.fit import Adapt, adapt, build
from linmap.recipes.salt.flags import CompareImages
from linmap.recipes.salt.pictures import draw_losses, draw_masks
from studies.salt.checks import checks
from studies.salt.dinov2 import vessels as dinov2_vessels
from studies.study import Findings, Job, Protocol, table_of

SETTINGS = CompareImages(size=192, epochs=15, lr=3e-3, images=(20, 60, 120), rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2))
TINY = CompareImages(size=32, epochs=1, images=(4,), rates=(3e-3,))
STRUCTURES = {"nerves": 1, "vessels": 2}


def structure(name: str, job: Job) -> Findings:
    """One structure, found in the 40 test images of the data set."""
    settings = TINY if job.tiny else replace(SETTINGS, seeds=len(job.seeds))
    settings = replace(settings, label=STRUCTURES[name], seeds=len(job.seeds))
    train, test = (embedded_ultrasound(part, settings.size, STRUCTURES[name]) for part in ("train", "test"))
    test = test[:6] if job.tiny else test
    arms = [*arms_of(settings), diagonal(settings)]
    seeded = CompareJob(out=job.out, seed=job.seeds[0], resume=job.resume)
    runs = run_arms(settings, seeded, train, test, {"test": "its own file"}, arms)
    pictures, notes = draw_all(
        [
            (job.out / "losses.svg", partial(draw_losses, runs, settings.epochs)),
            (job.out / "segmentations.svg", partial(draw_masks, runs, test[:DRAWN])),
        ]
    )
    tables = [table_of(name, runs.rows(columns_of(settings)), list(metrics_of(settings))), differences(runs),
              costs(runs, settings)]  # fmt: skip
    sentences = [limits(settings, test), *notes]
    return Findings(described(f"ultrasound, {name}", settings, test), tables, checks(runs), sentences, pictures)


def diagonal(settings: CompareImages) -> Arm:
    """SALT with the relu on the diagonal of the core alone."""
    r = salt_rank(settings.ratio, adapter_parameters(partial(put_lora, rank=settings.lora_rank)))
    how, name = partial(adapt, ratio=settings.ratio, r=r, relu="diag"), "SALT, relu on the diagonal"
    return Arm(name, "ablation", partial(train_arm, settings, name, how), {"r": r}, settings.rates)


# -- costs -------------------------------------------------------------------------------------------------------------


def costs(runs: Runs, settings: CompareImages) -> Table:
    """Parameters, time and memory of a training step."""
    n = settings.images[0]
    steps = settings.epochs * math.ceil(n / settings.batch_size)
    rows: list[list[str | float | int]] = []
    for arm in runs.arms:
        how: Adapt | None = arm.run.args[2]  # pyright: ignore[reportFunctionMemberAccess]
        seconds = statistics.median(run.seconds for run in runs.of(arm.name, f"{n} images"))
        memory = step_memory(how, settings) / 2**20
        rows.append([arm.name, adapter_parameters(how), f"{1e3 * seconds / steps:.0f}", f"{memory:.0f}"])
    columns = ["method", "parameters in the encoder", "ms per step", "peak memory of a step, MiB"]
    decoder = sum(p.numel() for p in Segmenter().decoder.parameters())
    return Table("Cost", columns, rows, f"The decoder has {decoder:,} parameters in every method.")


def step_memory(how: Adapt | None, settings: CompareImages) -> int:
    """Most bytes that PyTorch holds at once during one training step, beyond the model."""
    model: Segmenter = build(how, 0).train()
    images = torch.rand(settings.batch_size, 1, settings.size, settings.size)

    def step() -> None:
        segmentation_loss(model(images), images.round()).backward()

    return peak(step)


def peak(function: Callable[[], None]) -> int:
    """Most bytes that PyTorch holds at once while a function runs, beyond those of before."""
    profile: Any = torch.autograd.profiler.profile(profile_memory=True)
    with profile:
        function()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


PROTOCOLS = [
    Protocol(name, f"Does SALT find {name} better than LoRA, its parts alone, and a frozen encoder?",
             partial(structure, name))
    for name in ("vessels", "nerves")
] + [
    Protocol("dinov2", "Does SALT adapt a vision transformer to ultrasound better than the others?", dinov2_vessels),
]  # fmt: skip
