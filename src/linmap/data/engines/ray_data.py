"""`engine="ray"`: shards as the rows of a Ray dataset, mapped by a pool of actors.

A shard goes to an actor when one is free, and its number comes back, so nothing can pile up. Ray restarts an actor
that dies and gives its shard to one that lives, for ever; workers therefore count how many have begun a shard.

Where `ray.init` started Ray and its driver is killed, the kernel kills Ray's head, and the actors end within seconds.
Two agents of Ray's own, which do no work of ours, try for another minute to tell the head (Ray 2.60 has no option).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from linmap.data.engines.shards import Outcome, Shard
from linmap.errors import UsageError

TRIES = 4
"""So many workers may die over one shard."""


@runtime_checkable
class Task(Protocol):
    """What writes the file of a shard into a folder."""

    @property
    def work(self) -> Path: ...

    def __call__(self, shard: Shard) -> Outcome: ...


class Worker:
    """One actor: the task with its caches."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        shards = [Shard(**json.loads(shard)) for shard in batch["shard"]]
        outcomes = [self._tried(shard) for shard in shards]
        return {
            "number": [shard.number for shard in shards],
            "error": [outcome.error if outcome else "" for outcome in outcomes],
            "killing": [outcome is None for outcome in outcomes],
        }

    def _tried(self, shard: Shard) -> Outcome | None:
        """The outcome of a shard; None where so many workers have died over it that it is left alone."""
        count = tries(self.task, shard)
        with open(count, "ab") as file:
            file.write(b".")
        if count.stat().st_size > TRIES:
            return None
        outcome = self.task(shard)
        count.unlink(missing_ok=True)
        return outcome


def tries(task: Task, shard: Shard) -> Path:
    """A file in the work folder with a byte for each worker that has begun a shard and not ended it."""
    return task.work / f"{shard.number:06d}.tries"


def on_ray(task: Task, todo: list[Shard], n_jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come; on the cluster at `RAY_ADDRESS`, or that `ray.init` has joined, else on this machine."""
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if "RAY_ADDRESS" not in os.environ:
            options |= {"address": "local", "num_cpus": n_jobs if n_jobs > 0 else None, "include_dashboard": False}
        ray.init(**options)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for shard in todo:
        tries(task, shard).unlink(missing_ok=True)  # of a run before
    workers = n_jobs if n_jobs > 0 else int(ray.cluster_resources().get("CPU", 1))
    try:
        rows = [{"shard": json.dumps(asdict(shard) | {"path": os.path.abspath(shard.path)})} for shard in todo]
        shards = ray.data.from_items(rows, override_num_blocks=len(rows))
        pool = ray.data.ActorPoolStrategy(size=min(workers, len(todo)))
        done = shards.map_batches(Worker, batch_size=1, fn_constructor_args=(task,), compute=pool)
        done.context.enable_progress_bars = False
        for row in done.iter_rows():
            if row["killing"]:
                raise RuntimeError(
                    f"{TRIES} workers were killed over one shard (out of memory?); the finished shards are in "
                    f"{task.work}: the same call with resume goes on from them."
                )
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
