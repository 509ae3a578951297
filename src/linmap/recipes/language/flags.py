"""The flags of completions."""

from __future__ import annotations

import math
from dataclasses import dataclass

from linmap.errors import ArgumentError


@dataclass(frozen=True)
class Generation:
    """Complete the prompts of a file."""

    max_new_tokens: int = 256
    """Tokens of a completion at most."""
    temperature: float = 0.0
    """Of completions: 0 takes the likeliest token; more draws from the softened distribution."""
    batch_size: int = 16
    """Records that are answered together."""
    limit: int | None = None
    """Answer only this many records, the first ones."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"{name}={value} must be 1 or more.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ArgumentError(f"temperature={self.temperature} must be 0 or more.")
