"""How the person at the terminal called this program, for lines that are to be copied."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from linmap.data.door import read_bytes
from linmap.errors import shell_line, word

GO_ON = "LINMAP_GO_ON"
"""Environment variable: what to type to go on, where something else (such as make) started the program."""

UV = "UV"
"""Environment variable that uv sets for what it runs."""
SECRET = re.compile(r"//[^/]*@")
"""A password in an address, which is not repeated."""


def program() -> str:
    """What starts this program here: `linmap` where that is found on the path, else its file or its module, or what uv
    was asked for."""
    if asked := _asked_of_uv():
        return asked
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


def _asked_of_uv() -> str | None:
    """Such as `uvx linmap`: the words with which uv, the parent of this process, was called, up to those of linmap."""
    words, ours = _words_of_parent() if UV in os.environ else [], sys.argv[1:]
    asked = words[: len(words) - len(ours)]
    if not asked or Path(asked[0]).stem != "uv" or words[len(asked) :] != ours or any(map(SECRET.search, asked)):
        return None
    return shell_line(["uvx", *asked[3:]] if asked[1:3] == ["tool", "uvx"] else ["uv", *asked[1:]])


def _words_of_parent() -> list[str]:
    """Of its command line; none where the system does not tell."""
    try:
        line = read_bytes(f"/proc/{os.getppid()}/cmdline")
    except OSError:
        return []
    return [os.fsdecode(part) for part in line.split(b"\0")[:-1]]


def _on_path(script: Path) -> bool:
    if UV in os.environ:
        return False  # on the path that uv gave to this process, and perhaps on no other
    found = shutil.which("linmap")
    return found is not None and script.exists() and Path(found).resolve() == script.resolve()


def _near(path: Path | str) -> str:
    """The path from here if it lies below, else in full; as one word of a shell."""
    absolute = Path(os.path.abspath(path))
    here = Path.cwd()
    return word(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)
