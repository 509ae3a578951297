"""Search an old index with a new model: `python examples/bt2.py new.npy old.npy`; without files, two real embedders."""

import sys

import numpy as np

from linmap.data import EMBEDDED
from linmap.retrieve.bt2 import EmbeddingUpgrade, nearest_rows

if len(sys.argv) > 2:
    new, old = np.load(sys.argv[1]), np.load(sys.argv[2])  # the same items, in the same order
else:
    arrays = np.load(EMBEDDED / "banking77_embeddings.npz")
    new, old = arrays["new"].astype(np.float32), arrays["old"].astype(np.float32)

half = len(new) // 2
upgrade = EmbeddingUpgrade().fit(new[:half], old[:half])
print(upgrade.report_["verdict"])

found = nearest_rows(upgrade.transform_query(new[half:]), old, k=10)
own = np.arange(half, len(new))[:, None]
print(f"of items it has never seen, {(found == own).any(1).mean():.0%} are among the ten nearest of all {len(old)} old")

stored = upgrade.transform(new[half:])
print(f"vectors to store from now on: {stored.shape[1]} dimensions, the first {old.shape[1]} compare with the old ones")
