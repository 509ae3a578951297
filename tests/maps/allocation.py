"""How large the tensors are that a computation makes."""

from collections.abc import Callable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _LargestTensor(TorchDispatchMode):
    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.entries = max([self.entries, *(t.numel() for t in tree_leaves(result) if isinstance(t, Tensor))])
        return result


def largest_tensor(compute: Callable[[], object]) -> int:
    """The most entries of a tensor that any operation in `compute` returns."""
    with _LargestTensor() as mode:
        compute()
    return mode.entries
