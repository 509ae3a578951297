"""Calibration windows, and perplexity."""

import gzip
import math
import re
from pathlib import Path

import pytest
import torch

from compress.flatquant.models import tiny
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.measures import perplexity
from linmap.compress.flatquant.teacher import calibration_windows
from linmap.errors import DataError

CONFIG = FlatQuantConfig(n_samples=8, sequence_length=5)


def tokenizer(text: str, **_) -> dict[str, list[int]]:
    return {"input_ids": [ord(letter) % 64 for letter in text]}


def test_windows_are_pieces_of_the_stream_and_depend_on_the_seed_only() -> None:
    stream = torch.arange(60)
    windows = calibration_windows(stream, CONFIG, 64)
    assert windows.shape == (8, 5)
    assert torch.equal(windows, windows[:, :1] + torch.arange(5))
    assert torch.equal(windows, calibration_windows(stream.tolist(), CONFIG, 64))
    other = FlatQuantConfig(n_samples=8, sequence_length=5, seed=1)
    assert not torch.equal(windows, calibration_windows(stream, other, 64))


def test_windows_that_come_cut_stay_as_they_are() -> None:
    windows = torch.randint(64, (5, 7))
    assert torch.equal(calibration_windows(windows, CONFIG, 64), windows)


def test_a_tokenizer_reads_a_text_or_a_file(tmp_path: Path) -> None:
    text = "".join(chr(65 + i % 50) for i in range(80))
    (tmp_path / "text.txt").write_text(text)
    windows = calibration_windows(tokenizer, CONFIG, 64, text)
    with gzip.open(tmp_path / "packed.txt.gz", "wb") as file:
        file.write(text.encode())
    (tmp_path / "wiki.raw").write_text(text)
    for path in (tmp_path / "text.txt", tmp_path / "packed.txt.gz", tmp_path / "wiki.raw"):
        assert torch.equal(windows, calibration_windows(tokenizer, CONFIG, 64, path))
        assert torch.equal(windows, calibration_windows(tokenizer, CONFIG, 64, str(path)))


@pytest.mark.parametrize("text", ["missing.txt", "no/such/notes.md.gz", Path("no/such.raw")])
def test_a_path_without_a_file_is_no_text(text) -> None:
    with pytest.raises(DataError, match=r"is (not a|no) file"):
        calibration_windows(tokenizer, CONFIG, 64, text)


def test_an_empty_file_is_refused(tmp_path) -> None:
    (tmp_path / "blank.raw").write_text(" \n")
    with pytest.raises(DataError, match="is empty; there is nothing to read"):
        calibration_windows(tokenizer, CONFIG, 64, str(tmp_path / "blank.raw"))


@pytest.mark.parametrize(
    ("tokens", "text", "error", "match"),
    [
        (torch.arange(39), None, ValueError, "39 tokens, and n_samples=8 .* need 40"),
        (tokenizer, "", ValueError, "0 tokens"),
        (tokenizer, None, ValueError, "without text"),
        (torch.arange(60), "text", ValueError, "needs a tokenizer"),
        (torch.zeros(3, 5, dtype=torch.long), None, ValueError, "3 calibration windows .* batch_size=4"),
        (torch.full((4, 5), 64), None, ValueError, "64 to 64, and the model has 64 tokens"),
        (torch.full((4, 5), -1), None, ValueError, "-1 to -1"),
        (torch.zeros(60), None, TypeError, "must be integers"),
        (torch.zeros(4, 5, 2, dtype=torch.long), None, TypeError, "one dimension"),
        ("a text", None, TypeError, "expected a tokenizer"),
    ],
)
def test_bad_tokens_are_refused(tokens, text, error, match) -> None:
    with pytest.raises(error, match=match):
        calibration_windows(tokens, CONFIG, 64, text)


def test_perplexity_is_that_of_every_prediction_inside_the_windows() -> None:
    model, ids = tiny(), torch.randint(64, (50,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        terms = []
        for start in (0, 12, 24, 36):
            logits = model(ids[None, start : start + 12]).logits[0].log_softmax(-1)
            terms += [-float(logits[i, ids[start + i + 1]]) for i in range(11)]
    assert perplexity(model, ids, window=12) == pytest.approx(math.exp(sum(terms) / 44), rel=1e-5)
    assert perplexity(model, ids, 12, n_windows=2) == pytest.approx(math.exp(sum(terms[:22]) / 22), rel=1e-5)


@pytest.mark.parametrize(("window", "n"), [(51, None), (12, 5), (1, None), (12, 0)])
def test_streams_that_are_too_short_are_refused(window, n) -> None:
    with pytest.raises(ValueError, match="window"):
        perplexity(tiny(), torch.zeros(50, dtype=torch.long), window, n)


def test_fewer_windows_than_a_batch_are_refused_in_words_that_the_command_line_can_say_too() -> None:
    few = FlatQuantConfig(n_samples=4, batch_size=4)
    with pytest.raises(ValueError, match=r"=4 is less than .*make the second at most the first") as settings:
        FlatQuantConfig(n_samples=4, batch_size=5)
    with pytest.raises(ValueError, match="give more windows or a smaller batch") as windows:
        calibration_windows(torch.zeros(3, 5, dtype=torch.long), few, 64)
    for refused in (settings, windows):  # each option with its value, which the terminal turns into a flag
        assert not re.search(r"\b(n_samples|batch_size)\b(?!=)", str(refused.value))
