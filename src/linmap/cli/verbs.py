"""The verbs: each reads its flags, does its work, and answers for people and for machines."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from linmap import ownership, recipes
from linmap.cli import printing
from linmap.cli.completion import SCRIPTS, START, script
from linmap.cli.errors import DONE, FAILED, nearest
from linmap.cli.flags import HelpShown, own, parse
from linmap.cli.program import command
from linmap.data.door import refuse_special
from linmap.errors import UsageError, shell_line, word
from linmap.locks import sole
from linmap.recipes.job import ApplyJob, CompareJob, FitJob, FittedJob
from linmap.recipes.packages import missing, remedy
from linmap.recipes.recipe import Recipe, Verb

if TYPE_CHECKING:
    from linmap.experiment.result import Result


WRITTEN = (
    "config.json",
    "model.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "linmap.json",
    "result.json",
)
"""What commands write into their folder under names that are common elsewhere: asked for before any work."""
TABLES = (".csv", ".jsonl", ".npy", ".npz", ".parquet")
"""How the name of one file of answers ends."""
BENCH_HELP = """\
usage: linmap bench [NAME ...]

Run the benchmarks of a checkout (benchmarks/bench_NAME.py; all of them without a NAME) and write
benchmarks/RESULTS.md."""
COMPLETION_HELP = "\n".join(
    ["usage: linmap completion bash|zsh|fish", "", "Print what completes verbs, systems and flags in a shell:"]
    + [f"  {shell:<6}{start}" for shell, start in START.items()]
)
STDERR = 2
"""The file descriptor: what a benchmark prints goes beside the answer."""


class Answer(NamedTuple):
    """What a verb found: a JSON document, a way to show it to people, and the exit code."""

    document: dict[str, Any]
    show: Callable[[Console], None]
    code: int = DONE


def list_systems(words: list[str]) -> Answer:
    """`linmap list`."""
    parse(words, "linmap list", "List the 17 systems by room, and which are ready.")
    systems = list(recipes.SYSTEMS.values())
    document = {"systems": [asdict(system) | {"ready": system.ready, "paper": system.paper} for system in systems]}
    return Answer(document, lambda console: printing.print_systems(console, systems))


def fit(words: list[str]) -> Answer:
    """`linmap fit SYSTEM`."""
    slug, words = _subject("fit", "SYSTEM", words)
    recipe = recipes.load(slug)
    if (verb := recipe.fit) is None:
        raise UsageError(f"{slug} has nothing to train; use `linmap apply {slug}`.")
    job = FitJob(out=Path("runs") / f"fit-{slug}")
    flags = _flags(recipe, verb, f"fit {slug}", words, _data(words), job)
    settings, job = flags["settings"], checked(flags["job"])
    recipes.require(slug, verb.needs)
    with ownership.owner(f"fit {slug}", flags["writing"].overwrite, job.out), sole(job.out):
        _own_folder(job.out, slug, job.resume)
        with ownership.filling(job.out):
            summary, seconds = _timed(lambda: verb(settings, job))
    document = _document("fit", slug, job.out, seconds, summary)

    def show(console: Console) -> None:
        printing.print_summary(console, f"{slug} is fitted", summary)
        printing.print_paths(console, folder=job.out)
        rest = "--data FILE --out FILE" if not recipe.apply.no_data else "--out FOLDER"
        printing.print_next(console, f"{command('apply', job.out)} {rest}")

    return Answer(document, show)


def apply(words: list[str]) -> Answer:
    """`linmap apply DIR|SYSTEM`."""
    target, words = _subject("apply", "DIR|SYSTEM", words)
    slug, artifact = _applied(target)
    recipe = recipes.load(slug)
    bare = recipe.unfitted if artifact is None else None
    verb, fitted_first = bare or recipe.apply, artifact is None and recipe.fit is not None and bare is None
    if fitted_first and not {"-h", "--help"} & set(words):
        run = f"runs/fit-{slug}"
        raise UsageError(f"{slug} must be fitted first: `linmap fit {slug} --out {run}`, then `linmap apply {run}`.")
    note = f"Fit it first, then give the --out of `linmap fit {slug}` instead of {target}." if fitted_first else ""
    job = ApplyJob() if recipe.fit is None or bare else FittedJob(artifact=artifact or Path(target))
    flags = _flags(recipe, verb, f"apply {target}", words, _data(words) if bare else artifact, job, note)
    settings, job = flags["settings"], flags["job"]
    recipes.require(slug, verb.needs)
    streams = verb.standard_input and job.data == Path("-")
    with ownership.owner(f"apply {slug}", flags["writing"].overwrite, job.out), sole(job.out):
        if streams and job.out is None:
            return _streamed(lambda: verb(settings, job), slug, flags["output"].json)
        job = job if streams else checked(job)
        if job.out is not None and not job.out.is_dir() and not streams:
            ownership.claim(job.out)
        summary, seconds = _timed(lambda: verb(settings, job))
        if job.out is not None and job.out.exists():
            ownership.record(job.out)

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
    recipe = recipes.load(slug)
    verb, job = recipe.compare, CompareJob(out=Path("runs") / f"compare-{slug}")
    flags = _flags(recipe, verb, f"compare {slug}", words, _data(words), job)
    job = checked(flags["job"])
    recipes.require(slug, verb.needs if job.data else recipe.example_needs)
    line = shell_line(["linmap", "compare", slug, *own(words)])
    with ownership.owner(f"compare {slug}", flags["writing"].overwrite, job.out), sole(job.out):
        _own_folder(job.out, slug, job.resume)
        with ownership.filling(job.out):
            result = run_comparison(verb, flags["settings"], job, line)

    def show(console: Console) -> None:
        printing.print_comparison(console, result)
        printing.print_paths(console, folder=job.out)
        printing.print_next(console, command("report", job.out))

    from linmap.artifacts import plain

    return Answer({"verb": "compare", "system": slug, "out": str(job.out), "result": plain(result)}, show)


def index(words: list[str]) -> Answer:
    """`linmap index VECTORS`."""
    from linmap.recipes import search as recipe

    words = _named("--data", words)
    purpose = "Put vectors into a store or database; those with the same ids are replaced."
    flags = parse(words, "linmap index VECTORS", purpose, settings=recipe.IndexSettings)
    done, seconds = _timed(lambda: recipe.index(flags["settings"]))
    document = _document("index", "", None, seconds, done)
    return Answer(document, lambda console: printing.print_summary(console, "vectors stored", done))


def search(words: list[str]) -> Answer:
    """`linmap search INDEX`."""
    from linmap.recipes import search as recipe

    words = _named("--index", words)
    purpose = "Find the nearest records, and why they match."
    flags = parse(words, "linmap search INDEX", purpose, settings=recipe.SearchSettings)
    found, seconds = _timed(lambda: recipe.search(flags["settings"]))
    document = _document("search", "mbat", None, seconds, found)
    return Answer(document, lambda console: printing.print_summary(console, "nearest records", found))


def _named(flag: str, words: list[str]) -> list[str]:
    """A first word that is no flag gets the one that it stands for."""
    return [flag, *words] if words and not words[0].startswith("-") else words


@dataclass(frozen=True)
class Writing:
    """Of every verb that writes files."""

    overwrite: bool = False
    """Replace files at --out that this command did not write."""


@dataclass(frozen=True)
class ReportFlags:
    """The result."""

    out: Path | None = None
    """The page to write; report.html in RUNS when left out."""


def report(words: list[str]) -> Answer:
    """`linmap report RUNS`."""
    purpose = "Write one HTML page about every comparison in a folder."
    if words[:1] in (["-h"], ["--help"]):
        parse(words, "linmap report RUNS", purpose, flags=ReportFlags, writing=Writing)
    runs, words = _subject("report", "RUNS", words)
    flags = parse(words, f"linmap report {word(runs)}", purpose, flags=ReportFlags, writing=Writing)
    if not Path(runs).is_dir():
        raise UsageError(f"{runs} is not a folder; give the --out of `linmap compare` or `linmap tour`.")
    from linmap.experiment.result import Failure
    from linmap.report import gather, is_report, write_report

    outcomes = gather(runs)
    systems = [outcome.system for _, outcome in outcomes]
    failed = [str(folder) for folder, outcome in outcomes if isinstance(outcome, Failure)]
    out = flags["flags"].out or Path(runs) / "report.html"
    with ownership.owner("report", flags["writing"].overwrite, out), sole(out):
        if is_report(out):
            ownership.record(out)
        page = write_report(runs, out)
    document = {"verb": "report", "report": str(page), "systems": systems, "failed": failed}
    told = f"{', '.join(failed)} (the page says why)" if failed else None
    show = {"systems": ", ".join(systems), "failed": told, "report": page, "open": page.absolute().as_uri()}
    return Answer(document, lambda console: printing.print_paths(console, **show))


@dataclass(frozen=True)
class AppFlags:
    """Where, and with what."""

    runs: Path = Path("runs/app")
    """Folder for what is run; what earlier sessions ran is shown again."""
    models: Path | None = None
    """Folder whose model folders may be chosen in forms; only models by name when left out."""
    port: int = 7860
    """Where to listen on 127.0.0.1; no other machine can ask."""
    megabytes: int = 200
    """Largest upload."""
    at_once: int = 1
    """Commands that run at the same time; others wait."""


def app(words: list[str]) -> Answer:
    """`linmap app`: until it is interrupted."""
    purpose = "Every system in a browser, on this machine alone, at http://127.0.0.1:PORT. Ctrl-C ends it."
    flags = parse(words, "linmap app", purpose, flags=AppFlags)["flags"]
    if flags.models is not None and not flags.models.is_dir():
        raise UsageError(f"--models {flags.models}: there is no such folder.")
    if not 0 < flags.port < 2**16 or flags.megabytes < 1 or flags.at_once < 1:
        raise UsageError("--port is 1 to 65535, --megabytes and --at-once are at least 1.")
    from linmap.app import serve

    serve(flags.runs, flags.models, flags.port, flags.megabytes, flags.at_once)
    document = {"verb": "app", "runs": str(flags.runs)}
    return Answer(document, lambda console: printing.print_paths(console, runs=flags.runs))


def completion(words: list[str]) -> Answer:
    """`linmap completion SHELL`."""
    if words[:1] in (["-h"], ["--help"]):
        print(COMPLETION_HELP)
        raise HelpShown
    if (found := script(words)) is None:
        raise UsageError(f"`linmap completion` needs a shell: {', '.join(SCRIPTS)}.")
    shell, text = found
    return Answer({"verb": "completion", "shell": shell, "script": text}, lambda console: console.out(text, end=""))


def bench(words: list[str]) -> Answer:
    """`linmap bench`: what follows goes to the benchmarks as it is."""
    if {"-h", "--help"} & set(words):
        print(BENCH_HELP)
        raise HelpShown
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
        fits = {"fit": "Systems to fit", "apply": "Systems that need no fitting", "compare": "Systems"}[verb]
        slugs = ", ".join(slug for slug, system in recipes.SYSTEMS.items() if system.ready and system.takes(verb))
        print(
            f"usage: linmap {verb} {what} [flags]\n\nEach system has flags of its own: "
            f"`linmap {verb} SYSTEM --help`.\n\n{fits}: {slugs}."
        )
        raise HelpShown
    if not words or words[0].startswith("-"):
        raise UsageError(f"`linmap {verb}` needs {what}: linmap {verb} {what} [flags].")
    return words[0], words[1:]


def _applied(target: str) -> tuple[str, Path | None]:
    """The system that `target` names or holds, and the folder if it is one."""
    folder = Path(target)
    if folder.exists():
        from linmap.artifacts import config_path, read_config

        if target not in recipes.SYSTEMS or config_path(folder).exists():
            return read_config(folder)["system"], folder
    if target in recipes.SYSTEMS:
        return target, None
    meant = nearest(target, recipes.SYSTEMS, f"linmap fit SYSTEM --out {word(folder)}").replace(
        "lists them", "would write it"
    )
    raise UsageError(f"{target} is neither a folder nor a system; {meant}")


def _data(words: list[str]) -> Path | None:
    """`--data`, read ahead of all other flags, for some systems have other flags for other files."""
    given = _value("--data", words)
    return Path(given) if given else None


def _value(flag: str, words: list[str]) -> str | None:
    """The value of a flag on which the other flags depend."""
    found = None
    for position, given in enumerate(words):
        if given.startswith(f"{flag}="):
            found = given.partition("=")[2]
        elif given == flag and position + 1 < len(words):
            found = words[position + 1]
    return found


def checked(job: Any) -> Any:
    """The flags that every verb shares, refused before any work where they cannot be meant."""
    data, out = getattr(job, "data", None), getattr(job, "out", None)
    if data is not None and not data.exists():
        raise UsageError(f"--data {data}: there is no such file.")
    if data is not None:
        refuse_special(data)
    if out is not None and out.is_file() and not isinstance(job, ApplyJob):
        raise UsageError(f"--out {out} is a file; name a folder.")
    if out is not None and out.is_dir() and isinstance(job, ApplyJob) and out.suffix in TABLES:
        raise UsageError(f"--out {out} is a folder; name a file.")
    if data is not None and out is not None and ownership.real(data) == ownership.real(out):
        raise UsageError(f"--out {out} is the input file; choose another.")
    if out is not None and out.suffix == ".parquet" and missing(["pyarrow"]):
        raise UsageError(
            f"--out {out}: Parquet files need pyarrow: {remedy(['pyarrow'], 'retrieve')}; or give another ending."
        )
    if out is not None:
        ownership.check_place(out)
    if job.seed < 0:
        raise UsageError(f"--seed {job.seed} is negative; give 0 or more.")
    return job


def _flags(
    recipe: Recipe, verb: Verb, command: str, words: list[str], path: Path | None, job: Any, note: str = ""
) -> Mapping[str, Any]:
    """The flags of a verb that meets a system, where `path` is the file or the artifact that they may depend on."""
    if verb.no_data and (given := _data(words)) is not None:
        raise UsageError(f"--data {given}: {verb.no_data}; leave it out.")
    never = {"artifact"} | ({"data"} if verb.no_data else set()) | (set() if verb.resumes else {"resume"})
    hidden = never & {field.name for field in fields(job)}
    flag_of = {**recipe.flag_of, "random_state": "seed"}
    purpose, settings = "\n\n".join(filter(None, [verb.purpose(), note])), verb.settings(path)
    return parse(words, f"linmap {command}", purpose, hidden, flag_of, settings=settings, job=job, writing=Writing)


def _own_folder(out: Path, slug: str, resume: bool) -> None:
    """Ask for the folder that a command fills; one that the same command has filled, here or elsewhere, is its own."""
    if out.exists() and (resume or _filled_by(out, slug)):
        ownership.record(out)
    for name in WRITTEN:
        ownership.claim(out / name)


def _filled_by(out: Path, slug: str) -> bool:
    """Whether a folder says itself that it holds a run or a result of this system."""
    from linmap.artifacts import SHARED
    from linmap.data.door import load_json

    for name in (SHARED, "config.json", "result.json", "failure.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if load_json(out / name).get("system") == slug:
                return True
    return False


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The value of `work` and its seconds; whatever it prints goes to standard error, for the answer has stdout."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        value = work()
    return value, time.perf_counter() - start


def _document(verb: str, slug: str, out: Path | None, seconds: float, summary: Any) -> dict[str, Any]:
    from linmap.artifacts import plain

    return plain({"verb": verb, "system": slug, "out": out, "seconds": round(seconds, 3), "summary": summary})


def run_comparison(verb: Verb, settings: Any, job: CompareJob, command: str) -> Result:
    """Compare, complete the result with what only the caller knows, and save it."""
    from linmap.artifacts import plain
    from linmap.experiment.result import FAILURE

    result, seconds = _timed(lambda: verb(settings, job))
    runs = max((len(values) for row in result.rows for values in row.values.values()), default=1)
    result = replace(
        result,
        command=result.command or command,
        seconds=seconds if result.seconds is None else result.seconds,
        seeds=result.seeds or list(range(job.seed, job.seed + runs)),
        settings=result.settings or plain(settings),
    )
    result.save(job.out)
    (job.out / FAILURE).unlink(missing_ok=True)
    return result
