"""A command replaces only what the same command wrote: files of users, of other commands, and changed ones stay."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linmap.artifacts import write_text
from linmap.errors import DataError, UsageError
from linmap.ownership import filling, owner


@pytest.fixture(autouse=True)
def _state(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LINMAP_STATE", str(tmp_path_factory.mktemp("state")))


def test_what_the_command_wrote_itself_it_writes_again(tmp_path):
    for text in "ab":
        with owner("apply mbat"):
            write_text(tmp_path / "out.csv", text)
    assert (tmp_path / "out.csv").read_text() == "b"


@pytest.mark.parametrize("by", ["a user", "another command", "a user, after the command"])
def test_what_others_wrote_stays(by, tmp_path):
    path = tmp_path / "vectors.parquet"
    if by != "a user":
        with owner("apply mbat" if "after" in by else "apply bt2"):
            write_text(path, "theirs")
    if by != "another command":
        path.write_text("theirs!")
    before = path.read_bytes()
    with owner("apply mbat"), pytest.raises(UsageError, match=r"is there already .* overwrite=True"):
        write_text(path, "ours")
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["vectors.parquet"]
    with owner("apply mbat", overwrite=True):
        write_text(path, "ours")
    with owner("apply mbat"):
        write_text(path, "ours again")
    assert path.read_text() == "ours again"


def test_a_folder_that_the_command_made_is_its_own_with_all_in_it(tmp_path):
    run = tmp_path / "runs" / "deep" / "run"
    with owner("fit olinear", out=run):
        write_text(run / "inside" / "a.json", "1")
        (run / "inside" / "by_another_library.bin").write_text("x")
        write_text(run / "inside" / "by_another_library.bin", "y")
    with owner("fit bone", out=run), pytest.raises(UsageError):
        write_text(run / "inside" / "a.json", "2")


WRITERS = st.sampled_from(["apply mbat", "apply bt2", "the user"])
PLACES = st.sampled_from(["a.csv", "new/a.csv", "new/b.csv", "new/deep/a.csv", "new/deep/b.csv"])


@given(st.lists(st.tuples(WRITERS, PLACES), max_size=8))
def test_a_folder_above_an_output_makes_nothing_in_it_the_commands(tmp_path_factory, written):
    """Whoever made the folders, a file is replaced only by the command that wrote it last."""
    top, last = tmp_path_factory.mktemp("top"), {}
    for number, (who, place) in enumerate(written):
        path, text = top / place, "x" * (number + 1)
        if who == "the user":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif last.get(place, who) == who:
            with owner(who, out=path):
                write_text(path, text)
        else:
            with owner(who, out=path), pytest.raises(UsageError, match="is there already"):
                write_text(path, text)
            continue
        last[place] = who
        assert path.read_text() == text


def test_a_folder_made_anew_by_the_user_is_the_users(tmp_path):
    run = tmp_path / "run"
    with owner("fit olinear", out=run):
        write_text(run / "a.json", "1")
    os.rename(run, tmp_path / "old")
    run.mkdir()
    (run / "a.json").write_text("mine")
    with owner("fit olinear", out=run), pytest.raises(UsageError):
        write_text(run / "a.json", "2")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("inside", ["", "mine.txt"])
def test_a_folder_in_the_place_of_a_file_stays_and_is_told_by_its_name(overwrite, inside, tmp_path):
    folder = tmp_path / "out.csv"
    folder.mkdir()
    if inside:
        (folder / inside).write_text("mine")
    with owner("apply mbat", overwrite), pytest.raises(DataError, match=f"^{folder} is a folder; name a file"):
        write_text(folder, "x")
    assert [path.name for path in tmp_path.rglob("*")] == ["out.csv", *filter(None, [inside])]


def test_python_is_asked_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("theirs")
    write_text(tmp_path / "a.txt", "mine")
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_a_home_that_cannot_be_written_to_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LINMAP_STATE", str(tmp_path / "file"))
    with owner("apply mbat"):
        write_text(tmp_path / "out.csv", "a")
        with pytest.raises(UsageError):
            write_text(tmp_path / "out.csv", "b")


@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_name_of_a_file_is_remembered(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    path = Path(folder, f"a{name}.txt")
    for text in "ab":
        with owner("apply mbat"):
            write_text(path, text)
    assert path.read_text() == "b"


def test_a_folder_that_got_nothing_goes_again_and_one_that_got_something_stays(tmp_path):
    with owner("fit olinear"), pytest.raises(RuntimeError), filling(tmp_path / "runs" / "fit"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    with owner("fit olinear"), filling(tmp_path / "mine" / "fit"):
        write_text(tmp_path / "mine" / "fit" / "a.json", "1")
    assert (tmp_path / "mine" / "fit" / "a.json").exists()


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_a_command_that_was_killed_while_it_put_a_file_in_its_place_may_go_on(replaced, first, tmp_path, monkeypatch):
    path, replace = tmp_path / "x.csv", os.replace
    if not first:
        with owner("apply mbat"):
            write_text(path, "before")

    def killed(source, target):
        if Path(target) == path:
            if replaced:
                replace(source, target)
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, owner("apply mbat"):
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "after!")
    with owner("apply mbat"):
        write_text(path, "again")
    with owner("apply bt2"), pytest.raises(UsageError):
        write_text(path, "theirs")
    path.write_text("mine, by hand")
    with owner("apply mbat"), pytest.raises(UsageError):
        write_text(path, "ours")
