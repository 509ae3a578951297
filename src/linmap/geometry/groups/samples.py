"""`GroupSamples`: elements of a matrix group, always with their inverses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from linmap.errors import ArgumentError, ArgumentTypeError


@dataclass(frozen=True, eq=False)
class GroupSamples:
    """N elements of a matrix group, their inverses, and their weights in an integral over the group.

    Raises
    ------
    ValueError
        If shapes do not fit; the message names the field.
    TypeError
        If a field is no floating-point tensor.
    """

    g: Tensor
    """Elements (N, n, n)."""
    g_inv: Tensor
    """Their inverses (N, n, n)."""
    weight: Tensor | None = None
    """Weights (N,); None: a plain sum."""

    def __post_init__(self) -> None:
        for name in ("g", "g_inv", "weight"):
            value = getattr(self, name)
            if name == "weight" and value is None:
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise ArgumentTypeError(f"{name} must be a floating-point tensor, got {kind}.")
        if self.g.ndim != 3 or self.g.shape[-1] != self.g.shape[-2] or not len(self.g):
            raise ArgumentError(f"g must be N >= 1 matrices (N, n, n), got shape {tuple(self.g.shape)}.")
        if self.g_inv.shape != self.g.shape:
            raise ArgumentError(
                f"g_inv must have the shape of g, {tuple(self.g.shape)}, got {tuple(self.g_inv.shape)}."
            )
        if self.weight is not None and self.weight.shape != self.g.shape[:1]:
            raise ArgumentError(f"weight must have shape ({len(self.g)},), got {tuple(self.weight.shape)}.")

    def __len__(self) -> int:
        return len(self.g)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> GroupSamples:
        """The same samples in another type or on another device."""
        dtype, device = dtype or self.g.dtype, device or self.g.device
        weight = None if self.weight is None else self.weight.to(device, dtype)
        return GroupSamples(self.g.to(device, dtype), self.g_inv.to(device, dtype), weight)

    def moved(self, h: Float[Tensor, "n n"], h_inv: Float[Tensor, "n n"]) -> GroupSamples:
        """{h g} of these {g}, with inverses g^-1 h^-1 and the same weights."""
        return GroupSamples(h @ self.g, self.g_inv @ h_inv, self.weight)
