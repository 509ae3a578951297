"""From trained blocks to quantised ones: transforms merged, weights rounded to the nearest codes or by GPTQ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.block import StudentBlock, merged_block
from linmap.compress.flatquant.blockwise import check_transforms
from linmap.compress.flatquant.gptq import Hessian, gptq
from linmap.compress.flatquant.quantized_linear import QuantizedLinear
from linmap.compress.flatquant.teacher import FLOAT16, BlockArguments, as_float32, block_outputs, in_float32

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
