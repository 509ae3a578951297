"""Every kind of long job, killed anywhere and resumed, ends as one that ran through, and nothing is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faults.harness import Tally, killed_anywhere
from faults.jobs import JOBS, QUICK

POINTS = int(os.environ.get("LINMAP_FAULTS", "50"))
"""Kills of each job in the slow tests."""


def check(tally: Tally) -> None:
    print(tally)
    assert tally.kills
    assert not tally.different
    assert not tally.leftovers


@pytest.mark.parametrize("job", QUICK)
def test_killed_anywhere(job: str, tmp_path: Path) -> None:
    check(killed_anywhere(QUICK[job](tmp_path), tmp_path, 3))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_killed_anywhere_in_fifty_points(job: str, tmp_path: Path) -> None:
    check(killed_anywhere(JOBS[job](tmp_path), tmp_path, POINTS))
