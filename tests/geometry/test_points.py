"""Neighbours and farthest points, against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from linmap.geometry.points import ball_query, farthest_points, square_distances

seeds = st.integers(0, 2**16)


def cloud(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=seeds)
def test_square_distances_are_scipys(seed: int):
    P, Q = cloud(2, 5, seed=seed), cloud(2, 7, seed=seed + 1)
    expected = torch.stack([torch.from_numpy(cdist(p, q)) for p, q in zip(P, Q, strict=True)]) ** 2
    assert torch.allclose(square_distances(P, Q), expected)


def test_distances_of_far_points_lose_nothing():
    P = torch.tensor([[1000.0, 1000.0, 1000.0]])
    assert square_distances(P, P + 0.0625).item() == 3 * 0.0625**2
    assert square_distances(P, P).item() == 0


def balls(P, Q, radius: float, k: int) -> list[list[int]]:
    found = []
    for q in Q.tolist():
        squared = [sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for p in P.tolist()]
        inside = [i for i, d in enumerate(squared) if d <= radius**2] or [squared.index(min(squared))]
        found.append((inside + [inside[0]] * k)[:k])
    return found


@given(seed=seeds, radius=st.sampled_from([0.05, 0.3, 0.8, 3.0]), k=st.integers(1, 9))
def test_balls_are_those_of_a_loop(seed: int, radius: float, k: int):
    P, Q = cloud(2, 12, seed=seed), cloud(2, 4, seed=seed + 1)
    found = ball_query(P, Q, radius, k)
    assert found.tolist() == [balls(p, q, radius, k) for p, q in zip(P, Q, strict=True)]
    assert ball_query(P[0], Q[0], radius, k).tolist() == found[0].tolist()


@given(seed=seeds)
def test_masked_points_are_in_no_ball(seed: int):
    P, Q = cloud(10, seed=seed), cloud(3, seed=seed + 1)
    mask = torch.arange(10) % 3 > 0
    inner = torch.tensor(balls(P[mask], Q, 0.4, 4))
    assert torch.equal(ball_query(P, Q, 0.4, 4, mask), mask.nonzero()[:, 0][inner])


def farthest(P, k: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < k:
        nearest = [min(float(((p - P[j]) ** 2).sum()) for j in chosen) for p in P]
        chosen.append(nearest.index(max(nearest)))
    return chosen


@given(seed=seeds, k=st.integers(1, 12), start=st.integers(0, 8))
def test_farthest_points_are_those_of_a_loop(seed: int, k: int, start: int):
    P = cloud(2, 9, seed=seed)
    found = farthest_points(P, k, start)
    assert found.tolist() == [farthest(p, k, start) for p in P]
    assert farthest_points(P[1], k, start).tolist() == found[1].tolist()


def test_farthest_points_of_a_mask_are_those_without_the_others():
    P = cloud(3, 20)
    mask = torch.rand(3, 20, generator=torch.Generator().manual_seed(5)) < 0.6
    P[~mask] = float("nan")
    for p, m, found in zip(P, mask, farthest_points(P, 6, mask=mask), strict=True):
        assert torch.equal(found, m.nonzero()[:, 0][farthest_points(p[m], 6)])


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda P: square_distances(P[..., :2], P), "P must"),
        (lambda P: square_distances(P, P[0, 0]), "Q must"),
        (lambda P: square_distances(P, cloud(3, 4)), "P and Q"),
        (lambda P: ball_query(P, P[0], 0.1, 3), "same batch"),
        (lambda P: ball_query(P, P, 0.0, 3), "radius"),
        (lambda P: ball_query(P, P, 0.1, 0), "k must"),
        (lambda P: ball_query(P, P, 0.1, 2, torch.ones(3)), "mask"),
        (lambda P: farthest_points(P, 0), "k must"),
        (lambda P: farthest_points(P, 2, start=5), "start"),
        (lambda P: farthest_points(P[None], 2), "P must"),
        (lambda P: farthest_points(P / 0, 2), "not finite"),
        (lambda P: farthest_points(P, 2, mask=torch.zeros(2, 5)), "mask"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, word):
    with pytest.raises(ValueError, match=word):
        call(cloud(2, 5))


def test_points_that_are_not_finite_have_no_neighbours():
    P, Q = cloud(5), cloud(3)
    P[2] = torch.nan
    with pytest.raises(ValueError, match="P holds points that are not finite"):
        ball_query(P, Q, 1.0, 2)
    with pytest.raises(ValueError, match="Q holds points that are not finite"):
        ball_query(Q, P, 1.0, 2)
    counts = torch.tensor([True, True, False, True, True])
    assert 2 not in ball_query(P, Q, 9.0, 4, counts)
