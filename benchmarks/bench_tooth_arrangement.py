"""Tooth arrangement: farthest points and balls of a jaw, an STL case arranged whole, depths of contacts.

Peers: the loops of PyTorch versions of PointNet++ (farthest points cloud by cloud, balls by sorting all indices).
"""

from __future__ import annotations

import tempfile
import warnings
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import Measurement, medians
from linmap.geometry.points import ball_query, farthest_points, square_distances
from linmap.shapes.tooth_arrangement import TADPM, DentitionSimulator, ToothSet, metrics


def run() -> list[Measurement]:
    warnings.simplefilter("ignore")
    return [*of_points(), *of_a_case()]


def of_points() -> list[Measurement]:
    generator = torch.Generator().manual_seed(0)
    teeth, jaws = torch.rand(32, 1500, 3, generator=generator), torch.rand(1, 16384, 3, generator=generator)
    ours, theirs = medians(
        partial(farthest_points, teeth, 512), partial(tooth_by_tooth, teeth, 512), repeats=3, warm_up=1
    )
    rows = [Measurement("512 farthest of 1,500 points, 32 teeth", ours, "tooth by tooth", theirs, bar=2.0)]
    centers = jaws[:, farthest_points(jaws, 512)[0]]
    for radius, k in ((0.1, 16), (0.4, 128)):
        ours, theirs = medians(
            partial(ball_query, jaws, centers, radius, k),
            partial(by_sorting, jaws, centers, radius, k),
            repeats=3,
            warm_up=1,
        )
        rows.append(
            Measurement(f"{k} in balls of {radius:g}, 512 of 16,384 points", ours, "by sorting", theirs, bar=1.0)
        )
    return rows


def of_a_case() -> list[Measurement]:
    simulator = DentitionSimulator()
    pairs = simulator.sample(50, generator=torch.Generator().manual_seed(0))
    model = TADPM(epochs=1).fit(pairs)
    teeth, set_up = simulator.sample_sets(1, generator=torch.Generator().manual_seed(1))[0]
    with tempfile.TemporaryDirectory() as folder:
        teeth.export(folder)
        (whole,) = medians(lambda: model.arrange(ToothSet.from_stl(folder), n_samples=8), repeats=3, warm_up=1)
    first, second = set_up.meshes[11], set_up.meshes[12]
    (depth,) = medians(lambda: metrics.collision_depth(first, second), repeats=3, warm_up=1)
    return [
        Measurement("8 proposals for 28 teeth from STL, ranked", whole, items=1, unit="cases", least_rate=1 / 30),
        Measurement("depth of a contact, 1,500 vertices a tooth", depth),
    ]


# -- the peers' ways ---------------------------------------------------------------------------------------------------


def tooth_by_tooth(points: Tensor, k: int) -> Tensor:
    found = []
    for cloud in points:
        nearest, chosen = torch.full((len(cloud),), torch.inf), [0]
        for _ in range(k - 1):
            nearest = torch.minimum(nearest, ((cloud - cloud[chosen[-1]]) ** 2).sum(-1))
            chosen.append(int(nearest.argmax()))
        found.append(chosen)
    return torch.tensor(found)


def by_sorting(points: Tensor, centers: Tensor, radius: float, k: int) -> Tensor:
    n = points.shape[1]
    index = torch.arange(n).expand(*centers.shape[:2], n).clone()
    index[square_distances(centers, points) > radius**2] = n
    index = index.sort(-1).values[..., :k]
    return torch.where(index == n, index[..., :1], index)
