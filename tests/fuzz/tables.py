"""Targets: files that libraries parse (Parquet, MNE's FIF), vectors, and pictures of a report."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.targets import Target, saved_seed


def targets() -> list[Target]:
    """Of this file."""
    from linmap.data.covariances import load_covariances
    from linmap.data.epochs import load_epochs
    from linmap.data.image_sets import read_image_set
    from linmap.data.masks import load_masked_images
    from linmap.data.records import read_records
    from linmap.data.samples import read_samples
    from linmap.data.timeseries import load_time_series

    triangles, images = np.array([[2.0, 1, 2]] * 2), np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    mask = (images > 40).astype(np.uint8)
    return [
        Target("fif", load_epochs, (saved_seed("a-epo.fif"),), "a-epo.fif", few=4),
        Target("parquet", lambda path: list(read_records(path)), _parquet(), "a.parquet"),
        Target("table.parquet", load_time_series, _parquet()[:1], "a.parquet"),
        Target("triangles", load_covariances, (_npz(cov_triu=triangles, domain=np.arange(2)),), "a.npz"),
        Target("masks", lambda path: load_masked_images(path, 32), (_npz(image=images, mask=mask),), "a.npz"),
        Target("image-set", read_image_set, (_npz(images=images, labels=np.array(["a", "b"])),), "a.npz"),
        Target("samples", lambda text: list(read_samples(text.splitlines(), 2)), (b"a,b\n1,2\n3 4\n", b"# x\n1;2\n")),
        Target("vectors.npy", _vectors, _vector_file(), "a.json"),
        Target("vectors.parquet", _read_vectors, (_vector_parquet(),), "a.parquet"),
        Target("svg", _inlined, (_SVG,), "a.svg"),
        Target("kept-run", _kept_run, (b'{"key": {"a": 1}, "run": {"values": {"m": 1.0}}}',), "run.json"),
        Target("failure", _failure, (b'{"system": "a", "error": "b", "command": "c", "format": 1}',), "failure.json"),
        Target("classes", _beside, (_about(),), "images.json"),
    ]


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _parquet() -> tuple[bytes, ...]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times = pa.array(np.arange("2020-01-01", "2020-01-05", dtype="datetime64[D]"))
    table = pa.table({"date": times, "a": [1.0, 2.0, 3.0, 4.0], "b": [1, 2, 3, 4]})
    nested = pa.table({"id": ["a", "b"], "x": [{"y": [1, 2]}, {"y": None}]})
    made = []
    for one, packed in ((table, "none"), (nested, "snappy")):
        file = io.BytesIO()
        pq.write_table(one, file, compression=packed)
        made.append(file.getvalue())
    return tuple(made)


def _vector_file() -> tuple[bytes, ...]:
    return (json.dumps({"format": 1, "fingerprint": "a", "ids": ["a", "b"]}).encode(),)


def _vectors(path: Path) -> None:
    np.save(path.with_suffix(".npy"), np.eye(2, dtype=np.float32))
    _read_vectors(path.with_suffix(".npy"))


def _vector_parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(4.0, dtype=np.float32)), 2)
    table = pa.table({"id": ["a", "b"], "vector": vectors}).replace_schema_metadata({"linmap.vectors": '{"format": 1}'})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def _read_vectors(path: Path) -> None:
    from linmap.data.vectors import VectorFile

    file = VectorFile(path)
    assert sum(map(len, file.blocks())) >= 0
    if file.ids:
        file.vector(0)


_SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="10pt" height="10pt" '
    b'viewBox="0 0 10 10"><defs><path id="a" d="M0 0 L1 1"/></defs><use xlink:href="#a" x="1" style="fill:#fff"/>'
    b"<text>a &amp; b</text></svg>"
)


def _inlined(path: Path) -> None:
    from linmap.experiment.result import Picture
    from linmap.report.inline import inline

    markup = inline(path.parent, Picture(path.name, "a", "b"), "p-").markup.lower()
    assert "<script" not in markup
    assert "javascript:" not in markup


def _kept_run(path: Path) -> None:
    from linmap.experiment.kept import RunFiles

    files = RunFiles(path.parent, resume=True)
    path.rename(files.path("a", {"a": 1}))
    files.load("a", {"a": 1})
    files.changed("a", {"a": 2})


def _failure(path: Path) -> None:
    from linmap.experiment.result import Failure

    Failure.load(path.parent)


def _about() -> bytes:
    from linmap.recipes.learngene_pool.images import PLAIN

    return json.dumps({"classes": ["a", "b"], "grey": True, "preparation": asdict(PLAIN.at(8))}).encode()


def _beside(path: Path) -> None:
    from linmap.recipes.learngene_pool.images import saved

    _, preparation = saved(path.parent)
    if preparation.crop is None or max(preparation.crop) <= 64:
        preparation(np.zeros((8, 8, 3), np.uint8))
