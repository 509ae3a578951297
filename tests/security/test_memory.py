"""Small files that would be large in memory, or say that they are: each reader refuses them in bounded memory.

Every file is read by a process of its own that may take `ROOM` bytes more than it has. A reader answers, or refuses in
one line and exit code 2.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from fuzz.targets import feed, targets
from linmap.cli.errors import WRONG_USE, explain
from linmap.data.door import LIMIT
from linmap.errors import LinmapError

MIB = 2**20
BOUND = 64 * MIB
"""What one packed file may become (`LINMAP_MAX_GIB`)."""
ROOM = 768 * MIB
"""Of addresses: values take some times the bytes that they are written in."""


def members(pack: Callable[[bytes], bytes], text: bytes, size: int = 1024 * MIB) -> bytes:
    """A packed file of this text over and over: formats of one stream let streams follow each other."""
    block = text * (8 * MIB // len(text))
    return pack(block) * (size // len(block))


def npz(size: int = 256 * MIB) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, X=np.zeros(size, np.uint8), y=np.zeros(1))
    return file.getvalue()


def npy(shape: str) -> bytes:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64


def safetensors(shape: list[int], end: int) -> bytes:
    head = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * 4


def png(side: int, whole: bool) -> bytes:
    """A white square; its lines are there, or nothing but its header is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    lines = b"".join(packer.compress(b"\0" * (side + 1)) for _ in range(side if whole else 1)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def fif(place: int, number: int) -> bytes:
    """Whole epochs with another number in their matrix: its size (8), or behind it how many axes and how long."""
    data = bytearray(targets()["fif"].seeds[0])
    matrix = data.index(struct.pack(">ii", 302, 1 << 30 | 4))
    size = int.from_bytes(data[matrix + 8 : matrix + 12], "big")
    place = matrix + (place if place > 0 else 16 + size + place)
    data[place : place + 4] = struct.pack(">i", number)
    return bytes(data)


def parquet(rows: int) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    with pq.ParquetWriter(file, pa.schema([("a", pa.float64())])) as writer:
        for _ in range(16):
            writer.write_table(pa.table({"a": pa.array(np.zeros(rows // 16))}))
    return file.getvalue()


LINE = b'{"id": "a", "x": [1, 2, 3]}\n'
TSP = b"NAME : a\nTYPE : TSP\nDIMENSION : 1000000000000\nEDGE_WEIGHT_TYPE : EUC_2D\nNODE_COORD_SECTION\n1 0 0\nEOF\n"
PLY = b"ply\nformat binary_little_endian 1.0\nelement vertex 2000000000\nproperty float x\nproperty float y\n"
PLY += b"property float z\nend_header\n" + b"\0" * 36
GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + struct.pack("<Q", 2**60) + b"arch"
Hostile = tuple[str, str, Callable[[], bytes]]
"""Target of `tests/fuzz`, the name of its file, and what that holds."""
FILES: dict[str, Hostile] = {
    "gz of one line": ("records", "a.jsonl.gz", lambda: members(gzip.compress, b"[" * 64)),
    "gz of many lines": ("texts", "a.jsonl.gz", lambda: members(gzip.compress, b'{"text": "a", "label": "b"}\n')),
    "gz of one value": ("records.json", "a.json.gz", lambda: members(gzip.compress, b"1," * 64)),
    "bz2": ("records.json", "a.json.bz2", lambda: members(bz2.compress, b"1," * 64)),
    "xz": ("records.json", "a.json.xz", lambda: members(lzma.compress, b"1," * 64)),
    "gz of a table": ("table.gz", "a.csv.gz", lambda: members(gzip.compress, b"2020-01-01,1,2\n")),
    "npz": ("npz", "a.npz", npz),
    "npz of epochs": ("epochs", "a.npz", npz),
    "npy of a trillion": ("npy", "a.npy", lambda: npy("(1000000000000, 8)")),
    "npy of many axes": ("npy", "a.npy", lambda: npy("(" + "9, " * 5000 + ")")),
    "safetensors that declares": ("safetensors", "a.safetensors", lambda: safetensors([2**40], 4)),
    "safetensors that offers": ("safetensors", "a.safetensors", lambda: safetensors([2**40], 2**42)),
    "safetensors of a long header": ("safetensors", "a.safetensors", lambda: struct.pack("<Q", 2**60) + b"{}"),
    "fif of a size": ("fif", "a-epo.fif", lambda: fif(8, 2**31 - 1)),
    "fif of an axis": ("fif", "a-epo.fif", lambda: fif(-8, 2**30)),
    "fif of axes": ("fif", "a-epo.fif", lambda: fif(-4, 2**30)),
    "image of a header": ("image", "a.png", lambda: png(60_000, whole=False)),
    "image of white": ("image", "a.png", lambda: png(20_000, whole=True)),
    "image in grey": ("grey", "a.png", lambda: png(13_000, whole=True)),
    "stl": ("surface.stl", "a.stl", lambda: b"\0" * 80 + struct.pack("<I", 2**32 - 1) + b"\0" * 50),
    "ply": ("surface.ply", "a.ply", lambda: PLY),
    "off": ("surface.off", "a.off", lambda: b"OFF\n2000000000 2000000000 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"),
    "obj": ("surface.obj", "a.obj", lambda: b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 2000000000\n"),
    "ts": ("ts", "a.ts", lambda: b"@problemName a\n@dimensions 2000000000\n@classLabel true 0\n@data\n1,2:0\n"),
    "ts of times": ("ts", "a.ts", lambda: b"@timeStamps true\n@classLabel true 0\n@data\n(0,1),(2000000000,2):0\n"),
    "tsp": ("tsp", "a.tsp", lambda: TSP),
    "gguf": ("gguf", "model/model.gguf", lambda: GGUF),
    "parquet": ("table.parquet", "a.parquet", lambda: parquet(64 * MIB)),
    "deep JSON": ("records.json", "a.json", lambda: b"[" * 5_000_000 + b"]" * 5_000_000),
    "deep lines": ("records", "a.jsonl", lambda: b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000),
    "deep settings": ("result", "result/result.json", lambda: b"[" * 5_000_000),
    "digits": ("JSON", "", lambda: b"[" + b"9" * 5_000_000 + b"]"),
    "deep --at": ("--at", "", lambda: b"a[0]" * 1_000_000),
}  # fmt: skip


def read_in(read: Callable, given: Path | str, room: int, told: Connection) -> None:
    """In a process of its own: read, and tell the exit code, the message, and the MiB that it took at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    os.environ[LIMIT] = str(BOUND / 2**30)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = peak()
    try:
        code, said = 0, repr(read(given))[:0]
    except (LinmapError, OSError) as error:
        code, said = explain(error)
    except BaseException as error:
        code, said = 1, f"{type(error).__name__}: {error}"
    told.send((code, said, peak() - before))


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) // 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("what", FILES)
def test_a_file_that_would_be_large_is_read_or_refused_in_bounded_memory(what: str, tmp_path: Path) -> None:
    name, file, make = FILES[what]
    target, data = targets()[name], make()
    for seed in target.seeds:  # what is imported is not the file's
        with suppress(Exception):
            feed(target, seed, tmp_path / "seeds")
    given: Path | str = data.decode() if target.file is None else tmp_path / file
    if isinstance(given, Path):
        given.parent.mkdir(exist_ok=True)
        given.write_bytes(data)
    here, there = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=read_in, args=(target.read, given, ROOM, there))
    process.start()
    there.close()
    try:
        assert here.poll(120), "it hangs"
        code, said, took = here.recv()
    finally:
        process.kill()
        process.join()
    print(f"{what}: {len(data) / MIB:.1f} MiB, exit code {code}, {took} MiB at most: {said}")
    assert code in (0, WRONG_USE), said
    assert "\n" not in said
    assert len(said) < 1000, "too long for a line"
    assert bool(said) == bool(code)
