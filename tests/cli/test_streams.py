"""The program itself, whatever its streams, its folder and its environment are: an answer or one line, and its code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from fresh import Fresh
from linmap.cli import main
from linmap.cli.errors import DONE, FAILED, INTERRUPTED, WRONG_USE
from linmap.locks import FolderLock

COMMANDS = {"list": 0, "list --json": 0, "--version": 0, "index --help": 0, "completion bash": 0, "": 0, "fti": 2}
ENDS = ("kept", "closed", "full", "unread")
"""What a stream leads to: a file, nothing, a full disk, a pipe without a reader."""
OFTEN = [("closed", "closed", "closed"), ("kept", "full", "kept"), ("kept", "unread", "kept"), ("kept", "kept", "full")]
EVERY = [pytest.param(ends, list(COMMANDS), marks=pytest.mark.slow) for ends in product(ENDS[:2], ENDS, ENDS)]
LAUNCH = """
import os, sys
for number, end in enumerate(sys.argv[2].split()):
    if end == "closed":
        os.close(number)
    elif end == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    elif end == "unread":
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, number)
os.execv(sys.executable, [sys.executable, "-m", "linmap", *sys.argv[1].split()])
"""


def ended(words: str, ends: tuple[str, ...]) -> tuple[int, str, str]:
    """Code, output and complaints of the program with such streams."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, words, " ".join(ends)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("ends", "commands"), [*((ends, ["list --json", "fti"]) for ends in OFTEN), *EVERY])
def test_whatever_the_streams_are_a_command_ends_with_its_code_and_at_most_one_line(ends, commands):
    for words in commands:
        code = COMMANDS[words]
        lost = code == DONE and ends[1] == "full"  # what nobody reads is no fault; a full disk is one
        got, out, err = ended(words, ends)
        assert got == (WRONG_USE if lost else code), (words, err)
        assert bool(out) == (code == DONE and ends[1] == "kept")
        assert err.count("\n") == ((lost or code != DONE) and ends[2] == "kept"), (words, err)


def test_a_file_of_the_command_never_gets_the_number_of_a_closed_stream(tmp_path):
    program = """
import os, linmap.__main__ as program
program._open_streams()
print("printed", flush=True)
with open("file", "w") as file:
    assert file.fileno() > 2
    os.write(1, b"by a library"), os.write(2, b"by a library")
"""
    launch = "import os, sys; os.closerange(0, 3); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    done = subprocess.run([sys.executable, "-c", launch, "-c", program], cwd=tmp_path, check=False)
    assert (done.returncode, (tmp_path / "file").read_text()) == (0, "")


def test_a_pipe_of_another_than_the_reader_that_breaks_is_a_failure(monkeypatch, capfd):
    def verb(words):
        raise BrokenPipeError("to a worker")

    from linmap.cli import VERBS

    monkeypatch.setitem(VERBS, "list", (verb, ""))
    assert main(["list"]) == FAILED
    assert "to a worker" in capfd.readouterr().err


def test_a_folder_that_is_gone_is_one_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    (tmp_path / "a").rmdir()
    for words in (["list"], ["search", "x"], ["fit", "olinear"]):
        assert main(words) == WRONG_USE
        assert capfd.readouterr().err.count("not there any more; go to another one.\n") == 1


def test_help_is_the_same_words_without_docstrings():
    def shown(*options: str) -> str:
        words = [sys.executable, *options, "-m", "linmap", "index", "--help"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    assert set(shown("-OO").splitlines()) <= set(shown().splitlines())


def test_a_ctrl_c_after_the_answer_is_no_traceback():
    program = """
import atexit, os, signal, sys, linmap.__main__ as program
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
sys.argv[1:] = ["--version"]
sys.exit(program.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:6], done.stderr) == (-signal.SIGINT, "linmap", "")


@pytest.mark.parametrize("at", [1, 8, 40, 100])
def test_ctrl_c_while_the_command_line_is_imported_is_one_line(at):
    program = """
import sys, linmap.__main__ as program
class Stop:
    left = int(sys.argv[1])
    def find_spec(self, *_):
        Stop.left -= 1
        if Stop.left == 0:
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
sys.argv[1:] = ["list"]
sys.exit(program.main())
"""
    run = Fresh(program, str(at))
    assert run.wait() == INTERRUPTED, run.stderr
    assert (run.stdout, run.stderr.count("\n"), run.stderr[:15]) == ("", 1, "linmap: stopped")


def test_a_lock_that_a_second_release_finds_in_other_hands_stays_theirs(tmp_path, monkeypatch):
    lock = FolderLock(tmp_path / "a")
    monkeypatch.setattr(os, "close", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.release()
    monkeypatch.undo()
    other = FolderLock(tmp_path / "a")
    lock.release()
    assert (tmp_path / "a" / ".lock").exists()
    other.release()
    assert not (tmp_path / "a").exists() or not list((tmp_path / "a").iterdir())


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
