"""Standardising: each channel to mean 0 and standard deviation 1, whatever its unit and its offset.

The statistics are found in float64 and before any cast to float32, on numbers that were brought near 1 by a power of
two and had a row taken off, so that neither squares overflow nor an offset takes the digits. Where a is a power of two,
a x is standardised to exactly the numbers of x; for every other a, and every offset b that float64 resolves, a x + b is
standardised to those of x up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Float64

from linmap.errors import ArgumentError

RESOLVED = 8 * np.finfo(np.float64).eps
"""Deviation over the largest modulus, up to which a channel is constant: the rounding of a few operations."""


@dataclass(frozen=True)
class Standardiser:
    """z = (x - mean) / scale, channel by channel."""

    mean: Float64[np.ndarray, " channels"]
    """Of the rows that it was fitted to, in their unit."""
    scale: Float64[np.ndarray, " channels"]
    """Their standard deviation (over n). A constant channel has its own modulus instead, and 1 where it is zero, so
    that it stays free of the unit too."""

    @classmethod
    def take(cls, tensors: dict[str, Any]) -> Self:
        """Take "scaler.mean" and "scaler.scale" out of the tensors of a saved run.

        Raises
        ------
        ValueError
            If they are no finite numbers in float64, a mean and a positive scale for each channel.
        """
        mean, scale = (tensors.pop(f"scaler.{name}").numpy() for name in ("mean", "scale"))
        if mean.dtype != np.float64 or scale.dtype != np.float64 or mean.ndim != 1 or mean.shape != scale.shape:
            raise ArgumentError("its scaler has no mean and scale in float64 for each channel")
        if not np.isfinite([mean, scale]).all() or not (scale > 0).all():
            raise ArgumentError("its scaler holds values that are no finite numbers, or no positive scales")
        return cls(mean, scale)

    @classmethod
    def fit(cls, rows: Float[np.ndarray, "*rows channels"]) -> Self:
        """Mean and scale of each channel over all rows.

        Parameters
        ----------
        rows
            Finite numbers, channels last; at least one row.

        Raises
        ------
        ValueError
            If there are no rows, or a value is missing or infinite.
        """
        rows = np.asarray(rows, np.float64).reshape(-1, rows.shape[-1])
        if rows.size == 0 or not np.isfinite(rows).all():
            raise ArgumentError(f"rows must hold finite numbers, got shape {rows.shape}; fill or drop what is missing.")
        largest = np.abs(rows).max(0)
        unit = np.exp2(np.frexp(largest)[1] - 1.0)  # a power of two, so that dividing by it is exact
        rows = rows / unit
        first = rows[0]
        offsets = rows - first  # small where an offset is large
        mean = offsets.mean(0)
        deviation = np.sqrt(np.square(offsets - mean).mean(0))
        constant = deviation <= RESOLVED * largest / unit
        scale = np.where(constant, np.where(largest > 0, largest, 1.0), deviation * unit)
        return cls((first + mean) * unit, scale)

    def standardise(self, values: Float[np.ndarray, "*rows channels"]) -> Float64[np.ndarray, "*rows channels"]:
        """(values - mean) / scale in float64; cast the answer, never the values."""
        return (np.asarray(values, np.float64) - self.mean) / self.scale

    def restore(self, z: Float[np.ndarray, "*rows channels"]) -> Float64[np.ndarray, "*rows channels"]:
        """Standardised numbers in the unit of the data: z * scale + mean."""
        return np.asarray(z, np.float64) * self.scale + self.mean
