"""The tour of one system, of little data: its own takes half a minute."""

from __future__ import annotations

from pathlib import Path

from linmap.cli import main
from linmap.recipes.bt2 import compare, fit


def toured(words: list[str]) -> int:
    """Given a file of pairs that stands in the place of BT²'s example, and flags of the tour."""
    pairs, *flags = words
    compare.BANKING = fit.BANKING = Path(pairs)
    return main(["tour", "--systems", "bt2", *flags])
