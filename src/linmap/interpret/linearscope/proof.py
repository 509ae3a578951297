"""The proof of a reading: y = F x + r against the network itself, and nothing of the input left out of F."""

from __future__ import annotations

import torch
from torch import Tensor

from linmap.errors import LinmapError
from linmap.interpret.linearscope.interpreter import AffineInterpreter
from linmap.interpret.linearscope.watch import Watch, changed_stranger

TOLERANCE = {torch.float64: 1e-6}
"""Largest difference, relative to the largest output; 1e-2 in all other precisions, whose kernels may differ."""


class InexactReadingError(LinmapError, ValueError):
    """The affine map that was read does not agree with the network."""


class Marks:
    """Input and output of a pass that nobody watches."""

    def __init__(self) -> None:
        self.start: Tensor | None = None
        self.end: Tensor | None = None

    def mark_input(self, tensor: Tensor) -> Tensor:
        self.start = tensor.clone()
        return self.start

    def mark_output(self, tensor: Tensor) -> Tensor:
        self.end = tensor.clone()
        return self.end


def detour(read: Watch, moved: Watch) -> str | None:
    """Where a value of the input went around the pass and came back; None where none did.

    Parameters
    ----------
    read, moved
        The pass that was read, and the same one on an input moved a little.
    """
    place = changed_stranger(read, moved)
    if place is None:
        return None
    return (
        f"{place} takes a tensor or a number that no operation of the pass has made and that is another one when the "
        "input is moved a little: it comes through a thread, NumPy, an extension or the like, where F cannot follow"
    )


def prove_exactness(interp: AffineInterpreter, seen: Tensor, plain: Tensor) -> None:
    """Refuse a reading whose network answers otherwise when nobody watches, or whose map is not the network on x.

    Parameters
    ----------
    interp
        The map that was read.
    seen, plain
        The network's output in the pass that was read and in a plain one.
    """
    if not _agree(seen, plain):
        raise InexactReadingError(
            "the network gives another output for the same input when it runs again: it draws random numbers or keeps "
            "a state. Make it deterministic (or use strict=False)."
        )
    with torch.no_grad():
        y = interp(interp.input if interp.batched else interp.input[None])
    if not _agree(y.reshape(interp.output.shape), interp.output):
        raise InexactReadingError(
            f"F x + r misses the network's output by {interp.exactness():.1e} of its largest value. Try model.double() "
            "and x.double(), which end what is rounding; if it stays, a rule is wrong. strict=False reads the map all "
            "the same."
        )


def _agree(a: Tensor, b: Tensor) -> bool:
    finite = b.isfinite()
    if a.shape != b.shape or not bool((a.isfinite() == finite).all()):
        return False
    largest = b[finite].abs().max() if bool(finite.any()) else b.new_zeros(())
    bar = TOLERANCE.get(b.dtype, 1e-2) * largest
    return bool(((a - b)[finite].abs() <= bar).all())
