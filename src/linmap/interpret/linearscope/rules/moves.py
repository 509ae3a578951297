"""Operations that only move elements: what they do to the numbers of the places says where every element goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from linmap.interpret.linearscope.rules.call import Answer, Call, Frozen, Refusal, Rule, constant


def taken_from(x: Tensor, source: Tensor) -> Frozen:
    """Element i of the output is element source[i] - 1 of x, or 0 where source is 0."""
    index, blank = (source - 1).clamp_min(0), source == 0
    if bool(blank.any()):
        return Frozen((x,), lambda p: p.reshape(-1)[index].masked_fill(blank, 0))
    return Frozen((x,), lambda p: p.reshape(-1)[index])


def moves(call: Call) -> Answer:
    """An operation on one tensor: it is run on the numbers 1 to n of the elements."""
    x = call.args[0]
    numbers = torch.arange(1, x.numel() + 1, device=x.device).reshape(x.shape)
    return taken_from(x, call.op(numbers, *call.args[1:], **call.kwargs))


def packs(call: Call) -> Answer:
    """_pack_padded_sequence: the elements in the order of time, and how many sequences there are at each step."""
    x = call.args[0]
    numbers = torch.arange(1, x.numel() + 1, device=x.device).reshape(x.shape)
    return [taken_from(x, call.op(numbers, *call.args[1:])[0]), None]


def strided(call: Call) -> Answer:
    """as_strided: the same memory read with other strides; the numbers are laid out as x is."""
    x, size, stride = call.args[:3]
    start = call.argument(3, "storage_offset")
    start = x.storage_offset() if start is None else start
    memory = torch.zeros(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.long, device=x.device)
    numbers = torch.arange(1, x.numel() + 1, device=x.device).reshape(x.shape)
    memory.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(numbers)
    source = memory.as_strided(size, stride, start).clone()
    if bool((source == 0).any()):
        return Refusal("it reads memory that does not belong to its argument")
    return taken_from(x, source)


def writes(source: int) -> Rule:
    """An operation that writes elements of the argument at `source` over elements of the first one."""

    def rule(call: Call) -> Answer:
        x, values = call.args[0], call.args[source]
        if call.argument(source + 1, "accumulate", False) is True:
            return Refusal("accumulate=True is not followed; use index_put or index_add")
        numbers = torch.arange(1, values.numel() + 1, device=x.device).reshape(values.shape)
        arguments: list[Any] = [constant(a) for a in call.args]
        arguments[0], arguments[source] = torch.zeros(x.shape, dtype=torch.long, device=x.device), numbers
        where = call.op(*arguments, **call.kwargs)
        index, written = (where - 1).clamp_min(0), where != 0

        def kept(p: Tensor) -> Tensor:
            return p.expand(written.shape).masked_fill(written, 0)

        def taken(q: Tensor) -> Tensor:
            return q.reshape(-1)[index].masked_fill(~written, 0)

        if call.is_tracked(x) and call.is_tracked(values):
            return Frozen((x, values), lambda p, q: kept(p) + taken(q))
        if call.is_tracked(x):
            return Frozen((x,), kept, taken(constant(values)))
        return Frozen((values,), taken, kept(constant(x)))

    return rule
