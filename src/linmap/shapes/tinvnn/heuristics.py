"""Tours without a network, to begin 2-opt from: by nearest neighbours, and by the shortest edges."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Int64

Distances = Float[np.ndarray, "n n"] | Int[np.ndarray, "n n"]


def nearest_neighbour(D: Distances, start: int = 0) -> Int64[np.ndarray, " n"]:
    """The tour that always goes on to the nearest city that is left."""
    D = np.array(D, np.float64)
    tour = np.empty(len(D), np.int64)
    for place in range(len(D)):
        tour[place] = start
        D[:, start] = np.inf
        start = int(D[start].argmin())
    return tour


def greedy_edges(D: Distances) -> Int64[np.ndarray, " n"]:
    """The tour of the shortest edges, each taken unless it would give a city a third one or close a circle early."""
    n = len(D)
    ends, degree = list(range(n)), np.zeros(n, int)
    """The other end of the path that a city ends."""
    neighbours: list[list[int]] = [[] for _ in range(n)]
    rows, columns = np.triu_indices(n, 1)
    taken = 0
    for edge in np.argsort(D[rows, columns], kind="stable"):
        i, j = int(rows[edge]), int(columns[edge])
        if degree[i] < 2 and degree[j] < 2 and ends[i] != j:
            neighbours[i].append(j)
            neighbours[j].append(i)
            degree[[i, j]] += 1
            ends[ends[i]], ends[ends[j]] = ends[j], ends[i]
            taken += 1
            if taken == n - 1:
                break
    tour, before = [int(np.flatnonzero(degree < 2)[0])], -1
    while len(tour) < n:
        after = next(city for city in neighbours[tour[-1]] if city != before)
        before = tour[-1]
        tour.append(after)
    return np.array(tour, np.int64)
