"""A saved run of which one thing is another: it is read, or refused as an artifact, and takes no memory for it."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuzz.runs import RUNS, SavedRun, changed, reshaped
from linmap.data.door import OF_TYPES
from linmap.errors import ArtifactError, LinmapError

MOST = int(os.environ.get("LINMAP_FUZZ_CHANGES", "150"))
"""Changes of a file that are tried, drawn at random."""


@pytest.mark.slow
@pytest.mark.parametrize("make", RUNS)
def test_a_run_with_one_thing_changed_is_read_or_refused(make: Callable[[Path], SavedRun], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run, folder = make(tmp_path / "run"), tmp_path / "run"
        run.use(run.load(folder))
        refused = 0
        for name, what, data in changes(run, folder):
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(data)
            refused += outcome(run, folder, f"{name}: {what}")
            (folder / name).write_bytes(whole)
    assert refused > 20


def changes(run: SavedRun, folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """The file, what is done to it, and what it then holds."""
    rng = random.Random(run.load.__qualname__)
    for name in run.settings:
        found = list(changed(json.loads((folder / name).read_text())))
        for what, value in rng.sample(found, min(MOST, len(found))):
            yield name, what, json.dumps(value).encode()
            if "config" in value and isinstance(value["config"], dict):
                yield name, f"{what}, signed", json.dumps(signed(run, value)).encode()
    found = list(reshaped((folder / run.weights).read_bytes()))
    for what, data in rng.sample(found, min(MOST, len(found))):
        yield run.weights, what, data


def signed(run: SavedRun, value: dict) -> dict:
    try:
        return value | {"config": run.sign(value["config"])}
    except (KeyError, TypeError):
        return value


def outcome(run: SavedRun, folder: Path, what: str) -> bool:
    """Whether a run is refused; any error but those of linmap fails."""
    try:
        found = run.load(folder)
    except ArtifactError as error:
        if OF_TYPES.search(str(error)):
            raise AssertionError(f"{what}: Python's words in {error}") from error
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} while it is read: {error}") from error
    try:
        run.use(found)
    except LinmapError:
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} while it is used: {error}") from error
    return False
