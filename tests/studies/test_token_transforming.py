"""The protocols of Token Transforming at their smallest."""

from pathlib import Path

import pytest
from studies.study import Job, Protocol
from studies.token_transforming import PROTOCOLS
from studies.token_transforming.retrieval import ndcg

QUICK = ("digits", "times")
"""The others load a language model or go through all ways."""


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(protocol, id=protocol.name, marks=() if protocol.name in QUICK else pytest.mark.slow)
        for protocol in PROTOCOLS
    ],
)
def test_protocols_run(protocol: Protocol, tmp_path: Path) -> None:
    try:
        findings = protocol.run(Job(tmp_path, seeds=[0], tiny=True))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert findings.tables
    assert all(table.rows and {len(row) for row in table.rows} == {len(table.columns)} for table in findings.tables)
    assert all((tmp_path / picture.file).is_file() for picture in findings.pictures)
    assert not any("was not drawn" in sentence for sentence in findings.sentences)


def test_gains_of_a_ranking() -> None:
    assert ndcg([5, 1, 2], {5}) == 1.0
    assert ndcg([1, 5, 2], {5}) == pytest.approx(0.6309, abs=1e-4)
    assert ndcg([1, 2], {5}) == 0.0
