"""The verbs: each reads its flags, does its work, and answers for people and for machines."""

from __future__ import annotations

import contextlib
import gc
import inspect
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from rich.console import Console

from linmap import recipes
from linmap.cli import printing
from linmap.cli.errors import DONE, FAILED, explain
from linmap.cli.flags import HelpShown, own, parse
from linmap.errors import UsageError
from linmap.recipes.job import ApplyJob, CompareJob, FitJob, Preset

if TYPE_CHECKING:
    from linmap.recipes.result import Failure, Result


STDERR = 2
"""The file descriptor: what a benchmark prints goes beside the answer."""


class Answer(NamedTuple):
    """What a verb found: a JSON document, a way to show it to people, and the exit code."""

    document: dict[str, Any]
    show: Callable[[Console], None]
    code: int = DONE


def list_systems(words: list[str]) -> Answer:
    """`linmap list`."""
    parse(words, "linmap list", "The 17 systems by room, and which are ready.")
    systems = list(recipes.SYSTEMS.values())
    document = {"systems": [asdict(system) for system in systems]}
    return Answer(document, lambda console: printing.print_systems(console, systems))


def fit(words: list[str]) -> Answer:
    """`linmap fit SYSTEM`."""
    slug, words = _subject("fit", "SYSTEM", words)
    recipe, command = recipes.load(slug), f"linmap fit {slug}"
    if not hasattr(recipe, "fit"):
        raise UsageError(f"{slug} has nothing to train; use `linmap apply {slug}`.")
    job = FitJob(out=Path("runs") / f"fit-{slug}")
    data = _value("--data", words)
    settings = recipe.settings_for("fit", data and Path(data)) if hasattr(recipe, "settings_for") else recipe.Settings
    purpose = inspect.getdoc(recipe.fit) or f"Train {slug} on your data."
    flags = parse(words, command, purpose, settings=settings, job=job)
    settings, job = flags["settings"], _checked(flags["job"])
    summary, seconds = _timed(lambda: recipe.fit(settings, job))
    document = _document("fit", slug, job.out, seconds, summary)

    def show(console: Console) -> None:
        printing.print_summary(console, f"{slug} is fitted", summary)
        printing.print_paths(console, folder=job.out)
        printing.print_next(console, f"linmap apply {shlex.quote(str(job.out))} --data FILE --out FILE")

    return Answer(document, show)


def apply(words: list[str]) -> Answer:
    """`linmap apply DIR|SYSTEM`."""
    target, words = _subject("apply", "DIR|SYSTEM", words)
    slug, artifact = _applied(target)
    recipe = recipes.load(slug)
    if artifact is None and hasattr(recipe, "fit"):
        run = f"runs/fit-{slug}"
        raise UsageError(f"{slug} is fitted first: `linmap fit {slug} --out {run}`, then `linmap apply {run}`.")
    if hasattr(recipe, "settings_for"):
        settings = recipe.settings_for("apply", artifact)
    else:
        settings = getattr(recipe, "ApplySettings", recipe.Settings)
    flags = parse(
        words,
        f"linmap apply {target}",
        f"Use {slug} on your data.",
        hidden=["artifact"],
        settings=settings,
        job=ApplyJob(artifact=artifact),
    )
    settings, job = flags["settings"], flags["job"]
    streams = getattr(recipe, "STANDARD_INPUT", False) and job.data == Path("-")
    if streams and job.out is None:
        return _streamed(lambda: recipe.apply(settings, job), slug, flags["output"].json)
    job = job if streams else _checked(job)
    summary, seconds = _timed(lambda: recipe.apply(settings, job))

    def show(console: Console) -> None:
        printing.print_summary(console, f"{slug} is applied", summary)
        if str(job.out) not in map(str, summary.values()):
            printing.print_paths(console, written=job.out)

    return Answer(_document("apply", slug, job.out, seconds, summary), show)


def _streamed(work: Callable[[], Any], slug: str, as_json: bool) -> Answer:
    """Answers that went to standard output one by one; the summary goes beside them."""
    if as_json:
        raise UsageError("--json and the answers to a stream both want standard output; give --out FILE.")
    start = time.perf_counter()
    summary = work()
    document = _document("apply", slug, None, time.perf_counter() - start, summary)
    screen = printing.stderr_console()
    return Answer(document, lambda _: printing.print_summary(screen, f"{slug} is applied", summary))


def compare(words: list[str]) -> Answer:
    """`linmap compare SYSTEM`."""
    slug, words = _subject("compare", "SYSTEM", words)
    recipe, command = recipes.load(slug), f"linmap compare {slug}"
    job = CompareJob(preset=_preset(words), out=Path("runs") / f"compare-{slug}")
    flags = parse(
        words,
        command,
        f"Compare {slug} with its baselines on the same data.",
        settings=recipe.PRESETS[job.preset],
        job=job,
    )
    job = _checked(flags["job"])
    result = _compare(recipe, slug, flags["settings"], job, shlex.join(["linmap", "compare", slug, *own(words)]))

    def show(console: Console) -> None:
        printing.print_comparison(console, result)
        printing.print_paths(console, folder=job.out)
        printing.print_next(console, f"linmap report {shlex.quote(str(job.out))}")

    from linmap.artifacts import plain

    return Answer({"verb": "compare", "system": slug, "out": str(job.out), "result": plain(result)}, show)


def index(words: list[str]) -> Answer:
    """`linmap index VECTORS`."""
    from linmap.recipes import search as recipe

    words = _named("--data", words)
    purpose = "Put vectors into a store or database, in the place of those with the same ids."
    flags = parse(words, "linmap index VECTORS", purpose, settings=recipe.IndexSettings)
    done, seconds = _timed(lambda: recipe.index(flags["settings"]))
    document = _document("index", "", None, seconds, done)
    return Answer(document, lambda console: printing.print_summary(console, "vectors stored", done))


def search(words: list[str]) -> Answer:
    """`linmap search INDEX`."""
    from linmap.recipes import search as recipe

    words = _named("--index", words)
    flags = parse(words, "linmap search INDEX", "Find what is nearest, and why.", settings=recipe.SearchSettings)
    found, seconds = _timed(lambda: recipe.search(flags["settings"]))
    document = _document("search", "mbat", None, seconds, found)
    return Answer(document, lambda console: printing.print_summary(console, "nearest records", found))


def _named(flag: str, words: list[str]) -> list[str]:
    """A first word that is no flag gets the one that it stands for."""
    return [flag, *words] if words and not words[0].startswith("-") else words


@dataclass(frozen=True)
class TourFlags:
    """`linmap tour`."""

    systems: tuple[str, ...] = ()
    """Only these; all that are ready when left out."""
    preset: Preset = "quick"
    """quick: minutes on two cores; full: the settings of the papers, as far as the data allow."""
    out: Path = Path("runs/tour")
    """Folder that receives a folder for each system, and report.html."""
    seed: int = 0
    """First seed; a comparison over several seeds counts up from it."""
    resume: bool = False
    """Keep the results in --out that have this preset and seed, and go on with the rest."""


def tour(words: list[str]) -> Answer:
    """`linmap tour`: every comparison one after another, then the report; a system that fails stops no other."""
    given = parse(words, "linmap tour", "Compare the systems and write the report.", flags=TourFlags)
    flags: TourFlags = _checked(given["flags"])
    slugs = _ready(flags.systems)
    screen = printing.stderr_console()
    outcomes = []
    for position, slug in enumerate(slugs, start=1):
        screen.rule(f"{slug} ({position} of {len(slugs)})", align="left", style="dim")
        outcomes.append(_tour_stop(slug, flags, screen, given["output"].debug))
        gc.collect()
    from linmap.artifacts import plain
    from linmap.recipes.result import Failure
    from linmap.report import write_report

    page = write_report(flags.out, flags.out / "report.html")
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]

    def show(console: Console) -> None:
        printing.print_tour(console, outcomes)
        for failure in failures:
            console.print(f"[red]failed[/] {failure.system}: {failure.error}", soft_wrap=True)
        printing.print_paths(console, report=page)

    systems = [{"status": "failed" if outcome in failures else "done"} | plain(outcome) for outcome in outcomes]
    document = {"verb": "tour", "out": str(flags.out), "report": str(page), "systems": systems}
    return Answer(document, show, FAILED if failures else DONE)


@dataclass(frozen=True)
class ReportFlags:
    """`linmap report`."""

    out: Path | None = None
    """The page to write; report.html inside RUNS when left out."""


def report(words: list[str]) -> Answer:
    """`linmap report RUNS`."""
    runs, words = _subject("report", "RUNS", words)
    flags = parse(words, f"linmap report {runs}", "One HTML page of every comparison in a folder.", flags=ReportFlags)
    if not Path(runs).is_dir():
        raise UsageError(f"{runs} is no folder; give the --out of a `linmap compare` or a `linmap tour`.")
    from linmap.report import gather, write_report

    systems = [outcome.system for _, outcome in gather(runs)]
    page = write_report(runs, flags["flags"].out or Path(runs) / "report.html")
    document = {"verb": "report", "report": str(page), "systems": systems}
    return Answer(document, lambda console: printing.print_paths(console, systems=", ".join(systems), report=page))


def bench(words: list[str]) -> Answer:
    """`linmap bench`: what follows goes to the benchmarks as it is."""
    places = (Path.cwd(), Path(__file__).parents[3])
    root = next((place for place in places if (place / "benchmarks" / "__main__.py").exists()), None)
    if root is None:
        raise UsageError("the benchmarks are not part of the installed package; run this in a checkout of linmap.")
    done = subprocess.run([sys.executable, "-m", "benchmarks", *own(words)], cwd=root, stdout=STDERR, check=False)
    results = root / "benchmarks" / "RESULTS.md"
    document = {"verb": "bench", "results": str(results), "code": done.returncode}
    show = printing.print_paths if done.returncode == 0 else lambda console, **_: None
    return Answer(document, lambda console: show(console, results=results), DONE if done.returncode == 0 else FAILED)


def _subject(verb: str, what: str, words: list[str]) -> tuple[str, list[str]]:
    """The word after the verb: a system or a folder."""
    if words and words[0] in ("-h", "--help"):
        ready = ", ".join(slug for slug, system in recipes.SYSTEMS.items() if system.ready)
        example = f"\n\nReady: {ready}." if "SYSTEM" in what else ""
        flags = "its flags" if verb == "report" else f"the flags of a system: `linmap {verb} SYSTEM --help`"
        print(f"usage: linmap {verb} {what} [flags]\n\nGive {what} first, then {flags}.{example}")
        raise HelpShown
    if not words or words[0].startswith("-"):
        raise UsageError(f"`linmap {verb}` needs {what} first: linmap {verb} {what} [flags].")
    return words[0], words[1:]


def _applied(target: str) -> tuple[str, Path | None]:
    """The system that `target` names or holds, and the folder if it is one."""
    folder = Path(target)
    if folder.exists():
        from linmap.artifacts import config_path, read_config

        if target not in recipes.SYSTEMS or config_path(folder).exists():
            return read_config(folder)["system"], folder
    if target not in recipes.SYSTEMS and folder.name != target:
        raise UsageError(f"{target}: there is no such folder; `linmap fit SYSTEM --out {target}` would write it.")
    return recipes.find(target).slug, None


def _preset(words: list[str]) -> Preset:
    """`--preset`, read ahead of all other flags, for it sets their defaults."""
    given = _value("--preset", words)
    return given if given in get_args(Preset) else "quick"  # pyright: ignore[reportReturnType]


def _value(flag: str, words: list[str]) -> str | None:
    """The value of a flag on which the other flags depend."""
    found = None
    for position, word in enumerate(words):
        if word.startswith(f"{flag}="):
            found = word.partition("=")[2]
        elif word == flag and position + 1 < len(words):
            found = words[position + 1]
    return found


def _checked(job: Any) -> Any:
    """The flags that every verb shares, refused before any work where they cannot be meant."""
    data, out = getattr(job, "data", None), getattr(job, "out", None)
    if data is not None and not data.exists():
        raise UsageError(f"--data {data}: there is no such file.")
    if out is not None and out.is_file() and not isinstance(job, ApplyJob):
        raise UsageError(f"--out {out} is a file; name a folder.")
    if job.seed < 0:
        raise UsageError(f"--seed {job.seed} is negative; give 0 or more.")
    return job


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The value of `work` and its seconds; whatever it prints goes to standard error, for the answer has stdout."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        value = work()
    return value, time.perf_counter() - start


def _document(verb: str, slug: str, out: Path | None, seconds: float, summary: Any) -> dict[str, Any]:
    from linmap.artifacts import plain

    return plain({"verb": verb, "system": slug, "out": out, "seconds": round(seconds, 3), "summary": summary})


def _compare(recipe: ModuleType, slug: str, settings: Any, job: CompareJob, command: str) -> Result:
    """Compare, complete the result with what only the caller knows, and save it."""
    from linmap.artifacts import plain
    from linmap.recipes.result import FAILURE

    result, seconds = _timed(lambda: recipe.compare(settings, job))
    runs = max((len(values) for row in result.rows for values in row.values.values()), default=1)
    result = replace(
        result,
        preset=job.preset,
        command=result.command or command,
        seconds=seconds if result.seconds is None else result.seconds,
        seeds=result.seeds or list(range(job.seed, job.seed + runs)),
        settings=result.settings or plain(settings),
    )
    result.save(job.out)
    (job.out / FAILURE).unlink(missing_ok=True)
    return result


def _ready(wanted: tuple[str, ...]) -> list[str]:
    """The systems of a tour, each ready; commas may part them as spaces do."""
    names = [name for group in wanted for name in group.split(",") if name]
    for name in names:
        if not recipes.find(name).ready:
            raise UsageError(f"{name} is planned, not built yet; `linmap list` shows what is ready.")
    return list(dict.fromkeys(names)) or [slug for slug, system in recipes.SYSTEMS.items() if system.ready]


def _tour_stop(slug: str, flags: TourFlags, screen: Console, debug: bool) -> Result | Failure:
    """One comparison of a tour: kept if it is there already, otherwise run, and recorded if it fails."""
    from linmap.recipes.result import Failure

    out = flags.out / slug
    if flags.resume and (done := _finished(out, flags)) is not None:
        screen.print("finished before, kept", style="dim")
        return done
    words = ["linmap", "compare", slug, "--preset", flags.preset, "--seed", str(flags.seed), "--out", str(out)]
    command, start = shlex.join(words), time.perf_counter()
    try:
        recipe = recipes.load(slug)
        job = CompareJob(preset=flags.preset, out=out, seed=flags.seed, resume=flags.resume)
        return _compare(recipe, slug, recipe.PRESETS[flags.preset], job, command)
    except Exception as error:
        if debug:
            traceback.print_exc()
        failure = Failure(slug, explain(error)[1], command, flags.preset, time.perf_counter() - start)
        screen.print(f"linmap: {slug}: {failure.error}", markup=False, soft_wrap=True)
        failure.save(out)
        return failure


def _finished(out: Path, flags: TourFlags) -> Result | None:
    """The result in `out` if it is whole and has the same preset and first seed."""
    from linmap.errors import ArtifactError
    from linmap.recipes.result import FAILURE, Result

    if (out / FAILURE).exists():
        return None
    try:
        result = Result.load(out)
    except ArtifactError:
        return None
    return result if (result.preset, result.seeds[:1]) == (flags.preset, [flags.seed]) else None
