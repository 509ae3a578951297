"""Fed anything: an input ends in an answer or in one clear line, never in another error."""

from __future__ import annotations

import os
import random
import time
import warnings
from pathlib import Path

import pytest

from fuzz.targets import Target, feed, mutated, targets

SECONDS = float(os.environ.get("LINMAP_FUZZ_SECONDS", "60"))
FEW = 12
"""Inputs of a target in the default suite."""
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


def test_whole_inputs_have_an_answer(target, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        messages = [feed(target, seed, tmp_path) for seed in target.seeds]
    assert None in messages or target.name == "artifact", messages


def test_a_few_changed_inputs_end_in_an_answer_or_a_line(target, tmp_path):
    rng = random.Random(target.name)
    for _ in range(FEW):
        check(target, mutated(target.seeds, rng), tmp_path)


def test_what_failed_once_fails_no_more(target, tmp_path):
    for path in sorted((SAVED / target.name).glob("*")):
        check(target, path.read_bytes(), tmp_path)


@pytest.mark.slow
def test_many_changed_inputs_end_in_an_answer_or_a_line(target, tmp_path):
    rng, end = random.Random(), time.monotonic() + SECONDS
    while time.monotonic() < end:
        check(target, mutated(target.seeds, rng), tmp_path)
