"""The threat table of SECURITY.md: what a stranger's file may try, one test a row."""

from __future__ import annotations

import ast
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

import linmap
from linmap import artifacts
from linmap.cli.errors import WRONG_USE, explain
from linmap.data.arrays import open_rows, read_npz
from linmap.data.door import LIMIT, inside, load_json, refuse_special
from linmap.data.records import read_records
from linmap.data.text import read_training_texts
from linmap.data.vectors.opening import open_store
from linmap.errors import ArgumentError, ArtifactError, DataError, LinmapError
from linmap.experiment.result import Result

SOURCE = Path(linmap.__file__).parent
DOORS = {"data/door.py", "data/compressed.py", "data/arrays.py", "data/npy_headers.py"}
"""Where files are opened; all else comes through here, or stands in `ALLOWED` with its reason."""
READS = {"read_text", "read_bytes", "load_file", "safe_open", "read_csv", "read_parquet", "ParquetFile"}
ALLOWED = {
    "adapt/bone/legacy.py": "understood()",
    "adapt/finetuning/tuned.py": "behind ADAPTER's check",
    "adapt/texts.py": "",
    "app/jobs.py": "files of the app",
    "app/site.py": "files of the app and of the package",
    "artifacts.py": "read_tensors; what it wrote itself",
    "compress/flatquant/measures.py": "understood()",
    "compress/flatquant/native/build.py": "sources of the package and what it compiled",
    "compress/flatquant/parallel.py": "parts of its own run",
    "compress/flatquant/streaming.py": "understood()",
    "compress/learngene_pool/starting.py": "sums of its own run",
    "data/engines/mapping.py": "shards of its own run",
    "data/engines/shards.py": "after require_content",
    "data/epochs.py": "understood()",
    "data/fingerprints.py": "refuse_special()",
    "data/generators.py": "a file of an installed package",
    "data/locks.py": "its own lock",
    "data/images.py": "understood()",
    "data/parquet.py": "understood()",
    "data/pretrained.py": "files of installed packages",
    "data/sequences.py": "understood()",
    "data/timeseries/files.py": "open_bytes()",
    "data/vectors/files.py": "understood()",
    "data/vectors/folder.py": "refuse_special()",
    "data/vectors/usearch_store.py": "writes",
    "data/work.py": "the plan of a run, which it wrote itself",
    "interpret/linearscope/page.py": "files of the package",
    "app/code.py": "sources of the package",
    "recipes/derived.py": "sources of the package",
    "recipes/hippo/view.py": "a file of the package",
    "recipes/hippo/streaming.py": "what it wrote itself",
    "recipes/householder_projector/showing.py": "writes",
    "recipes/olinear/apply.py": "refuse_special()",
    "recipes/token_transforming/apply.py": "blocks of its own run",
    "recipes/tooth_arrangement/page.py": "files of the package",
    "recipes/tooth_arrangement/apply.py": "what it wrote itself",
    "report/inline.py": "understood()",
    "report/page.py": "refuse_special()",
    "sequence/s4/stream.py": "understood()",
    "training/checkpoint.py": "checkpoints, checked there",
    "training/metrics.py": "what it writes",
    "ownership.py": "its own notes",
    "processes.py": "what the system tells of processes",
    "recipes/tooth_arrangement/view.py": "what `linmap apply` wrote",
}


def test_every_reader_goes_through_the_door():
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _reads(node.func):
                found.setdefault(path.relative_to(SOURCE).as_posix(), node.lineno)
    unknown = {name: line for name, line in found.items() if name not in DOORS | ALLOWED.keys()}
    assert not unknown, f"these open files in another way than linmap.data.door: {unknown}"


def _reads(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id == "open" or function.id in READS - {"read_text", "read_bytes"}
    if not isinstance(function, ast.Attribute):
        return False
    of = function.value.id if isinstance(function.value, ast.Name) else ""
    if of in ("door", "artifacts"):
        return False
    return (
        function.attr in READS
        or (function.attr == "load" and of in ("np", "torch"))
        or (function.attr == "open" and of in ("Image", "gzip", "bz2", "lzma", "zipfile"))
    )


# -- what never ends, or becomes large ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a.npy", "a.npz", "a.ts", "a.json", "a.jsonl", "a.csv", "a.png", "a.tsp", "config.json"]
)
def test_a_pipe_is_refused_where_a_file_is_read(name, tmp_path):
    path = tmp_path / name
    os.mkfifo(path)
    readers = {".npy": open_rows, ".npz": read_npz, ".jsonl": lambda p: list(read_records(p)), ".json": load_json}
    with pytest.raises(DataError, match="is a named pipe"):
        readers.get(path.suffix, refuse_special)(path)


def test_a_device_is_refused():
    with pytest.raises(DataError, match="is a device"):
        load_json("/dev/zero")


def test_what_unpacks_to_more_than_the_bound_is_refused_and_the_bound_can_be_raised(tmp_path, monkeypatch):
    import gzip

    (tmp_path / "a.jsonl.gz").write_bytes(
        gzip.compress(b'{"text": "a", "label": "x"}\n{"text": "' + b"b" * 2**20 + b'"}')
    )
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**18))
    monkeypatch.setenv(LIMIT, str(2**19 / 2**30))
    for read, path in (
        (read_training_texts, "a.jsonl.gz"),
        (lambda p: list(read_records(p)), "a.jsonl.gz"),
        (read_npz, "a.npz"),
    ):
        with pytest.raises(DataError, match=LIMIT):
            read(tmp_path / path)
    monkeypatch.setenv(LIMIT, "1")
    assert read_npz(tmp_path / "a.npz")["x"].size == 2**18


def test_a_packed_text_of_many_small_values_counts_what_they_take(tmp_path, monkeypatch):
    import gzip

    monkeypatch.setenv(LIMIT, str(2**16 / 2**30))
    for name, text in (("a.json", b"[" + b"[]," * 2**12 + b"0]"), ("a.jsonl", b"[" + b"1," * 2**12 + b"0]\n")):
        (tmp_path / name).write_bytes(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text))
        assert len(list(read_records(tmp_path / name))) > 0
        with pytest.raises(DataError, match=LIMIT):
            list(read_records(tmp_path / f"{name}.gz"))


def test_a_small_parquet_file_of_many_rows_is_refused(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from linmap.data.parquet import read_columns

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": pa.array(np.zeros(10**6))}), path)
    assert path.stat().st_size < 2**14
    assert read_columns(path).num_rows == 10**6
    monkeypatch.setenv(LIMIT, str(2**20 / 2**30))
    with pytest.raises(DataError, match=LIMIT):
        read_columns(path)


@pytest.mark.parametrize("key", ["num_labels", "num_hidden_layers", "n_layer", "encoder_layers"])
def test_a_model_that_counts_by_the_billion_is_refused(key, tmp_path):
    from linmap.data.models import check_counts

    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 10**7, "text_config": {key: 10**9}}))
    with pytest.raises(ArgumentError, match=f"{key} is 1e\\+09"):
        check_counts(tmp_path)


def test_an_array_that_declares_more_than_its_file_holds_is_refused(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 8), }\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64)
    with pytest.raises(DataError, match="more than the file holds"):
        open_rows(tmp_path / "a.npy")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_deep_json_is_refused_in_a_line(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match="nested too deep"):
        load_json(tmp_path / "config.json")
    with pytest.raises(ArtifactError):
        artifacts.read_config(tmp_path)


# -- what runs code, or reads elsewhere --------------------------------------------------------------------------------


def test_python_objects_are_not_unpickled_and_nothing_advises_it(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects") as caught:
        open_rows(tmp_path / "a.npy")
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "a/b", "a\\b", "", "a\0", "x" * 256, "\ud800", None, 3])
def test_a_name_in_a_file_means_nothing_outside_of_its_folder(name, tmp_path):
    with pytest.raises(DataError, match="no name of a file in that folder"):
        inside(tmp_path, name)


@pytest.mark.parametrize("part", ["index", "ids"])
def test_a_store_reads_no_file_outside_of_its_folder(part, tmp_path):
    store = open_store(f"array:{tmp_path / 's'}", 2)
    store.upsert(["a"], np.eye(2)[:1])
    store.flush()
    store.close()
    path = tmp_path / "s" / "store.json"
    header = json.loads(path.read_text())
    header["fields"]["vector"][part] = f"../{header['fields']['vector'][part]}"
    path.write_text(json.dumps(header))
    with pytest.raises(ArtifactError, match="no name of a file in that folder"):
        open_store(f"array:{tmp_path / 's'}")


def test_a_model_whose_index_names_files_elsewhere_is_refused(tmp_path):
    from linmap.data.models import check_names

    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret"}}))
    with pytest.raises(DataError, match="no name of a file in that folder"):
        check_names(tmp_path)


def test_a_tokenizer_that_names_files_elsewhere_is_refused(tmp_path):
    from linmap.data.models import check_names

    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"vocab_file": "/etc/passwd"}))
    with pytest.raises(DataError, match="no name of a file in that folder"):
        check_names(tmp_path)


# -- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_spreadsheet_runs_a_label(start):
    assert artifacts.inert(f"{start}cmd|' /C calc'!A0").startswith("'")
    assert artifacts.inert("-1.5") == "-1.5"


def test_digits_of_a_result_take_no_memory(tmp_path):
    result: dict[str, object] = {name: [] for name in ("rows", "checks", "tables", "pictures")}
    result |= {
        "task": "",
        "shows": "",
        "limits": "",
        "format": 1,
        "system": "a",
        "metrics": [{"name": "m", "digits": 10**9}],
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    with pytest.raises(ArtifactError, match="digits is 1000000000"):
        Result.load(tmp_path)


# -- where it is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EROFS", "ENOSPC", "EACCES", "ENAMETOOLONG", "ELOOP", "EDQUOT"])
def test_a_place_that_takes_no_file_is_wrong_use_in_a_line(name):
    import errno

    number = getattr(errno, name)
    code, line = explain(OSError(number, os.strerror(number), "/x/y"))
    assert code == WRONG_USE
    assert line.startswith("/x/y: ")


def test_a_full_disk_is_wrong_use_however_a_library_tells_it():
    code, line = explain(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert code == WRONG_USE
    assert "make room" in line


def test_an_output_that_is_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    artifacts.write_text(tmp_path / "link.txt", "x")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "x"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "link.txt", "real"]


def test_sizes_that_are_not_those_of_the_weights_take_no_memory(tmp_path):
    import torch

    artifacts.save(tmp_path, "a", {}, {"x": torch.zeros(1)})
    with pytest.raises(ArtifactError, match="far larger than its weights"), artifacts.reading(tmp_path):
        torch.zeros(10**6, 10**6)
    with pytest.raises(ArtifactError, match="far larger than its weights"), artifacts.reading(tmp_path):
        [torch.zeros(2**24) for _ in range(10**6)]


@pytest.mark.parametrize("error", [KeyError("a"), IndexError(), OverflowError(), RecursionError(), ZeroDivisionError()])
def test_whatever_a_wrong_value_does_while_a_run_is_read_is_told_as_such(error, tmp_path):
    with pytest.raises(LinmapError, match="is damaged"), artifacts.reading(tmp_path):
        raise error
