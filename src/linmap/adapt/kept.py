"""A weight that is kept until what it was made from changes, and the numbers by which a change is seen.

Neither addresses nor version counters tell: a freed address is used again, and writes through `.data`, as those of
moving averages and of fused optimisers, count nothing up. So contents are compared, never where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._guards import active_fake_mode
from torch.distributed.tensor import DTensor

Content = tuple[tuple[torch.Size, torch.dtype, int, float], ...]
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Kept(NamedTuple):
    """A weight W', and what it was made from."""

    adapters: tuple[nn.Module, ...]
    """The modules that made it, in this order."""
    weight: Tensor
    content: Content
    """`content_of` the weight that they started from, and of their tensors."""

    def is_of(self, adapters: Sequence[nn.Module], content: Content) -> bool:
        """Whether these very adapters would make the same weight again."""
        same = len(adapters) == len(self.adapters) and all(a is b for a, b in zip(adapters, self.adapters, strict=True))
        return same and content == self.content


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor has numbers to compare: not under vmap, where it stands for many, nor where shapes are all there
    is (on the meta device, in a FakeTensorMode)."""
    return not (tensor.is_meta or active_fake_mode() is not None or is_functorch_wrapped_tensor(tensor))


def content_of(*tensors: Tensor) -> Content:
    """Two numbers for each tensor beside its shape and dtype: one changes with any entry, one with places and signs.

    They cost as much as one product with a vector. The second one is a product of floating point numbers, equal only
    under one number of threads; another number shows as a change.
    """
    return tuple((t.shape, t.dtype, _bits(t.detach()), _values(t.detach())) for t in tensors)


def _bits(tensor: Tensor) -> int:
    """A weighted sum of the entries' bits, read as integers as wide as will fit."""
    if not tensor.numel():
        return 0
    length = tensor.shape[-1] if tensor.ndim > 1 else 1
    size = next(n for n in (8, 4, 2, 1) if length * tensor.element_size() % n == 0 and n >= tensor.element_size())
    words = _flat(tensor).view(INTEGERS[size])
    sums = words.view(-1, length * tensor.element_size() // size).sum(-1, dtype=torch.int64)
    return int((sums * _integers(len(sums)).to(sums.device)).sum())


def _flat(tensor: Tensor) -> Tensor:
    """The entries in one dimension, one beside the other in memory."""
    flat = tensor.reshape(-1)
    return (
        flat if flat.stride(0) == 1 else flat.clone(memory_format=torch.contiguous_format).as_strided(flat.shape, (1,))
    )


def _values(tensor: Tensor) -> float:
    """The entries, each multiplied with a number of its own, summed up."""
    if not tensor.is_floating_point() or not tensor.numel():
        return 0.0
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    of_row, of_column = (_reals(n).to(rows.device, rows.dtype) for n in rows.shape)
    return float(of_row @ (rows @ of_column))


@lru_cache(maxsize=64)
def _integers(n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2**30, (n,), generator=generator) * 2 + 1


@lru_cache(maxsize=64)
def _reals(n: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5


def checksum(tensor: Tensor) -> int:
    """A number that changes with any entry of the tensor, by whatever way it was written, the same on any machine.

    Rows and columns are summed with weights of their own, over integers that cannot overflow, so that a change of signs
    or places shows too.
    """
    tensor = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
    if not tensor.numel():
        return 0
    rows = tensor.shape[:-1].numel()
    words = _flat(tensor).view(INTEGERS[min(tensor.element_size(), 4)]).view(rows, -1)
    sums = (words.sum(axis, dtype=torch.int64) for axis in (1, 0))
    return sum(int((s * _integers(len(s)).to(s.device)).sum()) for s in sums)
