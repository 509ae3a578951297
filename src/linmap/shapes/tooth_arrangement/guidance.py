"""Arch forms that the user asks for: the width and the depth of each arch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement.slots import FDI, JAWS, SLOT

MOLARS = {"upper": (16, 26), "lower": (46, 36)}
INCISORS = {"upper": (11, 21), "lower": (41, 31)}


class ArchForm:
    """Widths and depths in mm that centroids are brought to.

    The width of an arch is the distance between the centroids of its first molars; its depth is that of the middle of
    the central incisors' centroids from the middle of the molars', at right angles to the line of the molars.

    Parameters
    ----------
    width, depth
        A number for both jaws, or a mapping of "upper" and "lower"; None leaves it free.
    mask
        (32,): the teeth that are there.

    Raises
    ------
    ValueError
        If a number is not positive, a jaw is unknown, or a tooth that measures it is missing.
    """

    def __init__(self, width: Any, depth: Any, mask: Tensor) -> None:
        present = {fdi for fdi, here in zip(FDI, mask.tolist(), strict=True) if here}
        self.width = _by_jaw("arch_width", width, present)
        self.depth = _by_jaw("arch_depth", depth, present)
        for name, wanted, teeth in (("arch_width", self.width, ()), ("arch_depth", self.depth, INCISORS)):
            for jaw in wanted:
                needed = [*MOLARS[jaw], *(teeth[jaw] if teeth else ())]
                if missing := [fdi for fdi in needed if fdi not in present]:
                    raise ArgumentError(f"{name} of the {jaw} arch needs tooth {missing[0]}, which is missing.")

    def __bool__(self) -> bool:
        return bool(self.width or self.depth)

    def __call__(self, centers: Float[Tensor, "*batch 32 3"]) -> Float[Tensor, "*batch 32 3"]:
        """Centroids stretched across and along each arch."""
        parts = []
        for jaw, slots in JAWS.items():
            rows = centers[..., slots, :]
            width, depth = self.width.get(jaw), self.depth.get(jaw)
            parts.append(rows if width is None and depth is None else _stretched(centers, rows, jaw, width, depth))
        return torch.cat(parts, -2)


def arch_form(centers: Float[Tensor, "*batch 32 3"], jaw: str) -> tuple[Tensor, Tensor]:
    """The width and the depth of an arch in mm."""
    *_, width, depth = _measured(centers, jaw)
    return width[..., 0], depth[..., 0]


def _stretched(centers: Tensor, rows: Tensor, jaw: str, width: float | None, depth: float | None) -> Tensor:
    _, middle, across, forward, now_wide, now_deep = _measured(centers, jaw)
    relative = rows - middle[..., None, :]
    if width is not None:
        along = (relative * across[..., None, :]).sum(-1, keepdim=True)
        rows = rows + (width / now_wide - 1)[..., None, :] * along * across[..., None, :]
    if depth is not None:
        along = (relative * forward[..., None, :]).sum(-1, keepdim=True)
        rows = rows + (depth / now_deep - 1)[..., None, :] * along * forward[..., None, :]
    return rows


def _measured(centers: Tensor, jaw: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    right, left = (centers[..., SLOT[fdi], :] for fdi in MOLARS[jaw])
    front = torch.stack([centers[..., SLOT[fdi], :] for fdi in INCISORS[jaw]]).mean(0)
    middle = (right + left) / 2
    width = torch.linalg.vector_norm(left - right, dim=-1, keepdim=True)
    across = (left - right) / width
    ahead = front - middle
    ahead = ahead - (ahead * across).sum(-1, keepdim=True) * across
    depth = torch.linalg.vector_norm(ahead, dim=-1, keepdim=True)
    return right, middle, across, ahead / depth.clamp_min(1e-9), width, depth


def _by_jaw(name: str, value: Any, present: set[int]) -> dict[str, float]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        jaws = [jaw for jaw in JAWS if any(fdi in present for fdi in MOLARS[jaw])] or list(JAWS)
        value = dict.fromkeys(jaws, value)
    if unknown := [jaw for jaw in value if jaw not in JAWS]:
        raise ArgumentError(f"{name} must be a number, or a mapping of 'upper' and 'lower'; got {unknown[0]!r}.")
    for jaw, wanted in value.items():
        if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not 10 <= wanted <= 90:
            raise ArgumentError(f"{name} of the {jaw} arch must lie in 10 to 90 mm, got {wanted!r}.")
    return {jaw: float(wanted) for jaw, wanted in value.items()}
