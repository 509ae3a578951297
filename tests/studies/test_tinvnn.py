"""The studies of TinvNN at a tiny size."""

from pathlib import Path

import pytest
from studies.study import Job
from studies.tinvnn import PROTOCOLS

BY_NAME = {protocol.name: protocol for protocol in PROTOCOLS}


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_a_protocol_runs(name: str, tmp_path: Path) -> None:
    try:
        found = BY_NAME[name].run(Job(tmp_path, seeds=[0], tiny=True))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert found.tables[0].rows
    checks = {"shapes": 3, "eight-classes": 3, "tsp-20": 1, "tsplib": 1, "six-and-nine": 0}
    assert len(found.checks) == checks[name]
    if name.startswith("ts"):
        assert found.checks[0].passed  # an untrained solver is as invariant as a trained one
    for picture in found.pictures:
        assert (tmp_path / picture.file).read_text().startswith("<?xml")
