"""What the tests of several recipes check in the same way."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from linmap.cli import main
from linmap.experiment import conclusion, drawing
from linmap.experiment.result import Picture, Result
from linmap.report.comparison import Further

DRAW_ALL = drawing.draw_all
NUMBER = re.compile(r"[+−-]?[\d,]+(?:\.(\d+))?(?: ± .*| \(.* to .*\))?")


@pytest.fixture
def check_wrong_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path, list[str], str], None]:
    """Run a command in a folder: exit code 2, one line that holds `message`, and no file that was not there."""

    def check(folder: Path, command: list[str], message: str) -> None:
        monkeypatch.chdir(folder)
        before = sorted(folder.rglob("*"))
        assert main(command if "--out" in command else [*command, "--out", "run"]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert printed.out == ""
        assert sorted(folder.rglob("*")) == before

    return check


@pytest.fixture(scope="session", autouse=True)
def _one_look() -> Iterator[None]:
    """A law of every comparison that a test runs: a name has one colour in all of its pictures, and a column of a table
    has one precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "draw_all", drawn_in_one_look)
        patch.setattr(conclusion, "with_pictures", with_one_look)
        yield


def drawn_in_one_look(drawings: Iterable[drawing.Drawing]) -> tuple[list[Picture], list[str]]:
    """As `draw_all`, looking at what is drawn."""
    from matplotlib.figure import Figure

    found: dict[str, set[str]] = {}

    def looked_at(figure: Figure, *args: Any, save: Callable[..., None] = Figure.savefig, **options: Any) -> None:
        for axes in figure.axes:
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
                found.setdefault(name, set()).add(colour_of(handle))
        save(figure, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", looked_at)
        drawn = DRAW_ALL(drawings)
    assert [name for name, colours in found.items() if len(colours) > 1] == []
    return drawn


def colour_of(handle: Any) -> str:
    """Of a line, of a collection or of bars."""
    from matplotlib.colors import to_hex

    first = handle.patches[0] if hasattr(handle, "patches") else handle
    return to_hex(first.get_color() if hasattr(first, "get_color") else first.get_facecolor())


def with_one_look(result: Result, drawings: Iterable[drawing.Drawing]) -> Result:
    """As `with_pictures`, looking at the tables."""
    for table in map(Further.of, result.tables):
        for name, *cells in zip(table.columns[1:], *(row[1:] for row in table.rows), strict=True):
            found = [match for cell in cells if (match := NUMBER.fullmatch(cell))]
            given = "rate" in name  # a setting, as it was given
            assert given or len({len(match[1] or "") for match in found}) < 2, f"{table.title}, {name}: {cells}"
    return drawing.with_pictures(result, drawings)
