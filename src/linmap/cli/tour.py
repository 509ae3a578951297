"""`linmap tour`: every comparison one after another, the report after each, and what is left at any moment."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from linmap import ownership, recipes
from linmap.cli import printing
from linmap.cli.errors import DONE, FAILED, explain
from linmap.cli.flags import parse
from linmap.cli.verbs import Answer, Writing, checked, run_comparison
from linmap.cli.wording import FLAGS
from linmap.errors import Stopped, UsageError, shell_line
from linmap.locks import sole
from linmap.recipes.job import CompareJob
from linmap.recipes.packages import missing, remedy_of_rooms

if TYPE_CHECKING:
    from linmap.experiment.result import Failure, Result

UNFINISHED = "unfinished"
"""A file in the folder of a tour for as long as it has not come to its end."""
TRUST = 60.0
"""Seconds of work at the usual speed that count beside what was measured here: one short system says little."""
WATCHED, UNWATCHED = 20.0, 60.0
"""Seconds between two lines of a system that takes long, in a terminal and in a file."""


@dataclass(frozen=True)
class TourFlags:
    """Which systems, the result and the seed."""

    systems: tuple[str, ...] = ()
    """Systems to compare, in this order; all that are ready, the fastest first, when left out."""
    out: Path = Path("runs/tour")
    """Folder for the results, a subfolder for each system, and report.html."""
    seed: int = 0
    """First seed; a comparison that uses several counts up from it."""
    resume: bool = False
    """Keep the finished results in --out that have the same seed, settings and version, and run the rest."""


def tour(words: list[str]) -> Answer:
    """`linmap tour`; a system that fails stops no other."""
    purpose = "Compare every system with its baselines and write the report."
    given = parse(words, "linmap tour", purpose, flags=TourFlags, writing=Writing)
    flags: TourFlags = checked(given["flags"])
    slugs = _ready(flags.systems)
    _tell_missing(slugs)
    with ownership.owner("tour", given["writing"].overwrite, flags.out), sole(flags.out):
        _own_tour(flags)
        outcomes = _stops(slugs, flags, given["output"].debug)
        (flags.out / UNFINISHED).unlink(missing_ok=True)
    page = flags.out / "report.html"

    from linmap.artifacts import plain
    from linmap.experiment.result import Failure

    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]

    def show(console: Console) -> None:
        printing.print_tour(console, outcomes)
        for failure in failures:
            console.print(f"[red]failed[/] {escape(f'{failure.system}: {failure.error}')}", soft_wrap=True)
        printing.print_paths(console, report=page, open=page.absolute().as_uri())

    systems = [{"status": "failed" if outcome in failures else "done"} | plain(outcome) for outcome in outcomes]
    document = {"verb": "tour", "out": str(flags.out), "report": str(page), "systems": systems}
    return Answer(document, show, FAILED if failures else DONE)


def _own_tour(flags: TourFlags) -> None:
    """The folder of a tour: new, or one that a tour has filled, here or on another machine."""
    from linmap.report import is_report

    page = flags.out / "report.html"
    if flags.resume or (flags.out / UNFINISHED).exists() or is_report(page):
        ownership.record(flags.out)
    ownership.claim(page)
    ownership.make_folder(flags.out)
    (flags.out / UNFINISHED).touch()


def _stops(slugs: list[str], flags: TourFlags, debug: bool) -> list[Result | Failure]:
    from linmap.report import write_report

    screen, pace, outcomes = printing.stderr_console(), Pace(slugs), []
    try:
        for position, slug in enumerate(slugs, start=1):
            screen.rule(f"{slug} ({position} of {len(slugs)}{pace.left()})", align="left", style="dim")
            with _pulse(screen, slug, pace, position - 1):
                outcome, kept = _stop(slug, flags, screen, debug)
            outcomes.append(outcome)
            pace.passed(slug, None if kept else outcome.seconds)
            write_report(flags.out, flags.out / "report.html")
            gc.collect()
    except KeyboardInterrupt:
        verb = "is" if len(outcomes) == 1 else "are"
        raise Stopped(f"{len(outcomes)} of {len(slugs)} systems {verb} done and kept") from None
    return outcomes


class Pace:
    """How long the rest will take: what each system usually takes, at the speed of those that are done."""

    def __init__(self, slugs: list[str]) -> None:
        self.slugs = list(slugs)
        self._usual, self._took = 0.0, 0.0
        self._start = time.monotonic()

    def passed(self, slug: str, seconds: float | None) -> None:
        """`slug` is done, in so many seconds, or was before."""
        self.slugs.remove(slug)
        self._start = time.monotonic()
        if seconds is not None:
            self._usual, self._took = self._usual + recipes.SYSTEMS[slug].seconds, self._took + seconds

    def left(self) -> str:
        """ ", about 9 minutes left", or nothing where nobody knows."""
        expected = [recipes.SYSTEMS[slug].seconds for slug in self.slugs]
        if not expected or not all(expected):
            return ""
        elapsed, took, usual = time.monotonic() - self._start, self._took, self._usual
        if elapsed > expected[0]:  # what takes longer than usual tells of this machine before it is done
            took, usual = took + elapsed, usual + expected[0]
        speed = (took + TRUST) / (usual + TRUST)
        seconds = sum(expected) * speed - min(elapsed, expected[0] * speed)
        minutes = round(seconds / 60)
        return (
            f", about {minutes} {'minute' if minutes == 1 else 'minutes'} left" if minutes else ", under a minute left"
        )


@contextmanager
def _pulse(screen: Console, slug: str, pace: Pace, done: int) -> Iterator[None]:
    """A line from time to time while a system is at work, so that a log or a terminal shows that it is."""
    from linmap.report.numbers import duration

    ended, start = threading.Event(), time.monotonic()
    total = done + len(pace.slugs)

    def beat() -> None:
        while not ended.wait(WATCHED if screen.is_terminal else UNWATCHED):
            line = f"{slug}: {duration(round(time.monotonic() - start))}; {done} of {total} done{pace.left()}"
            screen.print(line, style="dim", highlight=False, markup=False)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _ready(wanted: tuple[str, ...]) -> list[str]:
    """The systems of a tour, each ready; spaces or commas between them."""
    names = [name for group in wanted for name in group.split(",") if name]
    for name in names:
        if not recipes.find(name).ready:
            raise UsageError(f"{name} is planned, not built yet; `linmap list` shows what is ready.")
    ready = sorted((system for system in recipes.SYSTEMS.values() if system.ready), key=lambda system: system.seconds)
    return list(dict.fromkeys(names)) or [system.slug for system in ready]


def _tell_missing(slugs: list[str]) -> None:
    """Before any work: which systems will fail for want of packages, and what to type to have these."""
    lacking = {slug: modules for slug in slugs if (modules := missing(recipes.load(slug).example_needs))}
    if lacking:
        wanted = [(recipes.SYSTEMS[slug].room, module) for slug, modules in lacking.items() for module in modules]
        print(
            f"linmap: note: {', '.join(lacking)} will fail for want of packages: {remedy_of_rooms(wanted)}.",
            file=sys.stderr,
        )


def _stop(slug: str, flags: TourFlags, screen: Console, debug: bool) -> tuple[Result | Failure, bool]:
    """One comparison: kept if it is there already (True), otherwise run, and recorded if it fails."""
    from linmap.experiment.result import Failure

    out = flags.out / slug
    line = shell_line(["linmap", "compare", slug, "--seed", flags.seed, "--out", out])
    start = time.perf_counter()
    try:
        recipe = recipes.load(slug)
        verb = recipe.compare
        recipes.require(slug, recipe.example_needs)
        settings = verb.settings()()
        if flags.resume and (done := _finished(out, flags.seed, settings)) is not None:
            screen.print("already finished; kept", style="dim")
            return done, True
        job = CompareJob(out=out, seed=flags.seed, resume=flags.resume)
        with sole(out):
            return run_comparison(verb, settings, job, line), False
    except Exception as error:
        if debug:
            traceback.print_exc()
        error_line = FLAGS.spoken(explain(error)[1])
        failure = Failure(slug, error_line, line, seconds=time.perf_counter() - start)
        screen.print(f"linmap: {slug}: {failure.error}", markup=False, soft_wrap=True)
        failure.save(out)
        return failure, False


def _finished(out: Path, seed: int, settings: Any) -> Result | None:
    """The result in `out` if it is whole, of this version, and has the same first seed and settings."""
    from linmap.artifacts import plain, versions
    from linmap.errors import ArtifactError
    from linmap.experiment.result import FAILURE, Result

    if (out / FAILURE).exists():
        return None
    try:
        result = Result.load(out)
    except ArtifactError:
        return None
    same = (result.settings, result.seeds[:1], result.versions) == (plain(settings), [seed], versions())
    return result if same else None
