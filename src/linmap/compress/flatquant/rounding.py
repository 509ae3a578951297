"""From trained blocks to quantised ones: transforms merged, weights rounded to the nearest codes or by GPTQ.

GPTQ rounds a weight column by column, and each column's error is taken up by the columns that are still to come.
Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from linmap.compress.flatquant.block import StudentBlock, merged_block
from linmap.compress.flatquant.blockwise import check_transforms
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.quantizer import check_bits, dequantize, quantize
from linmap.compress.flatquant.teacher import FLOAT16, BlockArguments, as_float32, block_outputs, in_float32
from linmap.errors import ArgumentError

ORDER = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""GPTQ: layers with the same inputs together; each group sees the rounding of those before it."""


def rounded_blocks(
    blocks: Iterable[nn.Module],
    inputs: Float[Tensor, "n length d"] | None = None,
    arguments: list[BlockArguments] | None = None,
    batch_size: int = 4,
) -> Iterator[nn.Module]:
    """The quantised block of every `StudentBlock`, one after the other; other blocks come back as they are.

    With `inputs`, those of the first block, GPTQ sees what the quantised blocks before make of them.
    """
    inputs = as_float32(inputs, FLOAT16)
    for number, block in enumerate(blocks):
        into = {} if arguments is None else as_float32(arguments[number], FLOAT16)
        if isinstance(block, StudentBlock):
            check_transforms(block, number)
            new = rounded_block(block, inputs, into)
            block.forget()
        else:
            new = block
        yield new
        if inputs is not None:
            inputs = block_outputs(in_float32(new, FLOAT16), inputs, into, batch_size)


@torch.no_grad()
def rounded_block(
    student: StudentBlock,
    inputs: Float[Tensor, "n length d"] | None,
    arguments: BlockArguments,
) -> nn.Module:
    """The quantised block of a student; `inputs`, those in the quantised model, are for GPTQ."""
    config = student.config
    new, weights = merged_block(student)
    running = in_float32(new, FLOAT16)  # what later layers get their inputs from

    def layers_of(block: nn.Module, parts: tuple[str, ...]) -> dict[str, QuantizedLinear]:
        return {part: cast(QuantizedLinear, block.get_submodule(getattr(student.paths, part))) for part in parts}

    for parts in ORDER:
        layers, passed = layers_of(new, parts), layers_of(running, parts)
        if config.weights == "rtn" or config.w_bits == 16:
            for part, layer in layers.items():
                layer.store(weights[part])
            continue
        assert inputs is not None
        hessians = input_hessians(running, passed, inputs, arguments, config.batch_size)
        for part, layer in layers.items():
            rounded = gptq(weights[part], hessians[part], config.w_bits, config.w_symmetric, config.group_size)
            for kept in dict.fromkeys((layer, passed[part])):
                kept.store_codes(rounded.codes, rounded.scale, rounded.zero)
    return new


class _Reached(Exception):
    """All layers of a group have received their inputs: the rest of the block need not run."""


def input_hessians(
    block: nn.Module, layers: dict[str, QuantizedLinear], inputs: Tensor, arguments: BlockArguments, batch_size: int
) -> dict[str, Tensor]:
    """The Hessian of each layer's inputs, as they are multiplied with the codes."""
    hessians = {part: Hessian(layer.in_features, device=inputs.device) for part, layer in layers.items()}
    waiting: set[str] = set()

    def keep(part: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        hessians[part].add(cast(QuantizedLinear, layer).quantised_input(args[0]))
        waiting.discard(part)
        if not waiting:
            raise _Reached

    handles = [layer.register_forward_pre_hook(partial(keep, part)) for part, layer in layers.items()]
    try:
        for batch in inputs.split(batch_size):
            waiting.update(layers)
            with suppress(_Reached):
                block(batch, **arguments)
    finally:
        for handle in handles:
            handle.remove()
    return {part: hessian.matrix for part, hessian in hessians.items()}


# -- GPTQ --------------------------------------------------------------------------------------------------------------


class Rounded(NamedTuple):
    """A rounded weight: weight = scale (codes - zero), with a column of scale and zero for each group of columns."""

    weight: Float[Tensor, "m n"]
    codes: Integer[Tensor, "m n"]
    scale: Float[Tensor, "m groups"]
    zero: Float[Tensor, "m groups"] | None


class Hessian:
    """H = (2 / N) sum of x^T x over the N rows that were added: that of the squared error of a linear layer."""

    def __init__(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> None:
        self.sum = torch.zeros(n, n, dtype=dtype, device=device)
        self.rows = 0

    def add(self, x: Float[Tensor, "*batch n"]) -> None:
        """Take in a batch of inputs.

        Raises
        ------
        ValueError
            If the inputs have another length.
        """
        if x.shape[-1] != len(self.sum):
            raise ArgumentError(f"inputs of length {len(self.sum)} are expected, got x of shape {tuple(x.shape)}.")
        rows = x.detach().reshape(-1, x.shape[-1]).to(self.sum)
        self.sum.addmm_(rows.mT, rows)
        self.rows += len(rows)

    @property
    def matrix(self) -> Float[Tensor, "n n"]:
        """H.

        Raises
        ------
        RuntimeError
            If no rows were added.
        """
        if not self.rows:
            raise RuntimeError("the Hessian has seen no inputs; call `add` first.")
        return self.sum * (2 / self.rows)


@torch.no_grad()
def gptq(
    W: Float[Tensor, "m n"],
    H: Float[Tensor, "n n"],
    bits: int,
    symmetric: bool = True,
    group_size: int | None = None,
    damping: float = 0.01,
    block_size: int = 128,
    dtype: torch.dtype | None = None,
) -> Rounded:
    """Round W so that the error of its outputs is small: tr((W - Q) H (W - Q)^T), greedily.

    Parameters
    ----------
    W
        Weight, transformed and clipped.
    H
        `Hessian` of its inputs. Inputs that are always 0 (H_ii = 0) get a weight of 0 before all else.
    bits, symmetric
        Quantiser of the rows of W, fixed before the sweep from the columns that have inputs.
    group_size
        Columns that share a scale, which is fixed when the sweep arrives at them; None: the whole row.
    damping
        Share of the mean diagonal of H that is added to its diagonal.
    block_size
        Columns whose errors are passed on to the rest at once.
    dtype
        To compute in; at least float32 when None.

    Raises
    ------
    ValueError
        If H does not fit W or is not finite, the group size does not divide n, or for other bits than 2 to 8.
    RuntimeError
        If H with damping is not positive definite.

    References
    ----------
    Frantar et al. (2023), algorithm 1.
    """
    group_size = _check(W, H, bits, group_size, damping, block_size)
    dtype = dtype or torch.promote_types(W.dtype, torch.float32)
    rest, H = W.to(dtype, copy=True), H.to(dtype, copy=True)
    n = W.shape[1]
    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    rest[:, dead] = 0
    row = quantize(rest, bits, symmetric, per="row")[1:] if group_size == n else None
    U = inverse_factor(H, damping)
    codes, scales, zeros = [], [], []
    scale = zero = rest.new_empty(0)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    for start in range(0, n, block_size):
        stop = min(start + block_size, n)
        block, U_block = rest[:, start:stop].mT.contiguous(), U[start:stop, start:stop]  # columns as rows
        errors = torch.empty_like(block)
        for i in range(stop - start):
            if (start + i) % group_size == 0:
                inside, after = slice(i, min(i + group_size, stop - start)), slice(stop, start + i + group_size)
                pending = errors[:i].mT @ U[start : start + i, after]  # what the columns of later blocks have not had
                group = torch.cat([block[inside].mT, rest[:, after] - pending], dim=1)
                scale, zero = row or quantize(group, bits, symmetric, per="row")[1:]
                scales.append(scale)
                zeros.append(zero)
                s, z = scale[:, 0], (scale * 0 if zero is None else zero)[:, 0]
            w = block[i]
            q = (w / s).round_().add_(z).clamp_(low, high)
            codes.append(q)
            torch.sub(w, (q - z) * s, out=errors[i]).div_(U_block[i, i])
            block[i + 1 :].addr_(U_block[i, i + 1 :], errors[i], alpha=-1)
        rest[:, stop:].addmm_(errors.mT, U[start:stop, stop:], alpha=-1)
    return _rounded(torch.stack(codes, dim=1), scales, zeros, symmetric, W.dtype)


def inverse_factor(H: Float[Tensor, "n n"], damping: float = 0.01) -> Float[Tensor, "n n"]:
    """Upper triangular U with U^T U = (H + damping mean(diag H) I)^-1.

    Raises
    ------
    RuntimeError
        If the damped H is not positive definite.
    """
    H = H + torch.eye(len(H), dtype=H.dtype, device=H.device) * (damping * H.diagonal().mean())
    # H = R R^T with an upper triangular R (Cholesky from the last column on), so that U = R^-1
    L, info = torch.linalg.cholesky_ex(H.flip(0, 1))
    if int(info):
        raise RuntimeError(
            f"H is not positive definite with damping={damping} of its mean diagonal; raise the damping, or "
            "compute in float64."
        )
    eye = torch.eye(len(H), dtype=H.dtype, device=H.device)
    return torch.linalg.solve_triangular(L.flip(0, 1), eye, upper=True)


def _rounded(
    q: Tensor, scales: list[Tensor], zeros: list[Tensor | None], symmetric: bool, dtype: torch.dtype
) -> Rounded:
    scale = torch.cat(scales, dim=1)
    zero = None if symmetric else torch.cat([zero for zero in zeros if zero is not None], dim=1)
    grouped = q.unflatten(1, (scale.shape[1], -1))
    weight = dequantize(grouped, scale[..., None], None if zero is None else zero[..., None]).flatten(1)
    return Rounded(weight.to(dtype), q.to(torch.int8 if symmetric else torch.uint8), scale, zero)


def _check(W: Tensor, H: Tensor, bits: int, group_size: int | None, damping: float, block_size: int) -> int:
    """The number of columns that share a scale."""
    n = W.shape[1]
    if check_bits(bits) == 16:
        raise ArgumentError("gptq rounds to 2 to 8 bits; with bits=16 keep the weight as it is.")
    if tuple(H.shape) != (n, n):
        raise ArgumentError(f"H must be {n} x {n} for W of shape {tuple(W.shape)}, got {tuple(H.shape)}.")
    for name, tensor in (("W", W), ("H", H)):
        if not bool(tensor.isfinite().all()):
            raise ArgumentError(
                f"{name} has entries that are not finite; look for overflows in the calibration inputs."
            )
    if group_size is not None and (group_size < 1 or n % group_size):
        raise ArgumentError(f"group_size={group_size} does not divide the {n} columns of W; choose a divisor or None.")
    if damping < 0 or block_size < 1:
        raise ArgumentError(f"damping must be >= 0 and block_size >= 1, got {damping} and {block_size}.")
    return group_size or n
