"""Sequences of unequal lengths in one batch: where they have samples, and all of them ending at the same place."""

from __future__ import annotations

import torch
from torch import Tensor

from linmap.errors import ArgumentError


def sample_mask(lengths: Tensor, batch: int, L: int, device: torch.device) -> Tensor:
    """Where a sequence has samples, (B, L)."""
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ArgumentError(f"lengths must be {batch} integers, got {lengths.dtype} of shape {tuple(lengths.shape)}.")
    if bool((lengths < 1).any()) or bool((lengths > L).any()):
        raise ArgumentError(
            f"lengths must lie between 1 and L = {L}, got {int(lengths.min())} to {int(lengths.max())}."
        )
    return torch.arange(L, device=device) < lengths.to(device).unsqueeze(-1)


def right_aligned(u: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence (B, H, L) at the end of its row, zeros before it."""
    L = u.shape[-1]
    if bool((lengths == L).all()):
        return u
    source = torch.arange(L, device=u.device) - (L - lengths).unsqueeze(-1)
    moved = u.gather(-1, source.clamp(min=0).unsqueeze(1).expand_as(u))
    return moved.masked_fill((source < 0).unsqueeze(1), 0)
