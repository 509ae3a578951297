"""Datasets and file formats, each loader one function; nothing here knows a system."""

from __future__ import annotations

import os
from pathlib import Path

from linmap.data.compressed import open_bytes
from linmap.data.door import refuse_special
from linmap.errors import DataError

__all__ = ["EMBEDDED", "find", "require_content", "require_file"]

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


BLANK = b" \t\r\n\v\f"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def require_content(path: Path | str) -> None:
    """Refuse a file of nothing but blanks, in the same words for every format; a compressed one by what is inside.

    A folder, or a path where nothing is, is left to its reader, who knows what to say about it.

    Parameters
    ----------
    path
        The file; as many of its bytes are read as it has blanks at the start, and a block.

    Raises
    ------
    DataError
        If it has no byte that is neither white space nor a byte order mark, is compressed and damaged, or is a named
        pipe or a device, which never end.
    """
    path = Path(path)
    refuse_special(path)
    if not path.is_file():
        return
    if _is_blank(path):
        raise DataError(f"{path} is empty; there is nothing to read.")


def require_file(path: Path | str) -> None:
    """Refuse a folder where a file is read, and a file of nothing but blanks.

    Raises
    ------
    DataError
        As `require_content`, or if the path is a folder.
    """
    if Path(path).is_dir():
        raise DataError(f"{path} is a folder; give a file.")
    require_content(path)


def _is_blank(path: Path) -> bool:
    if not path.stat().st_size:
        return True
    with open_bytes(path, whole=False) as file:
        block = file.read(2**16).removeprefix(BYTE_ORDER_MARK)
        while block and not block.strip(BLANK):
            block = file.read(2**16)
    return not block
