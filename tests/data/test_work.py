"""Folders of long jobs: nothing goes but what the job wrote, whatever the folder is."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.data.engines import map_records
from linmap.data.work import begin_work, discard, is_work
from linmap.errors import DataError

OWN = ["000000.npy", "000001.json", "00000012.npy", "budget.json"]
OTHERS = ["notes.txt", "plan.json.bak", "1.npy", "v000000.npy", "sub", "000000.npy.old", ".hidden"]


@given(
    own=st.sets(st.sampled_from(OWN)),
    others=st.sets(st.sampled_from(OTHERS)),
    there=st.booleans(),
    linked=st.booleans(),
    late=st.booleans(),
)
def test_what_is_left_is_what_was_there(own, others, there, linked, late, tmp_path_factory) -> None:
    """A folder of the user's, a link to one or to nothing, with files that come in between; the run's own names go."""
    place = tmp_path_factory.mktemp("work")
    folder, work = place / "folder", place / ("link" if linked else "folder")
    if there:
        folder.mkdir()
    if linked:
        work.symlink_to(folder)
    begin_work(work, {"a": 1})
    assert is_work(work)
    for name in own | others:
        (folder / name).mkdir() if name == "sub" else (folder / name).write_text("x")
    discard(work)
    if late:
        discard(work)  # a second time it does nothing
    assert folder.exists() == (there or bool(others))
    assert {path.name for path in folder.iterdir()} == others if folder.exists() else not others
    assert work.is_symlink() == linked


def ready(place: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Path:
    """A work folder of the user's."""
    work = place / "mine"
    work.mkdir()
    if kind == "link":
        (place / "link").symlink_to(work)
        return place / "link"
    if kind == "current":
        monkeypatch.chdir(work)
        return Path()
    return work


@pytest.mark.parametrize("kind", ["folder", "link", "current"])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_folder_of_the_user_stays(kind, stopped, tmp_path, monkeypatch) -> None:
    np.save(tmp_path / "x.npy", np.ones((9, 2)))
    work = ready(tmp_path, monkeypatch, kind)

    def interrupt(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    run = {"source": tmp_path / "x.npy", "out": tmp_path / "v.npy", "function": np.copy, "work": work}
    if stopped:
        with pytest.raises(KeyboardInterrupt):
            map_records(**run, shard_records=3, progress=interrupt)
        (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert map_records(**run, shard_records=3, resume=stopped).resumed == 6 * stopped
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"] * stopped
    assert work.is_symlink() == (kind == "link")


@pytest.mark.parametrize("text", ['{"milestones": []}', "[]", "", "{", '{"format": 3, "shards": []}'])
def test_a_plan_of_the_user_is_left_alone(text, tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.ones((9, 2)))
    work = tmp_path / "mine"
    work.mkdir()
    (work / "plan.json").write_text(text)
    (work / "000000.npy").write_text("precious")
    for resume in (False, True):
        with pytest.raises(DataError, match=r"holds something else than a run|is damaged; remove|with another format"):
            map_records(tmp_path / "x.npy", tmp_path / "v.npy", np.copy, work, resume=resume)
    assert (work / "plan.json").read_text() == text
    assert (work / "000000.npy").read_text() == "precious"


def test_a_folder_that_cannot_be_moved_is_emptied(tmp_path, monkeypatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    work = tmp_path / "work"
    begin_work(work, {})
    (work / "000000.npy").write_bytes(b"1")
    monkeypatch.setattr(os, "rename", busy)
    discard(work)
    assert not work.exists()


def test_a_plan_says_who_made_the_folder(tmp_path) -> None:
    begin_work(tmp_path / "new" / "er", {"a": 1})
    (tmp_path / "old").mkdir()
    begin_work(tmp_path / "old", {"a": 1})
    plans = [json.loads((tmp_path / name / "plan.json").read_text()) for name in ("new/er", "old")]
    assert plans == [{"a": 1, "made": True}, {"a": 1, "made": False}]
