"""Every protocol of BT² runs at a tiny size; those whose data are not there are skipped by name."""

from pathlib import Path

import pytest
from studies.bt2 import PROTOCOLS
from studies.study import Job, Protocol

from protocols import check_goes_on

CHECKS = {"cranfield": 10, "banking77": 4, "backfill": 1, "images": 3, "series": 2}


FAST = {"backfill"}  # the others train for seconds even so


@pytest.mark.parametrize(
    "protocol",
    [pytest.param(p, id=p.name, marks=[] if p.name in FAST else [pytest.mark.slow]) for p in PROTOCOLS],
)
def test_a_protocol_runs_and_goes_on_from_what_is_done(protocol: Protocol, tmp_path: Path) -> None:
    job = Job(tmp_path, seeds=(0,), tiny=True)
    try:
        first = protocol.run(job)
    except FileNotFoundError as missing:
        pytest.skip(f"{protocol.name} needs {protocol.needs}: {missing}")
    assert len(first.checks) >= CHECKS[protocol.name]
    assert first.tables or first.pictures
    check_goes_on(protocol, job, first)
