"""Batch normalisation over the batch of all processes: PyTorch's own does it on GPUs alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from linmap.errors import ArgumentError
from linmap.training import parts


def normalisations(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations of PyTorch in a model."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def check_shared(model: nn.Module) -> None:
    """Refuse what several processes cannot train.

    Raises
    ------
    ValueError
        If a module says by its attribute `alone` that its statistics cannot be shared.
    """
    for name, module in model.named_modules():
        if why := getattr(module, "alone", None):
            raise ArgumentError(f"{name}: {why}; train it in one process, without accelerate launch or torchrun.")


@contextmanager
def over_all_processes(model: nn.Module, processes: int) -> Iterator[None]:
    """Inside, the statistics of a batch are those of all processes, and their gradients too."""
    norms = [norm for norm in normalisations(model) if processes > 1]
    for norm in norms:
        vars(norm)["forward"] = partial(_normalised, norm)
    try:
        yield
    finally:
        for norm in norms:
            del vars(norm)["forward"]


def _normalised(norm: _BatchNorm, x: Float[Tensor, "rows channels *places"]) -> Tensor:
    if parts.current() is None or not norm.training:
        return type(norm).forward(norm, x)
    norm._check_input_dim(x)
    over, shape = [0, *range(2, x.ndim)], [-1, *[1] * (x.ndim - 2)]
    wide = x if x.dtype.itemsize >= 4 else x.float()
    count = parts.summed(torch.tensor(x.numel() / x.shape[1], dtype=torch.float64, device=x.device))
    mean = parts.summed(wide.sum(over)) / count
    centred = wide - mean.view(shape)
    variance = parts.summed(centred.square().sum(over)) / count
    _follow(norm, mean.detach(), variance.detach() * (count / (count - 1).clamp(min=1)))
    out = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(x.dtype)


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as PyTorch does."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    weight = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean), weight)
    norm.running_var.lerp_(variance.to(norm.running_var), weight)
