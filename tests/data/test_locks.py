import gc
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linmap.data.engines import map_records
from linmap.data.locks import BusyError, FolderLock
from linmap.data.vectors import VectorStore, open_store
from linmap.errors import ArtifactError, DataError
from linmap.ownership import owner

HOLDER = """
import sys, time
from pathlib import Path
from linmap.data.locks import FolderLock
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
