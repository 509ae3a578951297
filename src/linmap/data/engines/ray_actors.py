"""`engine="ray"`: shards go to actors, one at a time each, from the thread that asks for the outcomes.

Workers write the files of their shards; what goes through Ray is the task, once, and for each shard its place and an
answer of a few bytes. An actor gets its next shard when somebody has taken the answer of the last, so nothing piles up.

A shard whose actor dies goes to another one; `TRIES` may die over it. Ray Data would do much of this, but goes on in
threads of its own after the last answer was taken; what they ask of a Ray that has ended starts another one.

Where `ray.init` started Ray and its driver is killed, the kernel kills Ray's head, and the actors end within seconds.
Two agents of Ray's own, which do no work of ours, try for another minute to tell the head (Ray 2.60 has no option).
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from linmap.data.engines.shards import Outcome, Shard
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

    def __init__(self, packed: tuple[bytes, list[np.ndarray]]) -> None:
        self.packed = packed

    def answer(self, shard: Shard) -> Outcome | Exception:
        """The outcome of a shard, or the error as it is, which Ray would wrap in the text of its own."""
        try:
            return self._task(shard)
        except Exception as error:  # and nothing that ends a worker, such as SystemExit
            return portable(error)

    @cached_property
    def _task(self) -> Task:
        body, buffers = self.packed
        return pickle.loads(body, buffers=buffers)

    def begin(self) -> None: ...


def portable(error: Exception) -> Exception:
    """The error, or one of its words where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def on_ray(task: Task, todo: list[Shard], n_jobs: int) -> Iterator[Outcome]:
    """Outcomes as they come; on the cluster at `RAY_ADDRESS`, or that `ray.init` has joined, else on this machine."""
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        join(ray, n_jobs)
    try:
        size = workers(n_jobs, int(ray.cluster_resources().get("CPU", 1)), "the cluster")
        yield from _mapped(ray, task, todo, size)
    finally:
        if started:
            ray.shutdown()


def _mapped(ray: Any, task: Task, todo: list[Shard], size: int) -> Iterator[Outcome]:
    buffers: list[pickle.PickleBuffer] = []
    body = ray.cloudpickle.dumps(task, protocol=5, buffer_callback=buffers.append)
    packed = ray.put((body, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]))  # the workers share them
    actor = ray.remote(num_cpus=1)(Worker)
    waiting, deaths = deque(todo), Counter[Shard | None]()
    beginning: dict[Any, Any] = {}  # by what is waited for
    free: list[Any] = []
    busy: dict[Any, tuple[Any, Shard]] = {}
    try:
        while waiting or busy:
            while len(beginning) + len(free) + len(busy) < min(size, len(waiting) + len(busy)):
                worker = actor.remote(packed)
                beginning[worker.begin.remote()] = worker
            while waiting and free:
                worker, shard = free.pop(), waiting.popleft()
                busy[worker.answer.remote(replace(shard, path=os.path.abspath(shard.path)))] = worker, shard
            (ended, *_), _ = ray.wait([*beginning, *busy], num_returns=1)
            worker, shard = (beginning.pop(ended), None) if ended in beginning else busy.pop(ended)
            try:
                answer = ray.get(ended)
            except ray.exceptions.RayError as error:
                ray.kill(worker)  # where it is only out of reach
                deaths[shard] += 1
                if deaths[shard] == TRIES:
                    raise _given_up(task, shard, error) from None
                waiting.extend([shard] if shard else [])
                continue
            free.append(worker)
            if isinstance(answer, Exception):
                raise answer
            if shard:
                yield answer
            else:
                deaths[None] = 0
    finally:
        for worker in [*free, *beginning.values(), *(worker for worker, _ in busy.values())]:
            with suppress(ray.exceptions.RayError):
                ray.kill(worker)


def _given_up(task: Task, shard: Shard | None, error: Exception) -> RuntimeError:
    """Too many workers have died, over a shard or before they got one."""
    last = str(error).strip().splitlines()[-1].strip().rstrip(".")
    what = f"over one shard, {shard.place} (out of memory?)" if shard else f"before they began ({last})"
    return RuntimeError(
        f"{TRIES} workers were killed {what}; the finished shards are in {task.work}: the same call with resume=True "
        "goes on from them."
    )


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise UsageError("the engine ray needs Ray: pip install 'linmap[ray]'.") from None
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
    except SystemExit:  # Ray's answer to a SIGTERM while it starts; the program's own is another
        signal.signal(signal.SIGTERM, on_term)
        signal.raise_signal(signal.SIGTERM)
        raise
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
