"""Selections: operations that pick elements of their input. The indices of x0 are held."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from linmap.interpret.linearscope.rules.call import Answer, Call, Frozen, Rule
from linmap.interpret.linearscope.rules.moves import taken_from

aten = torch.ops.aten


def pooled(spatial: int) -> Rule:
    """Max pooling over the last `spatial` axes, by the indices that the operation returns."""

    def rule(call: Call) -> Answer:
        z, (u, indices) = call.args[0], call.output
        flat, picked, shape = z.shape[: z.ndim - spatial], indices.flatten(-spatial), u.shape
        return [Frozen((z,), lambda p: p.reshape(*flat, -1).gather(-1, picked).reshape(shape), unit=True), None]

    return rule


def unpooled(spatial: int) -> Rule:
    """Max unpooling: every element goes to the place of the maximum that it was, by the given indices."""

    def rule(call: Call) -> Answer:
        z, indices, u = call.args[0], call.args[1].flatten(-spatial), call.output
        blank = torch.zeros(*u.shape[:-spatial], math.prod(u.shape[-spatial:]), dtype=torch.long, device=z.device)
        numbers = torch.arange(1, z.numel() + 1, device=z.device).reshape(indices.shape)
        return taken_from(z, blank.scatter(-1, indices, numbers).reshape(u.shape))

    return rule


def selected(dim_position: int, default_dim: int | None = None) -> Rule:
    """topk, sort, max, min, median, kthvalue along an axis: gather at the returned indices."""

    def rule(call: Call) -> Answer:
        if not isinstance(call.output, tuple | list):
            return extreme(call)
        z, (u, indices) = call.args[0], call.output
        dim = call.argument(dim_position, "dim", default_dim)
        if call.op._overloadname == "stable":  # sort.stable(self, *, stable, dim, descending)
            dim = call.argument(2, "dim", -1)
        dim = dim % max(z.ndim, 1)
        picked, shape = indices if indices.ndim == z.ndim else indices.unsqueeze(dim), u.shape
        return [Frozen((z,), lambda p: p.gather(dim, picked).reshape(shape), None, call.mark(z), unit=True), None]

    return rule


def extreme(call: Call) -> Answer:
    """amax, amin, and the max, min and median of a whole tensor: the first element of x0 that attains it."""
    z, u = call.args[0], call.output
    axes = call.argument(1, "dim", ()) if call.name in ("amax", "amin") else ()
    axes = sorted(axis % z.ndim for axis in axes) or list(range(z.ndim))
    kept = [axis for axis in range(z.ndim) if axis not in axes]
    lines = z.permute(*kept, *axes).reshape(*[z.shape[axis] for axis in kept], -1)
    picked = (lines == u.reshape(*lines.shape[:-1], 1)).int().argmax(-1, keepdim=True)
    flat, shape = lines.shape, u.shape
    return Frozen((z,), lambda p: p.permute(*kept, *axes).reshape(flat).gather(-1, picked).reshape(shape), unit=True)


def both_extremes(call: Call) -> Answer:
    """aminmax: the smallest and the largest of an axis, or of the whole tensor."""
    dim = call.kwargs.get("dim")
    axes = [] if dim is None else [dim]

    def one(u: Tensor, op: Any) -> Answer:
        return extreme(replace(call, op=op, args=(call.args[0], axes), kwargs={}, output=u))

    least, most = cast("tuple[Tensor, Tensor]", call.output)
    answers: Any = [one(least, aten.amin.default), one(most, aten.amax.default)]
    return answers


SELECTIONS: dict[str, Rule] = {
    "max_pool2d_with_indices": pooled(2),
    "max_pool3d_with_indices": pooled(3),
    "adaptive_max_pool2d": pooled(2),
    "adaptive_max_pool3d": pooled(3),
    "max_unpool2d": unpooled(2),
    "max_unpool3d": unpooled(3),
    **dict.fromkeys(("topk", "kthvalue"), selected(2, -1)),
    "sort": selected(1, -1),
    **dict.fromkeys(("median", "nanmedian", "max", "min"), selected(1)),
    **dict.fromkeys(("cummax", "cummin"), selected(1)),
    "mode": selected(1, -1),
    **dict.fromkeys(("amax", "amin"), extreme),
    "aminmax": both_extremes,
}
