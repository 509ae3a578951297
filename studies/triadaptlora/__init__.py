"""TriAdaptLoRA: what growth by importance is worth beside growth that ignores it, and beside fixed ranks."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

from linmap.adapt import RankAllocator
from linmap.experiment import Check, Runs
from linmap.recipes.finetuning.arms import FULL, Way, lora, untouched_model
from linmap.recipes.finetuning.flags import Labelled
from linmap.recipes.finetuning.tasks import TRAINING, Task
from linmap.recipes.triadaptlora.compare import AVERAGE_RANK, adalora, triadapt
from studies.study import Findings, Job, Protocol
from studies.texts import LARGE, SMALL, TINY, TRAIN, at_or_below, banking, compared


class RandomGrowth(RankAllocator):
    """As many layers grow as by importance, whichever the dice name."""

    def scores(self) -> dict[str, float]:
        draw = random.Random(f"{self.seed} {self._step}")
        return {name: draw.random() for name in self.adapters}


class UniformGrowth(RankAllocator):
    """As many layers grow as by importance, those of the lowest rank."""

    def scores(self) -> dict[str, float]:
        return {name: -float(rank) for name, rank in self.ranks().items()}


def ways_of(task: Task) -> list[Way]:
    """Query and value with 8 ranks a layer on average in the end, however they come about."""
    return [
        triadapt(task),
        triadapt(task, "TriAdaptLoRA, nonlinear", "ablation", "nonlinear", note="later"),
        triadapt(task, "random growth", "ablation", allocator=RandomGrowth, note="control: the same schedule"),
        triadapt(task, "uniform growth", "ablation", allocator=UniformGrowth, note="control: lowest first"),
        untouched_model(task),
        lora(task, AVERAGE_RANK, 2 * AVERAGE_RANK),
        adalora(task),
        FULL,
    ]


def checks(runs: Runs) -> list[Check]:
    """What growth by importance should gain, and that all arms spend one budget."""
    ours, *others = [arm.name for arm in runs.arms if arm.name != "full tuning"]
    found = [check for other in others for check in at_or_below(runs, TRAINING, ours, other)]
    grown = [arm.name for arm in runs.arms if runs.of(arm.name)[0].details.get("ranks")]
    layers = len(runs.of(ours)[0].details["ranks"][0][1])
    budget = AVERAGE_RANK * layers
    sums = {name: [sum(run.details["ranks"][-1][1].values()) for run in runs.of(name)] for name in grown}
    figures = "; ".join(f"{name}: {', '.join(map(str, totals))}" for name, totals in sums.items())
    spent = all(total == budget for totals in sums.values() for total in totals)
    statement = f"growth spends its budget of {AVERAGE_RANK} x {layers} = {budget} ranks, and no more"
    return [*found, Check(statement, spent, figures, "the arms are compared at unequal sizes")]


def sentences(settings: Labelled, job: Job) -> Findings:
    """Intents of bank customers."""
    settings = TINY if job.tiny else settings
    task = banking(settings, job.tiny)
    return compared(job, task, ways_of(task), settings, TRAIN, checks)


PROTOCOLS = [
    Protocol("few-sentences", "Is it importance that helps, or any growth at all, from five sentences a class?",
             partial(sentences, replace(SMALL, batch_size=8, rates=(5e-3, 1e-2)))),
    Protocol("more-sentences", "And from 40 sentences a class in 300 steps, where accuracies can differ?",
             partial(sentences, replace(LARGE, rates=(2e-3, 5e-3, 1e-2)))),
]  # fmt: skip
