"""Step 5: which model of the pool to take."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from linmap.compress.learngene_pool.cost import Cost
from linmap.compress.learngene_pool.members import evaluating
from linmap.compress.learngene_pool.paths import Route
from linmap.compress.vision_transformer import VisionTransformer
from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.training.batches import reader, samples_of

if TYPE_CHECKING:
    import pandas as pd

    from linmap.compress.learngene_pool.pool import LearngenePool

OBJECTIVES = ("accuracy", "macs")
TIMED = 7  # forward passes, after two more


def evaluate(pool: LearngenePool, data: Dataset, ids: Sequence[int] | None, batch_size: int) -> pd.DataFrame:
    """As of `LearngenePool.evaluate`."""
    import pandas as pd

    if batch_size < 1:
        raise ArgumentError(f"batch_size={batch_size} must be at least 1.")
    chosen = list(range(len(pool.configs)) if ids is None else ids)
    routes = {id: pool.route(id) for id in chosen}
    right = dict.fromkeys(chosen, 0)
    read = reader(data, next(pool.parameters()).device)
    with evaluating(pool):
        for indices in torch.arange(samples_of(data)).split(batch_size):
            x, y, *_ = read(indices)
            if y.ndim != 1 or y.is_floating_point():
                raise ArgumentError(
                    f"y of the data has shape {tuple(y.shape)} and type {y.dtype}; expected a class (an integer) for "
                    "each sample."
                )
            for id, logits in _all_logits(pool, routes, x):
                finite = torch.isfinite(logits).all(-1)  # else argmax names the place of a NaN
                right[id] += int(((logits.argmax(-1) == y) & finite).sum())
    pool.accuracy |= {id: count / samples_of(data) for id, count in right.items()}
    costs = [pool.cost(id) for id in chosen]
    return pd.DataFrame(
        {
            "id": chosen,
            "params": [cost.params for cost in costs],
            "macs": [cost.macs for cost in costs],
            "accuracy": [pool.accuracy[id] for id in chosen],
        }
    )


def _all_logits(pool: LearngenePool, routes: Mapping[int, Route], x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The logits of each id; each first member runs once, and all that leave it after a block go on from there."""
    leaving: dict[int, dict[int, list[int]]] = {}  # by first member, then by how many of its blocks run
    for id, route in routes.items():
        leaving.setdefault(pool.configs[id].members[0], {}).setdefault(len(route.parts[0]), []).append(id)
    for member, after in leaving.items():
        front: Any = pool.members[member]
        tokens = front.embed(x)
        for done, block in enumerate(list(front.blocks)[: max(after)], 1):
            tokens = block(tokens)
            for id in after.get(done, ()):
                yield id, routes[id].after_embedding(tokens, block=done)


def frontier(pool: LearngenePool) -> list[int]:
    """As of `LearngenePool.frontier`."""
    ordered = sorted(pool.accuracy, key=lambda id: (pool.cost(id).macs, -pool.accuracy[id], id))
    kept: list[int] = []
    for id in ordered:
        if not kept or pool.accuracy[id] > pool.accuracy[kept[-1]]:
            kept.append(id)
    return kept


def choose(
    pool: LearngenePool,
    id: int | None,
    budgets: Mapping[str, float | None],
    objective: str,
    example: Tensor | None,
) -> int:
    """As of `LearngenePool.build`."""
    given = {name: value for name, value in budgets.items() if value is not None}
    if objective not in OBJECTIVES:
        raise ArgumentError(f"objective={objective!r} must be one of {', '.join(OBJECTIVES)}.")
    for name, value in given.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ArgumentTypeError(f"{name} must be a number, got {value!r}.")
        if not value > 0:
            raise ArgumentError(f"{name}={value} must be positive.")
    if example is not None and "max_latency_ms" not in given:
        raise ArgumentError("example is what max_latency_ms is measured with; give that budget, too.")
    if id is not None:
        if given or objective != "accuracy":
            name = next(iter(given), "objective")
            raise ArgumentError(f"an id and {name} were given; give the id, or budgets and an objective.")
        pool.config(id)
        return id
    costs = {id: pool.cost(id) for id in range(len(pool.configs))}
    limits = {"params": given.get("max_params", math.inf), "macs": given.get("max_macs", math.inf)}
    fitting = [id for id, cost in costs.items() if all(getattr(cost, k) <= limit for k, limit in limits.items())]
    if not fitting:
        raise ArgumentError(_nothing_fits(costs, given))
    ordered = _ordered(pool, fitting, costs, objective)
    if "max_latency_ms" not in given:
        return ordered[0]
    return _fast_enough(pool, ordered, given["max_latency_ms"], example)


def _ordered(pool: LearngenePool, ids: Sequence[int], costs: Mapping[int, Cost], objective: str) -> list[int]:
    """Best first."""
    by_macs = sorted(ids, key=lambda id: (-costs[id].macs, id))
    if objective == "macs":
        return by_macs
    measured = [id for id in ids if id in pool.accuracy]
    others = [id for id in by_macs if id not in pool.accuracy]
    return sorted(measured, key=lambda id: (-pool.accuracy[id], costs[id].macs, id)) + others


def _nothing_fits(costs: Mapping[int, Cost], given: Mapping[str, float]) -> str:
    least_params, least_macs = (min(getattr(cost, name) for cost in costs.values()) for name in ("params", "macs"))
    least = {"max_params": f"{least_params} parameters", "max_macs": f"{least_macs} MACs"}
    asked = [f"{name}={value:g}" for name, value in given.items() if name in least]
    smallest = " and ".join(text for name, text in least.items() if name in given)
    return f"no model of the pool fits {' and '.join(asked)}: the smallest has {smallest}. Raise the budget."


# -- latency -----------------------------------------------------------------------------------------------------------


def _fast_enough(pool: LearngenePool, ordered: Sequence[int], limit: float, example: Tensor | None) -> int:
    """The first id that is fast enough; they are timed one after the other."""
    x = _example(pool) if example is None else example
    fastest = math.inf
    for id in ordered:
        took = latency_ms(pool, id, x)
        if took <= limit:
            return id
        fastest = min(fastest, took)
    raise ArgumentError(
        f"no model of the pool that fits takes at most max_latency_ms={limit:g} here: the fastest takes {fastest:.3g} "
        "ms. Raise the budget."
    )


def latency_ms(pool: LearngenePool, id: int, x: Tensor) -> float:
    """Milliseconds of a forward pass, the median of several, in evaluation mode."""
    seconds = []
    with evaluating(pool):
        for _ in range(TIMED + 2):
            start = time.perf_counter()
            pool(x, config=id)
            if x.is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[2:])


def _example(pool: LearngenePool) -> Tensor:
    member: Any = pool.members[0]
    if not isinstance(member, VisionTransformer):
        raise ArgumentError("max_latency_ms needs example, the inputs to time, where members are not linmap's.")
    weight = member.cls_token
    return torch.zeros(1, member.in_channels, member.image_size, member.image_size).to(weight)
