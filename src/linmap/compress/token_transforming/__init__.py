"""Token Transforming: fewer tokens inside a trained transformer, without training (arXiv 2506.05709).

Read `transform` (what a transformation is), `special` (known methods as such), `importance` and `assignment` (the
method), `token_transform` (its settings), `attention` (what later layers must know), `schedules` and `cost` (budgets).
"""

from linmap.compress.token_transforming.assignment import assignment
from linmap.compress.token_transforming.attention import mass_channel, mass_pool, proportional_attention
from linmap.compress.token_transforming.compressing import compress
from linmap.compress.token_transforming.cost import solve_removals, solve_stages, transformer_macs
from linmap.compress.token_transforming.handle import Compressed, compressed
from linmap.compress.token_transforming.importance import importance, informativeness, select_centres
from linmap.compress.token_transforming.prefill import compress_prefill
from linmap.compress.token_transforming.schedules import (
    ratio_schedule,
    removals_to_schedule,
    stage_schedule,
    tome_removals,
)
from linmap.compress.token_transforming.special import (
    attention_pooling,
    average_pool,
    clusters,
    evit,
    kth_bipartite,
    pitome,
    prune,
    tome,
)
from linmap.compress.token_transforming.thresholds import AdaptiveMerging, LocalGlobalMerging
from linmap.compress.token_transforming.token_transform import TokenTransform
from linmap.compress.token_transforming.transform import Transform, compose

__all__ = [
    "AdaptiveMerging",
    "Compressed",
    "LocalGlobalMerging",
    "TokenTransform",
    "Transform",
    "assignment",
    "attention_pooling",
    "average_pool",
    "clusters",
    "compose",
    "compress",
    "compress_prefill",
    "compressed",
    "evit",
    "importance",
    "informativeness",
    "kth_bipartite",
    "mass_channel",
    "mass_pool",
    "pitome",
    "proportional_attention",
    "prune",
    "ratio_schedule",
    "removals_to_schedule",
    "select_centres",
    "solve_removals",
    "solve_stages",
    "stage_schedule",
    "tome",
    "tome_removals",
    "transformer_macs",
]
