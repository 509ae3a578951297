"""A message in the words of the command line: arguments of Python as flags, values without Python around them.

Library code writes an option as `name=value`. Where `name` is a flag of the command that runs, the terminal says
`--name value`; a recipe whose flag has another name lists it in `FLAG_OF`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from linmap.cli.program import program
from linmap.errors import word

VALUE = r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\([^)]*\)|\.\.\.|[\w+-]+(?:\.\w+)*"""
NUMPY = re.compile(r"\bnp\.(?:\w+_|\w*(?:int|float|bool|complex|str)\w*)\(([^()]*)\)")
COMMAND = re.compile(
    r"(?<![\w./-])(?<!-m )linmap (?=(?:list|fit|apply|compare|index|search|tour|report|app|completion|bench)\b)"
)
PATH = re.compile(r"\b(?:Posix|Windows)Path\((['\"])(.*?)\1\)")

SHELL = frozenset(" \t;&|<>()$`\\!*?#~'\"")
"""Characters that a shell does not take as they are."""


class Flags:
    """The flags of the command that runs, by the names of the arguments that they stand for."""

    def __init__(self) -> None:
        self._flags: dict[str, str] = {}

    def know(self, names: Iterable[str], other: Mapping[str, str] | None = None) -> None:
        """Take the flags of a command: its fields, and what else its recipe calls otherwise than Python does."""
        names = set(names)
        self._flags = {name: name for name in names}
        self._flags |= {argument: flag for argument, flag in (other or {}).items() if flag in names}

    def forget(self) -> None:
        self._flags = {}

    def __contains__(self, name: str) -> bool:
        return name in self._flags

    def spoken(self, message: str) -> str:
        """`message` for the terminal."""
        message = PATH.sub(r"\2", NUMPY.sub(r"\1", message))
        message = COMMAND.sub(lambda _: f"{program()} ", message)
        if not self._flags:
            return message
        names = "|".join(sorted(map(re.escape, self._flags), key=len, reverse=True))
        return re.sub(rf"(?<![\w.\-/=])({names})=({VALUE})", self._flag, message)

    def _flag(self, found: re.Match[str]) -> str:
        flag, value = "--" + self._flags[found[1]].replace("_", "-"), found[2]
        if value in ("True", "..."):
            return flag
        if value == "False":
            return f"--no-{flag[2:]}"
        parts = value[1:-1].split(",") if value[0] in "[(" else [value]
        return " ".join([flag, *(_word(part.strip()) for part in parts if part.strip())])


def _word(value: str) -> str:
    """A value as it is typed: in quotes where a shell would take it for something else."""
    bare = value.strip("'\"")
    return word(bare) if SHELL & set(bare) or not bare.isprintable() else bare


FLAGS = Flags()
"""Of the command that runs in this process."""
