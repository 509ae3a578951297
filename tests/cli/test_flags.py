"""One flat set of flags from several dataclasses, and mistakes in one line whatever the terminal shows."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from linmap.cli.flags import OUTPUT_FLAGS, HelpShown, Output, own, parse
from linmap.errors import UsageError


@dataclass(frozen=True)
class Model:
    """The model."""

    width: int = 4
    """Units."""
    rates: tuple[float, ...] = (0.5,)
    """One for each stage."""
    folded: bool = False
    """Fold it."""
    plain: bool = True
    """Keep it plain."""


@dataclass(frozen=True)
class Values:
    """Of several kinds."""

    share: float = 0.5
    """A number."""
    policy: Literal["zero", "ffill"] | None = None
    """A word."""


@dataclass(frozen=True)
class Files:
    """The files."""

    data: Path
    """Your file."""
    out: Path | None = None
    """Where."""


@given(st.integers(), st.lists(st.floats(allow_nan=False), max_size=3), st.booleans(), st.booleans())
def test_flags_of_several_dataclasses_stand_side_by_side(width, rates, folded, plain):
    words = ["--data", "a.csv", f"--width={width}", "--rates", *map(repr, rates)]
    words += ["--folded"] * folded + ["--no-plain"] * (not plain)
    parsed = parse(words, "linmap x", "", model=Model(width=7), files=Files)
    assert parsed["model"] == Model(width, tuple(rates), folded, plain)
    assert parsed["files"] == Files(Path("a.csv"))
    assert parsed["output"] == Output()


def test_an_instance_gives_the_defaults():
    parsed = parse(["--json"], "linmap x", "", model=Model(width=7))
    assert parsed["model"] == Model(width=7)
    assert parsed["output"].json


@dataclass(frozen=True)
class Job:
    """The job."""

    width: float = 0.5
    """Another width."""
    seed: int = 1
    """Of every draw."""
    artifact: Path | None = None
    """Set by the caller."""


def test_of_two_flags_with_one_name_the_first_counts(capsys):
    job = Job(width=0.25, artifact=Path("run"))
    parsed = parse(["--width", "9", "--seed", "3"], "linmap x", "", hidden=["artifact"], model=Model, job=job)
    assert parsed["model"].width == 9
    assert (parsed["job"].width, parsed["job"].seed, parsed["job"].artifact) == (0.25, 3, Path("run"))
    assert isinstance(parsed["job"], Job)
    with pytest.raises(HelpShown):
        parse(["--help"], "linmap x", "", hidden=["artifact"], model=Model, job=job)
    out = capsys.readouterr().out
    assert "--seed" in out
    assert "--artifact" not in out
    assert "Another width" not in out
    with pytest.raises(UsageError, match="there is no flag --artifact"):
        parse(["--artifact", "x"], "linmap x", "", hidden=["artifact"], model=Model, job=job)


def test_a_flag_that_must_be_given_is_asked_for():
    with pytest.raises(UsageError, match=r"^--data is missing\. "):
        parse([], "linmap x", "", files=Files)


def test_help_is_shown_and_ends_the_command(capsys):
    with pytest.raises(HelpShown):
        parse(["--help"], "linmap x", "What it is for.", model=Model)
    out = capsys.readouterr().out
    assert all(text in out for text in ("linmap x", "What it is for.", "--width INT", "Units.", "--json"))


def test_help_says_what_a_flag_is_when_left_out_in_no_words_of_python(capsys):
    @dataclass(frozen=True)
    class Empty:
        """What is empty."""

        drop: tuple[str, ...] = ()
        seed: str = ""

    with pytest.raises(HelpShown):
        parse(["--help"], "linmap x", "", model=Model, files=Files, empty=Empty)
    out = capsys.readouterr().out
    assert not re.search(r"None|True|False|default: *\)", out)
    assert re.search(r"--no-plain\s+Keep it plain\. \(on unless this flag is given\)", out)
    assert all(text in out for text in ("(default: 4)", "(default: 0.5)", "The model.", "What is empty.", "(required)"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--width", "three"], "--width: 'three' is not a whole number."),
        (["--share", "x"], "--share: 'x' is not a number."),
        (["--rates", "x"], "--rates: cannot be read from 'x'."),
        (["--policy", "x"], "--policy: 'x' is not one of ffill, zero."),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_plain_words(words, said):
    with pytest.raises(UsageError) as refused:
        parse(words, "linmap x", "", model=Model, values=Values)
    assert str(refused.value) == f"{said} (`linmap x --help` lists the flags.)"


def test_a_dataclass_comes_back_as_itself():
    parsed = parse(["--data", "a.csv"], "linmap x", "", model=Model, files=Files)
    assert (type(parsed["model"]), type(parsed["files"]), type(parsed["output"])) == (Model, Files, Output)


@given(st.lists(st.sampled_from(["fit", "--seed", "3", *OUTPUT_FLAGS])))
def test_own_words_are_all_but_the_output_flags(words):
    assert [word for word in words if word not in own(words)] == [word for word in words if word in OUTPUT_FLAGS]


@pytest.mark.parametrize("look", ["colours and a box", "a box", "ascii"])
def test_a_mistake_reads_the_same_in_every_terminal(look, tmp_path):
    script = (
        "import sys, tyro._fmtlib as look; from linmap.cli import main;"
        f"look._FORCE_ANSI = {look == 'colours and a box'}; look._FORCE_UTF8_BOXES = {look != 'ascii'};"
        "sys.exit(main(['tour', '--sytems', 'olinear']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONIOENCODING": "latin-1"}, check=False
    )
    wanted = "linmap: there is no flag --sytems; did you mean --systems? (`linmap tour --help` lists the flags.)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)


ODD_WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)


@given(ODD_WORDS, st.booleans(), st.lists(ODD_WORDS.filter(lambda word: not word.startswith("-")), max_size=2))
@example("", False, [])
@example("a, b", False, [])
@example("a, b", True, ["c"])
def test_the_flag_that_is_not_there_is_named_as_it_was_typed(value, joined, others):
    words = [f"--unheard={value}"] if joined else ["--unheard", *([] if value.startswith("-") else [value])]
    with pytest.raises(UsageError) as raised:
        parse([*words, *others], "linmap x", "", values=Values)
    assert re.match(r"there is no flag --unheard(\.|; did you mean --[a-z]+\?) \(`linmap x", str(raised.value))


@pytest.mark.parametrize("word", ["", "a,", "a, b", ",", "x y"])
def test_a_word_that_is_not_expected_is_told_whole(word):
    with pytest.raises(UsageError, match=re.escape(f"{word!r} is not expected here.")):
        parse([word], "linmap x", "", values=Values)
