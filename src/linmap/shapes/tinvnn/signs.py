"""Signs of columns from moments that do not depend on the order of the points."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.shapes.tinvnn.points import as_mask, as_tensor

SHARE = {torch.float64: 1e-6}
"""Share of a standard deviation below which a moment counts as zero; 1e-3 in lower precision."""


def default_tau(dtype: torch.dtype) -> float:
    """The share of its standard deviation's power below which a moment counts as zero."""
    return SHARE.get(dtype, 1e-3)


def moment_signs(
    H: Any, mask: Any = None, tau: float | None = None
) -> tuple[Float[Tensor, "*batch q"], Bool[Tensor, "*batch q"]]:
    """The sign of each centred column, +1 or -1, from its odd moments.

    The first of these that is not negligible decides: the sums of h³, h⁵, h⁷, of h_k |h|², and of h_k h_l² for each
    other column l. A moment is negligible up to `tau` times the product of the standard deviations that it is made of.

    Parameters
    ----------
    H
        (..., n, q): columns of mean zero.
    mask
        (..., n): True where there is a point.
    tau
        1e-6 for float64, 1e-3 for lower precision by default.

    Returns
    -------
    signs
        In the type of H.
    ambiguous
        True where all moments are negligible; the sign is +1 there.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is not finite or tau is negative.
    """
    H = as_tensor(H, "H")
    if H.ndim < 2 or 0 in H.shape[-2:]:
        raise ArgumentError(f"H must be (..., n, q) of at least one point and column, got shape {tuple(H.shape)}.")
    if tau is not None and not 0 <= tau < float("inf"):
        raise ArgumentError(f"tau={tau} must not be negative.")
    columns = H.detach().double().mT.reshape(-1, H.shape[-1], H.shape[-2])
    count = torch.full((len(columns),), float(H.shape[-2]), dtype=torch.float64, device=H.device)
    if mask is not None:
        mask = as_mask(mask, H.device)
        if mask.shape != H.shape[:-1]:
            raise ArgumentError(
                f"mask must be boolean of shape {tuple(H.shape[:-1])}, as H has points; got {tuple(mask.shape)}."
            )
        flat = mask.reshape(-1, 1, H.shape[-2])
        columns, count = columns.masked_fill(~flat, 0.0), flat.sum((1, 2)).double()
    if not columns.isfinite().all():
        where = int((~columns.isfinite()).any(-1).any(-1).nonzero()[0])
        raise ArgumentError(f"H is not finite in cloud {where}.")
    largest = columns.abs().amax((1, 2), keepdim=True)
    columns = columns / torch.where(largest > 0, largest, torch.ones_like(largest))
    signs, ambiguous, _ = column_signs(columns, count, default_tau(H.dtype) if tau is None else tau)
    dtype = H.dtype if H.is_floating_point() else torch.get_default_dtype()
    return signs.reshape(*H.shape[:-2], -1).to(dtype), ambiguous.reshape(*H.shape[:-2], -1)


def column_signs(
    columns: Float64[Tensor, "batch q n"], count: Float64[Tensor, " batch"], tau: float
) -> tuple[Float64[Tensor, "batch q"], Bool[Tensor, "batch q"], Float64[Tensor, "batch q"]]:
    """`moment_signs` of clouds that lie in rows, and the variance of each column."""
    squares = columns * columns
    variance = squares.sum(-1) / count[:, None]
    mixed = (squares @ columns.mT) / count[:, None, None]  # [l, k]: the mean of h_l² h_k
    deviation = variance.sqrt()
    signs, open_ = _decide(mixed.diagonal(dim1=1, dim2=2), tau * deviation**3, torch.zeros_like(variance))
    if (rest := open_.any(1)).any():
        some = rest.nonzero()[:, 0]
        signs[some] = _later_moments(columns[some], count[some], deviation[some], mixed[some], signs[some], tau)
    ambiguous = signs == 0
    return signs.masked_fill(ambiguous, 1.0), ambiguous, variance


def _decide(moment: Tensor, least: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Fill in signs that are still 0 where the moment is not negligible; also what stays open."""
    signs = torch.where((signs == 0) & (moment.abs() > least), moment.sign(), signs)
    return signs, signs == 0


def _later_moments(
    columns: Tensor, count: Tensor, deviation: Tensor, mixed: Tensor, signs: Tensor, tau: float
) -> Float64[Tensor, "batch q"]:
    squares = columns * columns
    for power in (5, 7):
        moment = (columns * squares ** (power // 2)).sum(-1) / count[:, None]
        signs, _ = _decide(moment, tau * deviation**power, signs)
    variance = deviation**2
    signs, open_ = _decide(mixed.sum(1), tau * deviation * variance.sum(1, keepdim=True), signs)
    for other in range(columns.shape[1] if open_.any() else 0):
        moment = mixed[:, other].clone()
        moment[:, other] = 0
        signs, _ = _decide(moment, tau * deviation * variance[:, other, None], signs)
    return signs
