"""The studies of the Householder Projector at a tiny size."""

from pathlib import Path

import pytest
from studies.householder_projector import PROTOCOLS
from studies.householder_projector.digits import TINY, mnist, pretrained
from studies.study import Job

CHECKS = {"faces": 3, "distillation": 1, "digits": 4}


@pytest.mark.slow
@pytest.mark.parametrize("one", PROTOCOLS, ids=lambda one: one.name)
def test_a_protocol_runs(one, tmp_path: Path) -> None:
    try:
        found = one.run(Job(tmp_path, seeds=[0], tiny=True))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert found.tables[0].rows
    assert len(found.checks) == CHECKS[one.name]
    for picture in found.pictures:
        assert (tmp_path / picture.file).read_text().startswith("<?xml")


def test_digits_are_small_squares_and_the_generator_is_trained_once(tmp_path: Path) -> None:
    try:
        images, labels = mnist(32)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert images.shape == (32, 1, 16, 16)
    assert -1 <= images.min() < images.max() <= 1
    assert len(labels) == 32
    first = pretrained(images, TINY.pretraining, tmp_path, resume=True)
    again = pretrained(images, TINY.pretraining, tmp_path, resume=True)
    assert all((a == b).all() for a, b in zip(first.parameters(), again.parameters(), strict=True))
