"""Growth in Transformers' Trainer."""

from __future__ import annotations

from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from linmap.adapt.triadaptlora.allocator import RankAllocator


class TriAdaptCallback(TrainerCallback, ExportableState):
    """Calls a `RankAllocator` after each optimiser step of a Trainer, and saves its state in the Trainer's checkpoints.

    Parameters
    ----------
    allocator
        The allocator of the model that is trained.
    """

    def __init__(self, allocator: RankAllocator) -> None:
        self.allocator = allocator

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if state.global_step:
            kept: dict[str, Any] = cast(Any, state.stateful_callbacks) or {}
            saved = kept.get(type(self).__name__)
            saved = saved if isinstance(saved, list) else [saved] if saved else []  # a list where there are several
            states = [item["attributes"] for item in saved]
            own = [item["allocator"] for item in states if item["adapter"] == self.allocator.adapter_name]
            if own:
                self.allocator.load_state_dict(own[-1])
        if optimizer is not None:
            self.allocator.attach(optimizer)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        self.allocator.step(state.global_step, optimizer)

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into trainer_state.json."""
        attributes = {"adapter": self.allocator.adapter_name, "allocator": self.allocator.state_dict()}
        return {"args": {}, "attributes": attributes}
