"""MBAT and BT² applied to folders: interrupted and resumed, here and on Ray, with the same bytes."""

import json
import logging
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linmap.cli import main
from linmap.data.engines import map_records
from linmap.data.records import read_records
from linmap.errors import DataError
from linmap.recipes.bt2 import apply as bt2
from linmap.recipes.bt2.fit import fit
from linmap.recipes.bt2.flags import Apply as ApplyUpgrade
from linmap.recipes.bt2.flags import Fit
from linmap.recipes.job import ApplyJob, FitJob, FittedJob
from linmap.recipes.mbat import apply as mbat
from linmap.recipes.mbat.flags import Apply
from linmap.retrieve.bt2 import EmbeddingUpgrade
from linmap.retrieve.mbat import JSONVectorizer, VectorFile, VectorFileWriter
from linmap.retrieve.mbat.files import Encode


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    folder.mkdir()
    lines = mbat.PATIENTS.read_bytes().splitlines(keepends=True)
    for name, part in (("a.jsonl", lines[:13]), ("b.jsonl", lines[13:20])):
        (folder / name).write_bytes(b"".join(part))
    return folder


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    folder = tmp_path / "gallery"
    folder.mkdir()
    with np.load(bt2.BANKING) as arrays:
        X = arrays["new"][700:1000]
    for name, part in (("a", X[:170]), ("b", X[170:])):
        np.save(folder / f"{name}.npy", part)
    return folder


@pytest.fixture(scope="module")
def upgrade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted") / "upgrade"
    fit(Fit(method="procrustes"), FitJob(out=folder))
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Shards of seven records, with Ctrl-C after so many records."""

    def install(stop_at: int | None = None) -> None:
        def mapped(*args: Any, shard_records: int = 0, batch: int = 0, progress: Any = None, **options: Any) -> Any:
            def report(done: int, total: int) -> None:
                if stop_at is not None and done >= stop_at:
                    raise KeyboardInterrupt

            return map_records(*args, shard_records=7, batch=4, progress=report, **options)

        for system in ("mbat", "bt2"):
            monkeypatch.setattr(f"linmap.retrieve.{system}.files.map_records", mapped)

    return install


def test_a_folder_of_records_is_encoded_in_its_order(records, tmp_path):
    summary = mbat.apply(Apply(dim=64), ApplyJob(data=records, out=tmp_path / "v.parquet"))
    file, expected = VectorFile(tmp_path / "v.parquet"), list(read_records(records))
    assert (summary["records"], summary["resumed"]) == (20, 0)
    assert file.ids == [record.id for record in expected]
    vectors = JSONVectorizer(64).transform([record.document for record in expected])
    np.testing.assert_array_equal(np.concatenate(list(file.blocks())), vectors)


def test_vectors_are_no_records(records, gallery, tmp_path):
    with pytest.raises(DataError, match=r"a\.npy must end in \.jsonl"):
        mbat.apply(Apply(), ApplyJob(data=gallery / "a.npy", out=tmp_path / "v.npy"))
    with pytest.raises(DataError, match=r"records holds no file that ends in \.npy, \.parquet"):
        map_records(records, tmp_path / "v.npy", np.copy, of="vectors")


def test_a_folder_of_vectors_is_upgraded_in_its_order(gallery, upgrade, tmp_path):
    summary = bt2.apply(ApplyUpgrade(), FittedJob(gallery, tmp_path / "v.npy", artifact=upgrade))
    assert (summary["vectors"], summary["dim"]) == (300, 384)
    X = np.concatenate([np.load(gallery / name) for name in ("a.npy", "b.npy")])
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), EmbeddingUpgrade.load(upgrade).transform(X), atol=1e-6)


@pytest.mark.parametrize(("kept", "wanted"), [("parquet", "npy"), ("npy", "parquet"), ("npy", "npy")])
def test_vectors_with_ids_keep_them(gallery, upgrade, tmp_path, small_shards, kept, wanted):
    small_shards()
    X, folder = np.concatenate([np.load(path) for path in sorted(gallery.iterdir())]), tmp_path / "named"
    names = [f"item {i}" for i in range(300)]
    for start, name in ((0, "a"), (111, "b")):
        rows = slice(start, 111 if name == "a" else None)
        with VectorFileWriter(folder / f"{name}.{kept}", 384, {"source": "elsewhere"}) as file:
            file.write(names[rows], X[rows])
    out = tmp_path / f"v.{wanted}"
    summary = bt2.apply(ApplyUpgrade(), FittedJob(folder, out, artifact=upgrade))
    file = VectorFile(out)
    assert (summary["vectors"], file.ids) == (300, names)
    expected = EmbeddingUpgrade.load(upgrade).transform(X)
    np.testing.assert_allclose(np.concatenate(list(file.blocks())), expected, atol=1e-6)


def test_parquet_without_vectors_is_refused(upgrade, tmp_path):
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"t\.parquet must hold vectors: a column id, and a column vector"):
        bt2.apply(ApplyUpgrade(), FittedJob(tmp_path / "t.parquet", tmp_path / "v.npy", artifact=upgrade))


def test_ids_that_are_not_those_of_the_rows_are_refused(gallery, upgrade, tmp_path):
    (gallery / "a.json").write_text('{"ids": ["one", "two"]}')
    with pytest.raises(ValueError, match=r"a\.npy has 170 rows, but a\.json beside it 2 ids"):
        bt2.apply(ApplyUpgrade(), FittedJob(gallery, tmp_path / "v.npy", artifact=upgrade))


def test_the_row_that_cannot_be_upgraded_is_named(gallery, upgrade, tmp_path):
    X = np.load(gallery / "b.npy")
    X[57] = 0
    np.save(gallery / "b.npy", X)
    with pytest.raises(ValueError, match=r"b\.npy: row 57, the vector is zero"):
        bt2.apply(ApplyUpgrade(), FittedJob(gallery, tmp_path / "v.npy", artifact=upgrade))


def test_ctrl_c_names_the_command_that_goes_on(records, tmp_path, small_shards, capsys):
    words = ["apply", "mbat", "--data", str(records), "--dim", "64", "--n-jobs", "1", "--out"]
    small_shards()
    assert main([*words, str(tmp_path / "whole.npy")]) == 0
    small_shards(stop_at=13)
    assert main([*words, str(tmp_path / "v.npy")]) == 130
    err = capsys.readouterr().err
    assert "stopped; 13 of 20 records are done and kept; go on with: linmap apply mbat" in err
    small_shards()
    command = err.rpartition("go on with: linmap ")[2].split()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["resumed"] == 13
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_another_upgrade_does_not_go_on_with_the_shards_of_one(gallery, upgrade, tmp_path, small_shards):
    small_shards(stop_at=100)
    with pytest.raises(KeyboardInterrupt, match="of 300 records"):
        bt2.apply(ApplyUpgrade(), FittedJob(gallery, tmp_path / "v.npy", artifact=upgrade))
    with pytest.raises(ValueError, match="a run with another function"):
        bt2.apply(ApplyUpgrade(output="query", resume=True), FittedJob(gallery, tmp_path / "v.npy", artifact=upgrade))
    small_shards()
    summary = bt2.apply(ApplyUpgrade(resume=True), FittedJob(gallery, tmp_path / "v.npy", artifact=upgrade))
    assert summary["resumed"] >= 100


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()


class Killed(BaseException):
    """What stands for the end of a worker."""


class InlineRay:
    """Ray as far as the engine calls it, in this process: an actor works when it is waited for."""

    cloudpickle = pickle
    exceptions = SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **_: Any) -> Callable:
        return lambda kind: SimpleNamespace(remote=lambda *words: Handle(kind(*words)))

    def wait(self, refs: list, num_returns: int) -> tuple[list, list]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Callable) -> Any:
        try:
            return ref()
        except Killed:
            raise self.exceptions.RayError("The actor died.\nIt was killed.") from None

    def kill(self, actor: Any) -> None: ...


class Handle:
    """Of an actor: what is called on it is done later."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *words: lambda: getattr(self._actor, name)(*words))


def test_a_shard_that_kills_its_workers_is_told_in_one_line_and_the_rest_is_kept(
    records, tmp_path, small_shards, monkeypatch, capsys
):
    small_shards()
    words = ["apply", "mbat", "--data", str(records), "--dim", "64", "--n-jobs", "1", "--out"]
    assert main([*words, str(tmp_path / "whole.npy")]) == 0
    capsys.readouterr()
    deadly, call, deaths = list(read_records(records))[15].id, Encode.__call__, []

    def kills(self: Encode, batch: list) -> np.ndarray:
        if any(record.id == deadly for record in batch):
            deaths.append(1)
            raise Killed
        return call(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr("linmap.data.engines.ray_actors._ray", InlineRay)
        patch.setattr(Encode, "__call__", kills)
        assert main([*words, str(tmp_path / "v.npy"), "--engine", "ray"]) == 1
    assert len(deaths) == 4
    work = tmp_path / "v.npy.work"
    assert capsys.readouterr().err == (
        f"linmap: RuntimeError: 4 workers were killed over one shard, documents 0 to 6 of {records / 'b.jsonl'} (out "
        f"of memory?); the finished shards are in {work}: the same call with --resume goes on from them. "
        "(--debug shows the traceback)\n"
    )
    assert {path.name for path in work.glob("*.npy")} == {"000000.npy", "000001.npy"}
    assert main([*words, str(tmp_path / "v.npy"), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["resumed"] == 13
    assert (tmp_path / "v.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not work.exists()


@pytest.mark.slow
def test_ray_writes_the_bytes_of_this_process(records, gallery, upgrade, tmp_path, small_shards, ray):
    small_shards()
    for engine in ("local", "ray"):
        settings = Apply(dim=256, engine=engine, n_jobs=2 if engine == "ray" else 1)
        mbat.apply(settings, ApplyJob(data=records, out=tmp_path / engine / "v.parquet"))
        for output in ("gallery", "query"):
            out = tmp_path / engine / f"{output}.npy"
            bt2.apply(ApplyUpgrade(output=output, n_jobs=2, engine=engine), FittedJob(gallery, out, artifact=upgrade))
    names = ["v.parquet", "gallery.npy", "query.npy"]
    local, on_ray = ([(tmp_path / engine / name).read_bytes() for name in names] for engine in ("local", "ray"))
    assert local == on_ray


@pytest.mark.slow
def test_a_cluster_that_nobody_named_is_not_joined(records, tmp_path, small_shards, monkeypatch):
    """Ray itself joins what was begun on this machine before, and refuses a number of processors then."""
    small_shards()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # short: names of sockets lie below
        (Path(place) / "ray").mkdir()
        (Path(place) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        monkeypatch.setenv("RAY_TMPDIR", place)
        settings = Apply(dim=256, engine="ray", n_jobs=2)
        assert mbat.apply(settings, ApplyJob(data=records, out=tmp_path / "v.npy"))["records"] == 20
