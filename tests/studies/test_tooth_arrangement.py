"""The protocols of tooth arrangement, tiny."""

from pathlib import Path

import pytest
from studies.study import Job, Protocol
from studies.tooth_arrangement import PROTOCOLS

from protocols import check_goes_on


@pytest.mark.slow  # 5 s a protocol: cases are simulated and several planners are trained
@pytest.mark.parametrize("protocol", [pytest.param(p, id=p.name) for p in PROTOCOLS])
def test_a_protocol_runs_and_goes_on(protocol: Protocol, tmp_path: Path) -> None:
    job = Job(tmp_path, seeds=(0,), tiny=True)
    found = protocol.run(job)
    assert found.tables
    assert found.checks
    assert not any("nan" in str(cell) for table in found.tables for row in table.rows for cell in row)
    assert all((tmp_path / picture.file).exists() for picture in found.pictures)
    assert not any("not drawn" in sentence for sentence in found.sentences)
    if protocol.name == "plans":
        assert next(check for check in found.checks if "fixed" in check.statement).passed
    if protocol.name == "two-set-ups":
        check_goes_on(protocol, job, found)
