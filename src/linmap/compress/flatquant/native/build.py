"""The library of the C++ kernels: compiled by the machine's compiler at first use, in seconds, and kept.

It lies in `$LINMAP_CACHE/native`, by default `~/.cache/linmap/native`, under a name made of what it was compiled from
and of its own content: sources, compiler, options and processor, then a digest of the file. A file that is not what its
name says is never loaded. It is written elsewhere and renamed, so that a killed compilation leaves nothing that counts;
of several processes that need it at once, one compiles.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent
OPTIONS = ("-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", "-shared", "-w")
"""No fast mathematics: NaN, infinities and the order of sums matter."""
OF_KIND = {
    "avx512": ("-march=native",),
    "avx2": ("-march=native", "-mno-avx512f"),
    "neon": ("-mcpu=native",),
    "portable": ("-DLINMAP_PORTABLE",),
}
ADVICE = "install a C++ compiler (`apt install g++`, `dnf install gcc-c++`, `xcode-select --install`)"
SECONDS = 300
STALE = 3600  # seconds after which the folder of a killed compilation is removed


class Unavailable(RuntimeError):
    """There is no library on this machine; the message says why, and what to do."""


def library(kind: str) -> ctypes.CDLL:
    """The library for a set of instructions, compiled unless it is kept.

    Raises
    ------
    Unavailable
        If there is no compiler, it fails, or what it made cannot be loaded.
    """
    compiler = _compiler()
    key, folder = _key(compiler, kind), _folder()
    if folder is None:
        return _private(compiler, kind)
    found = _kept(folder, key)
    if found is not None:
        return found
    try:
        with _locked(folder / f"{key}.lock"):
            found = _kept(folder, key)  # another process may have made it meanwhile
            if found is not None:
                return found
            _clean(folder)
            with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as work:
                made = _compiled(compiler, kind, Path(work))
                os.replace(made, folder / f"{key}-{_digest(made.read_bytes())}.so")
    except OSError:  # read-only, full, no locks
        return _private(compiler, kind)
    return _kept(folder, key) or _private(compiler, kind)


def _private(compiler: tuple[str, ...], kind: str) -> ctypes.CDLL:
    """A library for this process alone, where none can be kept, or not run from where it is kept."""
    try:
        with tempfile.TemporaryDirectory(prefix="linmap-") as work:
            return ctypes.CDLL(str(_compiled(compiler, kind, Path(work))))
    except OSError as error:
        raise Unavailable(f"the compiled kernels cannot be loaded ({error}); set LINMAP_CACHE to a folder") from None


def _kept(folder: Path, key: str) -> ctypes.CDLL | None:
    for path in sorted(folder.glob(f"{key}-*.so")):
        try:
            if path.stem == f"{key}-{_digest(path.read_bytes())}":
                return ctypes.CDLL(str(path))
            path.unlink()
        except OSError:  # gone, unreadable, or in a file system from which nothing is run
            continue
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


# -- the folder --------------------------------------------------------------------------------------------------------


def _folder() -> Path | None:
    """Where libraries are kept: a folder that only this user can write to; None if there is none."""
    home = os.environ.get("LINMAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "linmap")
    folder = Path(home) / "native"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return None
    return folder if found.st_uid == os.geteuid() and not found.st_mode & 0o022 else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # not on Windows

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _clean(folder: Path) -> None:
    """Remove what killed compilations left."""
    for path in folder.glob("build-*"):
        if time.time() - path.stat().st_mtime > STALE:
            shutil.rmtree(path, ignore_errors=True)


# -- the compiler ------------------------------------------------------------------------------------------------------


def _compiler() -> tuple[str, ...]:
    """`$CXX`, g++ or clang++, with its arguments."""
    if sys.platform == "win32":
        raise Unavailable("the kernels are compiled on Linux and macOS only")
    given = os.environ.get("CXX")
    for name in [given] if given else ["g++", "clang++"]:
        words = shlex.split(name)
        if words and (path := shutil.which(words[0])) is not None:
            return path, *words[1:]
    missing = f"CXX={given} is not there" if given else "there is no g++ or clang++"
    raise Unavailable(f"{missing}; {ADVICE}")


def _key(compiler: tuple[str, ...], kind: str) -> str:
    parts = [_version(compiler), *compiler, *OPTIONS, *OF_KIND[kind], _processor()]
    parts += [text for path in _sources("*.h", "*.cpp") for text in (path.name, path.read_text())]
    return f"{kind}-{_digest(chr(0).join(parts).encode())}"


def _sources(*patterns: str) -> list[Path]:
    return sorted(path for pattern in patterns for path in SOURCES.glob(pattern))


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    try:
        return subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=SECONDS).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{compiler[0]} does not run ({error}); {ADVICE}") from None


@functools.cache
def _processor() -> str:
    """The processor and its instructions: -march=native means another one elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return "\n".join(
        [
            platform.machine(),
            platform.processor(),
            *sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}),
        ]
    )


def _compiled(compiler: tuple[str, ...], kind: str, folder: Path) -> Path:
    """The file that the compiler makes, with threads where it has OpenMP."""
    made, problem = folder / "kernels.so", ""
    for threads in (["-fopenmp"], []):
        command = [*compiler, *OPTIONS, *OF_KIND[kind], *threads, *map(str, _sources("*.cpp")), "-o", str(made)]
        try:
            run = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=SECONDS,
                env=os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)},
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"{compiler[0]} does not run ({error}); {ADVICE}") from None
        if run.returncode == 0 and made.is_file():
            return made
        errors = [line for line in run.stderr.splitlines() if "error" in line] or run.stderr.splitlines()
        problem = problem or (errors[0].strip() if errors else f"exit status {run.returncode}")
    raise Unavailable(f"{compiler[0]} cannot compile the kernels: {problem}")
