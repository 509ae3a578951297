"""What a user may spend on a model, and the schedule that follows for a number of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from linmap.compress.encoders import Encoder
from linmap.compress.token_transforming.cost import check_schedule, transformer_macs
from linmap.compress.token_transforming.precision import check_share
from linmap.compress.token_transforming.schedules import (
    ratio_schedule,
    removals_to_schedule,
    stage_schedule,
    tome_removals,
)
from linmap.errors import ArgumentError, ArgumentTypeError, check_count

Kind = Literal["keep", "r", "stages", "schedule", "target_flops"]


@dataclass(frozen=True)
class ModelSize:
    """The sizes of an encoder that its MACs follow from.

    Parameters
    ----------
    dim, depth
        Width of the tokens and number of blocks.
    hidden
        Width of the MLP; for gated ones the width of an MLP of two layers with as many weights.
    patch_features, n_classes
        Values of a patch, and logits; None where the model has no such layer.
    feature_dim
        Width of the features that similarity is measured on.
    prefix
        Tokens that no patch stands behind.
    whole_blocks
        Whether each chosen block is compressed by itself and restored at its end (restore="block").
    """

    dim: int
    depth: int
    hidden: int
    patch_features: int | None
    n_classes: int | None
    feature_dim: int
    prefix: int
    whole_blocks: bool = False

    def macs(self, n_tokens: int, schedule: Mapping[int, int] | None = None) -> int:
        """MACs of one sample; without a schedule those of the plain model."""
        outside = {"patch_features": self.patch_features, "n_classes": self.n_classes, "protect": self.prefix}
        inside: dict[str, Any] = {"hidden": self.hidden, "feature_dim": self.feature_dim}
        if not self.whole_blocks or not schedule:
            return transformer_macs(n_tokens, self.dim, self.depth, schedule=schedule, **inside, **outside)
        total = transformer_macs(n_tokens, self.dim, self.depth, hidden=self.hidden, **outside)
        for M in schedule.values():
            if n_tokens > M:
                total += self._whole_block(n_tokens, M) - self._plain_block(n_tokens)
        return total

    def _plain_block(self, n: int) -> int:
        return 4 * n * self.dim**2 + 2 * n**2 * self.dim + 2 * n * self.dim * self.hidden

    def _whole_block(self, n: int, m: int) -> int:
        """A block on m of n tokens: keys of all, similarities, W X, the block, R Y."""
        return n * self.dim**2 + n**2 * self.feature_dim + 2 * m * n * self.dim + self._plain_block(m)


def model_size(encoder: Encoder, model: nn.Module, feature: str, whole_blocks: bool) -> ModelSize:
    """The sizes of an encoder, read from its layers."""
    block = encoder.blocks[0]
    parts = [encoder.part(block, "mlp"), encoder.part(block, "mlp_output")]
    linears = [
        module for part in parts if part is not None for module in part.modules() if isinstance(module, nn.Linear)
    ]
    weights = sum(linear.in_features * linear.out_features for linear in linears)
    patches = encoder.patches
    return ModelSize(
        dim=encoder.dim,
        depth=len(encoder.blocks),
        hidden=weights // (2 * encoder.dim),
        patch_features=None if patches is None else patches.weight[0].numel(),
        n_classes=_logits(model, encoder.dim),
        feature_dim=encoder.dim if feature == "x" else encoder.dim // encoder.heads,
        prefix=encoder.prefix_tokens,
        whole_blocks=whole_blocks,
    )


def _logits(model: nn.Module, dim: int) -> int | None:
    """Logits of the linear head on one token (or on several that are joined)."""
    for name in ("head", "classifier"):
        head = getattr(model, name, None)
        if isinstance(head, nn.Linear):
            return head.in_features * head.out_features // dim
    return None


@dataclass(frozen=True)
class Budget:
    """One of the ways to say how many tokens are left."""

    kind: Kind
    value: Any

    def schedule(self, n_tokens: int, size: ModelSize, protect: int) -> dict[int, int]:
        """{layer: M} for so many tokens; empty where there is no token beside the protected ones."""
        if n_tokens <= protect + 1:
            return {}
        if self.kind == "schedule":
            return dict(self.value)
        if self.kind == "keep":
            schedule = ratio_schedule(n_tokens, size.depth, self.value, protect=protect)
        elif self.kind == "stages":
            schedule = stage_schedule(n_tokens, self.value[0], self.value[1], protect=protect)
        elif self.kind == "r":
            schedule = removals_to_schedule(tome_removals(size.depth, *self.value), n_tokens, protect=protect)
        else:
            return _solve(self.value, n_tokens, size, protect)
        return _anew(self, schedule, n_tokens, size, protect) if size.whole_blocks else schedule


def read_budget(depth: int, protect: int, **given: Any) -> Budget:
    """The one budget that is given, checked against the depth.

    Raises
    ------
    TypeError, ValueError
        If none or several are given, or the one is not as `compress` says.
    """
    chosen = {kind: value for kind, value in given.items() if value is not None}
    if len(chosen) != 1:
        came = f"{', '.join(chosen)} were" if chosen else "none was"
        raise ArgumentError(f"exactly one budget is needed of {', '.join(given)}, target_speedup; {came} given.")
    ((kind, value),) = chosen.items()
    if kind in ("keep", "target_flops"):
        return Budget(kind, check_share(kind, value))
    if kind == "r":
        return Budget("r", _removals(value, depth))
    if kind == "stages":
        return Budget("stages", _stages(value, depth))
    schedule = check_schedule(value, depth)
    for layer, M in schedule.items():
        if protect >= M:
            raise ArgumentError(
                f"the schedule leaves M = {M} tokens at layer {layer}, and protect = {protect} of them are protected; "
                f"M must be at least {protect + 1}."
            )
    return Budget("schedule", schedule)


def _removals(value: Any, depth: int) -> tuple[int, float]:
    pair: Any = value if isinstance(value, tuple | list) and len(value) == 2 else (value, 0.0)
    r, inflection = pair
    tome_removals(depth, r, inflection)
    return int(r), float(inflection)


def _stages(value: Any, depth: int) -> tuple[float, tuple[int, ...]]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not isinstance(value[1], Sequence):
        raise ArgumentTypeError(f"stages must be (keep, layers), such as (0.65, (3, 6, 9)); got {value!r}.")
    keep, at = check_share("keep of stages", value[0]), tuple(check_count("a layer of stages", i, 0) for i in value[1])
    if any(layer >= depth for layer in at):
        raise ArgumentError(f"stages name layer {max(at)} of a model with depth {depth} (layers 0 ... {depth - 1}).")
    stage_schedule(2, keep, at, protect=0)
    return keep, at


def _solve(target: float, n_tokens: int, size: ModelSize, protect: int) -> dict[int, int]:
    """The schedule of the smallest constant r with at most `target` of the plain model's MACs."""
    full, least = size.macs(n_tokens), 1.0
    for r in range(n_tokens):
        schedule = Budget("r", (r, 0.0)).schedule(n_tokens, size, protect)
        share = size.macs(n_tokens, schedule) / full
        if share <= target:
            return schedule
        least = min(least, share)
    raise ArgumentError(
        f"target_flops = {target} cannot be reached with {n_tokens} tokens: the smallest share of the plain model's "
        f"MACs is {least:.4f}."
    )


def _anew(budget: Budget, schedule: dict[int, int], n: int, size: ModelSize, protect: int) -> dict[int, int]:
    """What each block by itself makes of all tokens: the first step of the schedule, with each layer's own number."""
    if budget.kind == "r":
        removals = tome_removals(size.depth, *budget.value)
        return {layer: max(n - r, protect + 1) for layer, r in enumerate(removals)}
    return dict.fromkeys(schedule, max(schedule.values()))
