"""Distillation: the quantised blocks learn together to give the original model's next-token distribution.

Block by block, each student sees inputs without quantisation error, and no block can make up for another's. Here
all of them run at once, as they will in the quantised model, and minimise KL(original || quantised) over the
vocabulary. Transforms, scales and clipping are trained further, and with them the gains of the norms and the weights
themselves, whose gradient passes straight through the rounding.

It is not part of the paper. Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models"
(2023), train a quantised model on the logits of its original.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from linmap.compress.flatquant.block import CLIPPING, StudentBlock
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.passes import compiled_passes
from linmap.errors import ArgumentError
from linmap.training import TrainingConfig, train
from linmap.training.checkpoint import random_state, set_random_state

WARMUP = 0.1  # share of the steps in which the learning rates rise; then they fall linearly to zero
BETAS = (0.9, 0.99)  # a short memory of squared gradients, for a run of a few hundred steps
CHECKPOINT_EVERY = 50


def divergence(logits: Float[Tensor, "*batch vocabulary"], teacher: Float[Tensor, "*batch vocabulary"]) -> Tensor:
    """KL(teacher || student) of the next token, mean over positions."""
    ours, theirs = (z.float().log_softmax(-1).flatten(0, -2) for z in (logits, teacher))
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def distil(
    model: nn.Module,
    teacher: nn.Module,
    windows: Int[Tensor, "steps length"],
    config: FlatQuantConfig,
    out: Path | None = None,
    resume: bool = False,
) -> list[float]:
    """Train a model whose blocks are `StudentBlock`s; one window a step.

    Parameters
    ----------
    model
        The students' model; its embeddings and head are not trained.
    teacher
        The original model, with weights of its own.
    windows
        Token ids, one row a step.
    out, resume
        Folder of checkpoints, and whether to go on from the last.

    Returns
    -------
    losses
        The divergence at each step of this process.

    Raises
    ------
    ValueError
        If the model is not in float32 or float64.
    DivergenceError
        If a number is no longer finite.
    """
    weight = cast(nn.Embedding, cast(Any, model).get_input_embeddings()).weight
    if weight.dtype.itemsize < 4:
        raise ArgumentError(f"distillation takes small steps, and the model is in {weight.dtype}; load it in float32.")
    groups = parameter_groups(model, config)
    for group in groups:
        for p in group["params"]:
            p.requires_grad_()
    losses: list[float] = []

    def loss(student: nn.Module, batch: tuple[Tensor]) -> Tensor:
        student.eval()
        with torch.no_grad():
            target = teacher(input_ids=batch[0], use_cache=False).logits
        value = divergence(student(input_ids=batch[0], use_cache=False).logits, target)
        losses.append(value.item())
        return value

    settings = TrainingConfig(
        epochs=1, batch_size=1, lr=config.distil_lr, optimizer="adamw", betas=BETAS, schedule="linear",
        warmup_steps=round(WARMUP * len(windows)), checkpoint_every=CHECKPOINT_EVERY, seed=config.seed,
    )  # fmt: skip
    state = random_state(weight.device)
    try:
        with torch.enable_grad(), compiled_passes(bool(config.compile)):
            train(
                model,
                loss,
                TensorDataset(windows),
                config=settings,
                out=out,
                resume=resume,
                description="distillation",
                parameter_groups=lambda model: groups,
            )
    finally:
        set_random_state(state, weight.device)
        model.requires_grad_(False)
    for student in students(model):
        student.forget()
    return losses


def parameter_groups(model: nn.Module, config: FlatQuantConfig) -> list[dict[str, Any]]:
    """Weights; matrices, scales and gains of norms; clipping logits: each with its learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for student in students(model):
        trained = student.trained()
        own = {id(p) for p in trained.values()}
        for name, p in trained.items():
            groups.setdefault(config.distil_clip_lr if name.endswith(CLIPPING) else config.distil_lr, []).append(p)
        for name, p in student.block.named_parameters():
            if id(p) in own:
                continue
            is_weight = name.endswith(".linear.weight")
            if is_weight and config.w_bits < 16:
                groups.setdefault(config.distil_weight_lr, []).append(p)
            elif not is_weight and p.ndim == 1:
                groups.setdefault(config.distil_lr, []).append(p)
    return [{"params": params, "lr": lr} for lr, params in groups.items() if lr > 0]


def students(model: nn.Module) -> list[StudentBlock]:
    return [module for module in model.modules() if isinstance(module, StudentBlock)]


def teacher_of(model: nn.Module) -> nn.Module:
    """A frozen copy of a model, whose weights stay while the students train theirs."""
    return copy.deepcopy(model).requires_grad_(False).eval()
