"""The 32 places of the permanent teeth, in the order of the two arches, by FDI number (ISO 3950)."""

from __future__ import annotations

from typing import Any

import numpy as np

from linmap.errors import ArgumentError

FDI = tuple(
    quadrant * 10 + tooth
    for quadrant, teeth in ((1, range(8, 0, -1)), (2, range(1, 9)), (4, range(8, 0, -1)), (3, range(1, 9)))
    for tooth in teeth
)
"""The number of each slot: 18..11, 21..28 of the upper arch, then 48..41, 31..38 of the lower."""

SLOT = {fdi: slot for slot, fdi in enumerate(FDI)}
OTHER_SIDE = {1: 2, 2: 1, 3: 4, 4: 3}
MIRROR = np.array([SLOT[OTHER_SIDE[fdi // 10] * 10 + fdi % 10] for fdi in FDI])
"""The slot of the same tooth on the other side."""

TEETH = 32
UPPER, LOWER = slice(0, 16), slice(16, 32)
JAWS = {"upper": UPPER, "lower": LOWER}


def slot_of(fdi: Any) -> int:
    """The slot of a tooth, 0 to 31.

    Raises
    ------
    ValueError
        If it is no FDI number of a permanent tooth.
    """
    number = int(fdi) if isinstance(fdi, int | np.integer) and not isinstance(fdi, bool) else None
    if number in SLOT:
        return SLOT[number]
    if number is not None and 51 <= number <= 85 and 1 <= number % 10 <= 5:
        raise ArgumentError(f"tooth {number} is deciduous; only the permanent teeth {_valid()} are known.")
    if number is not None and 51 <= number <= 85:
        raise ArgumentError(f"tooth {number} is no FDI number (51 to 85 are deciduous); valid are {_valid()}.")
    raise ArgumentError(f"tooth {fdi!r} is no FDI number; valid are {_valid()}.")


def slots_of(name: str, teeth: Any) -> list[int]:
    """The slots of several teeth, each once.

    Raises
    ------
    ValueError
        If one is no FDI number, or comes twice; the message begins with `name`.
    """
    try:
        slots = [slot_of(fdi) for fdi in teeth]
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from None
    except TypeError:
        raise ArgumentError(f"{name} must be FDI numbers such as (16, 26), got {teeth!r}.") from None
    return sorted(set(slots))


def _valid() -> str:
    return "11-18, 21-28, 31-38, 41-48"
