"""SeFa: the directions of a plain layer, from its singular vectors (Shen and Zhou, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.interpret.householder_projector.arguments import (
    check_finite,
    check_floating,
    check_whole,
    widened,
    without_autocast,
)
from linmap.interpret.householder_projector.layers import layer_matrix

Weight = Tensor | nn.Module


def sefa(weights: Weight | Sequence[Weight], k: int) -> tuple[Float[Tensor, "k i"], Float[Tensor, " k"]]:
    """The k directions of the latent code that a layer, or several layers at once, stretch the most.

    Parameters
    ----------
    weights
        (o, i), a layer that is linear in its features (also the convolutions that `project_layers` takes), or a
        sequence of these with the same i, whose rows are stacked. Half precision is computed in float32.
    k
        From 1 to min(o, i).

    Returns
    -------
    directions, values
        Right singular vectors (k, i), whose entry of largest magnitude is positive, and singular values (k,), both in
        descending order of the values.

    Raises
    ------
    ValueError
        If a weight is not 2-D or not finite, the weights differ in i, there is none, or k is out of range.
    TypeError
        If a weight is neither a tensor of floating numbers nor a linear layer.
    """
    if not isinstance(weights, Tensor | nn.Module | Iterable):
        raise ArgumentTypeError(f"weights must be a tensor, a layer or a sequence of these, got {weights!r}.")
    given = [weights] if isinstance(weights, Tensor | nn.Module) else list(weights)
    if not given:
        raise ArgumentError("weights is empty; give at least one weight or layer.")
    matrices = [_matrix(weight) for weight in given]
    if len(sizes := {matrix.shape[1] for matrix in matrices}) > 1:
        raise ArgumentError(f"weights must have the same number of inputs to be stacked, got {sorted(sizes)}.")
    dtype = reduce(torch.promote_types, (matrix.dtype for matrix in matrices))
    A = torch.cat([widened(matrix) for matrix in matrices])
    k = check_whole("k", k, 1, min(A.shape), f", the smaller side of the {A.shape[0]} x {A.shape[1]} weight")
    with without_autocast(A):
        _, S, Vh = torch.linalg.svd(A, full_matrices=False)
    return signed(Vh[:k]).to(dtype), S[:k].to(dtype)


def _matrix(weight: object) -> Float[Tensor, "o i"]:
    matrix = layer_matrix(weight) if isinstance(weight, nn.Module) else weight
    if isinstance(weight, nn.Module) and matrix is None:
        raise ArgumentTypeError(f"weights: {type(weight).__name__} is no linear layer; give one, or its weight (o, i).")
    check_floating("weights", matrix, 2, "(o, i)")
    assert isinstance(matrix, Tensor)
    check_finite("weights", matrix)
    return matrix


def signed(directions: Float[Tensor, "k i"]) -> Float[Tensor, "k i"]:
    """The same directions with a positive entry of largest magnitude."""
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return directions * torch.where(largest < 0, -1.0, 1.0).to(directions)
