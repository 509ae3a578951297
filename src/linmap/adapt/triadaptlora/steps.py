"""What the steps of the user's optimisers tell: which of them moves an adapter, and that nobody calls its allocator.

Optimiser steps and not forwards are watched, so that the forward costs nothing more and compiled code is left alone.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from functools import cache
from typing import Any, Protocol, runtime_checkable

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

PATIENCE = 100  # optimiser steps without a call of the allocator


@runtime_checkable
class Listener(Protocol):
    def stepping(self, optimizer: Optimizer) -> None:
        """An optimiser is about to step."""


_listeners: weakref.WeakSet[Any] = weakref.WeakSet()
_steps: weakref.WeakKeyDictionary[nn.Module, dict[str, int]] = weakref.WeakKeyDictionary()  # by model and adapter


def listen(listener: Listener) -> None:
    """Tell it of all steps of all optimisers, for as long as it lives."""
    _register()
    _listeners.add(listener)


def expect_allocator(model: nn.Module, adapter_name: str) -> None:
    """Warn after 100 optimiser steps of this adapter, unless `allocator_called` comes first."""
    _register()
    _steps.setdefault(model, {})[adapter_name] = 0


def allocator_called(model: nn.Module, adapter_name: str) -> None:
    for module in model.modules() if _steps else ():
        if module in _steps:
            _steps[module].pop(adapter_name, None)


def moves(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether an optimiser holds one of these parameters."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return any(id(parameter) in held for parameter in parameters)


@cache
def _register() -> None:
    """Once, and for good: PyTorch's table of hooks must not change while a step goes through it."""
    register_optimizer_step_pre_hook(_stepping)


def _stepping(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for listener in list(_listeners):
        listener.stepping(optimizer)
    for model, steps in list(_steps.items()):
        for name in list(steps):
            mark = f"_adapters.{name}."
            if moves(optimizer, (parameter for key, parameter in model.named_parameters() if mark in key)):
                _count(steps, name)


def _count(steps: dict[str, int], adapter_name: str) -> None:
    steps[adapter_name] += 1
    if steps[adapter_name] > PATIENCE:
        del steps[adapter_name]
        warnings.warn(
            f"{PATIENCE} optimiser steps have passed, and the ranks of adapter {adapter_name!r} cannot grow: nobody "
            "calls its RankAllocator. Call allocator.step(global_step, optimizer) after every optimizer.step(), give "
            "linmap.training.train the allocator in callbacks, or Transformers' Trainer a TriAdaptCallback(allocator); "
            "growth='none' in the configuration if the ranks shall stay.",
            stacklevel=5,
        )
