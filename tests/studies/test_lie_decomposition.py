"""The protocols of the Lie group decompositions, tiny; what settings are chosen by, and that the warps are one draw."""

from pathlib import Path

import numpy as np
import pytest
import torch
from studies.lie_decomposition import PROTOCOLS, digits
from studies.lie_decomposition.robustness import SPLIT
from studies.study import Job, Protocol

from linmap.data import find
from linmap.data.image_warps import WarpRanges
from linmap.errors import LinmapError
from linmap.recipes.lie_decomposition.compare import Task


def _there() -> bool:
    try:
        return bool(find("mnist/mnist_12k.npz", ""))
    except (LinmapError, OSError):
        return False


pytestmark = pytest.mark.skipif(not _there(), reason="needs mnist/mnist_12k.npz in LINMAP_DATA")
SLOW = {"robustness": [pytest.mark.slow]}


@pytest.mark.parametrize("protocol", [pytest.param(p, marks=SLOW.get(p.name, []), id=p.name) for p in PROTOCOLS])
def test_a_protocol_runs(protocol: Protocol, tmp_path: Path) -> None:
    found = protocol.run(Job(tmp_path, seeds=(0,), tiny=True))
    assert all(row for table in found.tables for row in table.rows)
    assert not any(cell == "nan" for table in found.tables for row in table.rows for cell in row)
    assert all((tmp_path / picture.file).exists() for picture in found.pictures)
    assert not any("not drawn" in sentence for sentence in found.sentences)


def test_settings_are_chosen_on_images_of_the_training_file_that_are_not_trained_on() -> None:
    choosing, testing = digits.for_choosing(False), digits.for_testing(False)
    assert (len(choosing.x), len(choosing.x_test)) == (1700, 300)
    assert torch.equal(torch.cat([choosing.x, choosing.x_test]), testing.x)
    np.testing.assert_array_equal(np.concatenate([choosing.y, choosing.y_test]), testing.y)


def test_warps_are_the_same_draw_at_every_strength() -> None:
    task = Task.of(digits.for_testing(True), WarpRanges(), SPLIT)
    assert torch.equal(task.tests[0], task.data.x_test) or torch.allclose(task.tests[0], task.data.x_test, atol=1e-5)
    again = Task.of(digits.for_testing(True), WarpRanges(), SPLIT)
    assert all(torch.equal(a, b) for a, b in zip(task.tests, again.tests, strict=True))
    moved = [float((test - task.data.x_test).abs().mean()) for test in task.tests]
    assert moved == sorted(moved)
