"""The studies of Learngene Pool at a tiny size."""

from pathlib import Path

import pytest
from studies.learngene_pool import PROTOCOLS
from studies.study import Job

from protocols import check_goes_on


@pytest.mark.slow  # two dozen short trainings, and DINOv2-small
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_a_protocol_runs_and_goes_on(protocol, tmp_path: Path) -> None:
    job = Job(tmp_path, seeds=(0,), tiny=True)
    found = protocol.run(job)
    starts = ["lstsq", "pinv", "transform", "random"] if protocol.name == "digits" else ["lstsq", "pinv", "transform"]
    assert [row[0] for row in found.tables[0].rows][: len(starts)] == [f"distilled, {start}" for start in starts]
    assert [table.title for table in found.tables][:2] == ["Accuracy", "Auxiliaries alone, before tuning"]
    assert len(found.checks) == (7 if protocol.name == "digits" else 6)
    assert found.pictures
    check_goes_on(protocol, job, found)
