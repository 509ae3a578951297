"""Bone in its modes beside LoRA, full tuning and no adapter at all, with equally many parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

from linmap.adapt import BoneConfig
from linmap.experiment import Result
from linmap.recipes.finetuning.arms import FULL, Way, adapters, lora, untouched_model
from linmap.recipes.finetuning.compare import compare_ways, data_of
from linmap.recipes.finetuning.flags import Completions, Labelled
from linmap.recipes.finetuning.tasks import Task, task_of
from linmap.recipes.job import CompareJob

SIZES = {
    "classification": {"lora": 8, "bat": 16, "bat-row": 16, "add": 16},
    "language": {"lora": 19, "bat": 48, "bat-row": 32, "add": 48},
}
"""Ranks and sizes of blocks with equally many parameters: 6,144 a layer of MiniLM-L6; 36,864 a block of SmolLM2, 1 %
fewer in LoRA."""


def compare(settings: Labelled | Completions, job: CompareJob) -> Result:
    """Bone in three modes, LoRA at equal parameters, and none: each at its best learning rate."""
    task = task_of(settings, data_of(job))
    r = SIZES[task.kind]
    ways = [bone(task, "bat", r["bat"]), untouched_model(task), lora(task, r["lora"], 2 * r["lora"]),
            *([FULL] if task.classes else []), *(bone(task, mode, r[mode]) for mode in ("bat-row", "add"))]  # fmt: skip
    return compare_ways("bone", task, ways, settings, job)


def bone(task: Task, mode: Any, r: int, mini_r: int = 1) -> Way:
    """Bone in one of its modes; "bat" is the system."""
    make = partial(BoneConfig, r=r, mode=mode, mini_r=mini_r, target_modules=task.targets)
    note = f"r = {r}" + (f", mini_r = {mini_r}" if mode == "mini" else "")
    return adapters(f"Bone {mode}", "system" if mode == "bat" else "ablation", make, note)
