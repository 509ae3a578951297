"""`engine="ray"`: shards as the rows of a Ray dataset, mapped by a pool of actors.

Workers write the files of their shards; what goes through Ray is the task, once, and for each shard its place and an
answer of a few bytes. A shard goes to an actor when one is free, and shards go in waves, so that neither what is handed
in nor answers that nobody takes can pile up.

Ray restarts an actor that dies and gives its shard to one that lives, for ever; workers therefore count how many have
begun a shard.

Where `ray.init` started Ray and its driver is killed, the kernel kills Ray's head, and the actors end within seconds.
Two agents of Ray's own, which do no work of ours, try for another minute to tell the head (Ray 2.60 has no option).
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import socket
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from linmap.data.engines.shards import Outcome, Shard, waves
from linmap.errors import UsageError
from linmap.processes import workers

TRIES = 4
"""So many workers may die over one shard."""
ANSWER = 5.0  # seconds in which the machine of a cluster must answer
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""What a client of gRPC says first: HTTP/2, and that it wants no settings."""
SETTINGS = 4  # the type of the answer, its fourth byte


@runtime_checkable
class Task(Protocol):
    """What writes the file of a shard into a folder."""

    @property
    def work(self) -> Path: ...

    def __call__(self, shard: Shard) -> Outcome: ...


class Worker:
    """One actor: the task with its caches, which is unpacked in its first shard, so that a death over it counts."""

    def __init__(self, packed: bytes, work: Path) -> None:
        self.packed, self.work = packed, work

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        answers = [self._answer(Shard(**json.loads(shard))) for shard in batch["shard"]]
        return {"answer": [pickle.dumps(answer) for answer in answers]}

    def _answer(self, shard: Shard) -> Outcome | int | Exception:
        """The outcome of a shard; its number where so many workers have died over it that it is left alone; an error
        as it is, which Ray would wrap in the text of its own."""
        count = tries(self.work, shard)
        with open(count, "ab") as file:
            file.write(b".")
        if count.stat().st_size > TRIES:
            return shard.number
        try:
            answer = self._task(shard)
        except Exception as error:  # and nothing that ends a worker, such as SystemExit
            answer = portable(error)
        count.unlink(missing_ok=True)
        return answer

    @cached_property
    def _task(self) -> Task:
        task = pickle.loads(self.packed)
        self.packed = b""
        return task


def portable(error: Exception) -> Exception:
    """The error, or one of its words where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def tries(work: Path, shard: Shard) -> Path:
    """A file in the work folder with a byte for each worker that has begun a shard and not ended it."""
    return work / f"{shard.number:06d}.tries"


def on_ray(task: Task, todo: list[Shard], n_jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come; on the cluster at `RAY_ADDRESS`, or that `ray.init` has joined, else on this machine."""
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        join(ray, n_jobs)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for shard in todo:
        tries(task.work, shard).unlink(missing_ok=True)  # of a run before
    try:
        size = workers(n_jobs, int(ray.cluster_resources().get("CPU", 1)), "the cluster")
        for wave in waves(todo, size):
            yield from _mapped(ray, task, wave, size)
    finally:
        if started:
            ray.shutdown()


def _mapped(ray: Any, task: Task, shards: list[Shard], size: int) -> Iterator[Outcome]:
    rows = [{"shard": json.dumps(asdict(shard) | {"path": os.path.abspath(shard.path)})} for shard in shards]
    packed = ray.cloudpickle.dumps(task)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    pool = ray.data.ActorPoolStrategy(size=min(size, len(rows)), max_tasks_in_flight_per_actor=1)
    done = dataset.map_batches(Worker, batch_size=1, fn_constructor_args=(packed, task.work), compute=pool)
    done.context.enable_progress_bars = False
    for row in done.iter_rows():
        answer = pickle.loads(row["answer"])
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            (shard,) = (shard for shard in shards if shard.number == answer)
            raise RuntimeError(
                f"{TRIES} workers were killed over one shard, {shard.place} (out of memory?); the finished shards are "
                f"in {task.work}: the same call with resume=True goes on from them."
            )
        yield answer


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise UsageError("the engine ray needs Ray Data: pip install 'linmap[ray]'.") from None
    return ray


# -- a cluster ---------------------------------------------------------------------------------------------------------


def join(ray: Any, n_jobs: int) -> None:
    """Join the cluster at `RAY_ADDRESS`, or start Ray on this machine, whatever else of it runs here.

    Raises
    ------
    UsageError
        If no cluster is there.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        if not address:
            cores = workers(n_jobs)
            ray.init("local", num_cpus=cores if n_jobs > 0 else None, include_dashboard=False, **options)
        elif (why := silent(ray, address)) is None:
            ray.init(address, **options)
        else:
            raise ConnectionError(why)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if not address:
            raise
        why = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(
            f"RAY_ADDRESS={address} leads to no Ray cluster ({why}); start one there with `ray start --head`, or unset "
            "RAY_ADDRESS, and Ray starts on this machine."
        ) from None
    finally:
        if signal.getsignal(signal.SIGTERM) is not on_term:  # Ray would end the program without a word
            signal.signal(signal.SIGTERM, on_term)


def silent(ray: Any, address: str) -> str | None:
    """Why nothing that Ray could join answers at HOST:PORT, for which Ray itself waits many minutes."""
    host, _, port = address.partition("://")[2 if "://" in address else 0].rpartition(":")
    if not host or not port.isdecimal():
        return None  # what is no such address, Ray refuses at once
    hosts = [host] + [ray.util.get_node_ip_address()] * (host in ("localhost", "127.0.0.1"))  # as Ray understands it
    why = ""
    for name in dict.fromkeys(hosts):
        try:
            with socket.create_connection((name, int(port)), ANSWER) as line:
                line.settimeout(ANSWER)
                line.sendall(GREETING)
                if os.environ.get("RAY_USE_TLS", "0") != "0" or line.recv(4)[3:] == bytes([SETTINGS]):
                    return None
                why = "another kind of program answers"
        except (OSError, OverflowError) as error:
            why = why or str(getattr(error, "strerror", None) or error).lower()
    return why
