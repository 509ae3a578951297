"""Datasets and file formats, each loader one function; nothing here knows a system."""

from __future__ import annotations

import os
from pathlib import Path

EMBEDDED = Path(__file__).parent / "files"


def find(name: str, how: str) -> Path:
    """The path of a data file: embedded in the package, in `$LINMAP_DATA`, or in `../shared/data` beside a checkout.

    Parameters
    ----------
    name
        Path inside a data folder, e.g. `"json/countries.jsonl"`; embedded files go by their last part.
    how
        What the user can do where the file is not there.

    Raises
    ------
    FileNotFoundError
        If the file is in none of these places.
    """
    places = [EMBEDDED / Path(name).name]
    if "LINMAP_DATA" in os.environ:
        places.append(Path(os.environ["LINMAP_DATA"]) / name)
    places.append(Path(__file__).parents[4] / "shared" / "data" / name)
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"{name} is not in the package; {how} Set LINMAP_DATA to the folder that holds it.")
