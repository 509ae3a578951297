"""Training without a call of the allocator is the commonest mistake; somebody has to say so."""

from __future__ import annotations

import warnings
import weakref
from typing import Any, ClassVar

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

PATIENCE = 100  # optimiser steps


class GrowthReminder:
    """Warns when optimisers have moved an adapter 100 times and no allocator has been called for it.

    It counts optimiser steps and not forwards, so that it costs the forward nothing and compiled code is none of its
    business.
    """

    waiting: ClassVar[weakref.WeakSet[GrowthReminder]] = weakref.WeakSet()

    def __init__(self, model: nn.Module, adapter_name: str) -> None:
        self.model, self.adapter_name, self.steps = weakref.ref(model), adapter_name, 0
        self.handle = register_optimizer_step_post_hook(self)
        self.waiting.add(self)

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        model = self.model()
        if model is None:
            self.end()
            return
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        mark = f"_adapters.{self.adapter_name}."
        if not any(id(parameter) in held for name, parameter in model.named_parameters() if mark in name):
            return
        self.steps += 1
        if self.steps >= PATIENCE:
            self.end()
            warnings.warn(
                f"{self.steps} optimiser steps have passed, and the ranks of adapter {self.adapter_name!r} cannot "
                "grow: nobody calls its RankAllocator. Call allocator.step(global_step, optimizer) after every "
                "optimizer.step(), give linmap.training.train the allocator in callbacks, or Transformers' Trainer a "
                "TriAdaptCallback(allocator); growth='none' in the configuration if the ranks shall stay.",
                stacklevel=3,
            )

    def end(self) -> None:
        self.handle.remove()
        self.waiting.discard(self)

    @classmethod
    def dismiss(cls, model: nn.Module, adapter_name: str) -> None:
        """An allocator has been called: no more need to remind."""
        for reminder in [reminder for reminder in cls.waiting if reminder.adapter_name == adapter_name]:
            if any(module is reminder.model() for module in model.modules()):
                reminder.end()
