"""What a forward pass costs: memory for its backward pass, operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class KeptForBackward(torch.autograd.graph.saved_tensors_hooks):
    """Sums the bytes of the storages that a forward pass keeps for its backward pass, the model's own not counted.

    >>> layer, x = nn.Linear(5, 3), torch.randn(7, 5)
    >>> with KeptForBackward(layer) as kept:
    ...     y = layer(x)
    >>> kept.total == x.nbytes
    True
    """

    def __init__(self, model: nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        self.seen, self.total = {tensor.untyped_storage().data_ptr() for tensor in own}, 0
        super().__init__(self._pack, lambda tensor: tensor)

    def __enter__(self) -> KeptForBackward:
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:  # what is kept stays alive, so an address stands for one storage
            self.seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


def flops(model: nn.Module, *inputs: Tensor) -> int:
    """Floating-point operations of one forward pass.

    >>> flops(nn.Linear(5, 3), torch.zeros(7, 5)) == 2 * 7 * 5 * 3
    True
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops()
