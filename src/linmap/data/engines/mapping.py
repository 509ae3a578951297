"""`map_records`: a function from records to vectors, over as much data as there is.

The source is cut into shards. A shard is read, mapped and written to the work folder by itself; the file of a shard
appears there when it is whole. When all are there they are joined, in their order, under the name of the output. So
neither the engine, nor the number of workers, nor the order in which they finish, nor a run that was killed and resumed
can be seen in the bytes; and a worker holds no more than one batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import numpy as np

from linmap.artifacts import atomic_path
from linmap.data.engines.naming import check_names, named_by
from linmap.data.engines.shards import SUFFIXES, Batch, Names, Outcome, Shard, cut, read, waves
from linmap.data.records import AS_THEY_ARE, Layout, files_of
from linmap.data.work import PLAN, begin_work, discard, in_the_way
from linmap.errors import ArgumentError, DataError, Stopped
from linmap.locks import sole
from linmap.ownership import real
from linmap.processes import check_parent, end_with_parent, sweep, workers

Engine = Literal["local", "ray"]
Function = Callable[[Any], np.ndarray]
FORMAT = 3
SUM = 32  # bytes of a checksum, behind the rows of a shard
SHARD_RECORDS = 16_384
BATCH = 1024


class Writer(Protocol):
    """What takes the vectors in the end, such as `VectorFileWriter`."""

    def write(self, ids: Sequence[str], vectors: np.ndarray) -> None: ...


class Mapped(NamedTuple):
    """What a run has done: how many records, of which so many were there from a run before, and the vectors' kind;
    what the records are called by, in words."""

    records: int
    resumed: int
    dim: int
    dtype: np.dtype
    ids: str


def map_records(
    source: Path | str,
    out: Path | str,
    function: Function,
    work: Path | str | None = None,
    engine: Engine = "local",
    *,
    shard_records: int = SHARD_RECORDS,
    batch: int = BATCH,
    n_jobs: int = 1,
    resume: bool = False,
    of: Literal["records", "vectors"] | None = None,
    layout: Layout = AS_THEY_ARE,
    writer: Callable[[Path, int, np.dtype], AbstractContextManager[Writer]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Mapped:
    """Write the vector of every record of a file or folder, in the order of the records.

    Parameters
    ----------
    source
        A `.jsonl`, `.ndjson`, `.json`, `.parquet` or `.npy` file, or a folder of such files. In a cluster every
        machine must see it, and `work`, under the same name.
    out
        The file to write; it appears when it is whole.
    function
        Takes a list of `Record`s (of `.npy`: an array of rows) and returns an array with a row for each, which must
        depend on that record alone. Workers get copies of it. Its attribute `fingerprint`, if it has one, says whether
        a run that is resumed computes the same as the one before.
    work
        Folder of finished shards; `<out>.work` when None. In the end they are removed, and with them the folder, unless
        it was there before.
    engine
        "local": this process, or `n_jobs` processes; "ray": actors of Ray, where the shard of a killed
        worker, or of a machine that died, goes to another one.
    shard_records
        About how many records are lost when a worker is.
    batch
        How many records the function is given at once.
    n_jobs
        Worker processes; -1 for all cores.
    resume
        Keep the shards that an earlier call has finished in `work`.
    of
        "records": JSON and Parquet files alone; "vectors": `.npy` files and Parquet with the columns id and vector, of
        which the function gets rows; None: records, and the rows of `.npy` files.
    layout
        Where the records are in their files, and what they are called.
    writer
        Opens the output, given its path and the vectors' length and dtype; a plain `.npy` when None.
    progress
        Called with the number of finished records and of all, now and then.

    Raises
    ------
    DataError
        If the source cannot be read, the function refuses a record (the message names it), two records would get one
        name that only one of them has as its id, or `work` belongs to another run, perhaps one that goes on.
    """
    for name, value in (("shard_records", shard_records), ("batch", batch)):
        if value < 1:
            raise ArgumentError(f"{name} must be at least 1, got {value!r}.")
    if engine == "local" or n_jobs < 1:
        workers(n_jobs)
    if engine not in ("local", "ray"):
        raise ArgumentError(f"engine must be 'local' or 'ray', got {engine!r}.")
    out = Path(out)
    work = Path(work) if work is not None else out.with_name(f"{out.name}.work")
    for path in (out, work):
        if real(path).is_relative_to(real(source)):
            raise DataError(f"{path} must not lie in {source}, which is read; write elsewhere.")
    with sole(out), sole(work, again=False):
        files = files_of(source, SUFFIXES[of])
        shards = _plan(files, work, function, shard_records, batch, of == "vectors", layout, resume)
        task = Task(function, real(work), batch, layout)
        resumed = _map(shards, task, engine, n_jobs, progress or (lambda done, total: None))
        ids = _check_names(shards, work, source) if any(shard.named for shard in shards) else named_by(0, 1)
        dim, dtype = _join(shards, work, out, writer or plain_npy, function, batch)
        discard(work)
    return Mapped(sum(shard.count for shard in shards), resumed, dim, dtype, ids)


def _map(shards: list[Shard], task: Task, engine: Engine, n_jobs: int, report: Callable[[int, int], None]) -> int:
    """All shards that are not there yet; how many records are there from a run before."""
    todo = [shard for shard in shards if not _is_whole(task.work, shard)]
    total = sum(shard.count for shard in shards)
    resumed = done = total - sum(shard.count for shard in todo)
    report(done, total)
    try:
        with closing(_outcomes(engine, task, todo, n_jobs)) as outcomes:
            for outcome in outcomes:
                if outcome.error:
                    raise DataError(outcome.error)
                done += shards[outcome.number].count
                report(done, total)
    except DataError:  # the source must be mended, and a mended one is another run, which keeps nothing of this
        discard(task.work)
        raise
    except KeyboardInterrupt:
        done = sum(shard.count for shard in shards if _vectors_path(task.work, shard).exists())
        raise Stopped(f"{done} of {total} records are done and kept") from None
    finally:
        sweep(task.work)  # shards of workers that ended over another's error
        if not any(_vectors_path(task.work, shard).exists() for shard in shards):  # as no cluster was there
            discard(task.work)
    return resumed


# -- one shard ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """All that a worker needs; called with a shard, it writes that shard's ids and vectors."""

    function: Function
    work: Path
    batch: int
    layout: Layout

    def __call__(self, shard: Shard) -> Outcome:
        from threadpoolctl import threadpool_limits

        try:
            with threadpool_limits(1):  # sums of floats depend on how threads share them, and workers share the cores
                self._write(shard)
        except DataError as error:
            return Outcome(shard.number, str(error))
        return Outcome(shard.number)

    def _write(self, shard: Shard) -> None:
        ids, origins, rows = [], [], 0
        # a work folder that is gone belongs to a run that was given up, and is not made again
        with atomic_path(_vectors_path(self.work, shard), make=False) as partial:
            with open(partial, "wb") as file:
                for names, batch in read(shard, self.batch, self.layout):
                    vectors = self._vectors(shard, rows, batch)
                    if not rows:
                        _write_header(file, vectors.dtype, shard.count, vectors.shape[1])
                    file.write(np.ascontiguousarray(vectors).data)
                    ids.extend(names.ids)
                    origins.append(names.origins)
                    rows += len(names.ids)
            if rows != shard.count:
                raise DataError(f"{shard.path} has changed while it was read; start again, without --resume.")
            if shard.named:
                with atomic_path(_ids_path(self.work, shard), make=False) as names_file:
                    names_file.write_text(json.dumps({"ids": ids, "origins": "".join(origins)}), encoding="utf-8")
            digest = _digest(partial, self.work, shard)
            with open(partial, "ab") as file:
                file.write(digest)
            check_parent()

    def _vectors(self, shard: Shard, before: int, batch: Batch) -> np.ndarray:
        """`function` of a batch; where it refuses one, of one record after the other, to name the one."""
        try:
            vectors = self.function(batch)
        except (TypeError, ValueError):
            for place in range(len(batch)):
                try:
                    self.function(batch[place : place + 1])
                except (TypeError, ValueError) as error:
                    kind = "row" if shard.rows else "document"
                    number = shard.before + before + place
                    raise DataError(f"{shard.path}: {kind} {number}, {error}") from None
            raise
        if vectors.ndim != 2 or len(vectors) != len(batch):
            raise ArgumentError(
                f"function must return one vector for each record: for {len(batch)} records it gave {vectors.shape}."
            )
        return vectors


# -- engines -----------------------------------------------------------------------------------------------------------


def _outcomes(engine: Engine, task: Task, todo: list[Shard], n_jobs: int) -> Generator[Outcome]:
    if engine == "ray" and todo:
        from linmap.data.engines.ray_actors import on_ray

        yield from on_ray(task, todo, n_jobs)
    elif (jobs := min(len(todo), workers(n_jobs))) <= 1:
        yield from map(task, todo)
    else:
        yield from _in_processes(task, todo, jobs)


def _in_processes(task: Task, todo: list[Shard], jobs: int) -> Iterator[Outcome]:
    """By joblib, which hands out a shard when one comes back; in waves, so that no outcomes pile up."""
    from joblib import Parallel, delayed

    run = os.urandom(8).hex()
    end: dict[str, Any] = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
    parallel: Any = Parallel(jobs, "loky", return_as="generator_unordered", **end)
    for wave in waves(todo, jobs):
        outcomes = parallel(delayed(_kept)(run, task, shard) for shard in wave)
        yield from _closed(outcomes, task)


def _closed(outcomes: Any, task: Task) -> Iterator[Outcome]:
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        for outcome in outcomes:  # noqa: UP028  (a `yield from` would close it outside of what follows)
            yield outcome
    except TerminatedWorkerError:
        raise RuntimeError(
            f"a worker process was killed (out of memory?); the finished shards are in {task.work}: the same call with "
            "resume=True goes on from them. engine='ray' starts killed workers again."
        ) from None
    finally:
        with warnings.catch_warnings(action="ignore"):  # of shards that are given up after an error
            outcomes.close()


_tasks: dict[str, Task] = {}


def _kept(run: str, task: Task, shard: Shard) -> Outcome:
    """In a worker: the task that came first is used for all shards, so that what its function caches stays."""
    if run not in _tasks:
        _tasks.clear()
        _tasks[run] = task
    return _tasks[run](shard)


# -- the work folder ---------------------------------------------------------------------------------------------------


def _plan(
    files: list[Path],
    work: Path,
    function: Function,
    shard_records: int,
    batch: int,
    vectors: bool,
    layout: Layout,
    resume: bool,
) -> list[Shard]:
    """The shards: those of the run that is resumed, or new ones in an empty work folder."""
    stats = [(str(real(file)), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    name = f"{type(function).__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    identity = {
        "format": FORMAT,
        "function": str(getattr(function, "fingerprint", name)),
        "source": [list(stat) for stat in stats],
        "shard_records": shard_records,
        "batch": batch,
        "vectors": vectors,
        "layout": layout.as_json(),
    }
    path = work / PLAN
    if in_the_way(work, resume):
        raise DataError(f"{work} holds something else than a run of map_records; name another work folder.")
    if path.exists() and resume:
        plan = _read_plan(path)
        differ = [key for key, value in identity.items() if plan.get(key) != value]
        if differ:
            raise DataError(
                f"{work} belongs to a run with another {', '.join(differ)}; start again without --resume, or name "
                "another work folder."
            )
        return plan["shards"]
    if path.exists():
        discard(work)
    shards = cut(files, shard_records, vectors, layout)
    listed = [asdict(shard) for shard in shards]
    begin_work(work, identity | {"shards": listed, "sum": _sum(listed)})
    return shards


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan.get("format") == FORMAT and plan["sum"] != _sum(plan["shards"]):
            raise KeyError("sum")
        return plan | {"shards": [Shard(**shard) for shard in plan["shards"]]}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path} is damaged; remove {path.parent}, and start again.") from None


def _sum(shards: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


def _is_whole(work: Path, shard: Shard) -> bool:
    """Whether a shard is there as it was written; one that was damaged since is made again."""
    path = _vectors_path(work, shard)
    try:
        with open(path, "rb") as file:
            file.seek(-SUM, os.SEEK_END)
            kept = file.read()
        return kept == _digest(path, work, shard, path.stat().st_size - SUM)
    except OSError:
        return False


def _digest(path: Path, work: Path, shard: Shard, size: int | None = None) -> bytes:
    """Of the first bytes of a shard's file, or of all, and of its names."""
    digest = hashlib.sha256(_ids_path(work, shard).read_bytes() if shard.named else b"")
    left = path.stat().st_size if size is None else size
    with open(path, "rb") as file:
        while part := file.read(min(left, 1 << 20)):
            digest.update(part)
            left -= len(part)
    return digest.digest()


def _vectors_path(work: Path, shard: Shard) -> Path:
    return work / f"{shard.number:06d}.npy"


def _ids_path(work: Path, shard: Shard) -> Path:
    return work / f"{shard.number:06d}.json"


# -- the output --------------------------------------------------------------------------------------------------------


def _join(
    shards: list[Shard], work: Path, out: Path, writer: Any, function: Function, batch: int
) -> tuple[int, np.dtype]:
    """All shards in their order, as one file."""
    filled = [shard for shard in shards if shard.count]
    first = np.load(_vectors_path(work, filled[0]), mmap_mode="r") if filled else function([])
    with writer(out, first.shape[1], first.dtype) as file:
        for shard in filled:
            vectors = np.load(_vectors_path(work, shard), mmap_mode="r")
            if (vectors.shape[1], vectors.dtype) != (first.shape[1], first.dtype):
                raise ArgumentError(
                    f"function must return vectors of one kind: {first.dtype} of length {first.shape[1]} at first, "
                    f"{vectors.dtype} of length {vectors.shape[1]} in {shard.path}."
                )
            ids = _names(shard, work).ids
            for start in range(0, shard.count, batch):
                file.write(ids[start : start + batch], vectors[start : start + batch])
    return first.shape[1], first.dtype


def _check_names(shards: list[Shard], work: Path, source: Path | str) -> str:
    try:
        return check_names(lambda: (_names(shard, work) for shard in shards if shard.count), source)
    except DataError:
        discard(work)
        raise


def _names(shard: Shard, work: Path) -> Names:
    if not shard.named:
        return Names([str(row) for row in range(shard.first, shard.first + shard.count)], "n" * shard.count)
    return Names(**json.loads(_ids_path(work, shard).read_text(encoding="utf-8")))


class _PlainRows:
    def __init__(self, file: BinaryIO) -> None:
        self.file, self.rows = file, 0

    def write(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(vectors).data)
        self.rows += len(vectors)


@contextmanager
def plain_npy(out: Path, dim: int, dtype: np.dtype) -> Iterator[Writer]:
    """A `.npy` file of the vectors alone."""
    with atomic_path(out) as partial, open(partial, "wb") as file:
        _write_header(file, dtype, 0, dim)
        rows = _PlainRows(file)
        yield rows
        file.seek(0)
        _write_header(file, dtype, rows.rows, dim)


def _write_header(file: BinaryIO, dtype: np.dtype, rows: int, dim: int) -> None:
    """NumPy pads headers, so that the number of rows can be filled in at the end."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)
