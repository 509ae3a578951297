"""Per-record work at any size: a function over files of records, shard by shard, here or on a cluster."""

from linmap.data.engines.mapping import Engine, Mapped, map_records, plain_npy
from linmap.data.engines.shards import VECTORS, ids_beside

__all__ = ["VECTORS", "Engine", "Mapped", "ids_beside", "map_records", "plain_npy"]
