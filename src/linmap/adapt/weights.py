"""The weight of a layer as a matrix (out, in), whatever the layer: what an adapter sees."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Layer: TypeAlias = Any  # a module with a weight: type checkers do not know its attributes
KINDS = (nn.Linear, Conv1D, nn.Conv2d, nn.Embedding)
TRANSPOSED = (Conv1D, nn.Embedding)  # layers that keep their weight as (in, out)


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
    raise TypeError(
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
    """The weight of a layer (or another one in its layout) as a matrix (out, in), a view of it.

    A convolution's rows are its kernels, flattened; an embedding is a linear layer on one-hot vectors.

    Raises
    ------
    TypeError
        If the layer keeps no dense weight (quantised, or of a kind that has none).
    """
    if not isinstance(layer, KINDS):
        sizes(layer)  # raises
    weight: Tensor = layer.weight if other is None else other
    if not weight.is_floating_point():
        raise TypeError(
            f"the weight of this {type(layer).__name__} is quantised ({weight.dtype}), and a dense one is needed; use "
            "a method that reads the activations only (Bone's modes 'bat-row', 'add' and 'mini', TriAdaptLoRA), or "
            "dequantise the layer first."
        )
    if isinstance(layer, TRANSPOSED):
        return weight.mT
    return weight if weight.ndim == 2 else weight.flatten(1)


def weight_from(layer: Layer, M: Float[Tensor, "n_out n_in"]) -> Tensor:
    """M in the layout of the layer's weight; undoes `matrix_of`."""
    return M.mT if isinstance(layer, TRANSPOSED) else M.reshape(layer.weight.shape)


def acts_on_features(layer: nn.Module) -> bool:
    """Whether the layer is linear on the last dimension of its input."""
    return isinstance(layer, nn.Linear | Conv1D)


def is_plain_linear(layer: nn.Module) -> bool:
    """Whether calling the layer is x M^T + b and nothing else, so that a function of x, M and b can stand for it."""
    ordinary = isinstance(layer, Conv1D) or type(layer).forward is nn.Linear.forward
    # an offloaded layer has a forward of its own, which fetches the weight first
    return ordinary and "forward" not in vars(layer) and not layer._forward_hooks and not layer._forward_pre_hooks


def call_with_matrix(layer: Layer, M: Float[Tensor, "n_out n_in"], x: Tensor) -> Tensor:
    """What the layer's own forward gives with M in place of its weight; its padding and its quirks stay its own."""
    M = M.to(layer.weight.dtype)
    if is_plain_linear(layer):
        return F.linear(x, M, layer.bias)
    return torch.func.functional_call(layer, {"weight": weight_from(layer, M)}, (x,))
