"""The library is compiled once and kept, whatever happens to its folder, its file or the compiler."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from linmap.compress.flatquant.native import build

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


@pytest.fixture(autouse=True)
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A source of one line, a cache of its own, and what was compiled."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.cpp").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("LINMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    run, commands = subprocess.run, []

    def counted(command: Any, **options: Any) -> Any:
        if "-shared" in command:
            commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(build.subprocess, "run", counted)
    return commands


def kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "native").glob("*.so"))


def test_it_is_compiled_once_and_kept_for_its_user_alone(tmp_path, compilations):
    assert [build.library("portable").one() for _ in range(3)] == [1, 1, 1]
    assert len(compilations) == len(kept(tmp_path)) == 1
    assert (tmp_path / "cache" / "native").stat().st_mode & 0o777 == 0o700


def test_other_sources_are_another_library(compilations):
    build.library("portable")
    (build.SOURCES / "one.cpp").write_text('extern "C" int one() { return 2; }\n')
    assert build.library("portable").one() == 2
    assert len(compilations) == 2


def test_of_several_at_once_one_compiles(compilations):
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(build.library("portable").one())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 4
    assert len(compilations) == 1


@pytest.mark.parametrize("damage", ["cut", "changed", "no library"])
def test_a_file_that_is_not_what_its_name_says_is_never_loaded(tmp_path, compilations, damage):
    build.library("portable")
    [path] = kept(tmp_path)
    content = path.read_bytes()
    path.unlink()
    if damage == "no library":
        key = path.stem.rpartition("-")[0]
        path = path.with_name(f"{key}-{build._digest(b'nothing')}.so")
    damaged = {"cut": content[:1000], "changed": content[:-1] + b"?", "no library": b"nothing"}
    path.write_bytes(damaged[damage])
    assert build.library("portable").one() == 1
    assert len(compilations) == 2


def test_what_a_killed_compilation_left_is_removed(tmp_path, compilations):
    left = tmp_path / "cache" / "native" / "build-left"
    left.mkdir(parents=True, mode=0o700)
    os.chmod(left.parent, 0o700)
    (left / "kernels.so").write_bytes(b"half of it")
    os.utime(left, (0, 0))
    assert build.library("portable").one() == 1
    assert not left.exists()


@pytest.mark.parametrize("why", ["no folder", "others write to it", "nothing runs from it"])
def test_without_a_folder_it_is_compiled_for_the_process(tmp_path, monkeypatch, why):
    folder = tmp_path / "cache" / "native"
    if why == "no folder":
        (tmp_path / "cache").write_text("a file")
    elif why == "others write to it":
        folder.mkdir(parents=True)
        os.chmod(folder, 0o777)
    else:
        load = ctypes.CDLL

        def refused(path: str) -> Any:
            if str(folder) in path:
                raise OSError("failed to map segment from shared object")
            return load(path)

        monkeypatch.setattr(build.ctypes, "CDLL", refused)
    assert build.library("portable").one() == 1
    if why != "nothing runs from it":
        assert not kept(tmp_path)


def test_a_library_that_can_be_loaded_from_nowhere(monkeypatch):
    def refused(path: str) -> Any:
        raise OSError("failed to map segment from shared object")

    monkeypatch.setattr(build.ctypes, "CDLL", refused)
    with pytest.raises(build.Unavailable, match="LINMAP_CACHE"):
        build.library("portable")


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("/nowhere/g++", "CXX=/nowhere/g\\+\\+ is not there; install"),
        ("false", "cannot compile the kernels: exit status 1"),
        ("true", "cannot compile the kernels"),
    ],
)
def test_compilers_that_are_not_there_or_broken(monkeypatch, compiler, message):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(build.Unavailable, match=message):
        build.library("portable")


def test_the_message_of_a_compiler_is_told():
    (build.SOURCES / "one.cpp").write_text("int one( {}\n")
    with pytest.raises(build.Unavailable, match=r"one\.cpp.*error"):
        build.library("portable")


def test_sources_are_beside_the_code():
    """They are in the wheel, which packs the whole folder."""
    folder = Path(build.__file__).parent
    assert {path.name for path in folder.glob("*.[hc]*")} >= {"codes.h", "lanes.h", "linear.cpp"}
