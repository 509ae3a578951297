"""What is fed: one target for each reader and each language, with whole inputs to begin from."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from linmap.errors import LinmapError

PIECES = [b"", b"\0", b"-1", b"1e999", b"NaN", b"[" * 3000, b'{"a":' * 800, b"999999999999", b"\xff\xfe", b'"', b"../x"]
"""What is put into an input."""


@dataclass(frozen=True)
class Target:
    """A reader: of a file of this name, or of a text where it has none."""

    name: str
    read: Callable[[Any], Any]
    seeds: tuple[bytes, ...]
    file: str | None = None
    drawn: Callable[[random.Random], bytes] | None = None
    """Makes inputs by a grammar, of which every second one is."""
    few: int = 12
    """Inputs in the default suite."""


def mutated(target: Target, rng: random.Random) -> bytes:
    """A whole input with a few changes, or one of the target's own grammar."""
    if target.drawn is not None and rng.random() < 0.5:
        return target.drawn(rng)
    data = bytearray(rng.choice(target.seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[place % len(data)] = rng.randrange(256)
            case 1 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                del data[place : place + rng.choice((1, 2, 8, 64))]
            case 3:
                data[place:place] = rng.choice(PIECES)
            case 4:
                data[place:place] = data[place : place + rng.choice((1, 4, 32))]
            case _:
                del data[place:]
    return bytes(data)


def feed(target: Target, data: bytes, folder: Path) -> str | None:
    """Read an input: the message of linmap's error, or None where there is an answer; all else is raised."""
    try:
        if target.file is None:
            target.read(data.decode("utf-8", "surrogateescape"))
        else:
            path = folder / target.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            target.read(path)
    except LinmapError as error:
        return str(error)
    return None


@cache
def targets() -> dict[str, Target]:
    """All of them, by name."""
    from fuzz import commands, folders, tables

    ours = [*_arrays(), *_texts(), *_pictures_and_shapes(), *_languages(), *_kept()]
    return {one.name: one for one in [*ours, *tables.targets(), *folders.targets(), *commands.targets()]}


def saved_seed(name: str) -> bytes:
    """A whole input that takes long to make."""
    return (Path(__file__).parent / "seeds" / name).read_bytes()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(**arrays: Any) -> bytes:
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **arrays)
    np.savez_compressed(packed, **arrays)
    return packed.getvalue() if len(arrays) > 1 else plain.getvalue()


def _arrays() -> list[Target]:
    from linmap.data.arrays import open_rows, read_npz
    from linmap.data.clouds.archives import read_archive
    from linmap.data.covariances import load_matrices_or_epochs
    from linmap.data.epochs import load_epochs
    from linmap.data.sequences import load_series

    X = np.arange(24.0).reshape(2, 3, 4)
    series = _npz(X=X, y=np.array([0, 1])), _npz(X=X)
    return [
        Target("npz", read_npz, (_npz(x=X), _npz(x=X, y=np.array(["a", "b"]))), "a.npz"),
        Target("npy", open_rows, (_npy(np.eye(3)), _npy(np.eye(3, dtype=np.float32))), "a.npy"),
        Target("clouds", read_archive, (_npz(points=X, label=np.arange(2)), _npz(points=X)), "a.npz"),
        Target("covariances", load_matrices_or_epochs, (_npz(X=np.eye(3)[None], y=np.array(["a"])),), "a.npz"),
        Target("epochs", load_epochs, (_npz(X=X, y=np.array([0, 1]), sfreq=128.0),), "a.npz"),
        Target("series", load_series, series, "a.npz"),
    ]


def _texts() -> list[Target]:
    from linmap.data.clouds.tables import read_table as read_points
    from linmap.data.records import read_records
    from linmap.data.sequences import load_series, read_ts
    from linmap.data.text import read_training_texts
    from linmap.data.timeseries import load_time_series
    from linmap.data.tsplib import read_tour, read_tsp

    ts = b"@problemName a\n@classLabel true 0 1\n@data\n1,2,3:4,5,6:0\n1,2:3,4:1\n"
    csv = b"date,a,b\n2020-01-01,1,2\n2020-01-02,3,4\n2020-01-03,5,6\n2020-01-04,7,8\n"
    jsonl = b'{"id": "a", "x": [1, 2.5, null]}\n{"id": "b", "x": {"y": "\xc3\xa9"}}\n'
    tsp = b"NAME : a\nTYPE : TSP\nDIMENSION : 3\nEDGE_WEIGHT_TYPE : EUC_2D\n"
    tsp += b"NODE_COORD_SECTION\n1 0 0\n2 1 0\n3 0 1\nEOF\n"
    kinds = [tsp.replace(b"EUC_2D", kind) for kind in (b"EUC_2D", b"CEIL_2D", b"MAN_2D", b"MAX_2D", b"ATT", b"GEO")]
    texts = b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
    return [
        Target("ts", read_ts, (ts,), "a.ts"),
        Target("series.csv", load_series, (b"a,b\n1,2\n3,4\n", b"1\n2\n"), "a.csv"),
        Target("table", load_time_series, (csv, csv.replace(b",", b";")), "a.csv"),
        Target("table.gz", load_time_series, (gzip.compress(csv),), "a.csv.gz"),
        Target("records", lambda path: list(read_records(path)), (jsonl,), "a.jsonl"),
        Target("records.json", lambda path: list(read_records(path)), (b'[{"id": 1}, [2, 3]]',), "a.json"),
        Target("texts", read_training_texts, (texts,), "a.jsonl"),
        Target("texts.csv", read_training_texts, (b'text,label\n"a,b",x\nc,y\n',), "a.csv"),
        Target("points", read_points, (b"x,y,z\n1,2,3\n4,5,6\n", b"1 2 3\n4 5 6\n"), "a.csv"),
        Target("tsp", lambda path: (one := read_tsp(path)).length(range(len(one))), tuple(kinds), "a.tsp"),
        Target("tour", read_tour, (b"NAME : a\nTOUR_SECTION\n1\n3\n2\n-1\nEOF\n",), "a.tour"),
    ]


def _pictures_and_shapes() -> list[Target]:
    from PIL import Image

    from linmap.data.clouds.surfaces import read_surface
    from linmap.data.images import read_grey, read_image

    def picture(kind: str, mode: str = "RGB") -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).convert(mode).save(file, kind)
        return file.getvalue()

    obj = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    off = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    stl = b"\0" * 80 + (1).to_bytes(4, "little") + np.eye(3, 4, dtype="<f4").tobytes() + b"\0\0"
    ply = (
        b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
        b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    )
    words = "solid a\n facet normal 0 0 1\n  outer loop\n   vertex 0 0 0\n   vertex 1 0 0\n   vertex 0 1 0\n"
    solid = (words + "  endloop\n endfacet\nendsolid a\n").encode()
    kinds = tuple(picture(kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "ICO", "PPM", "TGA"))
    odd = {"TIFF": ("1", "LA", "CMYK", "LAB", "F", "I", "I;16", "YCbCr"), "PNG": ("1", "L", "LA", "P", "RGBA", "I;16")}
    odd |= {"JPEG": ("L", "CMYK", "YCbCr")}
    modes = tuple(picture(kind, mode) for kind, ones in odd.items() for mode in ones)
    surfaces = {".obj": (obj,), ".off": (off,), ".stl": (stl, solid), ".ply": (ply,)}
    return [
        Target("image", read_image, kinds + modes, "a.png"),
        Target("grey", read_grey, modes, "a.tiff"),
        *(Target(f"surface{end}", lambda p: read_surface(p, 8), ones, f"a{end}") for end, ones in surfaces.items()),
    ]


def _languages() -> list[Target]:
    from linmap.data.records import parse_json
    from linmap.data.timeseries import Clock, TimeSeries
    from linmap.retrieve.mbat.paths import parse_path

    def times(text: str) -> None:
        import pandas as pd

        cells = text.encode("utf-8", "replace").decode().split("|")
        table, read = pd.DataFrame({"date": cells, "a": np.arange(len(cells))}), TimeSeries.from_frame
        series = read(table)
        assert read(table, like=Clock.from_json(series.clock.to_json())).describe()
        series.frame(np.zeros((3, 1)), series.future(3))

    def gaps(text: str) -> None:
        import pandas as pd

        cells = text.encode("utf-8", "replace").decode().split("|")
        TimeSeries.from_frame(pd.DataFrame({"date": cells, "a": np.arange(len(cells))}), "zero", fill_gaps=True)

    dates = b"2020-01-01|2020-01-02|2020-01-03", b"1/2/2020 3pm|1/3/2020 3pm|1/4/2020 3pm", b"2020Q1|2020Q2|2020Q3"
    return [
        Target("--at", parse_path, (b'a.b[0].c["x.y"]', b"/a/~1b/0", b"$.a[*].**"), None),
        Target("JSON", parse_json, (b'{"a": [1, 2.5e3, null, true], "b": "\\u00e9"}', b"[1]"), None),
        Target("times", times, dates, None, _times),
        Target("gaps", gaps, dates, None, _times),
    ]


def _times(rng: random.Random) -> bytes:
    """A few times of one notation, evenly spaced but for one, near the ends of what can be told."""
    start = rng.choice((0, 1, 1999, 9996, 190001, 999910, 20200227, 99991229, 2**31 - 4, 2**63 - 9, -(2**63), 10**18))
    step, form = rng.choice((1, 1, 3, 7, 100, 10**6, 10**15)), rng.choice(FORMS)
    places = [start + step * i for i in range(rng.choice((1, 2, 3, 5, 9)))]
    places[rng.randrange(len(places))] += rng.choice((0, 0, 1, step, 50 * step, 10**16))
    return "|".join(form(place) for place in places).encode()


FORMS: tuple[Callable[[int], str], ...] = (
    str,
    lambda n: f"{n / 10**3}",
    lambda n: f"{n}e300",
    lambda n: f"{n}e-323",
    lambda n: f"{n % 10**8:08d}",
    lambda n: f"{1 + n % 9999:04d}-12-31",
    lambda n: f"2262-04-{1 + n % 30:02d}",
    lambda n: f"9999-12-{1 + n % 31:02d} 23:59:59",
    lambda n: f"1677-09-21 00:12:{n % 60:02d}.000000001",
    lambda n: f"{1 + n % 9999}Q{1 + n % 4}",
    lambda n: f"{1 + n % 12}/{1 + n % 28}/{n % 100:02d}",
    lambda n: f"20:{n % 60:02d}:00+{n % 24:02d}:00",
)
"""How a number is written as a time."""


def _kept() -> list[Target]:
    from linmap.artifacts import load, read_tensors
    from linmap.data.image_preparation import read_preparation
    from linmap.data.vectors.opening import open_store
    from linmap.experiment.result import Result

    header = json.dumps({"format": 1, "system": "bt2", "versions": {}, "seed": 0, "config": {"a": 1}}).encode()
    store = {"dim": 2, "index": "vector-000001.npy", "ids": "vector-000001.json"}
    described = {"format": 1, "kind": "array", "generation": 1, "fields": {"vector": store}}
    described |= {"options": {}, "metadata": {}, "others": []}
    head = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    tensors = len(head).to_bytes(8, "little") + head + b"\0" * 4
    result = {
        "system": "a", "task": "t", "metrics": [{"name": "m", "better": "lower", "unit": "", "digits": 3}],
        "rows": [{"name": "r", "kind": "system", "values": {"m": [1.0]}}], "shows": "", "limits": "", "checks": [],
        "tables": [], "pictures": [], "versions": {}, "machine": "", "finished": "2026-01-01", "format": 1,
    }  # fmt: skip
    steps = {"do_resize": True, "size": {"height": 8, "width": 8}, "do_normalize": False, "do_rescale": True}

    def stored(path: Path) -> None:
        np.save(path.with_name(store["index"]), np.eye(2, dtype=np.float32))
        path.with_name(store["ids"]).write_text('["a", "b"]')
        open_store(str(path.parent)).search(np.eye(2, dtype=np.float32), 1)

    return [
        Target("artifact", lambda path: load(path.parent, "bt2"), (header,), "run/config.json"),
        Target("store", stored, (json.dumps(described).encode(),), "store/store.json"),
        Target("safetensors", read_tensors, (tensors,), "a.safetensors"),
        Target("result", lambda p: Result.load(p.parent), (json.dumps(result).encode(),), "result/result.json"),
        Target(
            "preparation",
            lambda path: read_preparation(path.parent),
            (json.dumps(steps).encode(),),
            "model/preprocessor_config.json",
        ),
    ]
