"""A model that FSDP2 has sharded, as the plain model that it was: whole weights in every process, without its hooks.

PyTorch makes the modules of a model in place into ones of other classes, with hooks, and their parameters into parts of
these. What is fitted is folded, measured and saved by code that knows nothing of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps.numbers import whole

PARTS = ("_buffers", "_modules", "_parameters")
"""What is in a module besides its hooks, of dictionaries."""


def check_shardable(model: nn.Module) -> None:
    """Refuse what FSDP2 cannot cut.

    Raises
    ------
    ValueError
        If a parameter is a single number without dimensions.
    """
    numbers = [name for name, weight in model.named_parameters() if weight.ndim == 0]
    if numbers:
        raise ArgumentError(
            f"FSDP cannot shard {numbers[0]}, which is a single number; run `accelerate config` and choose multi-GPU."
        )


class Sharding:
    """What sharding changes in a model, to be undone for a while or for good.

    Make it before the model is sharded, and call `done` after.
    """

    def __init__(self, model: nn.Module) -> None:
        # PyTorch's own and private: read here, so that one without it trains what is not sharded
        from torch.distributed._composable_state import _module_state_mapping

        self.model, self.all_sharded = model, _module_state_mapping
        self.before = [(module, type(module), _flat(module), module._parameters.copy()) for module in model.modules()]
        self.done()

    def done(self) -> None:
        """Note what is there now and was not before; PyTorch shards nothing twice that is in its register."""
        self.kinds = [type(module) for module, *_ in self.before]
        self.added = [{k: v for k, v in _flat(module).items() if k not in flat} for module, _, flat, _ in self.before]
        self.register = {module: self.all_sharded[module] for module, *_ in self.before if module in self.all_sharded}

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Inside, the model is whole; what changes its weights there is forgotten. A collective operation."""
        sharded = self.undo()
        try:
            yield
        finally:
            for (module, *_), kind, added, weights in zip(self.before, self.kinds, self.added, sharded, strict=True):
                module.__class__ = kind
                _put(module, added)
                module._parameters.update(weights)
            self.all_sharded.update(self.register)

    def undo(self) -> list[dict[str, Any]]:
        """Make the model whole; the parameters of each module that were sharded. A collective operation."""
        state = {k: whole(v) if isinstance(v, Tensor) else v for k, v in self.model.state_dict().items()}
        sharded = self.forget()
        self.model.load_state_dict(state)
        return sharded

    def forget(self) -> list[dict[str, Any]]:
        """Make the model whole with the weights that it had when it last was, in this process alone, at any time."""
        sharded = []
        for module in self.register:
            self.all_sharded.pop(module, None)
        for (module, kind, _, weights), added in zip(self.before, self.added, strict=True):
            sharded.append({name: module._parameters[name] for name in weights})
            module.__class__ = kind
            _take(module, added)
            for name, weight in weights.items():
                if isinstance(there := sharded[-1][name], Tensor) and weight is not None:
                    weight.data = weight.data.to(there.device)
                module._parameters[name] = weight
        return sharded


def _flat(module: nn.Module) -> dict[tuple[str, Any], Any]:
    """The attributes of a module, and the entries of its dictionaries of hooks."""
    flat = {}
    for name, value in vars(module).items():
        flat[name, None] = value
        if name.startswith("_") and isinstance(value, dict) and name not in PARTS:
            flat |= {(name, key): entry for key, entry in value.items()}
    return flat


def _put(module: nn.Module, entries: dict[tuple[str, Any], Any]) -> None:
    for (name, key), value in entries.items():
        if key is None:
            vars(module)[name] = value
        elif (name, None) not in entries:
            vars(module)[name][key] = value


def _take(module: nn.Module, entries: dict[tuple[str, Any], Any]) -> None:
    for name, key in entries:
        if key is None:
            vars(module).pop(name, None)
        elif (name, None) not in entries:
            vars(module)[name].pop(key, None)
