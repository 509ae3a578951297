"""Which samples a step sees, in which process, and how they come out of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import send_to_device
from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset, default_collate

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.training.parts import Part

Loss = Callable[[nn.Module, Any], Tensor]


def epoch_order(samples: int, seed: int, epoch: int) -> Int[Tensor, " samples"]:
    """The order of the samples in one epoch: a function of the seed and the epoch, and of nothing else."""
    (state,) = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return torch.randperm(samples, generator=torch.Generator().manual_seed(int(state >> np.uint64(1))))


def batch_sizes(samples: int, batch_size: int, never_one: bool = False) -> list[int]:
    """The sizes of the batches of an epoch: full ones, and what is left.

    `never_one`: a single sample that is left goes into the batch before, as normalisation over the batch needs two.
    """
    full, rest = divmod(samples, batch_size)
    if rest == 1 and full and never_one:
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + ([rest] if rest else [])


def shards(
    batch: Int[Tensor, " samples"], accumulation: int, processes: int, process: int, least: int = 1
) -> Iterator[Part]:
    """This process's parts of a global batch, each with the weight that makes the parts' mean losses one mean.

    A batch is cut into as many parts as it is accumulated in, and each of these for the processes, as equal as can be.
    Gradients are summed over the accumulation steps and averaged over the processes, so the mean over a part of n_i
    of the n samples weighs n_i * processes / n. Every process gets equally many parts, as collective operations need;
    where a small one leaves it no samples, it computes `least` of the others' at weight 0. Of a small last batch, no
    accumulated part has fewer than `least` samples, where that can be.
    """
    n = len(batch)
    for whole in batch.tensor_split(max(1, min(accumulation, n // least))):
        own = whole.tensor_split(processes)
        first = sum(map(len, own[:process]))
        if rows := len(own[process]):
            yield Part(own[process], rows * processes / n, whole, first)
        else:
            yield Part(whole[:least], 0.0, whole, 0)


def samples_of(data: Dataset) -> int:
    """The length of a map-style dataset."""
    return len(cast("Sized", data))


def reader(data: Dataset, device: torch.device) -> Callable[[Tensor], Any]:
    """A function from indices to the batch of these samples on a device.

    Tensors in memory (`TensorDataset`) are indexed at once. `__getitems__(indices)`, where the dataset has it, may
    return a batch that is ready, or a list of samples as PyTorch's own do; samples are collated by PyTorch's rules.

    Raises
    ------
    TypeError
        If `data` has no length or cannot be indexed.
    ValueError
        If it is empty.
    """
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise ArgumentTypeError(
            f"data must be a map-style dataset, with __len__ and __getitem__; {type(data).__name__} is not."
        )
    if samples_of(data) == 0:
        raise ArgumentError(f"data is empty ({type(data).__name__} of length 0): there is nothing to train on.")

    def read(indices: Tensor) -> Any:
        if type(data) is TensorDataset:
            return tuple(tensor.index_select(0, indices) for tensor in data.tensors)
        if (many := getattr(data, "__getitems__", None)) is not None:
            batch = many(indices.tolist())
            return default_collate(batch) if isinstance(batch, list) else batch
        return default_collate([data[index] for index in indices.tolist()])

    return read if device.type == "cpu" else lambda indices: send_to_device(read(indices), device)


@torch.no_grad()
def mean_loss(model: nn.Module, loss: Loss, data: Dataset, batch_size: int = 256) -> float:
    """The mean of `loss` over the samples of `data`, in evaluation mode: what `validate` mostly returns.

    Parameters
    ----------
    model, loss, data
        As in `train`.
    batch_size
        Samples of one forward pass.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    read = reader(data, device)
    training = model.training
    model.eval()
    try:
        total = 0.0
        for indices in torch.arange(samples_of(data)).split(batch_size):
            total += float(loss(model, read(indices))) * len(indices)
    finally:
        model.train(training)
    return total / samples_of(data)
