"""How much memory may be taken while a network is built from what a file says of its sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from linmap.data.door import files_inside
from linmap.errors import ArtifactError

LEAST, TIMES = 2**30, 64
"""Bytes that building may ask for: at least the first, and so many times those of the weights."""
STEPS, STEP = 100_000, 2**12
"""Operations on tensors that building may take: a network of a few hundred layers takes fewer than the first; more for
each so many bytes of weights."""


def weight_files(folder: Path | str) -> list[Path]:
    """The files of a folder that hold weights, in order."""
    return files_inside(Path(folder), (".safetensors",))


def weights_in(folder: Path | str) -> int:
    """Bytes of the weights that a folder holds."""
    return sum(path.stat().st_size for path in weight_files(folder))


@contextmanager
def no_larger_than(weights: int) -> Iterator[None]:
    """What is built inside asks for memory in proportion to the weights that will go into it.

    Parameters
    ----------
    weights
        Bytes of the files of weights.

    Raises
    ------
    ArtifactError
        Where it asks for more: the sizes in the configuration are not those of the weights.
    """
    with _Asked(max(LEAST, TIMES * weights), STEPS + weights // STEP):
        yield


class _Asked(TorchDispatchMode):
    """Counts the bytes of new tensors, before those of a stated shape are made."""

    def __init__(self, most: int, steps: int) -> None:
        super().__init__()
        self.left, self.steps = most, steps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.steps -= 1
        if args and isinstance(args[0], list | tuple) and all(isinstance(size, int) for size in args[0]):
            asked = 1
            for size in args[0]:
                asked *= max(size, 0)
            self._take(asked)
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not (args and out is args[0]) and out._base is None:
            self._take(out.nbytes)
        self._take(0)
        return out

    def _take(self, asked: int) -> None:
        self.left -= asked
        if self.left < 0 or self.steps < 0:
            raise ArtifactError("the sizes in its configuration are far larger than its weights")
