"""The protocols of the augmented covariance, tiny."""

from pathlib import Path

import pytest
from studies.acm import PROTOCOLS
from studies.study import Job

from linmap.data.epochs import eegmmidb
from protocols import check_goes_on, finished


@pytest.mark.slow  # 6 s: real epochs in two bands, twice
def test_mamem_measures_both_bands_and_resumes(tmp_path: Path) -> None:
    job = Job(tmp_path, seeds=(0,), tiny=True)
    found = PROTOCOLS[0].run(job)
    assert [table.title for table in found.tables] == [
        "4-35 Hz",
        "unfiltered",
        "By subject: 4-35 Hz",
        "By subject: unfiltered",
    ]
    assert [row[0] for row in found.tables[2].rows] == ["MAMEM subject 1", "MAMEM subject 3"]
    assert len(found.tables[0].rows) == 6
    assert len(found.checks) == 6
    assert [(tmp_path / picture.file).exists() for picture in found.pictures] == [True, True]
    assert len(finished(tmp_path)) == 2 * 2 * 6
    check_goes_on(PROTOCOLS[0], job, found)


def test_physionet_names_every_setting(tmp_path: Path) -> None:
    try:
        eegmmidb()
    except FileNotFoundError:
        pytest.skip("PhysioNet's S001 is not here")
    table = PROTOCOLS[1].run(Job(tmp_path, seeds=(0,), tiny=True)).tables[0]
    assert [row[1] for row in table.rows] == ["(1, 1)", "(2, 4)"]
    assert all(" ± " in str(cell) for row in table.rows for cell in row[2:])
