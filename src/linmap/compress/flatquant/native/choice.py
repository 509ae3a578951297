"""Which kernels FlatQuant's layers run on a CPU.

`LINMAP_FLATQUANT_KERNELS` or `use` name them: "auto" takes what fits the processor; "avx512" (with VNNI), "avx2",
"neon" and "portable" (plain C++) are compiled for it, "torch" are PyTorch's operations.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import warnings
from functools import cache
from typing import Any, Self

import joblib
import torch

from linmap.compress.flatquant.native import build
from linmap.compress.flatquant.native.build import Unavailable
from linmap.errors import ArgumentError

VARIABLE = "LINMAP_FLATQUANT_KERNELS"
NAMES = ("auto", "avx512", "avx2", "neon", "portable", "torch")


class Kernels:
    """What is running: the name of the instructions, and the library (None: PyTorch's operations)."""

    def __init__(self, name: str, library: ctypes.CDLL | None = None) -> None:
        self.name = name
        self.library = library


_lock = threading.RLock()
_active: Kernels | None = None  # not chosen yet
_loaded: dict[str, Kernels] = {}


def active_kernels() -> str:
    """The kernels of FlatQuant's layers on this CPU: "avx512-vnni", "avx2", "neon", "portable" or "torch".

    The first call compiles them, which takes some seconds, unless they are kept from before.

    Raises
    ------
    ValueError
        If `LINMAP_FLATQUANT_KERNELS` names none, or some that this machine does not run.
    """
    return active().name


def active() -> Kernels:
    global _active
    found = _active
    if found is None:
        with _lock:
            if _active is None:
                _active = _chosen(os.environ.get(VARIABLE, "auto"), VARIABLE)
            found = _active
    return found


def threads() -> int:
    """Threads of a call: as many as PyTorch's, and no more than the processors that this process may use.

    Threads of a step wait for each other some hundred times, which stands still while one of them has no processor;
    in a container PyTorch may count those of the whole machine.
    """
    return min(torch.get_num_threads(), processors())


@cache
def processors() -> int:
    """What affinity, the quota of a container and `LOKY_MAX_CPU_COUNT` leave.

    Raises
    ------
    ValueError
        If the variable is no whole number.
    """
    try:
        return joblib.cpu_count()
    except ValueError:
        said = os.environ.get("LOKY_MAX_CPU_COUNT")
        raise ArgumentError(f"LOKY_MAX_CPU_COUNT={said!r} is no whole number; correct or unset it.") from None


def library() -> ctypes.CDLL:
    """The library of the kernels; where PyTorch's operations were chosen meanwhile, that of a compiled graph."""
    found = active().library or next((kernels.library for kernels in _loaded.values() if kernels.library), None)
    if found is None:
        raise RuntimeError("no kernels were compiled.")
    return found


class use:
    """Choose the kernels of FlatQuant's layers in this process, from now on or inside `with`.

    What `torch.compile` has compiled keeps those it was compiled with.

    Parameters
    ----------
    name
        "auto", "avx512", "avx2", "neon", "portable" or "torch".

    Raises
    ------
    ValueError
        If there are none of this name, or this machine does not run them.
    """

    def __init__(self, name: str) -> None:
        global _active
        with _lock:
            self.before = _active
            _active = _chosen(name, "kernels")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        global _active
        with _lock:
            _active = self.before


def _chosen(name: str, source: str) -> Kernels:
    if name not in NAMES:
        raise ArgumentError(f"{source}={name!r} is none of {', '.join(NAMES)}.")
    if name == "torch":
        return Kernels("torch")
    if name != "auto":
        return _compiled(name, source)
    if "auto" not in _loaded:
        _loaded["auto"] = _best()
    return _loaded["auto"]


def _best() -> Kernels:
    """What fits the processor; PyTorch's operations, with a warning, where it cannot be compiled."""
    name = next((kind for kind in ("avx512", "avx2", "neon") if has(kind)), None)
    if name is None:
        return Kernels("torch")
    try:
        return _load(name)
    except Unavailable as error:
        warnings.warn(
            f"FlatQuant's layers run as operations of PyTorch, which takes several times as long for few tokens: "
            f"{error} ({VARIABLE}=torch is silent).",
            RuntimeWarning,
            stacklevel=2,
        )
        return Kernels("torch")


def _compiled(name: str, source: str) -> Kernels:
    if name != "portable" and not has(name):
        raise ArgumentError(f"{source}={name!r}, but this processor has no such instructions; auto takes what it has.")
    try:
        return _load(name)
    except Unavailable as error:
        raise ArgumentError(f"{source}={name!r} cannot be had on this machine: {error}.") from None


def _load(name: str) -> Kernels:
    if name not in _loaded:
        found = build.library(name)
        found.linmap_name.restype = ctypes.c_char_p
        for function in (found.linmap_linear, found.linmap_transform, found.linmap_encode):
            function.argtypes = [ctypes.c_char_p]
        known = found.linmap_name().decode()
        if not known.startswith(name):  # an old compiler
            raise Unavailable(f"the compiler does not know the instructions ({known} came out)")
        _loaded[name] = Kernels(known, found)
    return _loaded[name]


def has(name: str) -> bool:
    """Whether this processor has the instructions."""
    machine = platform.machine().lower()
    if name == "neon":
        return machine in ("aarch64", "arm64")
    if machine not in ("x86_64", "amd64"):
        return False
    if name == "avx2":
        return torch.cpu._is_avx2_supported()
    return name == "avx512" and torch.cpu._is_avx512_supported() and torch.cpu._is_vnni_supported()
