"""What a shell is offered for the word under its cursor."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import linmap.cli
from linmap import recipes
from linmap.cli import VERBS
from linmap.cli.completion import SCRIPTS, candidates


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("co", ["compare", "completion"]),
        ("fit ol", ["olinear"]),
        ("apply mb", ["mbat"]),
        ("fit mb", []),  # has nothing to train
        ("compare olinear --res", ["--resume"]),
        ("compare olinear --json --debug --ove", ["--overwrite"]),
        ("fit olinear --data my.csv --loo", ["--lookback"]),
        ("fit olinear --basis leg", ["legendre"]),
        ("fit olinear --data ", []),  # a file: the shell's own
        ("fit nothing --da", []),
        ("apply no/folder --da", []),
        ("tour --systems acm gb", ["gbwbn"]),
        ("index v.parquet --in", ["--into"]),
        ("completion z", ["zsh"]),
        ("bench a", []),
        ("completion zsh ", []),
    ],
)
def test_what_fits_is_offered(line: str, expected: list[str]) -> None:
    assert candidates(line.split(" "), VERBS) == expected


def test_an_empty_line_has_all_verbs_and_a_verb_its_systems() -> None:
    assert set(VERBS) < set(candidates([], VERBS)) == set(candidates([""], VERBS))
    assert candidates(["compare", ""], VERBS) == list(recipes.SYSTEMS)


def test_the_flags_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a flag that turns something off."""
    for words in (["fit", "olinear"], ["compare", "householder_projector"], ["apply", "token_transforming"]):
        assert linmap.cli.main([*words, "--help"]) == 0
        told = set(re.findall(r"^\W*(--[a-z][\w-]*)", capsys.readouterr().out, re.MULTILINE)) - {"--help"}
        assert set(candidates([*words, "--"], VERBS)) == told, words


def test_a_question_of_a_shell_is_answered_by_words_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert linmap.cli.main(["completion", "--", "compare", "olinear", "--json", "--js"]) == 0
    assert capsys.readouterr() == ("--json\n", "")


def test_without_a_shell_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert linmap.cli.main(["completion"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
    assert linmap.cli.main(["completion", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(shell in told for shell in SCRIPTS)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_shell_takes_its_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    assert linmap.cli.main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    flag = "--no-execute" if shell == "fish" else "-n"
    assert subprocess.run([shell, flag, script], capture_output=True, check=True).stderr == b""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """linmap, as a shell finds it, which says what it was called with; beside it a file to be named."""
    found = tmp_path / "linmap"
    found.write_text(
        f'#!/bin/sh\n[ "$1" = completion ] || {{ echo "[[$*]]"; exit; }}\nexec {sys.executable} -m linmap "$@"\n'
    )
    found.chmod(0o755)
    (tmp_path / "readings.csv").touch()
    return found


def answered(program: Path, *line: str) -> list[str]:
    """What a shell says, in the folder of the program."""
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        check=True,
        cwd=program.parent,
        env=os.environ | {"PATH": path},
        timeout=60,
    )
    return done.stdout.splitlines()


LINES = {
    "linmap fit ol": "olinear",
    "linmap fit olinear --data read": "readings.csv",
    "linmap compare olinear --res": "--resume",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes(program: Path) -> None:
    asked = f'{SCRIPTS["bash"]}COMP_WORDS=(linmap app); COMP_CWORD=1; _linmap {program}; echo "${{COMPREPLY[*]}}"'
    assert answered(program, "bash", "-c", asked) == ["apply app"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish here")
def test_fish_completes_and_names_files_where_nothing_fits(program: Path) -> None:
    asked = SCRIPTS["fish"] + "".join(f'complete -C "{line}"\n' for line in LINES)
    found = answered(program, "fish", "--no-config", "-c", asked)
    assert [line.split("\t")[0] for line in found] == list(LINES.values())


ZSH = """
zmodload zsh/zpty
zpty shell "zsh -f -i"
zpty -w shell 'export TERM=dumb; PS1=; autoload -U compinit; compinit -u -D'
zpty -w shell 'eval "$(linmap completion zsh)"; print RE""ADY'
zpty -r shell said '*READY*'
for line in "${@}"; do
  zpty -w shell "$line"$'\t'
  zpty -r shell said '*\\]\\]*'
  print -r -- "${${said##*\\[\\[}%%\\]\\]*}"
done
zpty -d shell
"""
"""A zsh in a terminal of its own, where lines are typed and the key is pressed."""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_completes_what_is_typed(program: Path) -> None:
    found = answered(program, "zsh", "-f", "-c", ZSH, "zsh", *LINES)
    typed = [line.split()[1:-1] for line in LINES]
    assert [line.split() for line in found] == [
        [*before, word] for before, word in zip(typed, LINES.values(), strict=True)
    ]
