"""A second command on one --out is refused in one line that says who owns it, whatever its verb."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from linmap import cli
from linmap.cli import main
from linmap.locks import sole
from linmap.ownership import owner
from linmap.processes import ENDS_WITH


@contextmanager
def owned_by_another(path: Path) -> Iterator[None]:
    """As by another process: a thread holds it."""
    has, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with owner("fit hippo"), sole(path):
            has.set()
            ended.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert has.wait(60)
    yield
    ended.set()
    thread.join()


VERBS = ["fit bt2 --data pairs.npz", "compare bt2 --data pairs.npz", "apply mbat --data records.jsonl", "tour bt2"]


@pytest.mark.parametrize("words", VERBS)
def test_the_second_on_one_out_is_refused(words: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("pairs.npz", old=np.ones((4, 3)), new=np.ones((4, 3)))
    Path("records.jsonl").write_text('{"a": 1}\n')
    before = set(tmp_path.iterdir())
    with owned_by_another(tmp_path / "out"):
        assert main([*words.replace("tour ", "tour --systems ").split(), "--out", "out"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert f"another program is writing in {tmp_path}/out (`linmap fit hippo`, process {os.getpid()} on " in said[0]
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("number", cli.ENDS)
def test_sigterm_and_the_end_of_a_terminal_are_as_control_c_and_handlers_are_restored(
    number: signal.Signals, monkeypatch, capsys
) -> None:
    before = [signal.getsignal(number) for number in (*cli.ENDS, signal.SIGINT)]

    def terminated(words: list[str]) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setitem(cli.VERBS, "list", (terminated, ""))
    assert main(["list"]) == 130
    assert capsys.readouterr().err.startswith("linmap: stopped")
    assert [signal.getsignal(number) for number in (*cli.ENDS, signal.SIGINT)] == before
    assert ENDS_WITH not in os.environ


def test_a_command_that_is_to_outlive_its_terminal_does(monkeypatch, capsys) -> None:
    monkeypatch.setitem(cli.VERBS, "list", (lambda words: os.kill(os.getpid(), signal.SIGHUP), ""))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` has it
    try:
        assert main(["list"]) == 1  # the verb above gives no answer
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_error_that_a_library_makes_of_control_c_is_a_stop(number: int, monkeypatch, capsys) -> None:
    """As pydantic's core does while it builds a validator."""

    def stopped(words: list[str]) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as error:
            raise RuntimeError(f'Field "distance": {type(error).__name__}') from None

    monkeypatch.setitem(cli.VERBS, "list", (stopped, ""))
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "linmap: stopped; nothing of this run is kept.\n"


def test_an_error_after_control_c_that_the_user_can_mend_is_told(monkeypatch, capsys) -> None:
    def stopped(words: list[str]) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            raise OSError(28, "No space left on device")

    monkeypatch.setitem(cli.VERBS, "list", (stopped, ""))
    assert main(["list"]) == 2
    assert "No space left" in capsys.readouterr().err
