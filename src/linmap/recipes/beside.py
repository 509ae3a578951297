"""What a run's images are prepared by, and their classes: a file beside the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from linmap import artifacts
from linmap.data.door import load_json
from linmap.errors import ArtifactError

FILE = "images.json"
Found = TypeVar("Found")


def write_beside(folder: Path, about: Mapping[str, Any]) -> None:
    """Write it into the folder of a run."""
    artifacts.write_json(folder / FILE, artifacts.plain(about))


def read_beside(folder: Path, build: Callable[[dict[str, Any]], Found]) -> Found:
    """What `build` makes of what was written.

    Raises
    ------
    ArtifactError
        If there is none, or it cannot be read.
    """
    if not (folder / FILE).exists():
        raise ArtifactError(
            f"{folder} has no {FILE}, which says the classes and how images are prepared; the command line writes it, "
            "and what was saved from Python is for Python."
        )
    try:
        return build(load_json(folder / FILE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ArtifactError(f"{folder / FILE} cannot be read ({artifacts.said(error)}); fit again.") from None
