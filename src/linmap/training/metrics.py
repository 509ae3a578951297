"""The file of metrics, which never holds a step twice."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from linmap.ownership import make_folder
from linmap.training.checkpoint import number
from linmap.training.history import Position


class MetricsLog:
    """`metrics.jsonl`, one JSON object a line; lines after the last checkpoint are dropped on resume.

    A fresh run in a folder that holds another writes beside it until its first checkpoint has taken the other's place.
    """

    def __init__(self, out: Path | None, position: Position, fresh: bool, beside: Path | None) -> None:
        self.file = None
        if out is None:
            return
        make_folder(out)
        if fresh:
            position.run = 1 + number(beside) if beside else 1
        self.path, self.pending = out / "metrics.jsonl", out / f".metrics.{position.run}.jsonl"
        for path in out.glob(".metrics.*.jsonl"):  # of a fresh run that was killed before its first checkpoint
            if path != self.pending:
                path.unlink()
        if not fresh and self.pending.exists():  # killed between the first checkpoint and the renaming
            os.replace(self.pending, self.path)
        self.file = open(self.pending if fresh and beside else self.path, "w" if fresh else "a", encoding="utf-8")  # noqa: SIM115
        if not fresh and self.file.tell() > position.metrics_bytes:
            self.file.truncate(position.metrics_bytes)

    def write(self, **values: Any) -> None:
        if self.file is not None:
            self.file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()

    def sync(self, position: Position) -> None:
        if self.file is not None:
            self.flush()
            os.fsync(self.file.fileno())
            position.metrics_bytes = self.file.tell()

    def commit(self) -> None:
        if self.file is not None and self.pending.exists():
            os.replace(self.pending, self.path)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
