"""What each error means at the terminal."""

import operator
import pickle
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import linmap
from linmap import artifacts
from linmap.cli.errors import FAILED, WRONG_USE, explain, nearest
from linmap.errors import (
    LONGEST,
    ArgumentError,
    ArgumentTypeError,
    ArtifactError,
    DataError,
    OutOfRangeError,
    SingularMapError,
    UsageError,
)
from linmap.locks import BusyError
from linmap.maps import Dense


def raised(work) -> Exception:
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


TEXTS = st.text() | st.builds(operator.mul, st.text(min_size=1, max_size=9), st.integers(1, 2000))


@given(TEXTS, st.sampled_from([UsageError, DataError, ArtifactError, RuntimeError, MemoryError, KeyError]))
def test_every_error_is_one_line(text, kind):
    line = explain(kind(text))[1]
    assert len(line.splitlines()) <= 1
    assert len(line) < LONGEST + 100


@given(TEXTS, st.sampled_from([UsageError, DataError, OutOfRangeError, BusyError, ArtifactError]))
def test_in_python_too_and_as_it_was_said_where_that_is_short(text, kind):
    error = kind(text)
    line = str(error)
    assert len(line.splitlines()) <= 1
    assert len(line) <= LONGEST
    if len(text.splitlines()) == 1 and text.strip() == text and len(text) <= LONGEST:
        assert line == text
    elif len(text) > LONGEST and len(text.splitlines()) == 1:
        assert line.startswith(text.strip()[:900])
        assert line.endswith(text.strip()[-400:])
    assert str(pickle.loads(pickle.dumps(error))) == line


@pytest.mark.parametrize("kind", [UsageError, DataError, ArtifactError])
def test_what_linmap_refuses_is_wrong_use_in_its_own_words(kind):
    assert explain(kind("epochs = 0;\n give 1 or more")) == (WRONG_USE, "epochs = 0; give 1 or more")


@pytest.mark.parametrize("kind", [ArgumentError, ArgumentTypeError, OutOfRangeError])
def test_an_error_of_the_users_making_is_the_built_in_one_too(kind):
    assert explain(kind("dim = 0; give 1 or more.")) == (WRONG_USE, "dim = 0; give 1 or more.")
    assert issubclass(
        kind, {ArgumentError: ValueError, ArgumentTypeError: TypeError, OutOfRangeError: IndexError}[kind]
    )


@pytest.mark.parametrize("statement", ["a, b = [1]", "[][1]", "len(3)", "int('x')", "raise RuntimeError('diverged')"])
def test_what_goes_wrong_inside_is_a_failure(statement):
    found, line = explain(raised(lambda: exec(statement, {"__name__": "linmap.retrieve"})))
    assert found == FAILED
    assert re.match(r"\w+Error: ", line)


def test_linmap_raises_its_own_errors_alone():
    """A bare built-in would be taken for a failure of linmap."""
    bare = re.compile(r"raise (ValueError|TypeError|IndexError)\((?!row\))")
    root = Path(linmap.__file__).parent
    found = [
        f"{path.name}: {line.strip()}"
        for path in root.rglob("*.py")
        for line in path.read_text().splitlines()
        if bare.search(line)
    ]
    assert found == []


def test_errors_of_the_library_reach_the_terminal():
    assert explain(raised(lambda: Dense(0, 3)))[0] == WRONG_USE
    assert explain(raised(lambda: torch.zeros(2).reshape(3)))[0] == FAILED
    assert explain(raised(lambda: artifacts.write_json("x/y", {1: float("nan")})))[0] == FAILED


def test_a_file_that_is_not_there_is_wrong_use_by_name(tmp_path):
    missing = tmp_path / "missing.csv"
    assert explain(raised(missing.read_text)) == (WRONG_USE, f"{missing}: no such file or directory")
    assert explain(raised(tmp_path.read_text)) == (WRONG_USE, f"{tmp_path}: is a directory")
    assert explain(FileNotFoundError("x is not in the package; get it.")) == (
        WRONG_USE,
        "x is not in the package; get it.",
    )


def test_a_missing_package_says_what_to_install():
    code, line = explain(ModuleNotFoundError("No module named 'orjson'", name="orjson.sub"))
    assert code == WRONG_USE
    assert "the package orjson: pip install" in line
    assert explain(ModuleNotFoundError("No module named 'linmap.x'", name="linmap.x"))[0] == FAILED


def test_everything_else_is_a_failure_with_its_kind():
    assert explain(ZeroDivisionError("division by zero")) == (FAILED, "ZeroDivisionError: division by zero")
    assert explain(SingularMapError("no inverse"))[0] == FAILED


def test_nearest_names_a_near_miss_or_the_list():
    assert nearest("compere", ["compare", "fit"], "linmap --help") == "did you mean 'compare'?"
    assert re.fullmatch(r"`linmap --help` lists them.", nearest("xyz", ["compare", "fit"], "linmap --help"))
