"""Which layer gets how much rank while the model trains."""

from __future__ import annotations

import warnings
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer

from linmap import artifacts
from linmap.adapt.triadaptlora.config import TriAdaptLoraConfig, check_same_ranks
from linmap.adapt.triadaptlora.growth import (
    grown_ranks,
    importance,
    is_due,
    layers_to_grow,
    normalised_norm,
    progress,
    ranking,
)
from linmap.adapt.triadaptlora.layer import TriAdaptAdapter, triadapt_layers
from linmap.adapt.triadaptlora.slots import SlotClock, age_of
from linmap.adapt.triadaptlora.steps import allocator_called, listen, moves
from linmap.errors import ArgumentError
from linmap.maps import TriangularPair


@dataclass(frozen=True)
class GrowthEvent:
    """One check, and the growth that it led to.

    All that a replay of the rules needs: from `scores` and `ranks` of the event before follow n, the threshold and the
    new ranks.
    """

    step: int
    norms: dict[str, float]
    """||C||_F / R by layer, before the growth."""
    scores: dict[str, float]
    """Importance: what the norms have gained since the check before."""
    n: int
    """How many layers grow."""
    threshold: float
    """The n-th highest score of the layers that may grow."""
    grown: list[str]
    """The layers that grow, the highest score first."""
    ranks: dict[str, int]
    """After the growth."""


class RankAllocator:
    """Gives rank to the layers of a model while it trains; call `step` after every optimiser step.

    It is a callback of `linmap.training.train` too, and `TriAdaptCallback` makes it one of Transformers' Trainer. In a
    distributed run every process calls it, and all take the decision of the first.

    Parameters
    ----------
    model
        A `PeftModel` with TriAdaptLoRA, a wrapper of it, or a module that has such layers.
    config
        Its configuration; `rank_pattern` is written after each growth.
    adapter_name
        The adapter that grows.

    Attributes
    ----------
    history
        One `GrowthEvent` a check.
    target
        R*, the sum of ranks at which growth ends.

    Raises
    ------
    ValueError
        If the model has no such adapter, `total_step` is missing, or the layers cannot hold the budget.
    """

    def __init__(self, model: nn.Module, config: TriAdaptLoraConfig, adapter_name: str = "default") -> None:
        self.model, self.config, self.adapter_name = model, config, adapter_name
        layers: dict[str, Any] = triadapt_layers(model, adapter_name)
        if not layers:
            raise ArgumentError(f"the model has no layer with a TriAdaptLoRA adapter named {adapter_name!r}.")
        if config.growth != "none" and config.total_step is None:
            raise ArgumentError(
                "total_step is missing in the configuration; set it to the number of optimiser steps of the whole "
                "training, by which the growth is timed."
            )
        self.adapters: dict[str, TriAdaptAdapter] = {
            name: layer.adapters[adapter_name] for name, layer in layers.items()
        }
        self.target = config.target_total_rank or config.reference_rank * len(layers)
        self._check_budget()
        self.history: list[GrowthEvent] = []
        self.stopped: str | None = None  # why there is no more growth, where a norm was not finite
        self.seed = torch.initial_seed() % 2**31
        self._step = 0
        self._norms = self._normalised_norms()
        self._births = {name: [0] * adapter.rank for name, adapter in self.adapters.items()}
        self._optimizer: weakref.ref[Optimizer] | None = None
        self._moved = False  # whether an optimiser has stepped with the adapter
        listen(self)

    def _check_budget(self) -> None:
        config, n = self.config, len(self.adapters)
        if config.growth == "none":
            return
        reachable = sum(self._limit(adapter) for adapter in self.adapters.values())
        if reachable < self.target:
            raise ArgumentError(
                f"the budget of {self.target} ranks cannot be spent: the {n} layers can have {reachable} at most "
                f"(r_max = {config.r_max}); raise r_max, or lower reference_rank or target_total_rank."
            )
        if self.target < config.init_rank * n:
            warnings.warn(
                f"nothing will grow: the budget of {self.target} ranks is below init_rank * layers = "
                f"{config.init_rank * n}.",
                stacklevel=3,
            )

    def _limit(self, adapter: TriAdaptAdapter) -> int:
        """The highest rank of a layer: its room, where several processes hold it together."""
        fixed = _processes() > 1 and isinstance(adapter.map, TriangularPair)
        return min(adapter.limit, adapter.map.max_rank) if fixed else adapter.limit

    # -- what it sees --------------------------------------------------------------------------------------------------

    def ranks(self) -> dict[str, int]:
        """The rank of every layer now."""
        return {name: adapter.rank for name, adapter in self.adapters.items()}

    def scores(self) -> dict[str, float]:
        """The importance of every layer now: how far ||C||_F / R has moved since the last check."""
        return importance(self._normalised_norms(), self._norms)

    @torch.no_grad()
    def _normalised_norms(self) -> dict[str, float]:
        norms = torch.stack([core_norm(adapter) for adapter in self.adapters.values()])
        if _processes() > 1:
            dist.broadcast(norms, 0)
        return {
            name: normalised_norm(norm, adapter.rank)
            for (name, adapter), norm in zip(self.adapters.items(), norms.tolist(), strict=True)
        }

    # -- growth --------------------------------------------------------------------------------------------------------

    def __call__(self, model: nn.Module, steps_done: int) -> GrowthEvent | None:
        return self.step(steps_done)

    def step(self, global_step: int, optimizer: Any = None) -> GrowthEvent | None:
        """Check the layers, if this step is due, and let those grow that the rules choose.

        Parameters
        ----------
        global_step
            Optimiser steps done, from 1.
        optimizer
            The optimiser, which is needed where new parameters are made (storage "append"). One that has stepped once
            since the allocator was made is known without.

        Raises
        ------
        ValueError
            If the steps go backwards, or the optimiser has not stepped.
        """
        allocator_called(self.model, self.adapter_name)
        self._check_step(global_step, optimizer)
        config = self.config
        if global_step == self._step:
            return None
        self._step = global_step
        if config.growth == "none" or self.stopped or sum(self.ranks().values()) >= self.target:
            return None
        if not is_due(global_step, config.init_warmup, config.incre_interval):
            return None
        norms, scores = self._normalised_norms(), self.scores()
        if self._not_finite(norms):
            return None
        event = self._decide(global_step, norms, scores)
        self._grow(event)
        self._norms = norms
        self.history.append(event)
        return event

    def _check_step(self, global_step: int, optimizer: Any) -> None:
        if global_step < 1:
            raise ArgumentError(f"global_step counts optimiser steps done, from 1; got {global_step}.")
        if global_step < self._step:
            raise ArgumentError(
                f"global_step went back from {self._step} to {global_step}; when training resumes, give a new "
                "allocator the state of the checkpoint by load_state_dict()."
            )
        if optimizer is not None:
            self.attach(optimizer)
        if optimizer is not None and not self._moved:
            raise ArgumentError(
                "step() was called before any optimiser step that moves the adapter; call optimizer.step() first, and "
                "the allocator after it."
            )

    def _not_finite(self, norms: Mapping[str, float]) -> bool:
        bad = next((name for name, norm in norms.items() if not norm < float("inf")), None)
        if bad is not None:
            self.stopped = f"the norm of C in {bad} is {norms[bad]}"
            warnings.warn(
                f"growth stops at step {self._step}: {self.stopped}. Training has diverged there; lower the learning "
                "rate.",
                RuntimeWarning,
                stacklevel=4,
            )
        return bad is not None

    def _decide(self, step: int, norms: dict[str, float], scores: dict[str, float]) -> GrowthEvent:
        """Steps 1 to 3 of the method."""
        config, ranks = self.config, self.ranks()
        limits = {name: self._limit(adapter) for name, adapter in self.adapters.items()}
        candidates = {name: score for name, score in scores.items() if ranks[name] < limits[name]}
        m = progress(step, config.init_warmup, cast(int, config.total_step))
        n = layers_to_grow(self.target - sum(ranks.values()), m, config.growth, len(ranks))
        chosen = ranking(candidates)[:n]
        grown = grown_ranks(ranks, chosen, config.add_rank, limits, self.target)
        growing = [name for name in chosen if grown[name] > ranks[name]]
        return GrowthEvent(step, norms, scores, n, candidates[chosen[-1]], growing, grown)

    def _grow(self, event: GrowthEvent) -> None:
        optimizer = self._optimizer() if self._optimizer is not None else None
        if _processes() > 1:
            seed = torch.tensor(self.seed, device=next(iter(self.adapters.values())).map.device)
            dist.broadcast(seed, 0)
            self.seed = int(seed)
        for name in event.grown:
            adapter, births = self.adapters[name], self._births[name]
            del births[adapter.rank :]  # of pieces that were lost as an earlier state was loaded
            known = list(adapter.map.parameters())
            generator = torch.Generator().manual_seed(self.seed + zlib.crc32(f"{name} {adapter.rank}".encode()))
            adapter.grow(event.ranks[name], generator)
            births += [age_of(optimizer, known[0])] * (adapter.rank - len(births))
            if optimizer is not None:
                _tell(optimizer, known, list(adapter.map.parameters()))
        self._write_pattern()

    def _write_pattern(self) -> None:
        """The ranks, into the configuration that is saved with the adapter."""
        of_model = getattr(self.model, "peft_config", {}).get(self.adapter_name, self.config)
        for config in (self.config, of_model):
            config.rank_pattern = self.ranks()

    # -- the optimiser -------------------------------------------------------------------------------------------------

    def attach(self, optimizer: Any) -> None:
        """Make an optimiser count the steps of grown pieces by themselves; done by itself when it steps.

        One that Accelerate has wrapped is unwrapped.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)
        if self._optimizer is None or self._optimizer() is not optimizer:
            self._optimizer = weakref.ref(optimizer)
            maps: dict[str, Any] = {name: adapter.map for name, adapter in self.adapters.items()}
            if all(isinstance(map, TriangularPair) for map in maps.values()):
                SlotClock(optimizer, maps, self._births)

    def stepping(self, optimizer: Optimizer) -> None:
        """An optimiser is about to step: the first one that moves the adapter is the one."""
        if self._optimizer is None or not self._moved:
            own = (parameter for adapter in self.adapters.values() for parameter in adapter.parameters())
            if moves(optimizer, own):
                self._moved = True
                if self._optimizer is None:
                    self.attach(optimizer)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next decision depends on, in what JSON has."""
        return {
            "step": self._step,
            "seed": self.seed,
            "stopped": self.stopped,
            "ranks": self.ranks(),
            "norms": dict(self._norms),
            "births": {name: list(births) for name, births in self._births.items()},
            "history": [asdict(event) for event in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; the weights and the optimiser are loaded by whoever saved them.

        Raises
        ------
        ValueError
            If the state is of another model, or the adapter's ranks are others than those saved and it has grown.
        """
        if state["ranks"].keys() != self.adapters.keys():
            other = sorted(state["ranks"].keys() ^ self.adapters.keys())[:3]
            raise ArgumentError(
                f"the state is of an allocator of other layers; these are only in one: {', '.join(other)}."
            )
        if any(adapter.rank > state["ranks"][name] for name, adapter in self.adapters.items()):
            check_same_ranks(state["ranks"], self.ranks())
        for name, adapter in self.adapters.items():
            adapter.grow(state["ranks"][name])  # a placeholder where the weights are loaded later
            self._births[name][:] = state["births"][name]
        self._step, self.seed, self.stopped = state["step"], state["seed"], state["stopped"]
        self._norms, self._moved = dict(state["norms"]), True
        self.history = [GrowthEvent(**event) for event in state["history"]]
        if self.history:
            self._write_pattern()

    def save_history(self, path: Path | str) -> None:
        """Write the history as JSON, whole or not at all."""
        artifacts.write_json(path, [asdict(event) for event in self.history])


def core_norm(adapter: TriAdaptAdapter) -> Tensor:
    """||C||_F in float64; a collective operation under FSDP2."""
    R = adapter.rank
    L, U = (
        part.full_tensor() if isinstance(part, DTensor) else part for part in (adapter.map.lower, adapter.map.upper)
    )
    C = L[:R, :R].tril().double() + U[:R, :R].triu().double()
    return torch.linalg.matrix_norm(C)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _tell(optimizer: Optimizer, old: list[nn.Parameter], new: list[nn.Parameter]) -> None:
    """Give an optimiser the new parameters of a map, and its state of enlarged ones their new shape.

    A new one goes behind its neighbour in the map and in its group: schedulers keep lists by group, and checkpoints the
    order of parameters, which is that of the model.
    """
    held = {id(parameter) for parameter in old}
    before: nn.Parameter | None = None
    for parameter in new:
        if id(parameter) not in held:
            group = next((g for g in optimizer.param_groups if any(p is before for p in g["params"])), None)
            if group is None:
                optimizer.add_param_group({"params": [parameter]})
            else:
                place = next(i for i, p in enumerate(group["params"]) if p is before)
                group["params"].insert(place + 1, parameter)
        before = parameter
    for parameter in old:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.ndim == parameter.ndim and value.shape != parameter.shape:
                larger = value.new_zeros(parameter.shape)
                larger[tuple(slice(size) for size in value.shape)] = value
                optimizer.state[parameter][key] = larger
