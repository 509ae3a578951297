"""Bone's block affine transformations: functions of a weight W (out, in), activations x and the trainable D.

W falls into r x r blocks W_ab; a = 1..na = out/r counts the block rows, b = 1..nb = in/r the block columns. The modes:

| mode      | D           | W'                           | as a change of the activations                         |
| --------- | ----------- | ---------------------------- | ------------------------------------------------------ |
| "bat"     | (na, r, r)  | W'_ab = W_ab (I + D_a) + D_a | y_a += sum_b x_b D_a^T W_ab^T + s D_a^T, s = sum_b x_b |
| "bat-row" | (nb, r, r)  | W'_ab = W_ab (I + D_b) + D_b | y_a(x + t) + sum_b t_b, t_b = x_b D_b^T                |
| "add"     | (r, out)    | W'_oi = W_oi + D[i mod r, o] | y += s D, s the sum of the chunks of x of length r     |
| "mini"    | (r, mini_r) | "add" with D repeated        | as "add"                                               |

Kang and Yin, arXiv 2409.15371; "add" and "mini" are its later versions, known as DiSHA and MiSS.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from linmap.adapt.bone.product import at_least_float32, bat_change, bat_forward, bat_row_forward
from linmap.errors import ArgumentError
from linmap.maps.block_affine import fold, tile

Mode: TypeAlias = Literal["bat", "bat-row", "add", "mini"]
MODES: tuple[Mode, ...] = get_args(Mode)


def bone_delta(weight: Float[Tensor, "n_out n_in"], D: Float[Tensor, ...], mode: Mode) -> Float[Tensor, "n_out n_in"]:
    """The change of the weight, W' - W.

    Parameters
    ----------
    weight
        W.
    D
        Of shape (out / r, r, r) for "bat", (in / r, r, r) for "bat-row", (r, out) for "add", (r, mini_r) for "mini".
    mode
        "bat", "bat-row", "add" or "mini".

    Returns
    -------
    Tensor
        In the wider dtype of W and D; computed in float32 at least.

    Raises
    ------
    ValueError
        If the mode is unknown, or D does not fit W.
    """
    n_out, n_in = weight.shape
    check_block(D.shape, n_out, n_in, mode)
    dtype = torch.promote_types(weight.dtype, D.dtype)
    W, D = at_least_float32(weight, D)
    if mode == "bat":
        delta = bat_change(W, D)
    elif mode == "bat-row":
        r = D.shape[-1]
        W_b = W.unflatten(1, (-1, r)).transpose(0, 1)  # (nb, out, r)
        delta = (W_b @ D + D.repeat(1, n_out // r, 1)).transpose(0, 1).flatten(1)
    else:
        delta = tile(tile(D, n_out).mT, n_in)
    return delta.to(dtype)


def bone_weight(weight: Float[Tensor, "n_out n_in"], D: Float[Tensor, ...], mode: Mode) -> Float[Tensor, "n_out n_in"]:
    """W' in the dtype of W, computed in float32 at least; arguments and errors as of `bone_delta`."""
    return (weight + bone_delta(weight, D, mode)).to(weight.dtype)


def bone_forward(
    x: Float[Tensor, "*batch n_in"],
    weight: Float[Tensor, "n_out n_in"],
    bias: Float[Tensor, " n_out"] | None,
    D: Float[Tensor, ...],
    mode: Mode,
) -> Float[Tensor, "*batch n_out"]:
    """x W'^T + b; W' is built only for "bat" on many tokens, and never kept for the backward pass.

    Parameters
    ----------
    x, weight, bias
        As in `torch.nn.functional.linear`.
    D, mode
        As in `bone_delta`.

    Returns
    -------
    Tensor
        In the dtype of x, or of autocast; what D does is computed in float32 at least.

    Raises
    ------
    ValueError
        If the mode is unknown, or the shapes do not fit each other.
    """
    n_out, n_in = weight.shape
    check_block(D.shape, n_out, n_in, mode)
    if x.shape[-1] != n_in:
        raise ArgumentError(f"x must have in = {n_in} features on its last dimension, got shape {tuple(x.shape)}.")
    if mode == "bat":
        return bat_forward(x, weight, bias, D)
    if mode == "bat-row":
        return bat_row_forward(x, weight, bias, D)
    y = F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    x, D = at_least_float32(x, D)
    return (y + tile(fold(x, D.shape[0]) @ D, n_out)).to(y.dtype)


def block_shape(n_out: int, n_in: int, r: int, mode: Mode, mini_r: int = 1) -> tuple[int, ...]:
    """The shape of D for a weight of this size.

    Raises
    ------
    ValueError
        If there is no such D for this weight; the message says which r would do.
    """
    check_sizes(r, mode, mini_r)
    if mode in ("bat", "bat-row"):
        if n_in % r or n_out % r:
            raise ArgumentError(
                f"mode {mode!r} cuts the weight into r x r blocks, but r={r} does not divide both in_features={n_in} "
                f"and out_features={n_out}; use r={_nearest_divisors(r, n_in, n_out)}, or mode='add', which takes "
                "any r up to in_features."
            )
        return ((n_out if mode == "bat" else n_in) // r, r, r)
    if r > n_in:
        raise ArgumentError(f"r={r} exceeds in_features={n_in}; use r <= {n_in}.")
    if mode == "add":
        return (r, n_out)
    if n_out % mini_r:
        raise ArgumentError(
            f"mini_r={mini_r} does not divide out_features={n_out}; use mini_r={_nearest_divisors(mini_r, n_out)}."
        )
    return (r, mini_r)


def check_sizes(r: int, mode: str, mini_r: int) -> None:
    """Raise ValueError for what is wrong whatever the weight."""
    for name, size in (("r", r), ("mini_r", mini_r)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ArgumentError(f"{name}={size!r} must be an integer of at least 1.")
    if mode not in MODES:
        raise ArgumentError(f"mode={mode!r} must be one of {', '.join(map(repr, MODES))}.")


def _nearest_divisors(size: int, *of: int) -> str:
    """The common divisors next to `size`, below and above: "4 or 6"."""
    largest = math.gcd(*of)
    divisors = [d for d in range(1, largest + 1) if largest % d == 0]
    below, above = [d for d in divisors if d < size], [d for d in divisors if d > size]
    return " or ".join(str(d) for d in below[-1:] + above[:1])


def check_block(shape: torch.Size, n_out: int, n_in: int, mode: Mode) -> None:
    """Raise ValueError if D of this shape does not fit a weight (n_out, n_in)."""
    blocks = len(shape) == 3
    r, mini_r = (shape[-1], 1) if blocks else (shape[0], shape[-1]) if len(shape) == 2 else (1, 1)
    expected = block_shape(n_out, n_in, r, mode, mini_r)
    if tuple(shape) != expected:
        symbols = {"bat": "(out / r, r, r)", "bat-row": "(in / r, r, r)", "add": "(r, out)", "mini": "(r, mini_r)"}[
            mode
        ]
        raise ArgumentError(
            f"in mode {mode!r} a weight of shape {(n_out, n_in)} takes D of shape {symbols}, got {tuple(shape)}."
        )
