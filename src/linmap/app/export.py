"""A run as one HTML page to be shared: read-only, without scripts, with its pictures inside."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from typing import Any

from linmap.app.code import command_of, line_of
from linmap.app.jobs import Job
from linmap.app.summary import rounded, told
from linmap.data.door import read_text
from linmap.errors import LinmapError

PICTURES = (".svg", ".png", ".jpg", ".webp")
MOST_PICTURES, MOST_TABLES, ROWS, COLUMNS = 24, 4, 12, 12
MOST_BYTES = 2**22  # of a table that is shown
LOG = 8_000


def exported(job: Job) -> dict[str, Any]:
    """What the page shows of a run that is over."""
    files = job.files()
    drawn = [path for path in files if path.suffix.lower() in PICTURES][:MOST_PICTURES]
    return {
        "pictures": [_picture(job.folder, path, number) for number, path in enumerate(drawn)],
        "tables": tables_of(job),
        "sizes": [(path, (job.folder / path).stat().st_size) for path in files[:200]],
        "more": max(0, len(files) - 200),
        "command": line_of(command_of(job)),
        "told": told(job.answer().get("summary") or {}),
        "log": job.log(LOG),
    }


def tables_of(job: Job) -> list[tuple[Path, list[list[str]], int]]:
    """The beginnings of its tables: the path, rows with the header first, and how many columns there are."""
    paths = [path for path in job.files() if path.suffix.lower() == ".csv"][:MOST_TABLES]
    return [(path, *found) for path in paths if (found := _beginning(job.folder / path))]


def _picture(folder: Path, path: Path, number: int) -> Any:
    """The picture as `inline` gives it, or why it is not shown."""
    from linmap.experiment.result import Picture  # brings PyTorch, for which nobody should wait to see the first page
    from linmap.report.inline import inline

    try:
        return inline(folder, Picture(str(path), path.name, ""), f"p{number}-")
    except (LinmapError, OSError) as error:
        return str(error)


def _beginning(path: Path) -> tuple[list[list[str]], int] | None:
    """The first rows and columns of a table, its header first, and how many columns it has; None if it is none."""
    try:
        rows = list(islice(csv.reader(read_text(path, MOST_BYTES).splitlines()), ROWS + 1))
    except (LinmapError, OSError, csv.Error):
        return None
    cut = [[rounded(cell) for cell in row[:COLUMNS]] for row in rows]
    return (cut, max(map(len, rows))) if rows else None
