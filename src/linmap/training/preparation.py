"""What a run starts from: Accelerate in the right precision, the optimiser, the weights that a checkpoint can hold."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.processes import check_launched
from linmap.training.checkpoint import Tensors
from linmap.training.config import TrainingConfig

ParameterGroups = Callable[[nn.Module], list[dict[str, Any]]]


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator of this precision; Accelerate shares its state in a process, which an earlier run may have set."""
    check_launched()
    wanted = precision if precision != "no" else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if AcceleratorState._shared_state.get("_mixed_precision", wanted) != wanted:
        AcceleratorState._reset_state()
    # the loop weighs the parts of a batch itself, for they need not be equal
    plugin = GradientAccumulationPlugin(num_steps=1)
    cpu = not torch.accelerator.is_available()  # without this, Accelerate does not see that torchrun started several
    accelerator = Accelerator(mixed_precision=wanted, gradient_accumulation_plugin=plugin, cpu=cpu)
    kind = accelerator.distributed_type
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM) or (
        kind == DistributedType.FSDP and not accelerator.is_fsdp2
    ):
        raise ArgumentError(
            f"training under {kind.value} is not supported; run `accelerate config` and choose multi-GPU or FSDP "
            "version 2."
        )
    if wanted == "fp16" and accelerator.device.type == "cpu":
        raise ArgumentError("precision='fp16' needs a GPU; here is none: use precision='bf16' or precision='no'.")
    return accelerator


def make_optimizer(
    model: nn.Module, config: TrainingConfig, parameter_groups: ParameterGroups | None = None
) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ArgumentError("the model has no parameter that requires a gradient: there is nothing to train.")
    groups = [{"params": parameters}] if parameter_groups is None else parameter_groups(model)
    _check_groups(groups, model)
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":  # its fused kernel does not know sharded weights
        return torch.optim.SGD(groups, momentum=config.momentum, **options)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    fused = all(parameter.is_floating_point() for parameter in parameters)  # there is no fused kernel for complex ones
    return kind(groups, betas=config.betas, fused=fused or None, **options)


def _check_groups(groups: list[dict[str, Any]], model: nn.Module) -> None:
    """Every parameter that requires a gradient is in one group, and nothing else is."""
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: list[int] = []
    for group in groups:
        if unknown := set(group) - {"params", "lr", "weight_decay"}:
            raise ArgumentError(f"a parameter group may set lr and weight_decay; got {sorted(unknown)}.")
        group["params"] = list(group["params"])
        found.extend(id(parameter) for parameter in group["params"])
    if missing := [name for key, name in names.items() if key not in found]:
        raise ArgumentError(
            f"parameter_groups leaves out {missing[0]}, which requires a gradient; put it into a group."
        )
    if len(found) != len(names):
        raise ArgumentError(
            f"parameter_groups names {len(found)} parameters, the model has {len(names)} that require a gradient; put "
            "each of them into one group."
        )


def group_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What tells the parameter groups of two runs apart."""
    return [
        {"lr": group["lr"], "weight_decay": group["weight_decay"], "parameters": len(group["params"])}
        for group in optimizer.param_groups
    ]


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters(remove_duplicate=False) if not weight.requires_grad}


def parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of an optimiser's parameters, in its order."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def have_joined(groups: list[dict[str, Any]], optimizer: torch.optim.Optimizer) -> bool:
    """Whether parameters have joined the optimiser's groups; then the settings `groups` get the new counts."""
    counts = [len(group["params"]) for group in optimizer.param_groups]
    joined = counts != [group["parameters"] for group in groups]
    for group, count in zip(groups, counts, strict=True):
        group["parameters"] = count
    return joined


def weights_of(model: nn.Module) -> Tensors:
    """What training changes: the parameters that require a gradient, and the buffers."""
    frozen = frozen_names(model)
    weights = {name: value for name, value in model.state_dict().items() if name not in frozen}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ArgumentTypeError(f"the model's state {name} is a {type(value).__name__}; only tensors can be saved.")
    return weights


def frozen_fingerprint(model: nn.Module) -> int:
    """A checksum of the frozen parameters, which a checkpoint does not hold; 0 if there are none."""
    frozen, checksum = frozen_names(model), 0
    for name, weight in model.named_parameters():
        if name in frozen and not weight.is_meta:
            data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            checksum = zlib.crc32(data.data, zlib.crc32(name.encode(), checksum))
    return checksum


def load_initial(model: nn.Module, weights: Tensors) -> None:
    expected = weights_of(model).keys()
    try:
        if expected != weights.keys():
            raise RuntimeError(f"they differ in {sorted(expected ^ weights.keys())[0]}")
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ArgumentError(f"the model is not the one that the checkpoint was written with: {error}") from error


def is_finite(weight: Tensor) -> bool:
    """Whether the part of a weight that lies in this process is finite."""
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    return bool(torch.isfinite(local.detach()).all())
