"""What the tests of several recipes check in the same way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from linmap.cli import main


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
