"""Which models a pool holds: pairs of blocks that stitches join, and the configurations that they make.

The sliding windows, their shared stitch layers and the map for members of unequal depths are SN-Net's (Pan, Cai,
Zhuang, "Stitchable Neural Networks", CVPR 2023), and those of the paper, which keeps tiny -> base alone; see `combos`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F

from linmap.errors import ArgumentError

MOST = 10**6
"""Models that are enumerated."""
Pair = tuple[int, int, int]


@dataclass(frozen=True)
class Config:
    """A model of a pool.

    With members (a, b) and points ((e, f),): the embedding and blocks 0..e of a, a stitch, blocks f.. of b, and the
    final norm and head of b. With one member it is that member.
    """

    members: tuple[int, ...]
    """Which auxiliaries its blocks come from, narrow to wide."""
    points: tuple[tuple[int, int], ...]
    """For each stitch, the last block before it and the first one after it."""
    layers: tuple[int, ...]
    """For each stitch, which of the pair's stitch layers it is."""


def paired_windows(depth: int, kernel: int = 2, stride: int = 1) -> tuple[list[Pair], int]:
    """The pairs of blocks that stitches may join in members of equal depth, and the stitch layer of each.

    A window of `kernel` blocks slides over the depth; each of its pairs (e, f), f <= e included, that no window before
    had gets the window's layer. There are 3 depth - 2 pairs and depth - 1 layers where kernel is 2 and stride 1.

    Parameters
    ----------
    depth
        Blocks of either member.
    kernel, stride
        Blocks in a window, and from one window to the next.

    Returns
    -------
    pairs
        (e, f, layer) in the order of the windows, in a window by e and then f.
    n_layers
        Windows that added a pair.

    Raises
    ------
    ValueError
        If an argument is less than 1.
    """
    for name, value in {"depth": depth, "kernel": kernel, "stride": stride}.items():
        if value < 1:
            raise ArgumentError(f"{name}={value} must be at least 1.")
    layer_of: dict[tuple[int, int], int] = {}
    n_layers = 0
    for start in range(0, depth, stride):
        window = range(start, min(start + kernel, depth))
        new = [(e, f) for e in window for f in window if (e, f) not in layer_of]
        layer_of |= dict.fromkeys(new, n_layers)
        n_layers += bool(new)
    return [(e, f, layer) for (e, f), layer in layer_of.items()], n_layers


def unpaired_pairs(front_depth: int, back_depth: int) -> tuple[list[tuple[int, int]], list[int]]:
    """The pairs (e, i) that stitches may join in members of unequal depth; stitch e is that of all pairs (e, i).

    Block i of the back answers to block end_map[i] of the front, the nearest in relative depth; (e, i) is a pair where
    end_map[i] == e and e < i.

    Parameters
    ----------
    front_depth, back_depth
        Blocks of the two members.

    Returns
    -------
    pairs
        By e, then i.
    end_map
        One front block for each back block.

    Raises
    ------
    ValueError
        If a depth is less than 1.
    """
    for name, value in {"front_depth": front_depth, "back_depth": back_depth}.items():
        if value < 1:
            raise ArgumentError(f"{name}={value} must be at least 1.")
    # PyTorch's rounding of the nearest index, which SN-Net's tables have
    blocks = torch.arange(front_depth, dtype=torch.float32)[None, None]
    end_map = [int(e) for e in F.interpolate(blocks, back_depth)[0, 0].tolist()]
    return [(e, i) for e in range(front_depth) for i, mapped in enumerate(end_map) if mapped == e < i], end_map


def enumerate_configs(
    depth: int | Sequence[int],
    n_members: int,
    *,
    kernel: int = 2,
    stride: int = 1,
    nearest: bool = False,
    combos: Sequence[Sequence[int]] | None = None,
    share_stitch: bool = True,
    unequal: bool = False,
) -> list[Config]:
    """All models of a pool: the members alone, then pairs a < b, then triples whose stitches follow each other.

    In a triple with stitches (e1, f1) and (e2, f2), e2 >= f1: at least one block of the middle member runs.

    Parameters
    ----------
    depth
        Blocks of each member; with `unequal`, a depth for each.
    n_members
        Members, from narrow to wide.
    kernel, stride
        As of `paired_windows`.
    nearest
        Only neighbours (a, a + 1) are stitched, and no triples, as in SN-Net.
    combos
        Tuples of members to keep, such as `[(0,), (2,), (0, 2)]`; the order stays that of the enumeration. The official
        code of the paper keeps the narrowest, the widest, and the two stitched.
    share_stitch
        The pairs of a window share a stitch layer; if not, each has its own, and layers count the pairs.
    unequal
        Depths may differ: pairs are those of `unpaired_pairs`, without triples; it has none for equal depths.

    Returns
    -------
    configs
        A configuration's place in the list is its id.

    Raises
    ------
    ValueError
        If a number is out of its range, the depths are not as `unequal` says, or a tuple of `combos` is not there.
    """
    if n_members < 1:
        raise ArgumentError(f"n_members={n_members} must be at least 1.")
    depths = _depths(depth, n_members, unequal)
    if unequal and (kernel, stride, share_stitch) != (2, 1, True):
        raise ArgumentError(
            "unequal=True has no windows: kernel, stride and share_stitch are of members of one depth; leave them out."
        )
    sizes = (1, 2) if nearest or unequal else (1, 2, 3)
    members = [combo for size in sizes for combo in combinations(range(n_members), size)]
    if nearest:
        members = [combo for combo in members if combo[-1] - combo[0] < 2]
    if combos is not None:
        members = _kept(members, combos)
    if unequal:
        return [config for combo in members for config in _unpaired(combo, depths)]
    pairs, _ = paired_windows(depths[0], kernel, stride)
    if not share_stitch:
        pairs = [(e, f, own) for own, (e, f, _) in enumerate(pairs)]
    if (most := sum(len(pairs) ** (len(combo) - 1) for combo in members)) > MOST:
        raise ArgumentError(
            f"a pool of {n_members} members of {depths[0]} blocks with kernel={kernel} has up to {most:,} models, more "
            f"than {MOST:,}; make the kernel smaller, or name combos."
        )
    return [config for combo in members for config in _paired(combo, pairs)]


def _depths(depth: int | Sequence[int], n_members: int, unequal: bool) -> tuple[int, ...]:
    if not unequal:
        if not isinstance(depth, int):
            raise ArgumentError(f"depth={list(depth)} must be one number; a depth for each member needs unequal=True.")
        if depth < 1:
            raise ArgumentError(f"depth={depth} must be at least 1.")
        return (depth,) * n_members
    if isinstance(depth, int) or len(depth) != n_members:
        raise ArgumentError(f"unequal=True needs a depth for each of the {n_members} members, got depth={depth}.")
    if min(depth) < 1:
        raise ArgumentError(f"depth={list(depth)} must be at least 1 for each member.")
    return tuple(depth)


def _kept(members: list[tuple[int, ...]], combos: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    wanted = {tuple(combo) for combo in combos}
    if not wanted:
        raise ArgumentError("combos is empty; name the tuples of members to keep, or leave it out.")
    if unknown := sorted(wanted - set(members)):
        raise ArgumentError(f"combos names {unknown[0]}; the tuples of members here are {members}.")
    return [combo for combo in members if combo in wanted]


def _unpaired(combo: tuple[int, ...], depths: tuple[int, ...]) -> list[Config]:
    if len(combo) == 1:
        return [Config(combo, (), ())]
    pairs, _ = unpaired_pairs(depths[combo[0]], depths[combo[1]])
    if not pairs:
        warnings.warn(
            f"members {combo[0]} and {combo[1]} have depths {depths[combo[0]]} and {depths[combo[1]]}: the rule of "
            "unequal=True (a stitch leads to a later block of equal relative depth) gives them no stitch.",
            UserWarning,
            stacklevel=3,
        )
    return [Config(combo, (pair,), (pair[0],)) for pair in pairs]


def _paired(combo: tuple[int, ...], pairs: list[Pair]) -> list[Config]:
    if len(combo) == 1:
        return [Config(combo, (), ())]
    if len(combo) == 2:
        return [Config(combo, ((e, f),), (layer,)) for e, f, layer in pairs]
    return [
        Config(combo, ((e1, f1), (e2, f2)), (first, second))
        for e1, f1, first in pairs
        for e2, f2, second in pairs
        if e2 >= f1
    ]
