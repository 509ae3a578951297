"""Lines that linmap prints for copying are read back by a shell as the words that they were made of."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import linmap
from linmap.cli import program
from linmap.cli.program import GO_ON, command, go_on
from linmap.cli.wording import FLAGS
from linmap.errors import shell_line, word

SOURCE = Path(linmap.__file__).parent
HARD = ["a b", "a\nb", "$(touch x)", "`id`", "a'b", 'a"b', "a;b&c|d>e", "-x", "--out", "~", "*", "a\\b", "\x1b[2J", "",
        "é", "a\tb", "!x", "#x", "%s", "\udcff", "x\r", "{a,b}"]  # fmt: skip
COPIED = re.compile(r"linmap (fit|apply|compare|index|search|tour|report|app)\b")
ALLOWED = {"slug", "verb", "verb.needs", "what", "program()", "number", "seed", "run", "source"}
"""What may stand in a command without `word`: names of systems and verbs, numbers, and `source`, which is in words."""


def read_by_bash(line: str) -> list[str]:
    script = f"set +H; linmap() {{ printf '%s\\0' \"$@\"; }}\n{line}\n"
    done = subprocess.run(["bash", "-c", os.fsencode(script)], capture_output=True, check=True, timeout=10)
    return [os.fsdecode(part) for part in done.stdout.split(b"\0")[:-1]]


def test_a_shell_reads_every_word_as_it_was() -> None:
    line = shell_line(["linmap", *HARD])
    assert line.isprintable()
    assert read_by_bash(line) == HARD


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=3))
@example(HARD)
def test_no_word_acts_on_a_terminal(words: list[str]) -> None:
    assert all(word(one).isprintable() for one in words)


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_a_shell_reads_any_words_as_they_were(words: list[str]) -> None:
    assert read_by_bash(shell_line(["linmap", *words])) == words


def test_a_path_is_never_taken_for_a_flag() -> None:
    assert word(Path("-x")) == "./-x"
    assert word("-x") == "-x"
    assert word(Path("-x y")) == "'./-x y'"


def test_the_lines_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GO_ON, raising=False)
    monkeypatch.setattr("sys.argv", ["linmap"])
    for made, expected in (
        (command("apply", Path("-x $(id)")), ["apply", "./-x $(id)"]),
        (go_on(["fit", "bone", "--out", "a\nb"]), ["fit", "bone", "--out", "a\nb", "--resume"]),
    ):
        assert made.isprintable()
        assert read_by_bash(re.sub(r"^.*?linmap(?:\.py)? ", "linmap ", made)) == expected


def test_values_in_messages_are_words_of_a_shell() -> None:
    FLAGS.know(["out"])
    try:
        assert FLAGS.spoken("give out='a b'") == "give --out 'a b'"
        assert FLAGS.spoken("give out='$(id)\x1b'") == "give --out $'$(id)\\x1b'"
    finally:
        FLAGS.forget()


def test_the_code_of_a_run_in_the_app(tmp_path: Path) -> None:
    from linmap.app.code import code_of
    from linmap.app.jobs import Job

    words = ["apply", "a b/$(id)", "--data", "x\ny", "--resume"]
    others: Any = _other_fields(Job)
    job = Job(id="1", verb="fit", system="bone", words=words, folder=tmp_path / "a 'b'", **others)
    code = code_of(job, None)
    place, line = code["command"].split("\n")
    assert read_by_bash(line) == words[:-1]
    assert read_by_bash(place.replace("cd ", "linmap ", 1)) == [str(tmp_path / "a 'b'")]
    kept = [node.value for node in ast.walk(ast.parse(code["python"])) if isinstance(node, ast.Constant)]
    assert kept == words[:-1]


def _other_fields(kind: type) -> dict[str, object]:
    from dataclasses import MISSING, fields

    given = {"id", "verb", "system", "words", "folder"}
    return {f.name: "" for f in fields(kind) if f.name not in given and f.default is f.default_factory is MISSING}


def test_every_line_for_copying_is_made_of_words() -> None:
    """In the source: `shlex` stands in one place, and a command in a message holds nothing else than words."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name, text = path.relative_to(SOURCE).as_posix(), path.read_text(encoding="utf-8")
        if name not in ("errors.py", "compress/flatquant/native/build.py", "app/forms.py") and "shlex" in text:
            found.append(f"{name}: shlex, where linmap.errors.word belongs")
        if name not in ("errors.py", "compress/flatquant/words.py") and "map(word" in text:
            found.append(f"{name}: words put together, where linmap.errors.shell_line belongs")
        for node in ast.walk(ast.parse(text)) if COPIED.search(text) else ():
            if isinstance(node, ast.JoinedStr):
                found += [f"{name}:{node.lineno}: {{{part}}}" for part in _unquoted(node)]
    for path in sorted(SOURCE.rglob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.name}: {line}" for line in re.findall(r".*linmap \{\{(?! version|.*shell).*", text)]
    assert not found


def _unquoted(text: ast.JoinedStr) -> list[str]:
    """What stands in a command of a message, up to the end of its backticks, and is neither a word nor allowed."""
    wrong, inside = [], False
    for part in text.values:
        if isinstance(part, ast.Constant):
            for piece in re.split(r"(`)", str(part.value)):
                inside = piece != "`" and (inside or bool(COPIED.search(piece)))
        elif isinstance(part, ast.FormattedValue) and inside:
            expression = ast.unparse(part.value)
            if not expression.startswith(("word(", "command(")) and expression not in ALLOWED:
                wrong.append(expression)
    return wrong


UVX = ["/opt/uv/bin/uv", "tool", "uvx", "--from", "linmap[adapt] @ ./a b.whl", "linmap"]


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (UVX, ["uvx", "--from", "linmap[adapt] @ ./a b.whl", "linmap"]),
        (["uv", "run", "linmap"], ["uv", "run", "linmap"]),
        (["uv", "tool", "uvx", "--index-url=https://me:secret@pypi.example", "linmap"], None),
        (["bash"], None),
        ([], None),
    ],
)
def test_what_uv_runs_is_called_by_uv(
    parent: list[str], expected: list[str] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its environment is on the path of this process, and on no other: `linmap` alone would not be found."""
    script, ours = tmp_path / "bin" / "linmap", ["fit", "bone", "--out", "a b"]
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.delenv(GO_ON, raising=False)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("sys.argv", [str(script), *ours])
    monkeypatch.setattr(program, "_words_of_parent", lambda: [*parent, *ours])
    monkeypatch.setenv("UV", "/opt/uv/bin/uv")
    line = go_on(ours)
    assert line == shell_line([*(expected or [str(script)]), *ours, "--resume"])
    assert "secret" not in line
    monkeypatch.delenv("UV")
    assert go_on(ours) == shell_line(["linmap", *ours, "--resume"])
