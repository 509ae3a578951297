"""How many tokens are left after which layer: {layer: M}, layers from 0 on, M with the protected tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from linmap.compress.token_transforming.precision import check_share
from linmap.errors import ArgumentError, ArgumentTypeError, check_count


def tome_removals(depth: int, r: int, inflection: float = 0.0) -> list[int]:
    """Tokens that each layer removes: r on average, more in later layers for inflection > 0, in earlier ones below.

    r_l = int(least + step l), with least = int(r (1 - inflection)), most = 2r - least and
    step = (most - least) / (depth - 1) (Bolya et al., their code).

    Raises
    ------
    TypeError, ValueError
        If depth < 1, r < 0, or the inflection is not in [-1, 1].
    """
    depth, r = check_count("depth", depth, 1), check_count("r", r, 0)
    if not isinstance(inflection, Real) or isinstance(inflection, bool):
        raise ArgumentTypeError(f"inflection must be a number in [-1, 1], got {inflection!r}.")
    if not -1 <= inflection <= 1:
        raise ArgumentError(f"inflection must lie in [-1, 1], got {inflection}.")
    least = int(r * (1.0 - inflection))
    most = 2 * r - least
    step = (most - least) / (depth - 1) if depth > 1 else 0.0
    return [int(least + step * layer) for layer in range(depth)]


def removals_to_schedule(removals: Sequence[int], n_tokens: int, *, protect: int = 1) -> dict[int, int]:
    """M after each layer that removes so many tokens; one token beside the protected ones is always left.

    Raises
    ------
    TypeError, ValueError
        If a count is no whole number or negative, or there is no token beside the protected ones.
    """
    n = _check_tokens(n_tokens, protect)
    schedule = {}
    for layer, r in enumerate(removals):
        n = max(n - check_count(f"removals[{layer}]", r, 0), protect + 1)
        schedule[layer] = n
    return schedule


def stage_schedule(n_tokens: int, keep: float, at: Sequence[int], *, protect: int = 1) -> dict[int, int]:
    """ceil(keep * n) of the n tokens that are not protected are left at each of the layers `at` (EViT, DynamicViT).

    Raises
    ------
    TypeError, ValueError
        If keep is not in (0, 1], a layer is negative or named twice, or there is no token beside the protected ones.
    """
    n = _check_tokens(n_tokens, protect) - protect
    keep = check_share("keep", keep)
    layers = sorted(check_count("at", layer, 0) for layer in at)
    if len(set(layers)) < len(layers):
        raise ArgumentError(f"at names a layer twice: {layers}.")
    schedule = {}
    for layer in layers:
        n = math.ceil(keep * n)
        schedule[layer] = n + protect
    return schedule


def ratio_schedule(n_tokens: int, depth: int, keep: float, *, protect: int = 1) -> dict[int, int]:
    """`stage_schedule` at every layer.

    Raises
    ------
    TypeError, ValueError
        As `stage_schedule`, or if depth < 1.
    """
    return stage_schedule(n_tokens, keep, range(check_count("depth", depth, 1)), protect=protect)


def stage_layers(depth: int) -> list[tuple[int, ...]]:
    """Where stages may stand: a quarter, half and three quarters into the model, then all of them earlier, block by
    block, to the first.

    Raises
    ------
    TypeError, ValueError
        If depth is no whole number from 1 on.
    """
    depth = check_count("depth", depth, 1)
    late = sorted({max(0, round(depth * quarter / 4) - (depth < 4)) for quarter in (1, 2, 3)})
    return [tuple(layer - earlier for layer in late) for earlier in range(late[0] + 1)]


def _check_tokens(n_tokens: int, protect: int) -> int:
    n_tokens, protect = check_count("n_tokens", n_tokens, 1), check_count("protect", protect, 0)
    if n_tokens <= protect:
        raise ArgumentError(f"n_tokens = {n_tokens} holds no token beside the protect = {protect} protected ones.")
    return n_tokens
