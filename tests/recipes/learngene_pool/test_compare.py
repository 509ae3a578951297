"""The comparison of a pool with other ways to many sizes, tiny."""

from pathlib import Path

import pytest

from linmap.errors import DataError
from linmap.recipes.job import CompareJob
from linmap.recipes.learngene_pool import compare as module
from linmap.recipes.learngene_pool.compare import ALONE, ONE, POOL, RANDOM, SNNET, compare
from linmap.recipes.learngene_pool.flags import Compare
from recipes.learngene_pool.tiny import TINY, write_archive

NAMES = [POOL, SNNET, ALONE, RANDOM, ONE]


def test_every_way_is_measured_and_a_verdict_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_archive(tmp_path / "images.npz")
    settings, job = Compare(**TINY, seeds=1), CompareJob(data, tmp_path / "out")
    found = compare(settings, job)
    assert [row.name for row in found.rows] == NAMES
    pool, alone, one = (next(row for row in found.rows if row.name == name) for name in (POOL, ALONE, ONE))
    assert (one.parameters or 0) < (pool.parameters or 0) < (alone.parameters or 0)
    assert set(one.values) == {"accuracy of the widest"}  # it serves one budget
    assert "images" in found.verdict
    assert len(found.checks) == 4
    assert [row[0] for row in found.tables[0].rows] == NAMES
    assert {row[4] for row in found.tables[0].rows} == {3}  # two auxiliaries and the tuning
    assert len(found.tables[1].rows) == 6
    assert (tmp_path / "out" / "sizes.svg").exists()

    def never(*_: object) -> None:
        raise AssertionError("a finished run was measured again")

    monkeypatch.setattr(module, "outcome", never)
    again = compare(settings, CompareJob(data, tmp_path / "out", resume=True))
    assert [row.values for row in again.rows] == [row.values for row in found.rows]


def test_a_class_that_the_cap_leaves_out_is_named(tmp_path: Path) -> None:
    data = write_archive(tmp_path / "images.npz")
    with pytest.raises(DataError, match="has none of the images=2 to train on"):
        compare(Compare(**TINY, seeds=1, images=2), CompareJob(data, tmp_path / "out"))


def test_members_are_shared_between_arms_and_not_spoilt_by_tuning(tmp_path: Path) -> None:
    from linmap.recipes.learngene_pool import images

    settings = Compare(**TINY, seeds=1)
    data = images.load(settings, write_archive(tmp_path / "images.npz"), 0, None)
    task = module.Task(settings, data, 0, tmp_path / "ancestry", False)
    first, _ = task.members(0, True)
    before = first[0].cls_token.clone()
    first[0].cls_token.data.zero_()
    assert (task.members(0, True)[0][0].cls_token == before).all()
    assert task.passes == 3
