"""What a model of the pool costs: parameters and multiply-accumulates (MACs), exactly.

Closed forms for a plain vision transformer, and the same counted from modules. MACs are those of matrix products and
of the patch embedding, attention's included; norms, biases, softmax and GELU are not counted. `FlopCounterMode` of
PyTorch counts two FLOPs a MAC (on a CPU it overlooks the fused attention: run it with the "math" backend of
`torch.nn.attention.sdpa_kernel`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from linmap.compress.learngene_pool.enumeration import Config
from linmap.errors import ArgumentError


@dataclass(frozen=True)
class Cost:
    """Of one model: its parameters, and its MACs for one image."""

    params: int
    macs: int


def descendant_cost(
    config: Config,
    *,
    dims: Sequence[int],
    depth: int | Sequence[int],
    n_tokens: int,
    patch_features: int,
    n_classes: int,
    mlp_ratio: float = 4,
) -> Cost:
    """The cost of a configuration of vision transformers, in closed form.

    A block of width d has (4 + 2r) d^2 + (9 + r) d parameters with MLPs r times as wide (12 d^2 + 13 d at r = 4) and
    takes (4 + 2r) N d^2 + 2 N^2 d MACs; a stitch N d_a d_b; the patch embedding (N - 1) p d, and the head C d. The
    parameters include CLS token and positions of the first member, which the official code leaves out.

    Parameters
    ----------
    config
        The configuration.
    dims
        Width of each member.
    depth
        Blocks of each member: a number, or one a member.
    n_tokens
        N, CLS included.
    patch_features
        p, numbers in a patch.
    n_classes
        C.
    mlp_ratio
        r.

    Raises
    ------
    ValueError
        If the configuration names a member or block that is not there.
    """
    depths = [depth] * len(dims) if isinstance(depth, int) else list(depth)
    if max(config.members) >= len(dims) or len(depths) != len(dims):
        raise ArgumentError(f"{config} has members up to {max(config.members)}; dims={list(dims)}, depth={depth}.")
    first, last = dims[config.members[0]], dims[config.members[-1]]
    params = first * (patch_features + 1) + first * (1 + n_tokens)  # patch embedding; CLS token and positions
    params += 2 * last + n_classes * (last + 1)  # norm, head
    macs = (n_tokens - 1) * patch_features * first + n_classes * last
    for member, (start, stop) in zip(config.members, segments(config, depths), strict=True):
        d, hidden = dims[member], round(mlp_ratio * dims[member])
        params += (stop - start) * (4 * d * d + 2 * d * hidden + 9 * d + hidden)
        macs += (stop - start) * n_tokens * (4 * d * d + 2 * d * hidden + 2 * n_tokens * d)
    for a, b in pairwise(config.members):
        params += (dims[a] + 1) * dims[b]
        macs += n_tokens * dims[a] * dims[b]
    return Cost(params, macs)


def segments(config: Config, depths: Sequence[int]) -> list[tuple[int, int]]:
    """For each member of a configuration, its first block that runs and the one after its last.

    Raises
    ------
    ValueError
        If that goes beyond the blocks of a member.
    """
    starts = [0, *(f for _, f in config.points)]
    stops = [*(e + 1 for e, _ in config.points), depths[config.members[-1]]]
    found = list(zip(starts, stops, strict=True))
    for member, (start, stop) in zip(config.members, found, strict=True):
        if not 0 <= start < stop <= depths[member]:
            raise ArgumentError(f"{config} runs blocks {start} to {stop - 1} of a member with {depths[member]} blocks.")
    return found


def block_macs(block: nn.Module, n_tokens: int, dim: int) -> int:
    """MACs of a block by its linear layers: N each weight, and 2 N^2 d of attention."""
    return n_tokens * linear_weights(block) + 2 * n_tokens**2 * dim


def linear_weights(module: nn.Module) -> int:
    """Numbers in the weights of all linear layers of a module."""
    return sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
