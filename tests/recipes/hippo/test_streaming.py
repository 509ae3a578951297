"""`linmap apply DIR --data -`: samples from standard input, answers at once, a state that can be kept."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from linmap.cli import main
from linmap.sequence.s4 import S4Classifier, load_estimator
from recipes.hippo.waves import SMALL, waves

SERIES = waves(1, seed=5)[0][0]
LINES = [",".join(map(repr, map(float, sample))) for sample in SERIES]


@pytest.fixture
def stream(monkeypatch, capsys):
    """Run `linmap apply` with some lines as its standard input: exit code, standard output, standard error."""

    def run(artifact: Path, lines: list[str], *words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["apply", str(artifact), "--data", "-", *map(str, words), "--debug"])
        return code, *capsys.readouterr()

    return run


def test_each_sample_is_answered_from_all_so_far(fitted: Path, stream) -> None:
    code, out, err = stream(fitted, LINES)
    header, *rows = csv.reader(out.splitlines())
    assert code == 0, err
    assert "samples" in err
    assert header == ["sample", "answer", "p(fast, very)", "p(slow)"]
    assert [int(row[0]) for row in rows] == list(range(1, len(SERIES) + 1))
    estimator = load_estimator(fitted)
    assert isinstance(estimator, S4Classifier)
    for l in (1, 7, len(SERIES)):
        expected = estimator.predict_proba([SERIES[:l]])[0]
        np.testing.assert_allclose([float(p) for p in rows[l - 1][2:]], expected, atol=1e-5)
        assert rows[l - 1][1] == estimator.classes_[expected.argmax()]


@pytest.mark.parametrize("cut", [0, 1, 7, 19])
def test_a_stream_that_goes_on_from_its_state_gives_the_same_bytes(fitted: Path, stream, tmp_path, cut: int) -> None:
    whole = stream(fitted, LINES, "--state", tmp_path / "whole")[1]
    first = stream(fitted, LINES[:cut], "--state", tmp_path / "parts")[1]
    second = stream(fitted, LINES[cut:], "--state", tmp_path / "parts")[1]
    assert first + second == whole
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_what_was_answered_after_the_last_state_is_answered_again(fitted: Path, stream, tmp_path) -> None:
    """As after kill -9: the answers are ahead of the state, and the last line is torn."""
    stream(fitted, LINES, "--out", tmp_path / "whole.csv")
    out, state = tmp_path / "answers.csv", tmp_path / "state"
    stream(fitted, LINES[:10], "--state", state)
    out.write_text("".join((tmp_path / "whole.csv").read_text().splitlines(keepends=True)[:14]) + "14,sl")
    stream(fitted, LINES[10:], "--state", state, "--out", out)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_answers_in_a_file_are_gone_on_with_and_replaced_by_a_new_stream_alone(fitted: Path, stream, tmp_path) -> None:
    words = ["--out", tmp_path / "answers.csv", "--state", tmp_path / "state"]
    assert stream(fitted, LINES[:5], *words)[0] == 0
    assert stream(fitted, LINES[5:], *words)[0] == 0
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 1 + len(LINES)
    (tmp_path / "state").unlink()
    assert stream(fitted, LINES[:3], *words)[0] == 0
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 4
    (tmp_path / "own.csv").write_text("mine\n")
    assert stream(fitted, LINES[:3], "--out", tmp_path / "own.csv")[0] == 2
    assert (tmp_path / "own.csv").read_text() == "mine\n"


def test_the_state_is_kept_on_the_way_and_when_a_line_is_bad(fitted: Path, stream, tmp_path) -> None:
    state = tmp_path / "state"
    code, out, err = stream(fitted, [*LINES[:5], "1,what", *LINES[5:]], "--state", state)
    assert code == 2
    assert "standard input, line 6: '1,what' is no list of numbers" in err
    assert int(load_file(state)["samples"]) == 5
    rest = stream(fitted, LINES[5:], "--state", state)[1]
    assert out + rest == stream(fitted, LINES)[1]


def test_headers_comments_empty_lines_and_blanks(fitted: Path, stream) -> None:
    plain = stream(fitted, LINES)[1]
    dressed = ["x,y", "# a comment", *(line.replace(",", " ") for line in LINES), ""]
    assert stream(fitted, dressed)[1] == plain


@pytest.fixture(scope="module")
def one_channel(tmp_path_factory) -> Path:
    """A run on the first channel alone."""
    folder = tmp_path_factory.mktemp("one")
    X, y = waves(8)
    joined = np.concatenate(X)[:, :1]
    np.savez(folder / "one.npz", X=joined, lengths=np.array([len(x) for x in X]), y=y)
    words = ["fit", "hippo", "--data", str(folder / "one.npz"), "--out", str(folder / "run"), "--held-out", "0"]
    assert main([*words, *SMALL, "--epochs", "1"]) == 0
    return folder / "run"


@pytest.mark.parametrize("mark", ["\ufeff", "ï»¿", "# a comment\n", "x\n", "\ufeffx\n", "\n"])
def test_no_sample_of_one_channel_is_lost_at_the_start(one_channel: Path, stream, mark: str) -> None:
    lines = [line.split(",")[0] for line in LINES[:6]]
    plain = stream(one_channel, lines)[1]
    assert len(plain.splitlines()) == 7
    assert stream(one_channel, [mark + lines[0], *lines[1:]])[1] == plain


@pytest.mark.parametrize("cell", ["NA", "null", "?", "-", "None", '""'])
def test_a_missing_first_sample_is_no_header(one_channel: Path, stream, cell: str) -> None:
    code, _, err = stream(one_channel, [cell, "1.0"])
    assert code == 2
    assert "standard input, line 1" in err


def test_another_separator_is_named(fitted: Path, stream) -> None:
    code, _, err = stream(fitted, ["1,5;2,5"])
    assert code == 2
    assert "by commas, with points in them" in err


def test_numbers_are_streamed_too(tmp_path, stream) -> None:
    X, _ = waves(8)
    y = np.array([float(x[:, 0].mean()) for x in X])
    path = tmp_path / "numbers.npz"
    np.savez(path, X=np.concatenate(X), lengths=np.array([len(x) for x in X]), y=y)
    assert main(["fit", "hippo", "--data", str(path), "--out", str(tmp_path / "run"), "--held-out", "0", *SMALL]) == 0
    _, out, _ = stream(tmp_path / "run", LINES)
    header, *rows = csv.reader(out.splitlines())
    assert header == ["sample", "answer"]
    expected = load_estimator(tmp_path / "run").predict([SERIES])[0]
    assert float(rows[-1][1]) == pytest.approx(expected, abs=1e-4)


def test_wrong_streams_and_states_are_told(fitted: Path, stream, tmp_path) -> None:
    for lines, message in (
        (["1,2,3"], "line 1: a sample has 2 finite numbers"),
        (["1,2", "1,nan"], "line 2: a sample has 2 finite numbers"),
        (["1,2", "x,y"], "line 2: 'x,y' is no list of numbers"),
        (["1;2", "3;4"], "line 1: '1;2' is no list of numbers (separate the numbers"),
        (['"1","2"', '"3","4"'], 'line 1: \'"1","2"\' is no list of numbers'),
        (["1,2", "1,,2"], "line 2: a sample has 2 finite numbers, got '1,,2'"),
        (["1,2", ",1,2"], "line 2: a sample has 2 finite numbers, got ',1,2'"),
    ):
        code, _, err = stream(fitted, lines)
        assert code == 2
        assert message in err
    assert "--save-every needs --state" in stream(fitted, LINES, "--save-every", 3)[2]
    assert "give --out FILE" in stream(fitted, LINES, "--json")[2]
    (tmp_path / "text").write_text("no tensors")
    assert "is not the state of a stream" in stream(fitted, LINES, "--state", tmp_path / "text")[2]
    other = shutil.copytree(fitted, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["config"]["dt"] = [0.1, 0.2]
    (other / "config.json").write_text(json.dumps(config))
    stream(other, LINES, "--state", tmp_path / "state")
    assert "is the state of another model" in stream(fitted, LINES, "--state", tmp_path / "state")[2]


def test_with_out_the_summary_is_the_answer(fitted: Path, stream, tmp_path) -> None:
    code, out, _ = stream(
        fitted, LINES, "--out", tmp_path / "a.csv", "--state", tmp_path / "s", "--save-every", 4, "--json"
    )
    assert code == 0
    assert json.loads(out)["summary"]["samples_in_all"] == len(LINES)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + len(LINES)
