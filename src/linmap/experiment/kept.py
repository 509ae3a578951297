"""Finished runs on disk: each in a JSON file that holds what it was made from."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from linmap.artifacts import plain, write_json
from linmap.data.door import load_json
from linmap.data.fingerprints import content_fingerprint

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
DIGEST = re.compile("[0-9a-f]{64}")
"""What `fingerprint` gives; a reader of a change is told that the content differs, not how its digests do."""


@dataclass
class Run:
    """One arm, trained and measured once."""

    arm: str
    part: str
    """Of the data: a task, a subject, a number of images; "" where there is one."""
    seed: int
    rate: float | None
    """The learning rate, or what else was chosen; None for an arm without one."""
    values: dict[str, float]
    """By measure."""
    seconds: float
    parameters: int | None = None
    """Trainable ones."""
    details: dict[str, Any] = field(default_factory=dict)
    """Curves, answers and whatever else tables and pictures need, as JSON has it."""


class RunFiles:
    """The finished runs of an experiment.

    Parameters
    ----------
    folder
        Where they are; made when the first is kept.
    resume
        Take those of an earlier experiment too; without, only what this one has kept is there.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        self.folder, self.resume = folder, resume
        self._own: set[Path] = set()

    def path(self, name: str, key: Mapping[str, Any]) -> Path:
        """Where the run of this key is: another key is another file."""
        digest = hashlib.sha256(json.dumps(plain(key), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{_words(name)}-{digest[:12]}.json"

    def load(self, name: str, key: Mapping[str, Any]) -> Run | None:
        """The run of this key; None if it is not there, or not whole."""
        path = self.path(name, key)
        if not (path in self._own or (self.resume and path.exists())):
            return None
        try:
            raw = load_json(path)
            if raw["key"] != plain(key):
                return None
            if raw.get("sum") not in (None, _sum(raw["run"])):  # runs of an older linmap have none
                return None
            values = {name: NOT_FINITE.get(value, value) for name, value in raw["run"]["values"].items()}
            return Run(**raw["run"] | {"values": values})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, name: str, key: Mapping[str, Any], run: Run) -> Run:
        """Keep a run; what comes back is what a later `load` gives."""
        path = self.path(name, key)
        raw = asdict(run)
        raw["values"] = {m: v if math.isfinite(v) else str(float(v)) for m, v in run.values.items()}
        raw = plain(raw)
        write_json(path, {"key": plain(key), "run": raw, "sum": _sum(raw)})
        self._own.add(path)
        kept = self.load(name, key)
        assert kept is not None
        return kept

    def changed(self, name: str, key: Mapping[str, Any]) -> list[str]:
        """What differs between this key and the nearest run of the same name from before; empty without one."""
        now, before = _flat(plain(key)), []
        for path in self.folder.glob(f"{_words(name)}-????????????.json"):
            try:
                then = _flat(load_json(path)["key"])
            except (ValueError, KeyError, TypeError):
                continue
            changed = [k for k in sorted(now.keys() | then.keys()) if now.get(k) != then.get(k)]
            before.append([_change(k, then.get(k), now.get(k)) for k in changed])
        return min(before, key=len, default=[])


def _sum(run: Any) -> str:
    """A checksum of a run as JSON has it: a value that changes on the disk is measured again."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:32]


def _words(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}" if prefix else name).items()
    }


def _change(name: str, before: Any, now: Any) -> str:
    last = name.rpartition(".")[2]
    if any(isinstance(value, str) and DIGEST.fullmatch(value) for value in (before, now)):
        return f"{last} has other content"
    return f"{last} was {before!r}, now {now!r}"


def weights_digest(model: nn.Module) -> str:
    """A name for the weights of a network, all parameters and buffers, so that other ones are measured again."""
    return content_fingerprint(dict(model.state_dict()), limit=None)[:16]
