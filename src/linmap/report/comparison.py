"""The table of a comparison as cells of text, for the terminal and the page alike."""

from __future__ import annotations

import re
from dataclasses import dataclass

from linmap.experiment.figures import differ, paired
from linmap.experiment.result import Metric, Result, Row, Table
from linmap.experiment.verdict import capitalized
from linmap.report.numbers import aligned, count, duration, mean_and_spread

KINDS = {"system": "this system", "baseline": "baseline", "ablation": "ablation", "reference": "reference"}
UNKNOWN = "chance unknown"
ARROWS = {"lower": "↓", "higher": "↑", "neither": ""}


@dataclass(frozen=True)
class Column:
    """A heading: the name, an arrow towards the better side, and the same in words."""

    name: str
    arrow: str = ""
    words: str = ""


@dataclass(frozen=True)
class Cell:
    """A value as text."""

    text: str
    best: bool = False
    certain: bool = False
    """Whether the best value is ahead of every other method's by more than chance."""
    exact: str = ""
    """The unrounded value where the text has a prefix."""


@dataclass(frozen=True)
class Line:
    """A method and its cells, one for each column."""

    name: str
    kind: str
    note: str
    cells: list[Cell]


@dataclass(frozen=True)
class Comparison:
    """All methods of a result: metrics first, then the columns of the budget that were measured."""

    columns: list[Column]
    lines: list[Line]

    @classmethod
    def of(cls, result: Result) -> Comparison:
        budgets = [name for name in ("parameters", "flops", "seconds") if any(_budget(r, name) for r in result.rows)]
        best = {metric.name: [id(row) for row in result.best(metric)] for metric in result.metrics}
        ahead = {metric.name: beyond_chance(result, metric) for metric in result.metrics}
        lines = [
            Line(
                row.name,
                row.kind,
                row.note,
                [_cell(row, m, id(row) in best[m.name], ahead[m.name]) for m in result.metrics]
                + [_budget(row, name) or Cell("—") for name in budgets],
            )
            for row in result.rows
        ]
        titles = {"parameters": "Parameters", "flops": "FLOPs", "seconds": "Time"}
        words = {"parameters": "trainable", "flops": "one prediction", "seconds": "one seed"}
        columns = [_column(metric) for metric in result.metrics]
        return cls(columns + [Column(titles[name], words=words[name]) for name in budgets], lines)

    def chosen(self, most: int) -> list[Line]:
        """Without ablations, and of many lines the systems and what is best in a column before the others."""
        lines = [line for line in self.lines if line.kind != "ablation"]
        telling = sorted(lines, key=lambda line: (line.kind != "system", not any(cell.best for cell in line.cells)))
        return [line for line in lines if any(line is kept for kept in telling[:most])]


def _cell(row: Row, metric: Metric, best: bool, ahead: bool) -> Cell:
    return Cell(mean_and_spread(row, metric), best, best and ahead)


def beyond_chance(result: Result, metric: Metric) -> bool:
    """Whether one method has the best value and the interval of its difference to every other leaves zero out.

    Without intervals (one run, unequal numbers of runs) nothing tells, which is no. References are left out, for they
    win nothing.
    """
    best = result.best(metric)
    others = [row for row in result.rows if row.kind != "reference" and row.values.get(metric.name)]
    if len(best) != 1 or len(others) < 2:
        return False
    ours = result.paired_values(best[0], metric)
    theirs = [result.paired_values(row, metric) for row in others if row is not best[0]]
    return all(differ(ours, values, result.overlap) for values in theirs)


def _column(metric: Metric) -> Column:
    name = f"{metric.name} ({metric.unit})" if metric.unit else metric.name
    return Column(name, ARROWS[metric.better], "" if metric.better == "neither" else f"{metric.better} is better")


def _budget(row: Row, name: str) -> Cell | None:
    value = getattr(row, name)
    if value is None:
        return None
    if name == "seconds":
        return Cell(duration(value), exact=f"{value:.6g} s")
    return Cell(count(value), exact=f"{value:,}")


@dataclass(frozen=True)
class Further:
    """A further table as text; rows that are too short end in dashes."""

    title: str
    columns: list[str]
    figures: list[bool]
    """Whether a column holds numbers; the first one names its row."""
    rows: list[list[str]]
    note: str

    @classmethod
    def of(cls, table: Table) -> Further:
        width = max([len(table.columns), *map(len, table.rows)])
        values = [[row[i] if i < len(row) else None for row in table.rows] for i in range(width)]
        figures = [
            i > 0 and bool(cells) and not any(isinstance(v, str) for v in cells) for i, cells in enumerate(values)
        ]
        rows = [list(row) for row in zip(*map(aligned, values), strict=True)]
        columns = table.columns + [""] * (width - len(table.columns))
        return cls(table.title, columns, figures, rows, table.note)


@dataclass(frozen=True)
class Summary:
    """A result in one line: its headline figure beside the best baseline's, and the checks."""

    metric: Column
    system: str
    baseline: str
    baseline_name: str
    difference: str
    ahead: bool | None
    """Whether the system is on the better side of the best baseline; None where they tie, the difference is within
    chance, or there is no baseline."""
    certainty: str
    """How sure the difference is, in words."""
    passed: int
    checks: int
    sure: bool = True
    """Whether no check is a matter of chance."""

    @property
    def checks_colour(self) -> str:
        """As `colour`, of the checks together."""
        return ("good" if self.passed == self.checks else "bad") if self.sure else ""

    @property
    def colour(self) -> str:
        """ "good" or "bad" for what is more than chance; "" where it is not, or where nothing tells."""
        return "" if self.ahead is None or self.certainty.endswith(UNKNOWN) else "good" if self.ahead else "bad"

    @classmethod
    def of(cls, result: Result) -> Summary:
        passed, checks = sum(check.passed for check in result.checks), len(result.checks)
        told = [check for check in result.checks if not check.passed] or result.checks
        counted = passed, checks, any(c.certain for c in told) if passed < checks else all(c.certain for c in told)
        headline = result.headline()
        if headline is None:
            return cls(Column(""), "—", "—", "", "", None, "", *counted)
        metric, system, baseline = headline
        here = mean_and_spread(system, metric)
        if baseline is None:
            return cls(_column(metric), here, "—", "", "", None, "", *counted)
        gap = system.mean(metric.name) - baseline.mean(metric.name)
        ahead = None if gap == 0 else (gap < 0) == (metric.better == "lower")
        there = mean_and_spread(baseline, metric)
        difference = _difference(gap, baseline.mean(metric.name))
        ours, theirs = (result.paired_values(row, metric) for row in (system, baseline))
        sure, certainty = _certainty(ours, theirs, result.overlap, result.over)
        ahead = ahead if sure else None
        return cls(_column(metric), here, there, baseline.name, difference, ahead, certainty, *counted)


@dataclass(frozen=True)
class Statement:
    """A sentence of a verdict without its figures, and the figures."""

    lead: str
    figures: str


def statements(verdict: str) -> list[Statement]:
    """What to take, sentence by sentence; the figures stand in parentheses there."""
    return [_statement(text) for text in re.split(r"(?<=\.) (?=[A-Z])", verdict) if text]


def _statement(text: str) -> Statement:
    groups = [group for group in _parentheses(text) if " against " in group or "interval" in group]
    for group in groups:
        text = text.replace(f" ({group})", "")
    return Statement(text, " ".join(f"{capitalized(group)}." for group in groups))


def _parentheses(text: str) -> list[str]:
    """What stands in the outermost parentheses."""
    found, start, depth = [], 0, 0
    for place, letter in enumerate(text):
        if letter == "(":
            start, depth = (place + 1, 1) if depth == 0 else (start, depth + 1)
        elif letter == ")" and depth:
            depth -= 1
            if depth == 0:
                found.append(text[start:place])
    return found


def _certainty(system: list[float], baseline: list[float], overlap: float, over: str) -> tuple[bool, str]:
    """Whether two means differ by more than chance, as `paired` says, and the words for it.

    Without pairs (one run, or unequal numbers of runs) nothing tells of chance: the difference stands, with a word of
    warning.
    """
    if len(system) != len(baseline):
        return True, f"{len(system)} {over} against {len(baseline)}; {UNKNOWN}"
    if len(system) < 2:
        return True, f"one run; {UNKNOWN}"
    gap = paired(system, baseline, overlap)
    if gap.low == gap.high:
        return True, f"the same in all {gap.n} {over}"
    return gap.certain, f"{'beyond' if gap.certain else 'within'} chance in {gap.n} {over}"


def _difference(gap: float, reference: float) -> str:
    """The gap relative to the reference, in words."""
    if gap == 0:
        return "the same"
    if reference == 0:
        return "lower" if gap < 0 else "higher"
    ratio = (reference + gap) / reference
    if ratio >= 2:
        return f"{ratio:.3g} times"
    return f"{abs(gap / reference):.1%} {'lower' if gap < 0 else 'higher'}".replace("%", " %")
