"""Networks that draw from a generator of their own, and leave PyTorch's global one to the program around them.

Inside `private(seed)` every random operation of PyTorch draws from one private generator, whatever code asks for it, so
that a network is initialised in float32 as after `torch.manual_seed(seed)`, in every bit, without the global generator
being read or set, and whatever the default type is. It acts on the thread that opens it alone. `Dropout` draws from the
generator that `train` lends it when it is called with `seed_globally=False`; checkpoints hold its state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode

from linmap.errors import ArgumentTypeError

FACTORIES = {f"aten::{name}" for name in ("empty", "zeros", "ones", "eye", "rand", "randn", "linspace")}
"""Of floating tensors; their type is not the program's default either."""


class Source:
    """A private generator on each device that asks for one, all seeded alike.

    Parameters
    ----------
    seed
        On the CPU it gives the numbers that `torch.manual_seed(seed)` gives.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device | str) -> torch.Generator:
        """The generator of a device."""
        device = torch.empty(0, device=device).device  # with its index
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` that draws from the source that `train` has lent it, and from the global generator without.

    It has no other state than its share `p`. `inplace` is as in PyTorch.
    """

    source: Source | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or self.source is None:
            return super().forward(input)
        return input.mul_(self.mask(input)) if self.inplace else input * self.mask(input)

    def mask(self, like: Tensor) -> Tensor:
        """Zeros with probability p, and 1 / (1 - p) elsewhere, of the shape, dtype and device of `like`."""
        if self.source is None or self.p == 1:
            return F.dropout(torch.ones_like(like), self.p)
        generator = self.source.on(like.device)
        return torch.empty_like(like).bernoulli_(1 - self.p, generator=generator).div_(1 - self.p)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "source"}  # a copy has lent nothing


@contextmanager
def private(seed: int) -> Iterator[Source]:
    """Let all that PyTorch draws in this thread come from a generator of its own.

    Parameters
    ----------
    seed
        Of that generator.

    Raises
    ------
    NotImplementedError
        If something inside needs a random operation that takes no generator, such as a fused dropout.
    """
    source = Source(seed)
    with _DrawnFrom(source):
        yield source


class _DrawnFrom(TorchDispatchMode):
    """Hands every random operation of ATen the generator of a source."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        kwargs = dict(kwargs or {})
        named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        if func.overloadpacket._qualified_op_name in FACTORIES and named.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        given = isinstance(named.get("generator"), torch.Generator)
        if torch.Tag.nondeterministic_seeded not in func.tags or given or _draws_nothing(named):
            return func(*args, **kwargs)
        seeded = _with_generator(func)
        if seeded is None:
            raise NotImplementedError(f"{func} takes no generator; draw with an operation that does.")
        tensor = next((value for value in named.values() if isinstance(value, Tensor)), None)
        device = named.get("device") or (torch.device("cpu") if tensor is None else tensor.device)
        if torch.device(device).type != "meta":  # nothing is drawn there
            kwargs["generator"] = self.source.on(device)
        return seeded(*args, **kwargs)


@cache
def _with_generator(func: Any) -> Any:
    """The operation itself if it takes a generator, else its overload with the same arguments and one, else None."""
    overloads = [func, *(getattr(func.overloadpacket, name) for name in func.overloadpacket.overloads())]
    return next((f for f in overloads if _signature(f) == _signature(func) and _takes_generator(f)), None)


def _signature(func: Any) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in func._schema.arguments if a.name != "generator"]


def _takes_generator(func: Any) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)


def _draws_nothing(arguments: Mapping[str, Any]) -> bool:
    """Whether an operation only could drop entries: evaluation mode, or a share of zero."""
    shares = [arguments[name] for name in ("p", "dropout", "dropout_p") if name in arguments]
    return arguments.get("train") is False or (bool(shares) and not any(shares))


def lend(model: nn.Module, source: Source | None) -> None:
    """Let every `Dropout` of a model draw from `source`; from the global generator again with None.

    Raises
    ------
    TypeError
        If another kind of dropout in it would draw from the global generator; replace it by `Dropout`.
    """
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.source = source
        elif source is not None and isinstance(module, _DropoutNd) and module.p:
            raise ArgumentTypeError(
                f"{name} is a {type(module).__name__}, which draws from PyTorch's global generator; "
                "use linmap.training.randomness.Dropout."
            )
