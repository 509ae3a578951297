"""The protocols of LinearScope at their smallest."""

from pathlib import Path

import pytest
import torch
from studies.linearscope import PROTOCOLS
from studies.linearscope.edges import sobel
from studies.study import Job, Protocol

SLOW = ("deletion", "edges", "language-deletion")  # which read whole networks, or train one


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(protocol, id=protocol.name, marks=pytest.mark.slow if protocol.name in SLOW else ())
        for protocol in PROTOCOLS
    ],
)
def test_protocols_run(protocol: Protocol, tmp_path: Path):
    findings = protocol.run(Job(tmp_path, seeds=[0], tiny=True))
    assert findings.tables
    assert all(table.rows and {len(row) for row in table.rows} == {len(table.columns)} for table in findings.tables)
    assert all((tmp_path / picture.file).is_file() for picture in findings.pictures)
    exact = [check for check in findings.checks if check.statement.startswith("y = F x + r")]
    assert all(check.passed for check in exact), exact


def test_sobel_of_a_ramp_is_its_slope():
    ramp = torch.arange(6.0).expand(1, 1, 5, 6)
    torch.testing.assert_close(sobel(ramp)[..., 1:-1], torch.full((1, 1, 5, 4), 2.0))
