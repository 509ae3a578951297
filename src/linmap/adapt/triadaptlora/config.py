"""TriAdaptLoRA as a PEFT method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from peft import PeftConfig
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linmap.adapt.triadaptlora.delta import Scaling
from linmap.adapt.triadaptlora.growth import Growth
from linmap.adapt.triadaptlora.layer import (
    GrowInit,
    Storage,
    TriAdaptConv2d,
    TriAdaptLayer,
    TriAdaptLinear,
    check_options,
    triadapt_layers,
)
from linmap.adapt.triadaptlora.steps import expect_allocator
from linmap.adapt.tuner import AdapterConfig, AdapterTuner
from linmap.errors import ArgumentError
from linmap.maps.triangular_pair import Core

SHOWN = 3  # layers that an error lists


@dataclass
class TriAdaptLoraConfig(AdapterConfig):
    """Configuration of TriAdaptLoRA for `peft.get_peft_model`; further fields as of `AdapterConfig`.

    Every layer starts at `init_rank`; a `RankAllocator`, called after each optimiser step, gives more rank to the
    layers whose C = L + U grows fastest, until the budget is spent.

    Parameters
    ----------
    reference_rank
        The average rank in the end: the budget is reference_rank times the number of layers.
    init_rank
        The rank of every layer at the start.
    alpha
        Numerator of the scale.
    dropout
        Probability to drop an input of the adapter in training.
    growth
        How many layers grow at a time, as of `growth.layers_to_grow`: "linear" (the published choice) or "nonlinear";
        "none" keeps the ranks.
    init_warmup
        Optimiser steps without growth at the start.
    incre_interval
        Optimiser steps between two checks.
    incre_rank_num
        Ranks that a layer gets when it grows; max(1, reference_rank // 2) when None.
    total_step
        Optimiser steps of the whole training. The `RankAllocator` needs it.
    target_total_rank
        The budget itself, in place of that of reference_rank.
    r_max
        The highest rank of a layer; min(in, out) when None. Room for as many is kept from the start; when None, for
        2 * reference_rank, and made later in the rare layer that needs more. In several processes room cannot be made
        later, so that it is the limit there.
    scaling
        "fixed": alpha / reference_rank; growth keeps the model's outputs. "rank": alpha / (R + 1e-5), as published;
        each growth then shrinks the layer's change by R / (R + 1).
    grow_init
        "zero_b": new pieces leave the outputs as they are. "paper": they are drawn whole, as published.
    init_c
        "normal": L and U drawn from N(0, 0.02^2). "identity": C = I.
    storage
        "prealloc": four parameters a layer that stay the same, for any optimiser, scheduler and DDP. "append": new
        parameters for each piece, the authors' layout; they join the optimiser's group of the pieces before them, so
        that its scheduler goes on.
    orth_reg_weight
        The weight that your loss gives to `triadapt_orthogonality(model)`.
    rank_pattern
        Rank by module, for layers that do not start at init_rank; the keys are PEFT's, ends of paths or regular
        expressions that an end of the path must match. A whole path goes first, then the longest of several ends, and
        in the order given where there is an expression among those that match. Growth writes the ranks here, so that a
        saved adapter is built with the ranks that it has.
    """

    method: ClassVar[str] = "linmap_triadaptlora"

    reference_rank: int = 8
    init_rank: int = 1
    alpha: float = 16
    dropout: float = 0.0
    growth: Growth = "linear"
    init_warmup: int = 0
    incre_interval: int = 1
    incre_rank_num: int | None = None
    total_step: int | None = None
    target_total_rank: int | None = None
    r_max: int | None = None
    scaling: Scaling = "fixed"
    grow_init: GrowInit = "zero_b"
    init_c: Core = "normal"
    storage: Storage = "prealloc"
    orth_reg_weight: float = 0.0
    rank_pattern: dict[str, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(
            self.reference_rank, self.init_rank, self.alpha, self.dropout, self.r_max, self.scaling, self.grow_init,
            self.init_c, self.storage,
        )  # fmt: skip
        if self.growth not in ("linear", "nonlinear", "none"):
            raise ArgumentError(f"growth={self.growth!r} must be 'linear', 'nonlinear' or 'none'.")
        for name in ("incre_interval", "incre_rank_num", "total_step", "target_total_rank"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ArgumentError(f"{name}={value!r} must be at least 1.")
        if self.init_warmup < 0:
            raise ArgumentError(f"init_warmup={self.init_warmup!r} must not be negative.")
        if self.total_step is not None and self.total_step <= self.init_warmup:
            raise ArgumentError(
                f"total_step = {self.total_step} must be above init_warmup = {self.init_warmup}, or no step is left to "
                "grow in; total_step is the number of optimiser steps of the whole training."
            )
        if self.orth_reg_weight < 0:
            raise ArgumentError(f"orth_reg_weight={self.orth_reg_weight!r} must not be negative.")
        for name, rank in (self.rank_pattern or {}).items():
            if not isinstance(rank, int) or rank < 1:
                raise ArgumentError(f"rank_pattern gives {name} the rank {rank!r}; ranks are positive integers.")
            try:
                re.compile(name)
            except re.error as error:
                raise ArgumentError(
                    f"rank_pattern has the key {name!r}, which is no regular expression: {error}."
                ) from None

    @property
    def add_rank(self) -> int:
        """What a layer that grows gets."""
        return max(1, self.reference_rank // 2) if self.incre_rank_num is None else self.incre_rank_num

    def rank_of(self, path: str) -> int:
        """The rank of the layer at this path, by the entry of rank_pattern that it matches."""
        pattern = self.rank_pattern or {}
        if path in pattern:
            return pattern[path]
        fitting = [key for key in pattern if path.endswith(f".{key}") or re.match(rf"(.*\.)?({key})$", path)]
        if not fitting:
            return self.init_rank
        ends = all(path.endswith(f".{key}") for key in fitting)
        return pattern[max(fitting, key=len) if ends else fitting[0]]

    def layer_options(self, path: str) -> dict[str, Any]:
        names = ("reference_rank", "alpha", "dropout", "r_max", "scaling", "grow_init", "init_c", "storage")
        options = {name: getattr(self, name) for name in names}
        grows = self.growth != "none" and not self.inference_mode
        return options | {"init_rank": self.rank_of(path), "grows": grows}


class TriAdaptLoraModel(AdapterTuner):
    """A model with TriAdaptLoRA on the layers that a `TriAdaptLoraConfig` names."""

    prefix = "linmap_triadaptlora_"
    tuner_layer_cls = TriAdaptLayer
    layer_classes: ClassVar = {nn.Linear: TriAdaptLinear, Conv1D: TriAdaptLinear, nn.Conv2d: TriAdaptConv2d}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config: Any = self.peft_config[adapter_name]
        if config.growth != "none" and not config.inference_mode:
            expect_allocator(self, adapter_name)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """The tensors of the adapters, without the room beyond their ranks, which the configuration then holds."""
        ranks = {
            name: layer.adapters[adapter_name].rank for name, layer in triadapt_layers(model, adapter_name).items()
        }
        ours = cast(TriAdaptLoraConfig, config)
        if any(ours.rank_of(name) != rank for name, rank in ranks.items()):
            ours.rank_pattern = ranks
        found = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        for name in [name for name in found if name.endswith(".map._extra_state")]:
            R, start = int(found.pop(name)), name.removesuffix("_extra_state")
            found[start + "A"] = found[start + "A"][:R]
            for key in ("B", "lower", "upper"):
                found[start + key] = found[start + key][:, :R] if key == "B" else found[start + key][:R, :R]
        return found

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The adapter takes the ranks of the file, unless it was made with others and has not grown since."""
        state = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        adapters: dict[str, Any] = {
            name: layer.adapters[adapter_name] for name, layer in triadapt_layers(model, adapter_name).items()
        }
        ranks = {name: adapter.rank for name, adapter in adapters.items()}
        saved = {}
        for key, A in list(state.items()):
            layer, found, _ = key.partition(f".{TriAdaptLayer.adapters_name}.{adapter_name}.map.A")
            name = next((name for name in ranks if layer == name or layer.endswith(f".{name}")), "")
            if found and name:
                saved[name] = A.shape[0]
                state[key.removesuffix("A") + "_extra_state"] = torch.tensor(A.shape[0])
        ours = cast(TriAdaptLoraConfig, config)
        given = ours.rank_pattern is not None
        if given and not any(adapter.grown for adapter in adapters.values()):
            check_same_ranks(saved, ranks)
        if saved != ranks and saved:
            ours.rank_pattern = {**ranks, **saved}
        return state


def check_same_ranks(saved: Mapping[str, int], ranks: Mapping[str, int]) -> None:
    """Raise `ValueError` naming the first layers whose saved rank is another than that of the model."""
    other = [f"{name}: {rank} saved, {ranks[name]} here" for name, rank in saved.items() if rank != ranks[name]]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        raise ArgumentError(
            f"the saved adapter has other ranks than this one ({'; '.join(other[:SHOWN])}{more}); load it with its own "
            "adapter_config.json, whose rank_pattern holds its ranks, or into an adapter that has not grown."
        )
