"""The studies of Bone at a tiny size."""

from pathlib import Path

import pytest
from studies.bone import PROTOCOLS
from studies.study import Job

BY_NAME = {protocol.name: protocol for protocol in PROTOCOLS}


@pytest.mark.slow  # 7 s a protocol: six ways to fine-tune, each at several rates
@pytest.mark.parametrize("name", ["few-sentences", "more-sentences"])
def test_all_modes_run_on_sentences(name: str, tmp_path: Path) -> None:
    found = BY_NAME[name].run(Job(tmp_path, seeds=[0], tiny=True))
    assert [row[0] for row in found.tables[0].rows] == [
        "Bone bat", "Bone bat-row", "Bone add", "Bone mini", "head only", "LoRA", "rsLoRA", "PiSSA", "MiSS",
        "full tuning",
    ]  # fmt: skip
    trained = {row[0]: row[1] for row in found.tables[-1].rows}
    head = 385 * 2
    adapted = [name for name in trained if name not in ("head only", "full tuning")]
    assert {trained[name] for name in adapted} == {f"{73_728 + head:,}"}
    (same,) = [check for check in found.checks if "PEFT calls" in check.statement]
    assert same.passed


@pytest.mark.slow
def test_the_language_model_runs(tmp_path: Path) -> None:
    found = BY_NAME["gsm8k"].run(Job(tmp_path, seeds=[0], tiny=True))
    assert found.tables[1].columns == ["method", "0", "1", "2"]
    assert len(found.checks) == 4
