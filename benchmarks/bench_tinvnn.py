"""TinvNN: canonical poses of batches of point clouds, and classical scaling, on one thread.

Peers: scikit-learn's PCA cloud by cloud (its signs change with the order of the points and with rotations), PyTorch
Geometric's NormalizeRotation after NormalizeScale, written down from its description (centre, largest coordinate,
singular vectors of one cloud), and scikit-learn's ClassicalMDS, which decomposes the n x n matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import ClassicalMDS
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Measurement, compare, medians
from linmap.shapes.tinvnn import TinvEmbedding, TinvMDS

CLOUDS, POINTS = 512, 1024


def run() -> list[Measurement]:
    threads, measure.THREADS = measure.THREADS, 1
    try:
        return [*batches(), *one_cloud(), *scaling()]
    finally:
        measure.THREADS = threads


def batches() -> list[Measurement]:
    X = clouds(CLOUDS, POINTS)
    embedding, what = TinvEmbedding(), f"{CLOUDS} clouds of {POINTS} points"
    arrays = X.numpy()
    seconds, pca, geometric = medians(
        lambda: embedding(X), lambda: [PCA(3).fit_transform(x) for x in arrays], one_by_one(X), repeats=9, warm_up=1
    )
    rows = [
        Measurement(f"{what}, at most 60 ms", seconds, items=CLOUDS, unit="clouds", least_rate=CLOUDS / 0.06),
        Measurement(what, seconds, "scikit-learn's PCA", pca, bar=1.0),
        Measurement(what, seconds, "NormalizeScale and NormalizeRotation", geometric, bar=1.0),
    ]
    frames, double = medians(lambda: embedding.frames(X), lambda: embedding(X.double()), repeats=9, warm_up=1)
    return [*rows, Measurement(f"{what}, all 8 frames", frames), Measurement(f"{what}, float64", double)]


def one_cloud() -> list[Measurement]:
    X, embedding, what = clouds(1, 100_000)[0], TinvEmbedding(), "one cloud of 100,000 points"
    row = compare(what, lambda: embedding(X), "scikit-learn's PCA", lambda: PCA(3).fit_transform(X.numpy()), bar=1.0)
    limit = Measurement(f"{what}, at most 50 ms", row.seconds, items=1, unit="clouds", least_rate=20)
    return [limit, row]


def scaling() -> list[Measurement]:
    X = clouds(1, POINTS)[0].double().numpy()
    D = torch.cdist(torch.from_numpy(X), torch.from_numpy(X)).fill_diagonal_(0).numpy()
    rows = [
        compare(
            f"TinvMDS(3) of {POINTS} points",
            lambda: TinvMDS(3).fit_transform(X),
            "ClassicalMDS",
            lambda: ClassicalMDS(3).fit_transform(X),
            bar=100.0,
            repeats=5,
            warm_up=1,
        )
    ]
    for solver, bar in (("lanczos", 3.0), ("landmark", 5.0)):
        rows.append(
            compare(
                f"TinvMDS(3) of their distances, {solver}",
                lambda solver=solver: TinvMDS(3, "precomputed", cast(Any, solver)).fit_transform(D),
                "ClassicalMDS",
                lambda: ClassicalMDS(3, metric="precomputed").fit_transform(D),
                bar=bar,
                repeats=5,
                warm_up=1,
            )
        )
    return rows


def clouds(count: int, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, n, 3, generator=generator) * torch.tensor([3.0, 2.0, 1.0])


def one_by_one(X: Tensor) -> Callable[[], list[Tensor]]:
    """Centre, divide by the largest coordinate, turn by the singular vectors: a transform of one cloud at a time."""

    def pose(x: Tensor) -> Tensor:
        x = x - x.mean(0, keepdim=True)
        x = x * (0.999999 / x.abs().max())
        _, _, V = torch.linalg.svd(x - x.mean(0), full_matrices=False)
        return x @ V.mT

    return lambda: [pose(x) for x in X]
