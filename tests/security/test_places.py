"""Where files are: names that are odd, places that take nothing, inputs that never end; of every verb and writer."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from linmap import artifacts
from linmap.artifacts import write_config
from linmap.cli import main
from linmap.cli.errors import WRONG_USE, explain
from linmap.data.vectors import open_store
from linmap.errors import DataError
from linmap.recipes import SYSTEMS
from linmap.training import checkpoint

READY = [slug for slug, system in SYSTEMS.items() if system.ready]
LONG = "x" * 4000
NAMES = ("a b", "a\nb", "a'b\"c", "é\u202e漢", "-a", "#a?b%20", "x" * 240, "漢" * 80, "a." + "y" * 200)


def chosen(slug: str, commands: list[list[str]], cases: Any, every: bool) -> Iterator[tuple[list[str], Any]]:
    """Commands of a system with a case each: one of them in the default suite, over all systems each several times."""
    pairs = [(command, case) for command in commands for case in cases]
    yield from pairs if every else pairs[READY.index(slug) % len(pairs) :][:1]


def verbs_of(slug: str, tmp_path: Path) -> Iterator[list[str]]:
    """Every command that meets a system, without its file and its output."""
    system = SYSTEMS[slug]
    if system.fitted:
        write_config(tmp_path / "run", slug, {"task": "language", "estimator": "a"})
        yield ["fit", slug]
    yield ["apply", str(tmp_path / "run") if system.fitted else slug]
    yield ["compare", slug]


def refused(words: list[str], capsys: Any) -> str:
    """The one line of a command that is refused."""
    code = main(words)
    line = capsys.readouterr().err
    assert code == WRONG_USE, (words, line)
    assert line.count("\n") == 1, (words, line)
    return line


# -- inputs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def strange(tmp_path: Path) -> list[str]:
    """Inputs that are no files."""
    os.mkfifo(tmp_path / "pipe.csv")
    return [str(tmp_path / "pipe.csv"), "/dev/zero", f"/tmp/{LONG}", "no\nsuch\nfile.csv", "no such file", "\udcff.csv"]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("slug", READY)
def test_no_verb_waits_for_a_pipe_or_reads_what_is_not_there(slug, every, strange, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, path in chosen(slug, list(verbs_of(slug, tmp_path)), strange, every):
        refused([*words, "--data", path, "--out", "out"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["index"], ["search"], ["report"], ["apply"]])
def test_the_other_verbs_refuse_them_too(words, strange, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = {"index": ["--into", "array:store"], "search": ["--like", "{}"]}.get(words[0], [])
    for path in strange:
        refused([*words, path, *more], capsys)


# -- outputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("slug", READY)
def test_no_verb_begins_what_it_cannot_write(slug, every, tmp_path, capsys, monkeypatch):
    """A file in place of a folder, a device, a pipe, a name that no file system takes, a folder that takes nothing."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "shut").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "shut" not in str(path) and allowed(path, mode))
    recipe_data = tmp_path / "a.npz"  # is there, so that the output is what is looked at
    np.savez(recipe_data, x=np.eye(2))
    outs = ("file/below", "/dev/null", "pipe", LONG, "shut/a")
    for words, out in chosen(slug, list(verbs_of(slug, tmp_path)), outs, every):
        refused([*words, "--out", out], capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("slug", ["mbat", "token_transforming", "linearscope"])
def test_a_folder_in_the_place_of_a_table_is_refused_before_the_work(slug, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "records.jsonl").write_text('{"a": 1}\n')
    for name in ("out.npy", "out.csv", "out.parquet"):
        (tmp_path / name).mkdir()
        line = refused(["apply", slug, "--data", "records.jsonl", "--out", name, "--overwrite"], capsys)
        assert f"--out {name} is a folder; name a file" in line
    assert len(list(tmp_path.rglob("*"))) == 4


@pytest.mark.slow
def test_no_store_and_no_page_is_begun_where_it_cannot_be(tmp_path, capsys, monkeypatch):
    from linmap.experiment.result import Failure

    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    np.save(tmp_path / "v.npy", np.eye(2, dtype=np.float32))
    Failure("bt2", "a", "b").save(tmp_path / "runs")
    for out in ("file/below", "/dev/null", "pipe", LONG, "file"):
        refused(["index", "v.npy", "--into", f"array:{out}"], capsys)
        refused(["report", "runs", "--out", out], capsys)
    assert (tmp_path / "file").read_text() == "mine"
    for name in ("a b", "a\nb", "é"):
        assert main(["index", "v.npy", "--into", f"array:{name}"]) == 0
        assert main(["report", "runs", "--out", f"{name}.html"]) == 0
        assert main(["search", f"array:{name}", "--query", "v.npy"]) == 0


def writers() -> dict[str, Callable[[Path], Any]]:
    """All ways to write a file or a folder, by the end of its name."""
    from PIL import Image

    from linmap.data.vectors import VectorFileWriter
    from linmap.pictures import figure, save_svg

    big = torch.zeros(30_000)

    def vectors(path: Path) -> None:
        with VectorFileWriter(path, 100, {"format": 1}) as file:
            file.write([str(i) for i in range(200)], np.zeros((200, 100)))

    def table(path: Path) -> None:
        import pandas as pd

        artifacts.write_table(path, pd.DataFrame({"a": np.random.default_rng(0).normal(size=9000)}))

    def picture(path: Path) -> None:
        with figure() as (drawn, axes):
            axes.plot(np.random.default_rng(0).normal(size=400))
            save_svg(drawn, path)

    def image(path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
        with artifacts.atomic_path(path) as partial:
            Image.fromarray(noise).save(partial)

    return {
        ".txt": lambda path: artifacts.write_text(path, "x" * 30_000),
        ".json": lambda path: artifacts.write_json(path, ["x"] * 10_000),
        ".jsonl": lambda path: artifacts.write_records(path, [{"a": "x" * 100}] * 300),
        ".csv": table,
        ".parquet": table,
        ".safetensors": lambda path: artifacts.write_tensors(path, {"x": big}),
        ".npy": vectors,
        ".vectors.parquet": vectors,
        ".svg": picture,
        ".png": image,
        "": lambda path: artifacts.save(path, "a", {}, {"x": big}),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_writer_takes_every_name_and_leaves_nothing_else(name, tmp_path):
    for end, write in writers().items():
        if len(os.fsencode(name + end)) > 255:
            continue
        folder = tmp_path / f"in{end}"
        write(folder / (name + end))
        found = sorted(path.name for path in folder.iterdir())
        beside = [f"{name}.json"] if end == ".npy" else []
        assert found == sorted([name + end, *beside]), (end, found)


@pytest.mark.parametrize("end", sorted(writers()))
def test_what_is_there_stays_where_the_disk_is_full(end, tmp_path):
    """A disk that takes no more, by a limit of the size of files; the writer's error is wrong use, in a line."""
    path = tmp_path / f"a{end}"
    path.parent.mkdir(exist_ok=True)
    if end:
        path.write_bytes(b"mine")
    with pytest.raises(Exception) as caught, files_of_at_most(4096):  # noqa: PT011  (of any library)
        writers()[end](path)
    assert explain(caught.value)[0] == WRONG_USE, repr(caught.value)
    assert not end or path.read_bytes() == b"mine"
    assert [one for one in tmp_path.rglob("*") if one != path] == []


def folders() -> dict[str, Callable[[Path, float], object]]:
    """What keeps a folder of several files, by kind, given a number that it writes."""

    def store(kind: str) -> Callable[[Path, float], object]:
        def write(path: Path, value: float) -> None:
            with open_store(f"{kind}:{path}", {"vector": 8}) as store:
                ids = [f"{value} {i}" for i in range(300)]
                store.upsert(ids, np.full((300, 8), value, np.float32))

        return write

    def checkpointed(path: Path, value: float) -> None:
        x = {"x": torch.full((3000,), value)}
        checkpoint.write(path, checkpoint.Checkpoint({}, x, x, x))

    return {"checkpoint": checkpointed} | {kind: store(kind) for kind in ("array", "faiss", "usearch")}


@pytest.mark.parametrize("kind", folders())
@pytest.mark.parametrize("size", [0, 500, 9000])
def test_a_folder_stays_as_it_was_where_the_disk_is_full_and_takes_the_next(kind, size, tmp_path):
    write, folder = folders()[kind], tmp_path / "folder"
    write(folder, 1.0)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(Exception) as caught, files_of_at_most(size):  # noqa: PT011  (of any library)
        write(folder, 2.0)
    assert explain(caught.value)[0] == WRONG_USE, repr(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write(folder, 3.0)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(before)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match="is a pipe or a device"):
        artifacts.write_text(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match="is a pipe or a device"):
        artifacts.write_text("/dev/null", "x")


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no second file system at /dev/shm")
def test_an_output_on_another_file_system_is_written_there(tmp_path):
    """Through a link to a file and in a linked folder: nothing is renamed across file systems."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("/dev/shm is the same file system")
        (tmp_path / "folder").symlink_to(elsewhere)
        (tmp_path / "a.json").symlink_to(Path(elsewhere) / "b.json")
        artifacts.write_json(tmp_path / "a.json", 1)
        artifacts.save(tmp_path / "folder", "a", {}, {"x": torch.zeros(1)})
        assert json.loads((Path(elsewhere) / "b.json").read_text()) == 1
        assert sorted(os.listdir(elsewhere)) == ["b.json", "config.json", "model.safetensors"]


def test_an_input_that_vanishes_while_it_is_read_is_told_in_a_line(tmp_path):
    from linmap.data.records import read_records

    folder = tmp_path / "records"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text('{"x": 1}\n')
    records = read_records(folder)
    next(records)
    (folder / "b.jsonl").unlink()
    with pytest.raises((DataError, FileNotFoundError)) as caught:
        list(records)
    code, line = explain(caught.value)
    assert code == WRONG_USE
    assert "b.jsonl" in line
