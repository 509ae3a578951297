"""`linmap compare learngene_pool`: does one pool serve many budgets better than what one would take otherwise?

All methods get the same images, the same ancestry model and the same number of passes over the images in all: what the
pool spends on its auxiliaries and on tuning, T passes. Models trained alone get T / (their number) each; the one size
that is distilled alone gets all T.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from linmap.compress.learngene_pool import Cost, LearngenePool, RecordedTeacher, Transforms, VisionTransformer, distill
from linmap.compress.learngene_pool.pictures import Family, draw_families
from linmap.compress.learngene_pool.pipeline import distilled, points_of, recorded, stitched
from linmap.data.built import weight_files
from linmap.data.image_tensors import Labelled
from linmap.data.models import model_folder
from linmap.experiment import (
    Arm,
    Check,
    Experiment,
    Metric,
    Outcome,
    Part,
    Result,
    Runs,
    Table,
    Trial,
    conclude,
    differ,
    fingerprint,
)
from linmap.recipes.job import CompareJob
from linmap.recipes.learngene_pool import images
from linmap.recipes.learngene_pool.flags import Compare
from linmap.recipes.learngene_pool.making import (
    Shapes,
    accuracy,
    ancestry,
    cross_entropy,
    right,
    shapes,
    training,
)
from linmap.training import TrainingConfig, train

SIZES, LARGEST = Metric("accuracy over the sizes", "higher"), Metric("accuracy of the widest", "higher")
POOL, SNNET, RANDOM, ALONE, ONE = (
    "Learngene Pool",
    "SN-Net style",
    "random stitches",
    "each size alone",
    "one size, distilled alone",
)
UNTUNED = "before tuning"

Members = tuple[list[VisionTransformer], dict[int, Transforms]]


def compare(settings: Compare, job: CompareJob) -> Result:
    """A pool beside other ways to models of many sizes, and beside one size that gets all the training."""
    data = images.load(settings, job.data, job.seed, settings.images)
    task = Task(settings, data, job.seed, job.out / "ancestry", job.resume)
    runs = run_arms(task, job, {"data": fingerprint(job.data)})
    families = partial(draw_families, families_of(runs), ancestry=accuracy(task.teacher, data))
    return conclude(
        "learngene_pool", runs.rows([SIZES, LARGEST]), [SIZES, LARGEST], settings,
        task=described(task, job.data.stem if job.data else "digits"), shows=shows(runs), limits=limits(task),
        checks=checks(runs), tables=[costs(runs, task), sizes(runs)], over="images", pairs=by_image(runs),
        drawings=[(job.out / "sizes.svg", families)], seeds=list(range(job.seed, job.seed + settings.seeds)),
    )  # fmt: skip


# -- what the arms share -----------------------------------------------------------------------------------------------


@dataclass
class Task:
    """The images, the ancestry model and what it makes of them, and the auxiliaries of each seed."""

    settings: Compare
    data: Labelled
    seed: int
    folder: Path
    resume: bool

    def __post_init__(self) -> None:
        self.made: dict[tuple[int, bool], Members] = {}

    @cached_property
    def teacher(self) -> VisionTransformer:
        return ancestry(self.settings, self.data, self.seed, self.folder, self.resume)

    @cached_property
    def shapes(self) -> Shapes:
        return shapes(self.settings, self.teacher)

    @cached_property
    def answers(self) -> RecordedTeacher:
        return recorded(self.teacher, self.shapes.members(self.teacher, 0, False), self.data.train)

    @cached_property
    def empty(self) -> LearngenePool:
        """A pool of these sizes, for its configurations and costs."""
        return self.pool_of(self.shapes.members(self.teacher, 0, False))

    def pool_of(self, members: Sequence[VisionTransformer]) -> LearngenePool:
        return LearngenePool(members, nearest=self.settings.nearest)

    @property
    def passes(self) -> int:
        """Over the images in all."""
        return len(self.shapes.widths) * self.settings.epochs + self.settings.tune_epochs

    def distillation(self, epochs: int, seed: int, inherits: bool) -> list[TrainingConfig]:
        """The training of each auxiliary."""
        return self.shapes.distillation(self.settings, self.teacher, len(self.answers), epochs, seed, inherits)

    def members(self, seed: int, from_teacher: bool) -> Members:
        """Auxiliaries that were distilled, or trained on the labels alone; copies, for they are tuned."""
        if (seed, from_teacher) not in self.made:
            inherits = from_teacher and self.settings.teacher_blocks
            found = self.shapes.members(self.teacher, seed, inherits)
            transforms: dict[int, Transforms] = {}
            configs = self.distillation(self.settings.epochs, seed, inherits)
            if from_teacher:
                transforms = distilled(self.teacher, found, self.answers, configs)
            else:
                for member, config in zip(found, configs, strict=True):
                    train(member, cross_entropy, self.answers, config=config, seed_globally=False)
            self.made[seed, from_teacher] = found, transforms
        found, transforms = self.made[seed, from_teacher]
        return [copy.deepcopy(member) for member in found], transforms


# -- the arms ----------------------------------------------------------------------------------------------------------


def run_arms(task: Task, job: CompareJob, data: dict[str, Any], arms: Sequence[Arm] | None = None) -> Runs:
    """Every arm with all seeds."""
    key = {name: value for name, value in asdict(task.settings).items() if name != "seeds"} | data
    if task.settings.model is not None:
        files = weight_files(model_folder(task.settings.model, "images"))
        key["weights"] = {file.name: fingerprint(file) for file in files}
    seeds = range(job.seed, job.seed + task.settings.seeds)
    experiment = Experiment("learngene_pool", job.out / "runs", key | {"ancestry seed": task.seed}, job.resume)
    return experiment.run(list(arms_of(task)) if arms is None else list(arms), [Part("", task)], seeds)


def arms_of(task: Task) -> list[Arm]:
    """The pool, and what one would take otherwise."""
    start = task.settings.stitches
    return [
        Arm(POOL, "system", partial(in_pool, True, start), note=f"distilled auxiliaries, stitches by {start}"),
        Arm(SNNET, "baseline", partial(in_pool, False, "lstsq"), note="auxiliaries trained on the labels alone"),
        Arm(ALONE, "baseline", alone, note="each for its share of the passes, with the ancestry's answers"),
        Arm(RANDOM, "ablation", partial(in_pool, True, "random"), note="distilled auxiliaries"),
        Arm(ONE, "baseline", one_size, note="all passes for the widest auxiliary; no other budget is served"),
    ]


def in_pool(from_teacher: bool, method: str, trial: Trial) -> Outcome:
    """Auxiliaries, stitches, and the tuning of the pool."""
    task: Task = trial.data
    members, transforms = task.members(trial.seed, from_teacher)
    pool = stitched(task.pool_of(members), method, task.answers, transforms, trial.seed)
    before = [float(right(pool, task.data, config=id).float().mean()) for id in range(len(pool.configs))]
    own = task.settings
    config = training(own, len(task.answers), own.tune_epochs, own.tune_lr, trial.seed)
    pool.fit(task.answers, config=config, sampler=own.sampler, teacher=task.teacher, kd_weight=own.kd_weight)
    found = torch.stack([right(pool, task.data, config=id) for id in range(len(pool.configs))])
    stored = sum(p.numel() for p in pool.parameters())
    return outcome(
        found, [pool.cost(id) for id in range(len(pool.configs))], stored, len(members) - 1, {UNTUNED: before}
    )


def alone(trial: Trial) -> Outcome:
    """Every model of the pool, from nothing and by itself."""
    task: Task = trial.data
    n, rights, costs = len(task.empty.configs), [], []
    steps = max(1, round(task.passes * -(-len(task.answers) // task.settings.batch_size) / n))
    for id in range(n):
        pool = task.pool_of(task.shapes.members(task.teacher, trial.seed, False))
        config = training(task.settings, len(task.answers), task.passes, task.settings.lr, trial.seed)
        config = replace(config, max_steps=steps, warmup_steps=steps // 10)
        pool.fit(task.answers, config=config, ids=[id], teacher=task.teacher, kd_weight=task.settings.kd_weight)
        rights.append(right(pool, task.data, config=id))
        costs.append(pool.cost(id))
    return outcome(torch.stack(rights), costs, sum(cost.params for cost in costs), len(task.shapes.widths) - 1, {})


def one_size(trial: Trial, number: int | None = None) -> Outcome:
    """An auxiliary, by default the widest, distilled as in the pool, with all passes."""
    task: Task = trial.data
    widest, inherits = len(task.shapes.widths) - 1, task.settings.teacher_blocks
    number = widest if number is None else number
    member = task.shapes.members(task.teacher, trial.seed, inherits)[number]
    config = task.distillation(task.passes, trial.seed, inherits)[number]
    distill(task.teacher, member, task.answers, config=config, points=points_of(number))
    found, cost = right(member, task.data), task.empty.cost(number)
    details = {"macs": [cost.macs], "params": [cost.params], "accuracy": [float(found.float().mean())]}
    return Outcome({LARGEST.name: details["accuracy"][0]} if number == widest else {}, cost.params, details)


def outcome(found: torch.Tensor, costs: Sequence[Cost], stored: int, widest: int, more: dict[str, Any]) -> Outcome:
    """Of all sizes: (models, images) whether the class was found; `widest` is the id of the widest auxiliary."""
    accuracies = found.float().mean(1).tolist()
    details = {
        "macs": [cost.macs for cost in costs],
        "params": [cost.params for cost in costs],
        "accuracy": accuracies,
        "by image": [round(value, 6) for value in found.float().mean(0).tolist()],
    }
    values = {SIZES.name: float(np.mean(accuracies)), LARGEST.name: accuracies[widest]}
    return Outcome(values, stored, details | more)


# -- what was found ----------------------------------------------------------------------------------------------------


def by_image(runs: Runs) -> dict[str, list[float]]:
    """For each method of all sizes, of each test image the share of sizes and seeds that find its class."""
    kept = {arm.name: [run.details["by image"] for run in runs.of(arm.name)] for arm in runs.arms if arm.name != ONE}
    return {name: np.mean(shares, 0).tolist() for name, shares in kept.items()}


def families_of(runs: Runs) -> list[Family]:
    """The models of each arm, seeds averaged."""
    found = []
    for arm in runs.arms:
        details = [run.details for run in runs.of(arm.name)]
        table = pd.DataFrame({"macs": details[0]["macs"], "params": details[0]["params"]})
        table["accuracy"] = np.mean([part["accuracy"] for part in details], 0)
        found.append(Family(arm.name, table, runs.of(arm.name)[0].parameters or 0, arm.kind))
    return found


def costs(runs: Runs, task: Task) -> Table:
    """What each method stores and trains."""
    rows: list[list[str | float | int]] = []
    for family in families_of(runs):
        run = runs.of(family.name)
        macs = family.table["macs"]
        seconds = float(np.mean([one.seconds for one in run]))
        served = f"{macs.min() / 1e6:.2f} to {macs.max() / 1e6:.2f}" if len(macs) > 1 else f"{macs.max() / 1e6:.2f}"
        rows.append([family.name, len(family.table), served, f"{family.stored:,}", task.passes, f"{seconds:.0f}"])
    columns = ["method", "models", "millions of MACs", "parameters stored", "passes over the images", "seconds"]
    note = "Seconds of one seed. Arms that start from the same auxiliaries share their training: the first pays for it."
    return Table("What each method stores and costs", columns, rows, note)


def sizes(runs: Runs) -> Table:
    """The accuracy of each size."""
    families = {family.name: family.table for family in families_of(runs) if len(family.table) > 1}
    first = next(iter(families.values()))
    rows: list[list[str | float | int]] = []
    macs, params = first["macs"].tolist(), first["params"].tolist()
    for id in sorted(range(len(macs)), key=macs.__getitem__):
        cells = [f"{table['accuracy'].iloc[id]:.3f}" for table in families.values()]
        rows.append([id, f"{macs[id] / 1e6:.2f}", f"{params[id]:,}", *cells])
    columns = ["id", "millions of MACs", "parameters", *families]
    return Table("Accuracy of each size", columns, rows, "Seeds averaged, on the images held out.")


def checks(runs: Runs) -> list[Check]:
    """What the paper says, and what it has to be weighed against."""
    found, shares = [], by_image(runs)
    pairs = [
        (SNNET, SIZES, "distilling the auxiliaries bought nothing here"),
        (RANDOM, SIZES, "the start of the stitches does not matter here"),
        (ALONE, SIZES, "train the sizes that you need alone"),
        (ONE, LARGEST, "if one size is all you need, distil that one"),
    ]
    for name, metric, otherwise in pairs:
        ours, theirs = runs.mean(POOL, metric.name), runs.mean(name, metric.name)
        statement = f"{metric.name}: the pool is ahead of {name}"
        sure = differ(shares[POOL], shares.get(name, [])) if metric == SIZES else runs.differ(POOL, name, metric.name)
        found.append(Check(statement, ours > theirs, f"{ours:.3f} against {theirs:.3f}", otherwise, sure))
    return found


def shows(runs: Runs) -> str:
    """The figures in words."""
    over = ", ".join(f"{name} {runs.mean(name, SIZES.name):.3f}" for name in (POOL, SNNET, RANDOM, ALONE))
    stored = {name: runs.of(name)[0].parameters or 0 for name in (POOL, ALONE, ONE)}
    gap = runs.mean(POOL, LARGEST.name) - runs.mean(ONE, LARGEST.name)
    before = np.mean([run.details[UNTUNED] for run in runs.of(POOL)])
    return (
        f"Mean accuracy over the sizes: {over}; the pool before its tuning {before:.3f}. It stores {stored[POOL]:,} "
        f"parameters, a file for each size {stored[ALONE]:,}, and the one size {stored[ONE]:,}; at that size the pool "
        f"is {abs(gap):.3f} {'ahead of' if gap > 0 else 'behind'} the model that got all the training."
    )


def described(task: Task, name: str) -> str:
    """Data, sizes and budget."""
    settings, found = task.settings, task.shapes
    widths = ", ".join(map(str, found.widths))
    return (
        f"{name}, {len(task.data.train)} images of {task.data.size} x {task.data.size} to train on and "
        f"{len(task.data.test)} to test on; ancestry {settings.model or 'a model trained on them'} "
        f"({accuracy(task.teacher, task.data):.3f}), auxiliaries of {found.depth} blocks of width {widths}: "
        f"{len(task.empty.configs)} sizes, {task.passes} passes over the images in all for each method"
    )


def limits(task: Task) -> str:
    """What not to conclude."""
    return (
        f"Small models, {task.passes} passes (the paper: 100 for each auxiliary and 50 of tuning, on ImageNet) and "
        f"{task.settings.seeds} seeds with one ancestry model; the interval is over the test images. Passes cost less "
        "with a narrow model, so equal passes favour the one size, which spends all of them on the widest."
    )
