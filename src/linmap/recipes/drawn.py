"""Which pictures of a comparison were drawn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linmap.experiment.result import Picture


def drawn(folder: Path, pictures: Sequence[Picture], said: Mapping[str, Any]) -> list[Picture]:
    """The pictures that are in the folder; of those that `linmap.pictures.illustrated` could not draw, a warning.

    Parameters
    ----------
    folder
        Where they should be.
    pictures
        All that were due.
    said
        The mapping that `illustrated` wrote its notes into.
    """
    for note in said.get("notes", ()):
        warnings.warn(note, stacklevel=2)
    return [picture for picture in pictures if (folder / picture.file).exists()]
