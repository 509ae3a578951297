"""The studies of Learngene Pool at a tiny size."""

from pathlib import Path

import pytest
from studies.learngene_pool import PROTOCOLS
from studies.study import Job

from linmap.data import find
from protocols import check_goes_on

SHOWN = {
    "digits": (("lstsq", "pinv", "transform", "random"), 7),
    "digits-3": (("lstsq",), 3),
    "digits-6000": (("lstsq", "pinv", "transform", "random"), 7),
    "dinov2": (("lstsq", "pinv", "transform"), 6),
    "dinov2-starts": (("lstsq", "pinv", "transform"), 4),
}
"""The starts of the stitches, and how many checks there are."""


def test_every_protocol_is_among_those_that_are_run() -> None:
    assert list(SHOWN) == [protocol.name for protocol in PROTOCOLS]


@pytest.mark.slow  # two dozen short trainings, and DINOv2-small
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_a_protocol_runs_and_goes_on(protocol, tmp_path: Path) -> None:
    if protocol.needs:
        try:
            find("mnist/mnist_12k.npz", "")
        except FileNotFoundError as error:
            pytest.skip(str(error))
    job = Job(tmp_path, seeds=(0,), tiny=True)
    found = protocol.run(job)
    starts, checks = SHOWN[protocol.name]
    assert [row[0] for row in found.tables[0].rows][: len(starts)] == [f"distilled, {start}" for start in starts]
    assert [table.title for table in found.tables][:2] == ["Accuracy", "Auxiliaries alone, before tuning"]
    assert len(found.checks) == checks
    assert found.pictures
    check_goes_on(protocol, job, found)
