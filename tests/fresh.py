"""Programs of the tests in processes of their own, which know nothing of linmap yet.

Python, PyTorch and Transformers take seconds to start. On Linux these processes are therefore forks of a server of
`multiprocessing` that has imported such libraries once, and nothing of linmap. What must start from nothing at all
(the order of imports, a variable that Python or PyTorch reads at its start) uses `subprocess` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
assert isinstance(_SERVER, ForkServerContext | SpawnContext)
_SERVER.set_forkserver_preload(["accelerate", "peft", "transformers.models.llama.modeling_llama"])


class Fresh:
    """A program that has been started: a script, or the text of one; text and numbers that it prints are kept.

    Parameters
    ----------
    program
        The path of a script, or a program as `python -c` takes it.
    arguments
        What the program finds in `sys.argv`.
    environment
        Variables that are set before it begins.
    """

    def __init__(self, program: Path | str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._printed = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        for path in self._printed:
            path.touch()
        given = (program, arguments, dict(environment or {}), [str(path) for path in self._printed])
        self.process: BaseProcess = _SERVER.Process(target=_run, args=given)
        self.process.start()

    def poll(self) -> int | None:
        """The exit code, negative for the signal that ended it; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float = 300) -> int:
        """Its exit code, once it has ended; it is killed if that takes longer than `timeout` seconds."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s: {self.stderr}")
        return self.process.exitcode

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.join()

    @property
    def stdout(self) -> str:
        return self._printed[0].read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._printed[1].read_text(errors="replace")


def run(program: Path | str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints that ends well; its complaints are in the failure otherwise."""
    done = Fresh(program, *arguments, environment=environment)
    assert done.wait() == 0, done.stderr
    return done.stdout


def _run(program: Path | str, arguments: tuple[str, ...], environment: dict[str, str], printed: list[str]) -> None:
    for descriptor, path in enumerate(printed, start=1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    os.environ.update(environment)
    sys.argv = [str(program) if isinstance(program, Path) else "-c", *arguments]
    if isinstance(program, Path):
        runpy.run_path(str(program), run_name="__main__")
    else:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
