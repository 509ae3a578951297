"""The baseline without a network: histograms of distances (D2) and a random forest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist
from sklearn.ensemble import RandomForestClassifier

BINS, LARGEST, TREES, POINTS = 64, 3.0, 500, 512


def distance_histograms(X: Float[np.ndarray, "clouds points d"]) -> Float[np.ndarray, "clouds bins"]:
    """The share of pairs of points by their distance over the mean distance (Osada et al. 2002, D2).

    No rotation, reflection, shift or scale changes it. Of clouds with more than 512 points, the first 512 count.
    """
    found = np.empty((len(X), BINS))
    for row, cloud in zip(found, X[:, :POINTS].astype(np.float64), strict=True):
        distances = pdist(cloud)
        distances /= distances.mean() or 1.0
        row[:] = np.histogram(distances.clip(max=LARGEST), BINS, (0, LARGEST))[0] / len(distances)
    return found


def forest(seed: int) -> RandomForestClassifier:
    """500 trees, each split on the root of the number of bins, as scikit-learn's default has it."""
    return RandomForestClassifier(TREES, random_state=seed, n_jobs=1)
