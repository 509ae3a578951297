"""Eight programs that write into one store at once, and eight that read: what was told to be kept is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fresh import Fresh

WRITERS, EACH, DIM = 8, 60, 8
WRITER = """
import sys, time
import numpy as np
from linmap.data.vectors import open_store
from linmap.errors import ArtifactError
from linmap.locks import BusyError
address, who, each, dim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for first in range(0, each, 20):
    while True:
        try:
            with open_store(address, dim) as store:
                rows = range(first, first + 20)
                store.upsert([f"{who}-{row}" for row in rows], np.full((20, dim), who + 1, np.float32))
                store.upsert(["shared", f"shared-{first}"], np.full((2, dim), who + 1, np.float32))
                store.flush()
            break
        except (BusyError, ArtifactError):
            time.sleep(0.02)
"""
READER = """
import sys, time
import numpy as np
from pathlib import Path
from linmap.data.vectors import open_store
from linmap.errors import ArtifactError
from linmap.locks import BusyError
address, dim, stop = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
seen = 0
while not stop.exists():
    try:
        with open_store(address, dim) as store:
            for ids, block in store.iterate():
                for name, row in zip(ids, block):
                    assert len(set(row.tolist())) == 1, (name, row)
                    assert name.startswith("shared") or row[0] == int(name.split("-")[0]) + 1, (name, row)
                seen += len(ids)
    except (BusyError, ArtifactError):
        pass
    time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "faiss", "usearch", "lance", "qdrant", "postgres"])
def test_eight_writers_and_eight_readers(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from linmap.data.vectors import open_store

    address = request.getfixturevalue("postgres") if kind == "postgres" else f"{kind}:{tmp_path / 's'}"
    stop = tmp_path / "stop"
    with open_store(address, DIM) as store:
        store.upsert(["shared"], np.zeros((1, DIM), np.float32))
    words = [str(EACH), str(DIM)]
    writers = [Fresh(WRITER, address, str(who), *words) for who in range(WRITERS)]
    readers = [Fresh(READER, address, str(DIM), str(stop)) for _ in range(8)]
    assert [writer.wait(600) for writer in writers] == [0] * WRITERS, "\n".join(one.stderr for one in writers)[-3000:]
    stop.touch()
    assert [reader.wait(600) for reader in readers] == [0] * 8, "\n".join(one.stderr for one in readers)[-3000:]
    with open_store(address, DIM) as store:
        rows = [(name, row[0]) for ids, block in store.iterate() for name, row in zip(ids, block, strict=True)]
    found = dict(rows)
    assert len(found) == len(rows)
    assert all(found.pop(name) in range(1, WRITERS + 1) for name in ("shared", "shared-0", "shared-20", "shared-40"))
    assert found == {f"{who}-{row}": who + 1 for who in range(WRITERS) for row in range(EACH)}
