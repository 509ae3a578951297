"""Fed anything: an input ends in an answer or in one clear line, never in another error."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzz.targets import Target, feed, mutated, targets

SECONDS = float(os.environ.get("LINMAP_FUZZ_SECONDS", "10"))
LONGEST = 2000
"""Letters of a message, which is one line."""
SAVED = Path(__file__).parent / "examples"
"""Inputs that once ended in another error: a folder for each target."""


@pytest.fixture(params=sorted(targets()))
def target(request: pytest.FixtureRequest) -> Target:
    return targets()[request.param]


def check(target: Target, data: bytes, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = feed(target, data, folder)
    assert message is None or (message and "pickle" not in message and "max_header_size" not in message), message
    if message is not None and (len(message) > LONGEST or len(message.splitlines()) > 1):
        pytest.fail(f"no line: {message[:LONGEST]}")  # pytest would compare what is long for minutes


def test_whole_inputs_have_an_answer(target, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        messages = [feed(target, seed, tmp_path) for seed in target.seeds]
    assert None in messages or target.name in ("artifact", "gguf"), messages


def test_a_few_changed_inputs_end_in_an_answer_or_a_line(target, tmp_path):
    rng = random.Random(target.name)
    for _ in range(target.few):
        check(target, mutated(target, rng), tmp_path)


def test_what_failed_once_fails_no_more(target, tmp_path):
    for path in sorted((SAVED / target.name).glob("*")):
        check(target, path.read_bytes(), tmp_path)


@pytest.mark.slow
def test_many_changed_inputs_end_in_an_answer_or_a_line(target, tmp_path):
    rng, end = random.Random(), time.monotonic() + SECONDS
    while time.monotonic() < end:
        check(target, mutated(target, rng), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed: pip install atheris")
def test_inputs_that_reach_new_lines_end_in_an_answer_or_a_line(target, tmp_path):
    words = [sys.executable, str(Path(__file__).parent / "guided.py"), target.name, str(SECONDS), str(tmp_path)]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
