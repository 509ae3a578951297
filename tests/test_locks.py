import gc
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap import locks
from linmap.data.engines import map_records
from linmap.data.vectors import VectorStore, open_store
from linmap.errors import ArtifactError, DataError
from linmap.locks import BusyError, FolderLock, sole
from linmap.ownership import owner
from linmap.processes import this_process

HOLDER = """
import sys, time
from pathlib import Path
from linmap.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(BusyError, match=r"another program is writing in .*; wait until it has ended"):
        FolderLock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    lock = FolderLock(tmp_path)
    with pytest.raises(BusyError):
        FolderLock(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_nothing_refers_to_is_free_and_leaves_only_what_was_there(tmp_path: Path) -> None:
    held = [FolderLock(tmp_path / "new")]
    held.clear()
    gc.collect()
    assert not (tmp_path / "new").exists()
    FolderLock(tmp_path).release()
    assert tmp_path.exists()


SOLE = """
import sys, time
from linmap.locks import sole
with sole(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_one_owner_of_a_place(tmp_path: Path) -> None:
    """While one process has it another is refused, or waits; nothing of the lock is left."""
    out = tmp_path / "fit"
    with subprocess.Popen(
        [sys.executable, "-c", SOLE, str(out)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = rf"writing in {out} \(process {holder.pid} on .*, since .*\); wait until .*, or name another place"
        with pytest.raises(BusyError, match=refused), sole(out):
            pass
        with sole(tmp_path / "other"):
            pass
        thread = threading.Timer(0.1, lambda: holder.communicate("go on"))
        thread.start()
        with sole(out, wait=True):
            assert holder.poll() is not None or not out.exists()
        thread.join()
    assert list(tmp_path.iterdir()) == []


def test_who_owns_a_place_may_ask_for_it_again_and_another_thread_may_not(tmp_path: Path) -> None:
    with sole(tmp_path / "x"), sole(tmp_path / "x"):
        with sole(tmp_path / "a" / ".." / "x"):
            pass
        with ThreadPoolExecutor() as pool, pytest.raises(BusyError):
            pool.submit(enter, tmp_path / "x").result()
    with sole(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def enter(path: Path | str | None) -> None:
    with sole(path):
        pass


@pytest.mark.parametrize("path", [None, "/dev/null"])
def test_nobody_owns_a_device(path: str | None) -> None:
    with ThreadPoolExecutor() as pool, sole(path):
        pool.submit(enter, path).result()


def test_one_of_several_processes_asks_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole(tmp_path / "x"):
        monkeypatch.setenv("RANK", "1")
        with ThreadPoolExecutor() as pool:
            pool.submit(enter, tmp_path / "x").result()


@pytest.mark.parametrize("of", ["the dead", "the living", "another machine", "nobody"])
def test_where_the_file_system_has_no_locks_the_file_is_the_lock(
    of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "fcntl", None)
    name = this_process()
    who = {"the dead": name.replace("-", "0-", 1), "the living": name, "another machine": name[:-6] + "000000"}
    holder = {"pid": 7, "host": "far", "since": "then", "process": who.get(of)}
    (tmp_path / ".x.lock").write_text("" if of == "nobody" else json.dumps(holder))
    if of in ("the dead", "nobody"):
        with sole(tmp_path / "x"):
            assert json.loads((tmp_path / ".x.lock").read_text())["process"] == name
        assert list(tmp_path.iterdir()) == []
    else:
        advice = "if that machine is gone, delete .*lock" if of == "another machine" else "until it has ended, or"
        with pytest.raises(BusyError, match=rf"process 7 on far, since then.*{advice}"), sole(tmp_path / "x"):
            pass
        assert (tmp_path / ".x.lock").exists()


def test_of_many_processes_that_want_a_place_one_has_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SOLE, str(tmp_path / "x")]
    (tmp_path / ".x.lock").write_text(json.dumps({"process": this_process().replace("-", "0-", 1)}))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    several = [subprocess.Popen(words, **pipes) for _ in range(3)]
    owner, end = None, time.monotonic() + 60
    while owner is None and time.monotonic() < end:
        owner = next(
            (one for one in several if one.poll() is None and all(o.poll() for o in several if o != one)), None
        )
    assert owner is not None
    said = owner.communicate("go on")[0]
    assert said == "held\n"
    assert all("BusyError" in one.communicate()[1] for one in several if one is not owner)
    assert list(tmp_path.iterdir()) == []


KINDS = ["array", "faiss", "usearch"]


def vector(value: int) -> np.ndarray:
    return np.full((1, 2), value, np.float32)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    steps=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["open", "put", "flush", "close"])), max_size=14),
)
def test_a_store_holds_what_its_writers_were_told_is_kept(
    kind: str, steps: list[tuple[int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever two writers do: a flush that ends well is there afterwards, and one that cannot be kept is refused."""
    folder = tmp_path_factory.mktemp("store")
    stores: list[VectorStore | None] = [None, None]
    pending: list[dict[str, int]] = [{}, {}]
    kept: dict[str, int] = {}
    for value, (who, step) in enumerate(steps, 1):
        store = stores[who]
        if step == "open" and store is None:
            stores[who], pending[who] = open_store(f"{kind}:{folder}", 2), {}
        elif store is None:
            continue
        elif step == "put":
            try:
                store.upsert([f"{who}{value % 3}"], vector(value))
                pending[who][f"{who}{value % 3}"] = value
            except (BusyError, ArtifactError):
                store.close()
                stores[who] = None
        elif step == "flush":
            try:
                store.flush()
                kept |= pending[who]
                pending[who] = {}
            except (BusyError, ArtifactError):
                assert not pending[who]
        elif step == "close":
            store.close()
            stores[who] = None
    for store in stores:
        if store is not None:
            store.close()
    with open_store(f"{kind}:{folder}", 2) as store:
        found = {name: int(v[0]) for ids, block in store.iterate() for name, v in zip(ids, block, strict=True)}
    assert found == kept


def test_who_comes_second_is_told_what_to_do(tmp_path: Path) -> None:
    address = f"array:{tmp_path / 's'}"
    first, second = open_store(address, 2), open_store(address, 2)
    first.upsert(["a"], vector(1))
    with pytest.raises(BusyError, match="another program is writing"):
        second.upsert(["b"], vector(2))
    first.flush()
    with pytest.raises(ArtifactError, match=r"was written by another program .*\(state 1, not 0\); open it again"):
        second.upsert(["b"], vector(2))
    with open_store(address) as third:
        third.upsert(["b"], vector(2))
    with pytest.raises(ArtifactError, match="open it again"):
        first.upsert(["c"], vector(3))
    assert open_store(address).count() == 2


def test_a_run_is_not_disturbed_by_another_into_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"a": 1}\n{"a": 2}\n')

    def function(records: list) -> np.ndarray:
        with pytest.raises(DataError, match=r"another program is writing in .*v\.npy\.work"):
            map_records(tmp_path / "r.jsonl", tmp_path / "v.npy", lambda records: np.zeros((len(records), 1)))
        return np.ones((len(records), 1))

    assert map_records(tmp_path / "r.jsonl", tmp_path / "v.npy", function).records == 2
    assert np.load(tmp_path / "v.npy").tolist() == [[1.0], [1.0]]
    assert {path.name for path in tmp_path.iterdir()} == {"r.jsonl", "v.npy"}


def test_a_store_takes_no_file_of_another(tmp_path: Path) -> None:
    names = ["vector-000001.npy", "vector-2020.npy", "vector-000001.csv", "vectors.npy", ".vector-000001.npy"]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    for value in (1, 2):
        with open_store(f"array:{tmp_path}", 2) as store:
            store.upsert([f"{value}"], vector(value))
    assert all((tmp_path / name).read_bytes() == b"mine" for name in names)
    assert open_store(f"array:{tmp_path}").count() == 2
    assert len(list(tmp_path.iterdir())) == len(names) + 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_goes_on_with_a_store_that_another_made(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINMAP_STATE", str(tmp_path / "state"))
    with open_store(f"{kind}:{tmp_path / 's'}", 2) as store:
        store.upsert(["a"], vector(1))
    for value in (2, 3):
        with owner("index"), open_store(str(tmp_path / "s")) as store:
            store.upsert([f"{value}"], vector(value))
    assert open_store(str(tmp_path / "s")).count() == 3
