"""What people see: compact tables, where the files are, and what to try next."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from linmap.cli.program import program
from linmap.recipes import System

if TYPE_CHECKING:
    from linmap.experiment.result import Failure, Result
    from linmap.report.comparison import Cell

SENTENCE = 40
"""Characters from which on an item of a list has a line of its own."""
PIPE_WIDTH = 160
"""A file or a pipe has no width: wide enough for every table that a terminal would show in full."""


class Answers(Console):
    """Standard output: when its reader has gone, the command line decides what that means, not rich."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def stdout_console() -> Console:
    return Answers(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr_console() -> Console:
    return Console(stderr=True, highlight=False)


def _table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if i in set(right) else "left", overflow="fold")
    return table


def print_systems(console: Console, systems: Iterable[System]) -> None:
    """The catalogue, room by room."""
    table, room = _table("room", "system", "state", "what it does"), ""
    for system in systems:
        state = "[green]ready[/]" if system.ready else "[dim]planned[/]"
        table.add_row("" if system.room == room else system.room, system.slug, state, escape(system.purpose))
        room = system.room
    console.print(table)
    print_next(console, f"{program()} compare SYSTEM", f"{program()} tour")


def print_summary(console: Console, title: str, summary: Mapping[str, Any]) -> None:
    """The small dictionary that `fit`, `apply` and `search` return; what is nested is indented."""
    console.print(f"[bold]{escape(title)}[/]")
    _print_mapping(console, summary, indent=2)


def _print_mapping(console: Console, summary: Mapping[str, Any], indent: int) -> None:
    from linmap.report.numbers import any_value

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    nested = {name: value for name, value in summary.items() if isinstance(value, Mapping) or _is_records(value)}
    for name, value in summary.items():
        if name not in nested:
            table.add_row(
                escape(_words(name)), escape(_listed(value) if isinstance(value, list | tuple) else any_value(value))
            )
    console.print(Padding(table, (0, 0, 0, indent), expand=False))
    for name, value in nested.items():
        console.print(Padding(escape(_words(name)), (0, 0, 0, indent), expand=False), style="dim")
        if isinstance(value, Mapping):
            _print_mapping(console, value, indent + 2)
        else:
            _print_records(console, value, indent + 2)


def _listed(values: Sequence[Any]) -> str:
    """Words and figures in a row, sentences one a line."""
    from linmap.report.numbers import any_value

    texts = [any_value(value) for value in values]
    return ("\n" if any(len(text) > SENTENCE for text in texts) else ", ").join(texts)


def _is_records(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _print_records(console: Console, records: Sequence[Mapping[str, Any]], indent: int) -> None:
    """Flat records as one table; records that hold records one after another."""
    from linmap.report.numbers import aligned

    if any(isinstance(value, Mapping | list | tuple) for record in records for value in record.values()):
        for record in records:
            _print_mapping(console, record, indent)
            console.print()
        return
    columns = list(dict.fromkeys(name for record in records for name in record))
    table = _table(*map(_words, columns))
    for row in zip(*(aligned([record.get(name) for record in records]) for name in columns), strict=True):
        table.add_row(*map(escape, row))
    console.print(Padding(table, (0, 0, 0, indent), expand=False))


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _marked(text: str, cell: Cell) -> str:
    """Bold where it is the best value, and green where that is more than chance."""
    return f"[{'bold green' if cell.certain else 'bold'}]{text}[/]" if cell.best else text


def print_comparison(console: Console, result: Result) -> None:
    """The table of methods, the verdict, the checks, and what they show."""
    from linmap.report.comparison import Comparison

    comparison = Comparison.of(result)
    headings = [f"{column.name} {column.arrow}".strip() for column in comparison.columns]
    table = _table("method", *headings, right=range(1, len(headings) + 1))
    for line in comparison.lines:
        cells = [_marked(escape(cell.text), cell) for cell in line.cells]
        name = escape(line.name)
        style = {"system": f"[bold]{name}[/]", "ablation": f"[dim]  {name}[/]"}.get(line.kind, name)
        table.add_row(style, *cells)
    console.print(escape(result.task), style="dim")
    console.print()
    console.print(table)
    console.print()
    if result.verdict:
        console.print(f"[bold]{escape(result.verdict)}[/]\n")
    for check in result.checks:
        mark, colour = ("✓", "green") if check.passed else ("✗", "red")
        mark = f"[{colour if check.certain else 'dim'}]{mark}[/]"
        so = "" if check.passed or not check.otherwise else f"\n  So: {escape(check.otherwise)}."
        so = so if check.certain else " (within chance)"  # and nothing follows from it
        console.print(f"{mark} {escape(check.statement)} [dim]{escape(check.figures)}[/]{so}")
    console.print(f"\n[bold]Shows[/]  {escape(result.shows)}\n[bold]Limits[/] {escape(result.limits)}")


def print_tour(console: Console, outcomes: Iterable[Result | Failure]) -> None:
    """One line for each system, and the verdicts below."""
    from linmap.experiment.result import Failure
    from linmap.report.comparison import Summary
    from linmap.report.numbers import duration

    table = _table("system", "measured by", "result", "best baseline", "difference", "checks", "time")
    outcomes = list(outcomes)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            table.add_row(escape(outcome.system), "[red]failed[/]", "", "", "", "", duration(outcome.seconds))
            continue
        line = Summary.of(outcome)
        colour = {"good": "green", "bad": "red", "": "dim"}[line.colour]
        table.add_row(
            escape(outcome.system),
            escape(f"{line.metric.name} {line.metric.arrow}".strip()),
            escape(line.system),
            escape(f"{line.baseline} {line.baseline_name}".strip()),
            f"[{colour}]{escape(line.difference)}[/]"
            + (f" [dim]({escape(line.certainty)})[/]" if line.certainty else ""),
            f"{line.passed} of {line.checks}" if line.checks else "",
            duration(outcome.seconds),
        )
    console.print(table)
    for outcome in outcomes:
        if not isinstance(outcome, Failure) and outcome.verdict:
            console.print(f"\n[bold]{escape(outcome.system)}[/] {escape(outcome.verdict)}")


def print_paths(console: Console, **paths: Path | str | None) -> None:
    """Where the files are, one to a line that can be copied whole."""
    console.print()
    for name, path in paths.items():
        if path is not None:
            console.print(f"[dim]{name}[/] {escape(str(path))}", soft_wrap=True)


def print_next(console: Console, *commands: str) -> None:
    """The commands that a reader would try now."""
    console.print(f"\n[dim]next[/] {escape(commands[0])}", soft_wrap=True)
    for command in commands[1:]:
        console.print(f"     {escape(command)}", soft_wrap=True)
