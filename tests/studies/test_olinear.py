"""The studies of OLinear: every protocol at a tiny size."""

from pathlib import Path

import pytest
from studies.olinear import PROTOCOLS
from studies.olinear.published import ETTH1, ILI_TASKS, LARGER_HORIZON
from studies.olinear.variants import BASES
from studies.results import section
from studies.study import Job, Protocol

from protocols import check_goes_on


@pytest.mark.parametrize(
    "protocol",
    [pytest.param(p, marks=pytest.mark.slow if p.name in ("horizons", "ili", "hosts") else ()) for p in PROTOCOLS],
    ids=lambda protocol: protocol.name,
)
def test_every_protocol_runs(protocol: Protocol, tmp_path: Path) -> None:
    if protocol.name == "hosts":
        pytest.importorskip("neuralforecast")
    job = Job(tmp_path, range(1), tiny=True)
    found = protocol.run(job)
    text = section(protocol, found, "today", tmp_path)
    assert all(table.title in text for table in found.tables)
    for picture in found.pictures:
        assert (tmp_path / picture.file).read_text().startswith("<?xml")
    check_goes_on(protocol, job, found)


def test_two_seeds_say_whether_the_mixing_matters(tmp_path: Path) -> None:
    mixings = next(protocol for protocol in PROTOCOLS if protocol.name == "mixings")
    found = mixings.run(Job(tmp_path, range(2), tiny=True))
    (table,) = found.tables
    assert [row[0] for row in table.rows] == ["normlin", "correlation", "prior"]
    assert all("±" in str(row[1]) for row in table.rows)
    assert all("analysis of variance p =" in sentence for sentence in found.sentences)


def test_the_tasks_are_those_of_the_paper() -> None:
    assert set(ETTH1["OLinear"]) == {96, 192, 336, 720}
    assert LARGER_HORIZON == {720: {"lr": 1e-4}}
    assert len(ILI_TASKS) == 8
    assert len(BASES) == 9
