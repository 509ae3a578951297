"""`python -m studies NAME [PROTOCOL ...]`: run a study and write its section of RESULTS."""

from __future__ import annotations

import argparse
import importlib
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from linmap.artifacts import machine, versions, write_text
from linmap.errors import LinmapError, Stopped
from linmap.locks import sole
from studies.results import merged, section
from studies.study import Job, Protocol

HERE = Path(__file__).parent
FINISHED = Path("runs/studies")
SEEDS = 3
NAMES = sorted(path.parent.name for path in HERE.glob("*/__init__.py"))


def main(words: list[str]) -> int:
    """Run protocols one after another; each finished one is written at once."""
    given = _parsed(words)
    protocols: list[Protocol] = importlib.import_module(f"studies.{given.name}").PROTOCOLS
    unknown = sorted(set(given.protocols) - {protocol.name for protocol in protocols})
    if unknown:
        known = ", ".join(protocol.name for protocol in protocols)
        print(f"studies: {given.name} has no protocol {', '.join(unknown)}; there are {known}.", file=sys.stderr)
        return 2
    command = shlex.join(["python", "-m", "studies", *words])
    results = given.results / f"{given.name}.md"
    for protocol in protocols:
        if given.protocols and protocol.name not in given.protocols:
            continue
        print(f"{given.name} {protocol.name}: {protocol.question}", file=sys.stderr)
        seeds = range(1 if given.tiny else given.seeds)
        job = Job(given.out / given.name / protocol.name, seeds, given.tiny, not given.again)
        try:
            with sole(job.out):
                findings = protocol.run(job)
        except Stopped as stop:
            print(f"studies: stopped; {stop.done}; go on with: {command}", file=sys.stderr)
            return 130
        except LinmapError as error:
            print(f"studies: {given.name} {protocol.name}: {error}", file=sys.stderr)
            if given.protocols:
                return 2
            continue
        made = f"{_now()}, `{_anywhere(given, protocol)}`, {_commit()}; {machine()}; {_versions()}"
        text = section(protocol, findings, made, FINISHED / given.name / protocol.name)
        with sole(results, wait=True):
            before = results.read_text(encoding="utf-8") if results.exists() else ""
            write_text(results, merged(before, given.name, {protocol.name: text}, [p.name for p in protocols]))
        print(f"written: {results}", file=sys.stderr)
    return 0


def _parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m studies", description="Run the protocols of the papers.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("protocols", nargs="*", help="all of the system when left out")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds of every method (default: {SEEDS})")
    parser.add_argument("--tiny", action="store_true", help="a few rows and one seed: whether it runs at all")
    parser.add_argument("--again", action="store_true", help="measure anew what is finished in --out")
    parser.add_argument("--out", type=Path, default=FINISHED, help=f"finished runs (default: {FINISHED})")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS", help="where the figures are written")
    return parser.parse_args(words)


def _anywhere(given: argparse.Namespace, protocol: Protocol) -> str:
    """The command that measures a protocol on anybody's machine: the figures do not depend on this one's folders."""
    seeds = "" if given.seeds == SEEDS else f" --seeds {given.seeds}"
    return f"python -m studies {given.name} {protocol.name}{seeds}{' --tiny' if given.tiny else ''}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=False)
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else "outside a checkout"


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
