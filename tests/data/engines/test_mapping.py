import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faults.every_change import killed_at_every_change
from linmap.data.engines import map_records, shards
from linmap.data.records import read_records
from linmap.errors import DataError

RECORDS = [{"id": f"r{i}", "x": i * 0.37, "y": [i, -i]} for i in range(23)]


def summary() -> Callable:
    """Defined inside a function, so that workers get it by value."""

    def function(records: list) -> np.ndarray:
        return np.array([[r.document["x"], sum(r.document["y"]), len(r.id)] for r in records], np.float32)

    return function


def lines(path: Path, records: list) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


class Collected:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.vectors: list[np.ndarray] = []

    def __call__(self, out: Path, dim: int, dtype: np.dtype) -> "Collected":
        return self

    def __enter__(self) -> "Collected":
        return self

    def __exit__(self, *error: object) -> None: ...

    def write(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        self.ids += ids
        self.vectors.append(np.array(vectors))


def killed_at(call: int, marker: Path, function: Callable) -> Callable:
    """`function`, in a process that is killed in the given call, once."""
    calls = []

    def wrapped(batch: list) -> np.ndarray:
        calls.append(len(batch))
        if len(calls) == call and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(batch)

    wrapped.fingerprint = "summary"
    return wrapped


# -- what comes out ----------------------------------------------------------------------------------------------------


@given(
    x=st.lists(st.floats(-1e6, 1e6, width=32), max_size=40),
    blank=st.lists(st.booleans(), min_size=40, max_size=40),
    shard_records=st.integers(1, 50),
    batch=st.integers(1, 9),
)
def test_records_come_out_in_order_whatever_the_shards(tmp_path_factory, x, blank, shard_records, batch):
    folder = tmp_path_factory.mktemp("run")
    text = "".join(json.dumps({"v": v}) + ("\n \n" if gap else "\n") for v, gap in zip(x, blank, strict=False))
    (folder / "r.jsonl").write_text(text)
    got = Collected()
    done = map_records(
        folder / "r.jsonl",
        folder / "out",
        lambda rs: np.array([[r.document["v"]] for r in rs]).reshape(len(rs), 1),
        shard_records=shard_records,
        batch=batch,
        writer=got,
    )
    assert done.records == len(x)
    assert got.ids == [str(i) for i in range(len(x))]
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 1)), *got.vectors])[:, 0], x)


def test_a_folder_of_every_kind_is_read_in_the_order_of_names(tmp_path):
    source = tmp_path / "data"
    (source / "deep").mkdir(parents=True)
    lines(source / "a.jsonl", RECORDS[:5])
    (source / "b.json").write_text(json.dumps(RECORDS[5:8]))
    pq.write_table(pa.Table.from_pylist(RECORDS[8:20]), source / "c.parquet", row_group_size=5)
    lines(source / "deep" / "d.ndjson", RECORDS[20:])
    (source / ".half.jsonl").write_text("{")
    (source / "_SUCCESS").write_text("")
    got = Collected()
    map_records(source, tmp_path / "out", summary(), shard_records=4, writer=got)
    assert got.ids == [record["id"] for record in RECORDS] == [record.id for record in read_records(source)]
    np.testing.assert_array_equal(np.concatenate(got.vectors), summary()(list(read_records(source))))


def test_rows_of_arrays_are_records_too(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 4))
    source, out = tmp_path / "in", tmp_path / "out" / "v.npy"
    source.mkdir()
    for name, part in (("a", x[:11]), ("b", x[11:])):
        np.save(source / f"{name}.npy", part)
    done = map_records(source, out, lambda rows: rows[:, ::2] * 2, shard_records=7, batch=3)
    assert done == (30, 0, 2, np.dtype(float), "by their numbers")
    np.testing.assert_array_equal(np.load(out), x[:, ::2] * 2)
    assert [path.name for path in out.parent.iterdir()] == ["v.npy"]


def test_processes_give_the_bytes_of_one(tmp_path):
    source = lines(tmp_path / "r.jsonl", RECORDS)
    for n_jobs in (1, 2):
        map_records(source, tmp_path / f"{n_jobs}.npy", summary(), shard_records=5, n_jobs=n_jobs)
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "2.npy").read_bytes()


@pytest.mark.parametrize("kill", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ray_gives_the_bytes_of_this_process_and_a_killed_worker_loses_nothing(tmp_path, monkeypatch, kill):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    source = lines(tmp_path / "r.jsonl", RECORDS)
    map_records(source, tmp_path / "local.npy", summary(), shard_records=5, batch=2)
    function = killed_at(5, tmp_path / "marker", summary()) if kill else summary()
    done = map_records(source, tmp_path / "ray.npy", function, engine="ray", shard_records=5, batch=2)
    assert (tmp_path / "marker").exists() == kill
    assert done.records == 23
    assert (tmp_path / "ray.npy").read_bytes() == (tmp_path / "local.npy").read_bytes()


@pytest.mark.slow
def test_ray_gives_a_shard_up_that_kills_every_worker(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    source, tries, inner = lines(tmp_path / "r.jsonl", RECORDS), tmp_path / "tries", summary()

    def function(records: list) -> np.ndarray:
        if any(record.id == "r13" for record in records):
            with open(tries, "a") as file:
                file.write(".")
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(records)

    function.fingerprint = "same"  # type: ignore[attr-defined]
    with pytest.raises(
        RuntimeError, match=r"4 workers were killed over one shard, documents 10 to 14 of .*resume=True goes on"
    ):
        map_records(source, tmp_path / "v.npy", function, engine="ray", shard_records=5)
    assert tries.read_text() == "...."
    assert "Traceback" not in capfd.readouterr().err
    inner.fingerprint = "same"  # type: ignore[attr-defined]
    assert map_records(source, tmp_path / "v.npy", inner, shard_records=5, resume=True).resumed > 0
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), summary()(list(read_records(source))))


@pytest.mark.slow
def test_ray_gives_up_what_kills_every_worker_that_loads_it(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    source, loads = lines(tmp_path / "r.jsonl", RECORDS), tmp_path / "loads"

    def load(path: Path) -> None:
        with open(path, "a") as file:
            file.write(".")
        os.kill(os.getpid(), signal.SIGKILL)

    class Heavy:
        fingerprint = "same"

        def __call__(self, records: list) -> np.ndarray:
            return summary()(records)

        def __reduce__(self) -> tuple:
            return load, (loads,)

    with pytest.raises(RuntimeError, match="4 workers were killed over one shard"):
        map_records(source, tmp_path / "v.npy", Heavy(), engine="ray", shard_records=5)
    assert 4 <= len(loads.read_text()) <= 4 * 5


@given(count=st.integers(0, 300), workers=st.integers(1, 9), wave=st.integers(1, 50), each=st.integers(0, 9))
def test_waves_are_the_list_in_parts(count, workers, wave, each):
    whole = [shards.Shard(number, "x.npy", number, 1, number, number + 1) for number in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "WAVE", wave)
        patch.setattr(shards, "WAVE_PER_WORKER", each)
        parts = list(shards.waves(whole, workers))
    assert [shard for part in parts for shard in part] == whole
    assert all(0 < len(part) <= max(wave, each * workers) for part in parts)


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_no_more_than_a_wave_is_done_before_somebody_takes_it(engine, tmp_path, monkeypatch):
    """A consumer that stands still at its first outcome, and ten waves of shards."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(shards, "WAVE", 8)
    monkeypatch.setattr(shards, "WAVE_PER_WORKER", 4)
    np.save(tmp_path / "x.npy", np.arange(160.0).reshape(80, 2))
    ahead: list[int] = []

    def stand_still(done: int, total: int) -> None:
        def there() -> int:
            return len(list((tmp_path / "v.npy.work").glob("0*.npy")))

        if done == 0 or ahead:
            return
        while len(ahead) < 2 or ahead[-1] != ahead[-2]:
            ahead.append(there())
            time.sleep(2 if engine == "ray" else 0.5)

    def double(rows: np.ndarray) -> np.ndarray:
        return rows * 2

    map_records(
        tmp_path / "x.npy", tmp_path / "v.npy", double, engine=engine, n_jobs=2, shard_records=1, progress=stand_still
    )
    assert 1 <= max(ahead) <= 8
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), np.arange(160.0).reshape(80, 2) * 2)


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("of a GPU"), DataError("a record"), "shape"])
def test_an_error_of_a_worker_is_the_same_on_every_engine(error, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    np.save(tmp_path / "x.npy", np.ones((4, 2)))

    def function(rows: np.ndarray) -> np.ndarray:
        if isinstance(error, str):
            return rows[:1]
        raise error

    said, threads = [], set(threading.enumerate())
    for engine in ("local", "ray"):
        with pytest.raises((KeyError, RuntimeError, ValueError)) as caught:
            map_records(tmp_path / "x.npy", tmp_path / "v.npy", function, engine=engine, n_jobs=2, shard_records=2)
        said.append((type(caught.value), str(caught.value)))
    assert not [one.name for one in set(threading.enumerate()) - threads if one.is_alive() and "loky" not in one.name]
    assert said[0] == said[1]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    assert "Traceback" not in capfd.readouterr().err


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_a_killed_process_leaves_what_is_finished(tmp_path):
    source, out, seen = lines(tmp_path / "r.jsonl", RECORDS), tmp_path / "v.npy", []
    killed = killed_at(2, tmp_path / "marker", summary())
    with pytest.raises(RuntimeError, match=r"was killed .*resume=True goes on"):
        map_records(source, out, killed, shard_records=5, n_jobs=2)
    assert not out.exists()

    def again(records: list) -> np.ndarray:
        seen.extend(record.id for record in records)
        return summary()(records)

    again.fingerprint = killed.fingerprint
    done = map_records(source, out, again, shard_records=5, resume=True)
    assert done.resumed == 23 - len(seen) > 0
    np.testing.assert_array_equal(np.load(out), summary()(list(read_records(source))))


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_an_error_of_one_worker_leaves_nothing_half_written_by_another(engine, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    np.save(tmp_path / "x.npy", np.arange(6.0)[:, None])
    writing = tmp_path / "writing"

    def function(rows: np.ndarray) -> np.ndarray:
        if rows[0, 0] == 3:  # of the second shard half is written
            writing.touch()
            time.sleep(60)
        while rows[0, 0] == 4 and not writing.exists():
            time.sleep(0.01)
        if rows[0, 0] == 4:
            raise OSError(28, "No space left on device")
        return rows

    with pytest.raises(OSError, match="No space"):
        map_records(tmp_path / "x.npy", tmp_path / "v.npy", function, engine=engine, n_jobs=2, shard_records=2, batch=1)
    assert {path.name for path in (tmp_path / "v.npy.work").iterdir()} == {"plan.json", "000000.npy"}


PROGRAM = """
import sys, time
import numpy as np
from linmap.data.engines import map_records

def slow(rows):
    time.sleep(0.1)
    return rows * 2

slow.fingerprint = "double"
map_records(sys.argv[1], sys.argv[2], slow, shard_records=2)
"""


def test_a_killed_program_is_resumed(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60.0).reshape(30, 2))
    out = tmp_path / "v.npy"
    driver = subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path / "x.npy", out])
    while len(list(tmp_path.glob("v.npy.work/0*.npy"))) < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    driver.wait()

    def double(rows: np.ndarray) -> np.ndarray:
        return rows * 2

    double.fingerprint = "double"
    assert not out.exists()
    done = map_records(tmp_path / "x.npy", out, double, shard_records=2, resume=True)
    assert 6 <= done.resumed < 30
    np.testing.assert_array_equal(np.load(out), np.arange(60.0).reshape(30, 2) * 2)
    assert not (tmp_path / "v.npy.work").exists()


def test_ctrl_c_says_what_is_kept(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((9, 2)))

    def interrupted(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="6 of 9 records are done and kept"):
        map_records(tmp_path / "x.npy", tmp_path / "v.npy", np.copy, shard_records=3, progress=interrupted)
    assert map_records(tmp_path / "x.npy", tmp_path / "v.npy", np.copy, shard_records=3, resume=True).resumed == 6


def test_a_shard_that_was_damaged_is_made_again(tmp_path):
    source = lines(tmp_path / "r.jsonl", RECORDS)

    def interrupted(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    words = {"source": source, "function": summary(), "shard_records": 5}
    map_records(out=tmp_path / "whole.npy", **words)
    rng = np.random.default_rng(0)
    for number in range(24):
        with pytest.raises(KeyboardInterrupt):
            map_records(out=tmp_path / "v.npy", progress=interrupted, **words)
        file = sorted((tmp_path / "v.npy.work").glob("0*"))[number % 8]
        damaged = bytearray(file.read_bytes())
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged if number < 16 else damaged[: len(damaged) // 2])
        assert map_records(out=tmp_path / "v.npy", resume=True, **words).resumed == 15
        assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        map_records(out=tmp_path / "v.npy", progress=interrupted, **words)
    plan = tmp_path / "v.npy.work" / "plan.json"
    for text in ("", "[]", "{}", plan.read_text().replace('"count": 5', '"count": 4', 1)):
        plan.write_text(text)
        with pytest.raises(DataError, match=r"plan.json is damaged|with another"):
            map_records(out=tmp_path / "v.npy", resume=True, **words)


def test_only_the_same_run_is_resumed(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((9, 2)))
    run = {"source": tmp_path / "x.npy", "out": tmp_path / "v.npy"}

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    def other(rows: np.ndarray) -> np.ndarray:
        return rows

    with pytest.raises(KeyboardInterrupt):
        map_records(**run, function=np.copy, shard_records=3, progress=interrupted)
    with pytest.raises(DataError, match="a run with another function; start again"):
        map_records(**run, function=other, shard_records=3, resume=True)
    with pytest.raises(DataError, match="a run with another shard_records"):
        map_records(**run, function=np.copy, shard_records=4, resume=True)
    np.save(tmp_path / "x.npy", np.zeros((9, 2)))
    with pytest.raises(DataError, match="a run with another source"):
        map_records(**run, function=np.copy, shard_records=3, resume=True)
    assert map_records(**run, function=other, shard_records=3).resumed == 0  # without resume, all anew
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), np.zeros((9, 2)))


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_the_record_that_cannot_be_used_is_named(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "v.npy"
    folder.mkdir()
    lines(folder / "a.jsonl", RECORDS[:4])
    source = lines(folder / "b.jsonl", [*RECORDS[:9], {"x": "none", "y": []}])
    with pytest.raises(DataError, match=r"b\.jsonl: document 9, could not convert string to float"):
        map_records(folder, out, summary(), shard_records=4, batch=2)
    source.write_text('{"x": 1, "y": [1]}\n\n{"x": 1, "y": [1]}\n{"x": NaN}\n')
    for n_jobs in (1, 2):
        with pytest.raises(DataError, match=r"b\.jsonl, line 4: NaN is not JSON"):
            map_records(folder, out, summary(), shard_records=1, n_jobs=n_jobs)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shard_records": 0}, "shard_records must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"n_jobs": 0}, "n_jobs=0 must be at least 1, or -1 for all cores"),
        ({"n_jobs": -5}, "n_jobs=-5 must be at least 1"),
        ({"n_jobs": -5, "engine": "ray"}, "n_jobs=-5 must be at least 1"),
        ({"n_jobs": 10**9}, "n_jobs=1000000000 is too much for this machine, which has"),
        ({"function": lambda rows: rows[:1]}, r"one vector for each record: for 3 records it gave \(1, 2\)"),
        (
            {"function": lambda rows: rows[:, : int(rows[0, 0]) + 1]},
            "vectors of one kind: float64 of length 1 at first",
        ),
        ({"work": Path("others")}, "others holds something else than a run"),
        ({"work": Path("x.npy")}, "x.npy must not lie in x.npy, which is read"),
        ({"source": Path()}, "v.npy must not lie in ., which is read"),
        ({"source": Path("nothing.npy")}, "nothing.npy is not a file"),
        ({"source": Path("x.csv")}, "must end in .jsonl, .ndjson, .json, .parquet, .npy"),
        ({"source": Path("others")}, "the folder others holds no file that ends in"),
    ],
)
def test_wrong_use_is_told(tmp_path, monkeypatch, wrong, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(6.0).reshape(3, 2) // 2)
    Path("others").mkdir()
    Path("others", "precious.txt").write_text("")
    run = {"source": Path("x.npy"), "out": Path("v.npy"), "function": np.copy, "shard_records": 1} | wrong
    if "function" in wrong and "one vector" in message:
        run["shard_records"] = 3
    with pytest.raises(ValueError, match=message):
        map_records(**run)
    assert Path("others", "precious.txt").exists()
    assert not Path("v.npy").exists()


def test_without_ray_the_way_out_is_named(tmp_path, monkeypatch):
    from linmap.errors import UsageError

    np.save(tmp_path / "x.npy", np.ones((2, 2)))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'linmap\[ray\]'"):
        map_records(tmp_path / "x.npy", tmp_path / "v.npy", np.copy, engine="ray")


ENDLESS = """
import sys, time
from pathlib import Path
import numpy as np
from linmap.data.engines import map_records
def slow(rows):
    time.sleep(0.3)
    return rows * 2.0
slow.fingerprint = "slow"
map_records(sys.argv[1], sys.argv[2], slow, n_jobs=2, shard_records=5)
"""


@pytest.mark.slow
def test_the_workers_of_a_killed_parent_end_and_write_nothing_more(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(400.0).reshape(200, 2))
    out, work = tmp_path / "v.npy", tmp_path / "v.npy.work"
    words = [sys.executable, "-c", ENDLESS, str(tmp_path / "x.npy"), str(out)]
    mark = f"LINMAP_TEST_RUN={out}"
    parent = subprocess.Popen(words, env={**os.environ, "LINMAP_TEST_RUN": str(out)})
    while len(list(work.glob("*.npy"))) < 4:
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    shutil.rmtree(work)
    killed = time.monotonic()
    while carriers(mark):
        assert time.monotonic() < killed + 5, "workers outlive their parent"
        time.sleep(0.02)
    assert not work.exists(), "a late write made the work folder again"
    done = map_records(tmp_path / "x.npy", out, lambda rows: rows * 2.0, shard_records=5)
    assert (done.records, done.resumed) == (200, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "v.npy"}


def carriers(mark: str) -> list[str]:
    """Living processes with a variable in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on Windows")
@pytest.mark.parametrize(
    ("resume", "there"),
    [
        (True, False),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in [(False, True), (True, True), (False, False)]),
    ],
)
def test_killed_before_any_change_of_the_disk_the_next_run_ends_and_leaves_nothing(
    resume, there, tmp_path, monkeypatch
):
    """Nothing but the empty work folder, where that was there before."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # which is slow, and for power cuts alone
    sources = lines(tmp_path / "records.jsonl", RECORDS[:9])
    whole = np.load(map_to(tmp_path / "whole.npy", sources))
    for place in killed_at_every_change(lambda place: map_to(place / "v.npy", sources, there=there), tmp_path):
        found = np.load(map_to(place / "v.npy", sources, resume=resume, there=there))
        assert (found == whole).all()
        assert (
            sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
            == ["v.npy"] + ["v.npy.work"] * there
        ), place


def map_to(out: Path, sources: Path, resume: bool = False, there: bool = False) -> Path:
    if there:
        out.with_name("v.npy.work").mkdir(exist_ok=True)
    map_records(sources, out, summary(), shard_records=5, resume=resume)
    return out
