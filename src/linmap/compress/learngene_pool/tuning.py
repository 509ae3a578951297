"""Step 4: the pool is tuned, one drawn configuration a step."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.compress.learngene_pool.ancestry import Ancestry, ancestry
from linmap.compress.learngene_pool.losses import class_loss, kd_loss
from linmap.compress.learngene_pool.sampling import draw
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.training import TrainingConfig, TrainingHistory, train

if TYPE_CHECKING:
    from linmap.compress.learngene_pool.pool import LearngenePool


class Draws:
    """The ids of each step; it learns from `train` how many steps are done, and after a resume from the checkpoint.

    Parameters
    ----------
    ids, macs
        The configurations to draw from, and the MACs of each where the sampler needs them.
    sampler, seed
        As of `draw`.
    """

    def __init__(self, ids: Sequence[int], macs: Sequence[float], sampler: str, seed: int) -> None:
        self.ids, self.macs, self.sampler, self.seed = list(ids), list(macs), sampler, seed
        self.step = 0
        self.now()  # refuses what it cannot draw from

    def now(self) -> list[int]:
        """The ids of the current step."""
        drawn = draw(self.step, len(self.ids), sampler=self.sampler, seed=self.seed, macs=self.macs)
        return [self.ids[number] for number in drawn]

    def __call__(self, model: nn.Module, steps_done: int) -> None:
        self.step = steps_done

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "sampler": self.sampler, "ids": self.ids}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("sampler", "ids"):
            if state[name] != getattr(self, name):
                raise ArgumentError(
                    f"the run was started with {name}={state[name]}, now it is {getattr(self, name)}; resume with the "
                    "same, or start anew without resume."
                )
        self.step = state["step"]


def tune(
    pool: LearngenePool,
    data: Dataset,
    *,
    config: TrainingConfig,
    sampler: str,
    ids: Sequence[int] | None,
    teacher: Any,
    kd_weight: float,
    T: float,
    freeze: Sequence[int],
    out: Path | str | None,
    resume: bool,
) -> TrainingHistory:
    """As of `LearngenePool.fit`."""
    if not isinstance(config, TrainingConfig):
        raise ArgumentTypeError(f"config must be a linmap.training.TrainingConfig, got {type(config).__name__}.")
    if not kd_weight >= 0:
        raise ArgumentError(f"kd_weight={kd_weight} must not be negative.")
    if not (T > 0 and math.isfinite(T)):
        raise ArgumentError(f"T={T} must be positive.")
    if teacher is None and (T != 1 or kd_weight not in (0, 0.5)):
        raise ArgumentError(f"kd_weight={kd_weight} and T={T} are of the term to the teacher's logits; give teacher.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ArgumentError(
            "pool tuning runs in one process: each step trains a part of the pool, and several processes wait for all "
            "of it. Start it without accelerate launch or torchrun."
        )
    source = None if teacher is None else ancestry(teacher)
    if source is not None:
        source.prepare()
    with frozen(pool, freeze):
        allowed = trainable(pool, ids)
        macs = [] if sampler == "uniform" else [pool.cost(id).macs for id in allowed]
        draws = Draws(allowed, macs, sampler, config.seed)
        still = [pool.members[m] for m in freeze]

        def loss(model: nn.Module, batch: Any) -> Tensor:
            for member in still:
                member.eval()  # no drop path in what is not trained
            x, y, *recorded = batch
            target = _target(source, x, recorded)
            terms = []
            for id in draws.now():
                logits = model(x, config=id)
                terms.append(class_loss(logits, y))
                if target is not None:
                    terms[-1] = terms[-1] + kd_weight * kd_loss(logits, target, T)
            return terms[0] if len(terms) == 1 else torch.stack(terms).mean()

        history = train(
            pool, loss, data, config=config, out=out, resume=resume, description="pool tuning", callbacks=(draws,),
            seed_globally=False,
            settings={"sampler": sampler, "ids": allowed, "freeze": list(freeze), "kd_weight": kd_weight, "T": T,
                      "teacher": source and source.digest(out)},
        )  # fmt: skip
    pool.zero_grad()
    pool.accuracy.clear()  # of other weights
    return history


def _target(source: Ancestry | None, x: Tensor, recorded: Sequence[Any]) -> Tensor | None:
    """The teacher's logits: recorded with the data, or asked for."""
    if source is None:
        return None
    return recorded[0].logits if recorded else source.logits(x)


@contextmanager
def frozen(pool: LearngenePool, members: Sequence[int]) -> Iterator[None]:
    """Take the parameters of members out of training for a while."""
    if unknown := [m for m in members if not 0 <= m < len(pool.members)]:
        raise ArgumentError(f"freeze names member {unknown[0]}; the pool has members 0..{len(pool.members) - 1}.")
    parameters = [p for m in members for p in pool.members[m].parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def trainable(pool: LearngenePool, ids: Sequence[int] | None) -> list[int]:
    """The ids to draw from: those asked for, each with something to train; of all, those that have it."""
    asked = range(len(pool.configs)) if ids is None else list(ids)
    if not len(asked):
        raise ArgumentError("ids is empty; name the configurations to train, or leave it out.")
    for id in asked:
        pool.config(id)  # refuses what is not there
    able = list(asked)
    if not all(p.requires_grad for p in pool.parameters()):
        able = [id for id in asked if any(p.requires_grad for p in pool.route(id).parameters())]
    if ids is not None and len(able) < len(asked):
        raise ArgumentError(f"config {min(set(asked) - set(able))} has nothing to train: all its members are frozen.")
    if not able:
        raise ArgumentError("all members are frozen, and no stitch is there to train.")
    return able
