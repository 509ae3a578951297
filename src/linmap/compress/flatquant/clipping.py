"""Where the clipping of a block starts: at the shares of the ranges with which weights and inputs are rounded best.

Section 3.1 of the paper starts at .982 of every range and lets training find the rest. The best share of a flat row of
576 numbers in four bits is about .85, and the few dozen steps of a short calibration do not get there. The search costs
some rounding and no gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.flatquant.block import SITES_OF, StudentBlock
from linmap.compress.flatquant.linear import CalibratedLinear
from linmap.compress.flatquant.passes import extremes
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, fake_quantize
from linmap.compress.flatquant.teacher import BlockArguments, in_half_precision

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
