"""Watching a pass from outside: what comes into it that no operation of the pass has made.

PyTorch's operations are seen wherever they are called from. What leaves PyTorch is not: a value that goes through
NumPy, a thread, a C++ extension comes back as a new tensor or a number, and nothing in it says that it depends on the
input. `Exits` refuses the ways out that can be watched. For the others, `Watch` writes down every tensor and number
that comes in from nowhere; if they change when the input is moved a little, some of the input went around the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from linmap.interpret.linearscope.aliasing import Aliases
from linmap.interpret.linearscope.arguments import leaves

NUDGE = 2.0**-16
"""How far the input is moved, in units of its root mean square: it survives a cast to half precision."""


SET_MEMORY = frozenset([torch.ops.aten.set_.source_Storage, torch.ops.aten.set_.source_Storage_storage_offset])
"""Operations that lay a tensor over memory of which their arguments do not say whose it is."""


class Watch(TorchDispatchMode):
    """Run a pass from `mark_input` to `mark_output` and write down what comes into it from outside.

    Parameters
    ----------
    nudge
        The input is moved by this share of its size.
    """

    def __init__(self, model: nn.Module, nudge: float = 0.0) -> None:
        super().__init__()
        self.nudge = nudge
        self.aliases = Aliases()
        self.state = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
        self.start: Tensor | None = None
        self.end: Tensor | None = None
        self.strangers: list[tuple[str, str, tuple[float, ...]]] = []
        """Per tensor and number from outside: the operation that met it, its place, and figures that tell its values
        apart."""

    def mark_input(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor`, moved by the nudge, that is the input of the map."""
        moved = tensor + self.nudge * (float(tensor.detach().double().square().mean().sqrt()) or 1.0)
        self.start = moved
        return moved

    def mark_output(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor` that is the output of the map."""
        self.end = tensor.clone()
        return self.end

    def visit(self, path: str, side: str, tensor: Tensor | None) -> None:
        """A tensor goes into the layer at `path` (side "start") or comes out of it ("end")."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.notice(func, args, kwargs)
        output = func(*args, **kwargs)
        self.remember(func, args, kwargs, output)
        return output

    def remember(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Count the tensors of an operation among those of the pass."""
        if func not in SET_MEMORY:
            for leaf in leaves(args, kwargs, output):
                self.aliases.add(leaf)

    def notice(self, func: Any, args: Any, kwargs: Any) -> None:
        """Write down the arguments of an operation that come from outside."""
        if self.start is None:
            return
        for leaf in leaves(args, kwargs):
            if isinstance(leaf, float):
                self.strangers.append((str(func), self.where(func), (leaf,)))
            elif isinstance(leaf, Tensor) and leaf.is_floating_point() and self.is_stranger(leaf):
                values = leaf.detach().double()
                figures = float(values.sum()), float(values.square().sum())
                self.strangers.append((str(func), self.where(func), figures))

    def where(self, func: Any) -> str:
        """The operation's place for messages; a pass that nobody reads has none."""
        return str(func)

    def is_known(self, leaf: Any) -> bool:
        """Whether a leaf is a tensor that depends on the input; here nobody follows that."""
        return False

    def leave(self, way: str) -> None:
        """A tensor that depends on the input leaves PyTorch."""

    def is_stranger(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in memory that is neither the model's nor that of a tensor of this pass."""
        if tensor.layout != torch.strided or tensor.numel() == 0:
            return False
        return tensor.untyped_storage()._cdata not in self.state and not self.aliases.of(tensor)


def changed_stranger(before: Watch, after: Watch) -> str | None:
    """The place in `before` where a number from outside came in that differs in `after`; None where there is none.

    Passes that ran other operations cannot be compared: some decision changed.
    """
    if [name for name, _, _ in before.strangers] != [name for name, _, _ in after.strangers]:
        return None
    for (_, place, old), (_, _, new) in zip(before.strangers, after.strangers, strict=True):
        if not all(a == b or (a != a and b != b) for a, b in zip(old, new, strict=True)):
            return place
    return None


EXITS: dict[Any, str] = {
    torch.Tensor.numpy: "Tensor.numpy()",
    torch.Tensor.__array__: "np.asarray()",
    torch.Tensor.tolist: "Tensor.tolist()",
    torch.Tensor.__dlpack__: "from_dlpack()",
    torch.Tensor.data_ptr: "Tensor.data_ptr()",
    torch.Tensor.map_: "Tensor.map_()",
    torch.Tensor.map2_: "Tensor.map2_()",
    torch.Tensor.apply_: "Tensor.apply_()",
}
"""The ways by which a tensor's values leave PyTorch; numbers read with .item() are seen as an operation."""

RECURRENT = frozenset(
    getattr(torch, name)
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
)


class Exits(TorchFunctionMode):
    """Tell `leave(way)` of every tensor of the pass that leaves PyTorch; run recurrent layers in their parts."""

    def __init__(self, is_known: Callable[[Any], bool], leave: Callable[[str], None]) -> None:
        super().__init__()
        self.is_known, self.leave = is_known, leave

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in EXITS and any(map(self.is_known, args)):
            self.leave(EXITS[func])
        elif func is torch.Tensor.__deepcopy__ and self.is_known(args[0]):
            return _deep_copy(*args)
        elif func in RECURRENT:  # the fused kernels hide the gates
            with _without_fused_kernels():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def _without_fused_kernels() -> Iterator[None]:
    backends: list[Any] = [torch.backends.mkldnn, torch.backends.cudnn]
    before = [backend.enabled for backend in backends]
    try:
        for backend in backends:
            backend.enabled = False
        yield
    finally:
        for backend, enabled in zip(backends, before, strict=True):
            backend.enabled = enabled


def _deep_copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """What `copy.deepcopy` makes of a tensor, as an operation that the pass sees."""
    memo[id(tensor)] = tensor.clone()
    return memo[id(tensor)]
