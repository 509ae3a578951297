"""Series that are told apart by their speed, small enough to train in a second."""

import numpy as np

SMALL = ["--layers", "1", "--d-model", "8", "--d-state", "8", "--epochs", "12", "--batch-size", "8"]


def waves(n: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Slow and fast waves of unequal lengths in two channels, and which they are."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    series = []
    for label in labels:
        t = np.arange(rng.integers(20, 40))
        wave = np.sin((0.3 + 0.6 * label) * t + rng.uniform(0, 6))
        series.append(np.stack([wave, rng.normal(size=len(t))], -1).astype(np.float32))
    return series, np.array(["slow", "fast, very"])[labels]
