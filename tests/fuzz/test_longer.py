"""What `make fuzz` counts and keeps."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.__main__ import Tally, add, main, read, stretches
from fuzz.feeding import Fed
from fuzz.targets import Target, targets
from linmap.errors import DataError

NAMES = st.sampled_from(["ts", "--at", "vectors.npy", "model-config"])


@given(st.lists(st.tuples(NAMES, st.integers(0, 10**9), st.integers(0, 10**5), st.integers(0, 9)), max_size=8))
def test_the_table_adds_up_what_came_of_each_target(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "RESULTS.md"
    for name, inputs, seconds, failures in rows:
        add(path, name, Tally(inputs, seconds, failures))
    for name, found in read(path).items():
        own = [numbers for of, *numbers in rows if of == name]
        assert [found.inputs, found.seconds, found.failures] == [sum(column) for column in zip(*own, strict=True)]
    assert read(path).keys() == {name for name, *_ in rows}


def test_the_list_names_every_target_as_make_takes_it(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list"]) == 0
    names = json.loads(capsys.readouterr().out)
    assert names == [*targets()]
    assert not [name for name in names if shlex.split(name) != [name]]


@given(st.floats(1, 5000))
def test_all_seconds_are_fed(seconds: float) -> None:
    assert sum(each for each, _ in stretches(seconds)) == pytest.approx(seconds, abs=0.5)


def test_the_first_input_of_each_kind_of_failure_is_kept(tmp_path: Path) -> None:
    def read(text: str) -> None:
        if text.startswith("told"):
            raise DataError("told")
        if text.startswith("one"):
            raise KeyError(text)
        assert not text.startswith("two"), text

    fed = Fed(Target("a", read, (b"",)), tmp_path)
    for text in (b"fine", b"told", b"one", b"one more", b"two", b"two more"):
        fed(text)
    fed.write()
    found = json.loads((tmp_path / "fed.json").read_text())
    assert found["inputs"] == 6
    assert [(tmp_path / name).read_bytes() for name in found["failures"].values()] == [b"one", b"two"]
