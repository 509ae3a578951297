"""Tensors that share memory: what a write to one of them means for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef


class Aliases:
    """The living tensors of a pass, by the memory that they lie in."""

    def __init__(self) -> None:
        self._by_storage: dict[int, dict[int, TensorWeakRef]] = {}

    def add(self, leaf: Any) -> None:
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            here = self._by_storage.setdefault(leaf.untyped_storage()._cdata, {})
            for key in [key for key, reference in here.items() if reference() is None]:
                del here[key]
            here[id(leaf)] = TensorWeakRef(leaf)

    def of(self, tensor: Tensor) -> list[Tensor]:
        """The tensors that lie in the memory of `tensor`."""
        here = self._by_storage.get(tensor.untyped_storage()._cdata, {})
        return [other for other in (reference() for reference in here.values()) if other is not None]


def same_elements(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors on the same memory are the same elements in the same shape."""
    return a.shape == b.shape and a.stride() == b.stride() and a.storage_offset() == b.storage_offset()


@dataclass(frozen=True)
class Overlap:
    """The elements of one tensor that another tensor on the same memory also holds."""

    mask: Tensor
    """Which elements of the first tensor are shared."""
    source: Tensor
    """For every element of the first tensor, the flat index in the second (0 where it is not shared)."""

    @classmethod
    def between(cls, tensor: Tensor, written: Tensor) -> Overlap | None:
        """None where no element is shared."""
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        index = torch.full((size,), -1, dtype=torch.long, device=tensor.device)
        elements = torch.arange(written.numel(), device=tensor.device).reshape(written.shape)
        index.as_strided(written.shape, written.stride(), written.storage_offset()).copy_(elements)
        source = index.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).contiguous()
        mask = source >= 0
        return cls(mask, source.clamp_min(0)) if bool(mask.any()) else None

    def merge(self, tensor: Tensor, old: bool, new: bool) -> tuple[Callable[..., Tensor], Tensor | None]:
        """The linear part and the offset of `tensor` after the write.

        `old` and `new` say which of the tensor before and the written tensor depend on the input.
        """
        # Selected, not multiplied by zero: a tensor made empty may hold anything where it has not been written yet.

        def kept(p: Tensor) -> Tensor:
            return p.masked_fill(self.mask, 0)

        def taken(q: Tensor) -> Tensor:
            return q.reshape(-1)[self.source].masked_fill(~self.mask, 0)

        if old and new:
            return lambda p, q: kept(p) + taken(q), None
        constants = tensor.masked_fill(self.mask != old, 0)
        return (kept if old else taken), constants
