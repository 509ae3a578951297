"""`studies/RESULTS/<slug>.md`: a section for each protocol, of which only those that ran are replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from linmap.experiment import Table
from studies.study import Findings, Protocol

HEAD = "# {name}: what the studies measured\n\nWritten by `python -m studies {name}`.\n"


def section(protocol: Protocol, findings: Findings, made: str, folder: Path) -> str:
    """The text of a protocol, without its heading."""
    parts = [protocol.question, findings.setting, *findings.sentences, *map(_table, findings.tables)]
    marks = {True: "holds", False: "does not hold"}
    if findings.checks:
        chance = {True: "", False: "; not beyond chance"}
        parts.append(
            "\n".join(
                f"- {check.statement}: **{marks[check.passed]}** ({check.figures}{chance[check.certain]})"
                for check in findings.checks
            )
        )
    parts += [f"Picture: {p.title} (`{folder / p.file}`). {p.caption}" for p in findings.pictures]
    return "\n\n".join([*parts, f"_{made}_"]) + "\n"


def merged(before: str, name: str, new: Mapping[str, str], order: Sequence[str]) -> str:
    """The page with the new sections in the place of those of before, in the order of the protocols."""
    found = re.split(r"^## (\S+)\n\n", before, flags=re.MULTILINE)[1:]
    sections = dict(zip(found[::2], (text.rstrip("\n") + "\n" for text in found[1::2]), strict=True)) | dict(new)
    kept = [key for key in order if key in sections] + [key for key in sections if key not in order]
    return HEAD.format(name=name) + "".join(f"\n## {key}\n\n{sections[key]}" for key in kept)


def _table(table: Table) -> str:
    head = [table.columns, ["---"] * len(table.columns)]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in [*head, *table.rows]]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return "\n\n".join(filter(None, [f"**{table.title}**", lines, table.note]))
