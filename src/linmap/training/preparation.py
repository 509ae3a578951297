"""What a run starts from: Accelerate in the right precision, the optimiser, the weights that a checkpoint can hold."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from linmap.training.checkpoint import Tensors
from linmap.training.config import TrainingConfig


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator of this precision; Accelerate shares its state in a process, which an earlier run may have set."""
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
        raise ValueError(
            f"training under {kind.value} is not supported; run `accelerate config` and choose multi-GPU or FSDP "
            "version 2."
        )
    if wanted == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("precision = 'fp16' needs a GPU, and there is none here; use 'bf16' or 'no'.")
    return accelerator


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient: there is nothing to train.")
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":  # its fused kernel does not know sharded weights
        return torch.optim.SGD(parameters, momentum=config.momentum, **options)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    fused = all(parameter.is_floating_point() for parameter in parameters)  # there is no fused kernel for complex ones
    return kind(parameters, betas=config.betas, fused=fused or None, **options)


def weights_of(model: nn.Module) -> Tensors:
    weights = model.state_dict()
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"the model's state {name} is a {type(value).__name__}; only tensors can be saved.")
    return weights


def load_initial(model: nn.Module, weights: Tensors) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the model is not the one that the checkpoint was written with: {error}") from error


def is_finite(weight: Tensor) -> bool:
    """Whether the part of a weight that lies in this process is finite."""
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    return bool(torch.isfinite(local.detach()).all())
