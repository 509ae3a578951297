"""Calibration of one block: its student learns to give the outputs of the original (section 3.3 of the paper).

Before, the clipping is put where the weights and inputs are rounded best. Section 3.1 of the paper starts at .982 of
every range and lets training find the rest. The best share of a flat row of 576 numbers in four bits is about .85, and
the few dozen steps of a short calibration do not get there. The search costs some rounding and no gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LinearLR, LRScheduler

from linmap.compress.flatquant.block import SCALED, SITES_OF, StudentBlock
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.linear import CalibratedLinear
from linmap.compress.flatquant.measures import smooth_scale
from linmap.compress.flatquant.passes import compiled_passes, extremes
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, fake_quantize
from linmap.compress.flatquant.teacher import (
    FLOAT16,
    BlockArguments,
    Channels,
    hidden_states,
    in_float32,
    in_half_precision,
)
from linmap.compress.flatquant.transforms import SiteTransform
from linmap.errors import ArgumentError

ETA_MIN = 5e-6  # where the cosine ends, for all learning rates
WARMUP_START = 0.01  # share of the learning rates
MAX_CONDITION = 1e6


@dataclass
class BlockReport:
    """How the calibration of a block went."""

    losses: list[float] = field(default_factory=list)
    """Mean squared error of the block's outputs, mean over each epoch."""
    stopped: str | None = None
    """Why training ended early; the best state until then was kept."""
    seconds: float = field(default=0.0, compare=False)
    """That the calibration took."""
    resumed: bool = field(default=False, compare=False)
    """Whether the block comes from the work folder."""

    @property
    def first(self) -> float | None:
        return self.losses[0] if self.losses else None

    @property
    def last(self) -> float | None:
        return self.losses[-1] if self.losses else None


@dataclass
class TrainedBlock:
    """All trained parameters of a student by name, and how they came about."""

    tensors: dict[str, Tensor]
    report: BlockReport


def is_trained(config: FlatQuantConfig) -> bool:
    """Whether anything is learnt. Scales alone stay where `smooth_scale` starts them, which is SmoothQuant."""
    quantises = config.quantises_linears or config.quantises_cache
    return config.epochs > 0 and quantises and (config.transform == "flat" or config.clip)


def start_student(
    block: nn.Module,
    config: FlatQuantConfig,
    seed: int,
    channels: Channels | None = None,
) -> StudentBlock:
    """A student before training: random orthogonal matrices, scales from the statistics of its inputs."""
    student = StudentBlock(block, config, torch.Generator().manual_seed(seed))
    student.to(next(block.parameters()).device)
    if channels is not None:
        for site in SCALED:
            if site in student.sites and student.sites[site].scale is not None:
                W = [student.linear(part).linear.weight for part, place in SITES_OF.items() if place == site]
                w_max = torch.stack([weight.detach().float().abs().amax(0) for weight in W]).amax(0)
                c = smooth_scale(w_max, channels.maxima[site], config.alpha)
                cast(Tensor, cast(SiteTransform, student.sites[site]).scale).data.copy_(c)
    student.refresh()
    return student


def calibrated_block(
    block: nn.Module,
    config: FlatQuantConfig,
    seed: int,
    channels: Channels | None,
    inputs: Tensor | None,
    targets: Tensor | None,
    arguments: BlockArguments,
) -> TrainedBlock:
    """The transforms of one block; it depends on nothing but these arguments, so that blocks can go in parallel."""
    start = time.perf_counter()
    student = start_student(in_float32(block, FLOAT16), config, seed, channels)
    if config.clip and config.clip_start == "search" and inputs is not None:
        start_clipping(student, inputs[: config.batch_size], arguments)
    report = BlockReport()
    if is_trained(config) and inputs is not None and targets is not None:
        report = train_block(student, inputs, targets, arguments)
    tensors = {name: p.detach().cpu().clone() for name, p in student.trained().items()}
    student.forget()
    report.seconds = time.perf_counter() - start
    return TrainedBlock(tensors, report)


def trained_student(block: nn.Module, config: FlatQuantConfig, trained: TrainedBlock) -> StudentBlock:
    """The student of a block with the parameters that it was trained to."""
    student = StudentBlock(block, config, generator=None)
    student.to(next(block.parameters()).device)
    student.load_trained(trained.tensors)
    return student


@torch.enable_grad()
def train_block(
    student: StudentBlock,
    inputs: Float[Tensor, "n length d"],
    targets: Float[Tensor, "n length d"],
    arguments: BlockArguments,
    on_step: Callable[[float], None] | None = None,
) -> BlockReport:
    """Minimise the mean squared error to `targets` over the student's transforms, scales and clipping.

    AdamW, two learning rates, cosine annealing; windows in their order. A step whose loss or gradients are not finite
    ends the training: the student gets the best state back.

    Parameters
    ----------
    inputs, targets
        What the original block received and returned.
    arguments
        Masks and positions, as the model hands them to the block.
    on_step
        Called with the loss of each step.
    """
    with compiled_passes(bool(student.config.compile)):
        return _train_block(student, inputs, targets, arguments, on_step)


def _train_block(
    student: StudentBlock,
    inputs: Tensor,
    targets: Tensor,
    arguments: BlockArguments,
    on_step: Callable[[float], None] | None,
) -> BlockReport:
    config, parameters = student.config, list(student.trained().values())
    n = len(inputs) // config.batch_size * config.batch_size  # the rest fills no batch
    optimizer = torch.optim.AdamW(student.parameter_groups(), fused=True)
    schedule = learning_rates(optimizer, config.epochs * (n // config.batch_size), config.warmup_steps)
    best, state, report = float("inf"), [p.detach().clone() for p in parameters], BlockReport()
    for epoch in range(config.epochs):
        losses: list[float] = []
        for x, y in zip(inputs[:n].split(config.batch_size), targets[:n].split(config.batch_size), strict=True):
            try:
                optimizer.zero_grad()
                losses.append(backward(student, x, y, arguments))
            except FloatingPointError as error:
                for p, saved in zip(parameters, state, strict=True):
                    p.data.copy_(saved)
                student.refresh()
                report.stopped = f"epoch {epoch + 1}, step {len(losses) + 1}: {error}"
                return report
            optimizer.step()
            schedule.step()
            if on_step is not None:
                on_step(losses[-1])
        report.losses.append(sum(losses) / len(losses))
        if report.losses[-1] < best and all(bool(p.isfinite().all()) for p in parameters):
            best, state = report.losses[-1], [p.detach().clone() for p in parameters]
    student.refresh()
    return report


def learning_rates(optimizer: torch.optim.Optimizer, steps: int, warmup_steps: int) -> LRScheduler:
    """Cosine annealing to `ETA_MIN`, after a linear rise if `warmup_steps`."""
    cosine = CosineAnnealingLR(optimizer, steps, eta_min=ETA_MIN)
    if not warmup_steps:
        return cosine
    return ChainedScheduler([LinearLR(optimizer, WARMUP_START, total_iters=warmup_steps), cosine])


def backward(student: StudentBlock, x: Tensor, y: Tensor, arguments: BlockArguments) -> float:
    """Gradients of log MSE, which does not depend on the scale of the outputs; the MSE is returned.

    Raises
    ------
    FloatingPointError
        If the loss or a gradient is not finite, or a matrix has no inverse.
    """
    try:
        with in_half_precision(x):
            output = hidden_states(student(x, **arguments))
    except torch.linalg.LinAlgError as error:
        raise FloatingPointError(f"a matrix became singular ({error})") from None
    loss = F.mse_loss(output.float(), y.float())
    value = loss.item()
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss became {value}")
    (loss / loss.detach().clamp(min=torch.finfo(loss.dtype).tiny)).backward()
    norms = torch._foreach_norm([p.grad for p in student.trained().values() if p.grad is not None])
    if not bool(torch.stack(norms).isfinite().all()):
        raise FloatingPointError("a gradient is not finite")
    return value


@torch.no_grad()
def check_transforms(student: StudentBlock, number: int) -> None:
    """Refuse transforms that cannot be merged: c must be positive and every P well conditioned.

    Raises
    ------
    ValueError
        With the place, its condition number and the block.
    """
    student.refresh()
    places = {site: cast(SiteTransform, module).pairs for site, module in student.sites.items()}
    if student.cache is not None and student.cache.factor is not None:
        places["cache"] = [student.cache.pair]
    for site, pairs in places.items():
        condition = 1.0
        for pair in pairs:
            finite = bool(pair.P.isfinite().all() and pair.P_inv_T.isfinite().all())
            condition *= float(torch.linalg.cond(pair.P.double())) if finite else float("nan")
        if not condition < MAX_CONDITION:
            raise ArgumentError(
                f"block {number}: the matrix at {site!r} has condition number {condition:.3g} (at most "
                f"{MAX_CONDITION:.0e}); lower lr or take parametrization='exponential'."
            )
        c = cast("Tensor | None", student.sites[site].scale) if site in student.sites else None
        if c is not None and not bool((c > 0).all() and c.isfinite().all()):
            raise ArgumentError(
                f"block {number}: {int((~(c > 0)).sum())} scales at {site!r} are not positive (the least is "
                f"{float(c.min()):.3g}; the condition number of the matrix is {condition:.3g}); lower lr."
            )


# -- where the clipping starts -----------------------------------------------------------------------------------------


NARROWEST, CANDIDATES = 0.4, 25


@torch.no_grad()
def start_clipping(student: StudentBlock, inputs: Float[Tensor, "n length d"], arguments: BlockArguments) -> None:
    """Set the clipping logits of all linear layers of a student; keys and values keep theirs, their rows are short.

    The value projection keeps those of its weight too, which is clipped before the last of its transforms.

    Parameters
    ----------
    inputs, arguments
        A few windows of what the block receives, and the model's further arguments.
    """
    layers = [student.linear(part) for part in SITES_OF]
    for layer in layers:
        if layer.weight_max is not None and not layer.is_value:
            W = layer.unclipped_weight()
            for logit, best in zip((layer.weight_max, layer.weight_min), row_logits(W, layer), strict=True):
                cast(Tensor, logit).copy_(best)
    handles = [layer.register_forward_pre_hook(_set_input_logits) for layer in layers]
    try:
        with in_half_precision(inputs):
            student(inputs, **arguments)
    finally:
        for handle in handles:
            handle.remove()


def row_logits(W: Float[Tensor, "m n"], layer: CalibratedLinear) -> tuple[Tensor, Tensor]:
    """For each row, the logits of its two ends with the least squared error.

    Symmetric codes spend the same number on both ends: both are held to a share of the larger one.
    """
    bits, symmetric = layer.bits.weight, layer.bits.weight_symmetric
    largest, smallest = extremes(W)
    ends = (largest, -smallest)
    reach = torch.maximum(*ends)
    least = torch.full_like(largest, torch.inf)
    logits = [torch.full_like(largest, CLIP_LOGIT) for _ in ends]
    for share in shares(W.device):
        found = [_logit(share * reach / end if symmetric else share.expand_as(end)) for end in ends]
        error = (fake_quantize(W, bits, symmetric, *found, per="row")[0] - W).square().sum(-1, keepdim=True)
        logits = [torch.where(error < least, new, old) for new, old in zip(found, logits, strict=True)]
        least = torch.minimum(error, least)
    return logits[0], logits[1]


def token_logit(x: Float[Tensor, "*batch n"], layer: CalibratedLinear) -> Tensor:
    """The logit of both ends with which all tokens together have the least squared error, each relative to its own."""
    bits, symmetric = layer.bits.input, layer.bits.input_symmetric
    x = x.flatten(0, -2).float()
    norms = x.square().sum(-1).clamp(min=torch.finfo(x.dtype).tiny)
    logits = _logit(shares(x.device))
    errors = [
        ((fake_quantize(x, bits, symmetric, logit, logit, per="token")[0] - x).square().sum(-1) / norms).mean()
        for logit in logits
    ]
    return logits[int(torch.stack(errors).argmin())]


def shares(device: torch.device) -> Tensor:
    """What is tried, up to what the paper starts with."""
    return torch.linspace(NARROWEST, float(torch.tensor(CLIP_LOGIT).sigmoid()), CANDIDATES, device=device)


def _logit(share: Tensor) -> Tensor:
    """The logit of a share; beyond the widest, and where an end lies on the other side of 0, that of the widest."""
    return torch.where((share > 0) & (share < 1), share, 1.0).logit().clamp(max=CLIP_LOGIT)


def _set_input_logits(layer: nn.Module, args: tuple[Any, ...]) -> None:
    calibrated = cast(CalibratedLinear, layer)
    if calibrated.input_max is not None and calibrated.input_min is not None:
        best = token_logit(calibrated.transformed_input(args[0]), calibrated)
        calibrated.input_max.copy_(best)
        calibrated.input_min.copy_(best)
