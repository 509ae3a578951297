"""How the person at the terminal called this program, for lines that are to be copied."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from linmap.errors import shell_line, word

GO_ON = "LINMAP_GO_ON"
"""Environment variable: what to type to go on, where something else (such as make) started the program."""


def program() -> str:
    """What starts this program here: `linmap` where that is found on the path, else its file or its module."""
    script = Path(sys.argv[0])
    if script.name == "__main__.py" and script.parent.name == "linmap":
        return "linmap" if _on_path(Path(sys.executable).with_name("linmap")) else f"{_near(sys.executable)} -m linmap"
    return _near(script) if script.stem == "linmap" and not _on_path(script) else "linmap"


def command(*words: str | os.PathLike[str]) -> str:
    """A line that can be copied: the program as it is called here, then `words`."""
    return f"{program()} {shell_line(words)}"


def go_on(words: Iterable[str]) -> str:
    """The line that goes on with the interrupted command `words`."""
    if GO_ON in os.environ:
        return os.environ[GO_ON]
    words = list(words)
    return command(*words, *([] if "--resume" in words else ["--resume"]))


def _on_path(script: Path) -> bool:
    found = shutil.which("linmap")
    return found is not None and script.exists() and Path(found).resolve() == script.resolve()


def _near(path: Path | str) -> str:
    """The path from here if it lies below, else in full; as one word of a shell."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return word(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
