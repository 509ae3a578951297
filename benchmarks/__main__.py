"""`python -m benchmarks [NAME ...]`: run benchmarks/bench_NAME.py (all without a name) and write RESULTS.md."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from benchmarks.measure import Measurement, machine

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
HEAD = """# Benchmarks

Written by `make bench` (`python -m benchmarks [NAME ...]` for one section). Each row times linmap and its peer in
turns in one process and compares medians; "ratio" is the peer's time over linmap's (above 1: linmap is faster);
"memory" is the most that one forward holds at once beyond its input.
"""
COLUMNS = ("what", "linmap", "peer", "peer's time", "ratio", "bar", "met", "memory", "note")


def main(names: list[str]) -> int:
    available = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = sorted(set(names) - set(available))
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; there are: {', '.join(available)}", file=sys.stderr)
        return 2
    sections = read_sections(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or available:
        print(f"bench {name} ...", file=sys.stderr)
        module = importlib.import_module(f"benchmarks.bench_{name}")
        sections[name] = section(module.__doc__ or "", module.run())
        print(sections[name])
        body = "".join(f"\n## {key}\n\n{sections[key]}" for key in sorted(sections) if key in available)
        RESULTS.write_text(HEAD + body)
    return 0


def read_sections(text: str) -> dict[str, str]:
    """The sections of RESULTS.md by name, without their headings."""
    parts = re.split(r"^## (\w+)\n\n", text, flags=re.MULTILINE)
    return {name: body.rstrip("\n") + "\n" for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def section(title: str, measurements: list[Measurement]) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(row, measurements)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    return f"{title.strip()}\n\n{machine()}\n\n{table}\n"


def row(m: Measurement) -> tuple[str, ...]:
    rate = f" ({m.rate:,.0f} {m.unit}/s)" if m.unit else ""
    bar = f"≥ {m.bar:g}x" if m.bar is not None else ""
    if m.least_rate is not None:
        bar = f"≥ {m.least_rate:,.0f} {m.unit}/s"
    return (
        m.what,
        duration(m.seconds) + rate,
        m.peer,
        "" if m.peer_seconds is None else duration(m.peer_seconds),
        "" if m.ratio is None else f"{m.ratio:.2f}x",
        bar,
        {True: "yes", False: "**no**", None: ""}[m.met],
        "" if m.memory is None else size(m.memory),
        m.note,
    )


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.3g} MiB"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
