"""Per-record work at any size: a function over files of records, shard by shard, here or on a cluster."""

from linmap.data.engines.mapping import Engine, Mapped, map_records, plain_npy

__all__ = ["Engine", "Mapped", "map_records", "plain_npy"]
