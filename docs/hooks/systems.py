"""The tables of systems in README.md and docs/index.md, written from the catalogue of `linmap list`.

`python docs/hooks/systems.py` rewrites them between their markers; a test holds that they are what it would write.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from linmap.recipes import SYSTEMS

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?<=<!-- systems -->\n\n).*?(?=\n<!-- /systems -->)", re.DOTALL)

READERS = {
    "adapt": "fine-tune a pretrained model",
    "compress": "want a model smaller or faster",
    "retrieve": "search vectors, or records without a schema",
    "sequence": "classify, stream or forecast series",
    "signals": "classify EEG or covariance matrices",
    "shapes": "work with shapes and their symmetries",
    "interpret": "ask why a network answers as it does",
}
"""What the users of each room want to do."""


def systems() -> str:
    """One row a system that is ready."""
    rows = (
        (f"{system.title} `{system.slug}`", system.room, system.purpose, _paper(system.paper))
        for system in SYSTEMS.values()
        if system.ready
    )
    return _table(("system", "room", "what it does for you", "paper"), rows)


def rooms() -> str:
    """One row a room, with what is ready in it."""

    def titles(room: str) -> str:
        return ", ".join(system.title for system in SYSTEMS.values() if system.room == room and system.ready)

    rows = ((f"[{room}]({room}.md)", f"you {wish}", titles(room)) for room, wish in READERS.items())
    return _table(("room", "for you if", "systems"), rows)


TABLES = {ROOT / "README.md": systems, ROOT / "docs" / "index.md": rooms}


def _paper(paper: str) -> str:
    number = paper.removeprefix("arXiv ")
    return f"[{number}](https://arxiv.org/abs/{number})"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for page, table in TABLES.items():
        page.write_text(BLOCK.sub(lambda _, table=table: table(), page.read_text()))
