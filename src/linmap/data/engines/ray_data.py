"""`engine="ray"`: shards as the rows of a Ray dataset, mapped by a pool of actors.

A shard goes to an actor when one is free, and its number comes back, so nothing can pile up. Ray restarts an actor
that dies and gives its shard to one that lives.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from linmap.data.engines.shards import Outcome, Shard
from linmap.errors import UsageError

Task = Callable[[Shard], Outcome]


class Worker:
    """One actor: the task with its caches."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        outcomes = [self.task(Shard(**json.loads(shard))) for shard in batch["shard"]]
        return {"number": [outcome.number for outcome in outcomes], "error": [outcome.error for outcome in outcomes]}


def on_ray(task: Task, todo: list[Shard], n_jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come; on the cluster at `RAY_ADDRESS`, or that `ray.init` has joined, else on this machine."""
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if "RAY_ADDRESS" not in os.environ:
            options |= {"num_cpus": n_jobs if n_jobs > 0 else None, "include_dashboard": False}
        ray.init(**options)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    workers = n_jobs if n_jobs > 0 else int(ray.cluster_resources().get("CPU", 1))
    try:
        rows = [{"shard": json.dumps(asdict(shard) | {"path": os.path.abspath(shard.path)})} for shard in todo]
        shards = ray.data.from_items(rows, override_num_blocks=len(rows))
        pool = ray.data.ActorPoolStrategy(size=min(workers, len(todo)))
        done = shards.map_batches(Worker, batch_size=1, fn_constructor_args=(task,), compute=pool)
        done.context.enable_progress_bars = False
        for row in done.iter_rows():
            yield Outcome(row["number"], row["error"])
    finally:
        if started:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise UsageError("the engine ray needs Ray Data: pip install 'linmap[ray]'.") from None
    return ray
