"""The weight of a layer as a matrix (out, in), whatever the layer and wherever it keeps it: what an adapter sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linmap.errors import ArgumentTypeError

Layer: TypeAlias = Any  # a module with a weight: type checkers do not know its attributes
KINDS = (nn.Linear, Conv1D, nn.Conv2d, nn.Embedding)
TRANSPOSED = (Conv1D, nn.Embedding)  # layers that keep their weight as (in, out)
Change: TypeAlias = Callable[[Tensor], Tensor]  # W' from W


def sizes(layer: Layer) -> tuple[int, int]:
    """(out, in) of the layer's weight matrix, also where the weight is quantised.

    Raises
    ------
    TypeError
        If adapters cannot work on layers of this kind.
    """
    match layer:
        case nn.Linear():
            return layer.out_features, layer.in_features
        case Conv1D():
            return layer.nf, layer.weight.shape[0]
        case nn.Conv2d():
            return layer.out_channels, layer.weight[0].numel()
        case nn.Embedding():
            return layer.embedding_dim, layer.num_embeddings
    raise ArgumentTypeError(
        f"a {type(layer).__name__} cannot be adapted; Linear, Conv1D (of Transformers), Conv2d and Embedding can. Name "
        "modules of these kinds in target_modules."
    )


def io_sizes(layer: Layer) -> tuple[int, int]:
    """(in, out) of what goes through the layer; those of its weight matrix but for the kernel of a convolution."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    n_out, n_in = sizes(layer)
    return n_in, n_out


def matrix_of(layer: Layer, other: Tensor | None = None) -> Shaped[Tensor, "n_out n_in"]:
    """The weight of a layer (or another one in its layout) as a matrix (out, in), a view of it where it is dense.

    A convolution's rows are its kernels, flattened; an embedding is a linear layer on one-hot vectors.

    Raises
    ------
    TypeError
        If the layer is of a kind that has no such weight, or it is quantised and cannot say which numbers it stands
        for.
    """
    if not isinstance(layer, KINDS):
        sizes(layer)  # raises
    weight: Tensor = layer.weight if other is None else other
    check_numbers(layer, weight)
    if is_quantised(weight):
        weight = weight.dequantize()
    if isinstance(layer, TRANSPOSED):
        return weight.mT
    return weight if weight.ndim == 2 else weight.flatten(1)


def holds_numbers(weight: Tensor) -> bool:
    """Whether a weight is in a format that is calculated with; integers, and floating point numbers of 8 bits or less,
    are codes, whose scale is elsewhere."""
    return weight.is_floating_point() and weight.dtype.itemsize > 1


def check_numbers(layer: Layer, weight: Tensor) -> None:
    """Raise TypeError for a weight of codes whose numbers cannot be told."""
    if not holds_numbers(weight):
        raise ArgumentTypeError(
            f"the weight of this {type(layer).__name__} is quantised ({weight.dtype}), and a dense one is needed; use "
            "a method that reads the activations only (Bone's modes 'bat-row', 'add' and 'mini', TriAdaptLoRA), or "
            "dequantise the layer first."
        )


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight holds codes and not numbers, or is a tensor with a `dequantize` of its own."""
    return not holds_numbers(weight) or type(weight).dequantize is not Tensor.dequantize


def keeps_quantised(layer: Layer) -> bool:
    """Whether the layer's weight is quantised; a weight that the layer computes is not looked at."""
    weight = layer._parameters.get("weight")
    return weight is not None and is_quantised(weight)


def weight_from(layer: Layer, M: Float[Tensor, "n_out n_in"]) -> Tensor:
    """M in the layout of the layer's weight; undoes `matrix_of`."""
    return M.mT if isinstance(layer, TRANSPOSED) else M.reshape(layer.weight.shape)


def device_of(layer: Layer) -> torch.device:
    """Where the layer computes: where its weight is, or where Accelerate fetches an offloaded one to."""
    device = layer.weight.device
    hook = getattr(layer, "_hf_hook", None)
    if device.type != "meta" or hook is None:
        return device
    hooks = getattr(hook, "hooks", [hook])  # of a sequential one
    fetched = next((h.execution_device for h in hooks if getattr(h, "execution_device", None) is not None), device)
    return torch.device(fetched)


def acts_on_features(layer: nn.Module) -> bool:
    """Whether the layer is linear on the last dimension of its input."""
    return isinstance(layer, nn.Linear | Conv1D)


def is_plain_linear(layer: Layer) -> bool:
    """Whether calling the layer is x M^T + b and nothing else, so that a function of x, M and b can stand for it."""
    ordinary = isinstance(layer, Conv1D) or type(layer).forward is nn.Linear.forward
    # an offloaded layer has a forward of its own, which fetches the weight first
    return ordinary and "forward" not in vars(layer) and not is_hooked(layer) and not keeps_quantised(layer)


def is_hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def has_known_product(layer: Layer) -> bool:
    """Whether the layer's forward is the one of its kind, so that `product` computes the same of any matrix."""
    if isinstance(layer, nn.Linear | nn.Conv2d) and keeps_quantised(layer):
        return True
    kind = next((kind for kind in (nn.Linear, Conv1D, nn.Conv2d) if isinstance(layer, kind)), None)
    if kind is None or type(layer).forward is not kind.forward:
        return False
    return "forward" not in vars(layer) or "_old_forward" in vars(layer)  # Accelerate's, around the own one


def product(layer: Layer, M: Float[Tensor, "n_out n_in"], x: Tensor) -> Tensor:
    """What a layer of this kind gives with M in place of its weight."""
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(x, M.reshape(layer.weight.shape), layer.bias)
    return F.linear(x, M, layer.bias)


def check_weight_can_change(layer: Layer) -> None:
    """Raise TypeError for a layer whose output no other weight can reach, so that an adapter would have no effect, or
    whose weight has no numbers to change."""
    if "weight" in layer._parameters:
        check_numbers(layer, layer.weight)
    if not has_known_product(layer) and "weight" not in layer._parameters:
        raise ArgumentTypeError(
            f"this {type(layer).__name__} has a forward of its own and a weight that is no parameter of it, so that a "
            "changed weight cannot be given to it; exclude it (exclude_modules), or make its weight a parameter first "
            "(torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.remove_weight_norm)."
        )


def call_with_changed_weight(layer: Layer, change: Change, x: Tensor) -> Tensor:
    """What the layer gives with change(W) in place of its weight W; its padding, its hooks and its quirks stay its own.

    W is read when the layer would read it: after hooks that compute or fetch it (weight_norm, pruning, offloading).

    Raises
    ------
    TypeError
        As of `check_weight_can_change`.
    """
    known = has_known_product(layer)
    if known and not is_hooked(layer) and "forward" not in vars(layer):
        return product(layer, change(matrix_of(layer)).to(layer.weight.dtype), x)
    offloaded = "_old_forward" in vars(layer)
    if "weight" in layer._parameters and not offloaded:
        weight = weight_from(layer, change(matrix_of(layer)).to(layer.weight.dtype))
        return torch.func.functional_call(layer, {"weight": weight}, (x,))
    check_weight_can_change(layer)

    def forward(x: Tensor) -> Tensor:
        return product(layer, change(matrix_of(layer)).to(layer.weight.dtype), x)

    with _forward_replaced(layer, "_old_forward" if offloaded else "forward", forward):
        return layer(x)


@contextmanager
def _forward_replaced(layer: Layer, name: str, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The layer with another forward inside its hooks."""
    before = vars(layer).get(name)
    setattr(layer, name, forward)
    try:
        yield
    finally:
        if before is None:
            delattr(layer, name)
        else:
            setattr(layer, name, before)


def check_mergeable(layer: Layer) -> None:
    """Raise TypeError for a layer into whose weight nothing can be merged; say what can be done instead."""
    weight = layer._parameters.get("weight")
    kind = type(layer).__name__
    if weight is None:
        raise ArgumentTypeError(
            f"the weight of this {kind} is computed from other tensors whenever it is read (weight_norm, "
            "spectral_norm, pruning or another parametrisation), so that a merged one would be lost; take the adapter "
            "out with unload(), make the weight a parameter (torch.nn.utils.parametrize.remove_parametrizations, "
            "remove_weight_norm, prune.remove), and load the adapter again."
        )
    if is_quantised(weight):
        raise ArgumentTypeError(
            f"the weight of this {kind} is quantised ({type(weight).__name__} of {weight.dtype}), and no adapter can "
            "be merged into codes; keep the adapter beside it, or load the base model in full precision, put the "
            "adapter on it and merge there."
        )
    if weight.is_meta:
        raise ArgumentTypeError(
            f"the weight of this {kind} has no values here (it is offloaded, or on the meta device); load the whole "
            "model into memory to merge."
        )
