"""The studies of SALT at a tiny size."""

from pathlib import Path

import pytest
import torch
from studies.salt import PROTOCOLS, peak
from studies.study import Job


@pytest.mark.slow
def test_a_structure_is_found_by_every_method(tmp_path: Path) -> None:
    (vessels, _, _) = PROTOCOLS
    found = vessels.run(Job(tmp_path, seeds=[0], tiny=True))
    names = ["SALT", "decoder only", "LoRA", "full tuning", "scale and shift", "SALT, relu on the diagonal"]
    assert [row[0] for row in found.tables[0].rows] == names
    assert [row[0] for row in found.tables[-1].rows] == names
    assert "HD95 on 6 test images" in found.setting
    assert found.checks[-1].passed  # SALT has no more parameters than LoRA
    assert len(found.pictures) == 2


@pytest.mark.slow
def test_a_vision_transformer_is_adapted_by_every_method(tmp_path: Path) -> None:
    found = PROTOCOLS[2].run(Job(tmp_path, seeds=[0], tiny=True))
    assert [row[0] for row in found.tables[0].rows] == [
        "SALT",
        "decoder only",
        "LoRA",
        "full tuning",
        "scale and shift",
    ]
    assert "SALT 23,360, decoder only 0, LoRA 24,576, full tuning 7,100,928" in found.sentences[0]
    assert found.checks[-1].passed  # SALT has no more parameters than LoRA


def test_the_peak_is_what_is_held_at_once() -> None:
    def work() -> None:
        for _ in range(3):
            torch.ones(1 << 20).sum()

    assert 4 << 20 <= peak(work) < 5 << 20
