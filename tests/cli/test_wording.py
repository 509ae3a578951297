"""Messages at the terminal name flags, never arguments of Python, and show values as a person writes them."""

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.cli import main
from linmap.cli.wording import Flags
from linmap.errors import DataError

NAMES = ["nan_policy", "horizon", "dayfirst", "level", "out"]


@pytest.fixture
def flags() -> Flags:
    known = Flags()
    known.know(NAMES, {"h": "horizon", "random_state": "seed"})
    return known


@pytest.mark.parametrize(
    ("said", "spoken"),
    [
        ("choose nan_policy='ffill' or nan_policy='zero'.", "choose --nan-policy ffill or --nan-policy zero."),
        ("give dayfirst=True, or sort", "give --dayfirst, or sort"),
        ("dayfirst=False reads months first", "--no-dayfirst reads months first"),
        ("h=96 is too long", "--horizon 96 is too long"),
        ("level=(80, 95.5) is none", "--level 80 95.5 is none"),
        ('level=["a", "b"]', "--level a b"),
        ("name one with out=...", "name one with --out"),
        ("`horizon=3`, horizon=-3; horizon=1e-3.", "`--horizon 3`, --horizon -3; --horizon 1e-3."),
        ("name it out=';', with out=','", "name it --out ';', with --out ,"),
        ("out='my file.csv' or out=['a b', 'c']", "--out 'my file.csv' or --out 'a b' c"),
        ("random_state=3 is no flag here", "random_state=3 is no flag here"),
        ("x.horizon=3, my_horizon=3, ?horizon=3&out=4", "x.horizon=3, my_horizon=3, ?--horizon 3&--out 4"),
        ("column np.int64(0) of PosixPath('a/b.csv')", "column 0 of a/b.csv"),
        ("np.str_('x') and np.float64(1.5)", "'x' and 1.5"),
    ],
)
def test_arguments_become_flags_and_values_plain(said, spoken, flags):
    assert flags.spoken(said) == spoken


@given(name=st.sampled_from(NAMES), value=st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), text=st.text(max_size=20))
def test_no_flag_of_the_command_is_left_in_python(name, value, text):
    known = Flags()
    known.know(NAMES)
    spoken = known.spoken(f"{text} {name}={value}; {name}='{value}'. {text}")
    assert not re.search(rf"\s{name}=", spoken)
    assert spoken.count(f"--{name.replace('_', '-')}") >= 2


@pytest.mark.parametrize("start", ["linmap", "/a/python -m linmap", ".venv/bin/linmap"])
def test_the_program_is_named_once_as_it_was_called(start, flags, monkeypatch):
    monkeypatch.setattr("linmap.cli.wording.program", lambda: start)
    line = f"{start} fit x --resume"
    assert flags.spoken(f"go on with: {line}") == f"go on with: {line}"
    assert flags.spoken("use `linmap fit x --resume`") == f"use `{line}`"


def test_without_a_command_nothing_changes():
    assert Flags().spoken("horizon=3 of a run") == "horizon=3 of a run"


def test_an_error_and_a_warning_of_a_verb_speak_its_flags(ruler, monkeypatch, capsys):
    def fit(settings, job):
        warnings.warn("loss='l2' is slow", stacklevel=1)
        raise DataError("loss='l1' needs h=3; random_state=4 does not.")

    monkeypatch.setattr(f"linmap.recipes.{ruler}.fit", fit)
    assert main(["fit", ruler]) == 2
    assert capsys.readouterr().err == (
        "linmap: note: --loss l2 is slow\nlinmap: --loss l1 needs --horizon 3; --seed 4 does not.\n"
    )


def test_a_note_to_the_user_is_shown_whatever_python_is_told_to_ignore(tmp_path, capsys):
    records = tmp_path / "trail.json"
    records.write_text('{"Records": [{"id": 1}, {"id": 2}]}')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["apply", "mbat", "--data", str(records), "--dim", "64", "--out", str(tmp_path / "v.npy")]) == 0
    assert (
        "to take each of the 2 objects at Records in it as one, give --records-at Records." in capsys.readouterr().err
    )
