"""The page: every outcome below a folder, in the order of the catalogue."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from linmap.artifacts import machine, versions, write_text
from linmap.data.door import refuse_special
from linmap.errors import ArtifactError
from linmap.experiment.result import FAILURE, RESULT, Failure, Picture, Result
from linmap.pictures import THEME_CSS
from linmap.recipes import SYSTEMS
from linmap.report import numbers
from linmap.report.comparison import KINDS, Comparison, Further, Line, Statement, Summary, statements
from linmap.report.inline import Inlined, inline

HERE = Path(__file__).parent
GENERATOR = '<meta name="generator" content="linmap">'
MOST_LINES = 8
ROOMS = {
    "adapt": "Adapt",
    "compress": "Compress",
    "retrieve": "Retrieve",
    "sequence": "Sequence",
    "signals": "Signals",
    "shapes": "Shapes",
    "interpret": "Interpret",
}


@dataclass(frozen=True)
class Chapter:
    """One outcome and all that the page says of it."""

    anchor: str
    title: str
    room: str
    purpose: str
    paper: str
    outcome: Result | Failure
    verdict: tuple[Statement, ...] = ()
    comparison: Comparison | None = None
    chosen: tuple[Line, ...] = ()
    """Of the comparison, what stands before the details are unfolded."""
    summary: Summary | None = None
    tables: tuple[Further, ...] = ()
    pictures: tuple[Inlined | str, ...] = ()
    """Pictures, the most telling first, or in the place of one that cannot be shown, why."""

    @property
    def thumbnail(self) -> Inlined | None:
        """The first picture, where it can be shown."""
        first = self.pictures[0] if self.pictures else None
        return first if isinstance(first, Inlined) else None


def gather(runs: Path | str) -> list[tuple[Path, Result | Failure]]:
    """Every outcome in `runs` or below, in the order of the catalogue; a failure outranks a result beside it.

    Raises
    ------
    ArtifactError
        If there is none.
    """
    runs = Path(runs)
    folders = {path.parent for name in (RESULT, FAILURE) for path in runs.rglob(name)}
    if not folders:
        raise ArtifactError(f"{runs} holds no result; `linmap compare` and `linmap tour` write them.")
    order = {slug: position for position, slug in enumerate(SYSTEMS)}
    outcomes = [(folder, _outcome(folder)) for folder in folders]
    return sorted(outcomes, key=lambda found: (order.get(found[1].system, len(order)), found[0]))


def _outcome(folder: Path) -> Result | Failure:
    """One that cannot be read is reported as the failure that it is."""
    try:
        return Failure.load(folder) if (folder / FAILURE).exists() else Result.load(folder)
    except ArtifactError as error:
        return Failure(folder.name, str(error), command="")


def write_report(runs: Path | str, out: Path | str) -> Path:
    """Write one HTML page about every outcome in `runs` or below.

    The page needs no network and no other file: style and pictures are inside.

    Parameters
    ----------
    runs
        A folder written by `linmap compare` or `linmap tour`, or one that holds several of these.
    out
        The page to write.

    Raises
    ------
    ArtifactError
        If `runs` holds no result.
    """
    chapters = _chapters(gather(runs), Path(runs))
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": numbers.duration, "moment": _moment}
    html = environment.get_template("page.html.jinja").render(
        chapters=chapters,
        systems=len({chapter.outcome.system for chapter in chapters}),
        style=Markup(THEME_CSS + "\n" + (HERE / "style.css").read_text(encoding="utf-8")),
        facts=_facts(chapters),
        kinds=KINDS,
        generator=Markup(GENERATOR),
    )
    write_text(out, html)
    return Path(out)


def is_report(path: Path | str) -> bool:
    """Whether a file is a page that `write_report` wrote."""
    try:
        refuse_special(path)
        with open(path, encoding="utf-8") as file:
            return GENERATOR in file.read(2000)
    except (OSError, ValueError):
        return False


def _chapters(outcomes: Sequence[tuple[Path, Result | Failure]], runs: Path) -> list[Chapter]:
    """A chapter each; where a system has several, its folder stands behind its name."""
    anchors: set[str] = set()
    times = Counter(outcome.system for _, outcome in outcomes)
    chapters = []
    for folder, outcome in outcomes:
        anchor = _anchor(outcome.system, anchors)
        anchors.add(anchor)
        chapter = _chapter(anchor, folder, outcome)
        if times[outcome.system] > 1:
            where = os.fsencode(folder.relative_to(runs)).decode("utf-8", "replace")
            chapter = replace(chapter, title=f"{chapter.title}: {where}")
        chapters.append(chapter)
    return chapters


def _anchor(system: str, taken: set[str]) -> str:
    """A name for links and style rules, whatever a stranger's file calls its system: "olinear", then "olinear-2"."""
    name = re.sub(r"[^a-z0-9]+", "-", system.lower()).strip("-") or "system"
    return next(found for n in count(1) if (found := name if n == 1 else f"{name}-{n}") not in taken)


def _chapter(anchor: str, folder: Path, outcome: Result | Failure) -> Chapter:
    system = SYSTEMS.get(outcome.system)
    title, room, purpose, paper = (
        (system.title, ROOMS[system.room], system.purpose, system.paper) if system else (outcome.system, "", "", "")
    )
    if isinstance(outcome, Failure):
        return Chapter(anchor, title, room, purpose, paper, outcome)
    tables = tuple(Further.of(table) for table in outcome.tables)
    pictures = tuple(_picture(folder, picture, f"{anchor}-{i}-") for i, picture in enumerate(outcome.pictures))
    comparison, verdict = Comparison.of(outcome), tuple(statements(outcome.verdict))
    chosen = tuple(comparison.chosen(MOST_LINES))
    outline = anchor, title, room, purpose, paper, outcome
    return Chapter(*outline, verdict, comparison, chosen, Summary.of(outcome), tables, pictures)


def _picture(folder: Path, picture: Picture, prefix: str) -> Inlined | str:
    """A picture that is lost leaves its place and the reason, not a report less."""
    try:
        return inline(folder, picture, prefix)
    except (OSError, ValueError) as error:
        return f"“{picture.title}” cannot be shown: {error}"


def _facts(chapters: list[Chapter]) -> dict[str, str]:
    """The head of the page: when, where and with what; several where the runs differ."""
    outcomes = [chapter.outcome for chapter in chapters]
    every = {name: _several(o.versions.get(name, "") for o in outcomes) for name in versions()}
    return {
        "Made": _moment(datetime.now().astimezone().isoformat()),
        "Machine": _several(outcome.machine for outcome in outcomes) or machine(),
        "Versions": ", ".join(f"{name} {version}" for name, version in every.items()),
    }


def _several(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(value for value in values if value))


def _moment(iso: str) -> str:
    """A date and a time of day as people write them."""
    moment = datetime.fromisoformat(iso)
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()
