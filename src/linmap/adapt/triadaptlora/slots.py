"""Adam with a step count for each piece of an adapter.

A piece that comes into use at step t has moments of its own age, and Adam would correct their bias with the parameter's
age: the first update would be (1 - beta1) / sqrt(1 - beta2) = 3.2 times too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim.optimizer import Optimizer

from linmap.maps import TriangularPair

AXES = {"A": 0, "B": 1, "lower": 0, "upper": 1}  # along which the pieces lie
GROWN = 2.0**-24  # beta2^age below which the correction is within float32's rounding


def age_of(optimizer: Optimizer | None, parameter: nn.Parameter) -> int:
    """Steps that an optimiser of Adam's kind has made with a parameter."""
    state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
    return int(state.get("step", 0))


class SlotClock:
    """Corrects, after each step of an optimiser, the updates of the young pieces of some maps.

    Parameters
    ----------
    optimizer
        Any that keeps "step", "exp_avg" and "exp_avg_sq", as Adam and AdamW do; others are left alone.
    maps
        The maps by name.
    births
        For each of them, the optimiser's step at which each piece came into use; read at every step.
    """

    def __init__(self, optimizer: Optimizer, maps: dict[str, TriangularPair], births: dict[str, list[int]]) -> None:
        self.maps, self.births = maps, births
        self.before: list[tuple[str, str, int, Tensor]] = []
        optimizer.register_step_pre_hook(self.remember)
        optimizer.register_step_post_hook(self.correct)

    @torch.no_grad()
    def remember(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Copy the young pieces."""
        self.before = []
        for group, name, key, parameter in self._parameters(optimizer):
            first = self._first_young(optimizer, group, name, parameter)
            if first < self.maps[name].rank:
                young, _ = _pieces_from(parameter, parameter, AXES[key], first)
                self.before.append((name, key, first, young.clone()))

    @torch.no_grad()
    def correct(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Put age in use in the place of the parameter's age in what the young pieces have moved."""
        if not self.before:
            return
        groups = {(name, key): group for group, name, key, _ in self._parameters(optimizer)}
        for name, key, first, before in self.before:
            parameter, group = getattr(self.maps[name], key), groups[name, key]
            state, axis = optimizer.state[parameter], AXES[key]
            t = age_of(optimizer, parameter)
            ages = [max(t - birth, 1) for birth in self.births[name][first:]]
            now, offset = _pieces_from(parameter, parameter, axis, first)
            ages = F.pad(torch.tensor(ages, dtype=torch.float64), (0, offset + now.shape[axis] - len(ages)), value=1.0)
            k = ages[offset:].to(now.device).unsqueeze(1 - axis)
            v, _ = _pieces_from(parameter, state.get("max_exp_avg_sq", state["exp_avg_sq"]), axis, first)
            beta1, beta2 = map(float, group["betas"])
            ratio = _ratio(v, t, k, beta1, beta2, float(group["eps"]))
            start = before * (1 - float(group["lr"]) * group["weight_decay"] * _decoupled(optimizer, group))
            now.copy_(start + (now - start) * ratio)
        self.before = []

    def _parameters(self, optimizer: Optimizer) -> Iterator[tuple[dict[str, Any], str, str, nn.Parameter]]:
        """Those of grown maps that have Adam's state, each with its group."""
        grown = [name for name, births in self.births.items() if births[-1] > 0]
        known = {id(getattr(self.maps[name], key)): (name, key) for name in grown for key in AXES}
        for group in optimizer.param_groups if known and "betas" in optimizer.param_groups[0] else ():
            for parameter in group["params"]:
                if id(parameter) in known and "exp_avg_sq" in optimizer.state.get(parameter, {}):
                    yield group, *known[id(parameter)], parameter

    def _first_young(self, optimizer: Optimizer, group: dict[str, Any], name: str, parameter: nn.Parameter) -> int:
        """The first piece that is young; all behind it are younger still."""
        t, births = age_of(optimizer, parameter), self.births[name]
        if t < births[-1]:  # an optimiser that began anew
            births[:] = [0] * len(births)
        young = (i for i, birth in enumerate(births) if birth and float(group["betas"][1]) ** (t - birth) > GROWN)
        return next(young, len(births))


def _ratio(v: Tensor, t: int, k: Tensor, beta1: float, beta2: float, eps: float) -> Tensor:
    """m / (1 - beta1^k) / (sqrt(v / (1 - beta2^k)) + eps) over the same with t for k."""
    root, tiny = v.double().sqrt(), torch.finfo(torch.float64).tiny
    long, short = (1 - beta2**t) ** 0.5, (1 - beta2**k).sqrt()
    return (1 - beta1**t) / (1 - beta1**k) * (root / long + eps + tiny) / (root / short + eps + tiny)


def _decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    return bool(group.get("decoupled_weight_decay", "AdamW" in type(optimizer).__name__))


def _pieces_from(parameter: nn.Parameter, tensor: Tensor, axis: int, first: int) -> tuple[Tensor, int]:
    """The pieces from the first one on of a tensor like this parameter, and how many of them lie in processes before.

    Under FSDP2, those of this process.
    """
    offset = 0
    if isinstance(parameter, DTensor):
        _, offsets = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
        offset, tensor = offsets[axis], tensor.to_local() if isinstance(tensor, DTensor) else tensor
    skipped = min(max(first - offset, 0), tensor.shape[axis])
    return tensor.detach().narrow(axis, skipped, tensor.shape[axis] - skipped), max(offset - first, 0)
