"""Attention and pooling that know what a token stands for.

A token that stands for s equal tokens must be attended to as these would be: log s is added to the logit of the *key*
(proportional attention, Bolya et al., ICLR 2023), after the scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linmap.compress.token_transforming.precision import check_floating, full_precision, masses
from linmap.compress.token_transforming.transform import positive
from linmap.errors import ArgumentError, ArgumentTypeError, check_count

MULTIPLE = 8  # of head widths that fused kernels take


@full_precision
def proportional_attention(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch heads tokens width"],
    v: Float[Tensor, "batch heads tokens width"],
    mass: Float[Tensor, "batch tokens"] | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Float[Tensor, "batch heads queries width"]:
    """softmax(scale q k^T + log s + mask) v, in PyTorch's fused attention, of the type of q.

    Parameters
    ----------
    q, k, v
        (B, H, N, d).
    mass
        (B, N) of the keys, None for ones; a key of mass 0 is not seen. One key per row must be visible.
    mask
        Additive, or boolean (True takes part), broadcastable to (B, H, N, N).
    scale
        None for d^-0.5.

    Raises
    ------
    TypeError, ValueError
        If a tensor is not as above.
    """
    _check(q, k, v)
    if mask is not None and not isinstance(mask, Tensor):
        raise ArgumentTypeError(f"mask must be a tensor that broadcasts to (B, H, N, N), got {type(mask).__name__}.")
    bias = None if mass is None else log_mass(mass, k)[:, None, None].to(q.dtype)
    if mask is not None:
        _check_mask(mask, (*q.shape[:3], k.shape[2]))
        if mask.dtype != torch.bool:
            mask = mask.to(q.dtype)
            bias = mask if bias is None else bias + mask
        elif bias is None:
            bias = mask
        else:
            bias = torch.where(mask, bias, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


@full_precision
def mass_channel(
    q: Float[Tensor, "batch heads queries width"],
    k: Float[Tensor, "batch heads tokens width"],
    v: Float[Tensor, "batch heads tokens width"],
    mass: Float[Tensor, "batch tokens"],
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q', k', v' whose plain attention with scale=1 is `proportional_attention` in its first d channels.

    log s stands in one more channel of the keys, so that kernels that take no mask can be used:
    q' = [scale q, 1, 0 ...], k' = [k, log s, 0 ...], v' = [v, 0 ...], of a width that is a multiple of 8.

    Raises
    ------
    TypeError, ValueError
        If a tensor is not as in `proportional_attention`.
    """
    _check(q, k, v)
    d = q.shape[-1]
    factor = d**-0.5 if scale is None else float(scale)
    bias = log_mass(mass, k)[:, None, :, None].to(k.dtype).expand(*k.shape[:3], 1)
    room = -(d + 1) % MULTIPLE
    with_one = torch.cat([q * factor, torch.ones_like(q[..., :1])], dim=-1)
    wider = -(v.shape[-1] + 1) % MULTIPLE + 1
    return F.pad(with_one, (0, room)), F.pad(torch.cat([k, bias], dim=-1), (0, room)), F.pad(v, (0, wider))


@full_precision
def mass_pool(
    x: Float[Tensor, "batch tokens channels"], mass: Float[Tensor, "batch tokens"] | None, *, skip: int = 0
) -> Float[Tensor, "batch channels"]:
    """sum s x / sum s over the tokens from `skip` on: the mean over what the tokens stand for.

    Zeros for a sample without mass.

    Raises
    ------
    TypeError, ValueError
        If a tensor is not as above, or no token is left.
    """
    check_floating("x", x, "(B, N, C)")
    skip = check_count("skip", skip, 0)
    if skip >= x.shape[1]:
        raise ArgumentError(f"skip = {skip} leaves none of N = {x.shape[1]} tokens to pool.")
    s = masses(mass, x, x.shape[1])[:, skip:]
    total = (s.unsqueeze(-2) @ x[:, skip:].to(s.dtype)).squeeze(-2)
    return (total / positive(s.sum(-1, keepdim=True))).to(x.dtype)


def log_mass(mass: Float[Tensor, "batch tokens"], k: Float[Tensor, "batch heads tokens width"]) -> Tensor:
    """log s in float32 at least; -inf for padding."""
    return masses(mass, k[:, 0, :, 0], k.shape[2]).log()


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, value in (("q", q), ("k", k), ("v", v)):
        check_floating(name, value, "(B, H, N, d)")
    if q.shape[:2] != k.shape[:2] or q.shape[-1] != k.shape[-1] or k.shape[:3] != v.shape[:3]:
        raise ArgumentError(
            f"q, k and v must have shapes (B, H, N, d) that fit, got {tuple(q.shape)}, {tuple(k.shape)} and "
            f"{tuple(v.shape)}."
        )


def _check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    fits = mask.ndim <= 4 and all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False))
    if not fits:
        raise ArgumentError(f"mask must broadcast to (B, H, N, N) = {shape}, got {tuple(mask.shape)}.")
