"""Lengths, 2-opt and the solver: tours of copies are the same tours."""

import itertools
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.errors import ArtifactError
from linmap.shapes.tinvnn import PointCloudClassifier, TourSolver, tour_length, two_opt
from linmap.shapes.tinvnn.attention_model import AttentionModel, lengths
from linmap.shapes.tinvnn.heuristics import greedy_edges, nearest_neighbour
from linmap.shapes.tinvnn.tours import distances
from shapes.tinvnn.shapes import orthogonal

TINY: Any = {"steps": 4, "batch_size": 8, "n_cities": 6, "d_model": 16, "n_heads": 2, "n_layers": 1, "d_hidden": 16}


@pytest.fixture(scope="module")
def solver() -> TourSolver:
    return TourSolver(**TINY).fit()


def copies(X: np.ndarray) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    return [s * X @ orthogonal(2, generator).numpy() + t for s, t in ((1.0, 0.0), (5.0, 2.0), (1e3, -3e3))]


def test_lengths_in_closed_form() -> None:
    square = np.array([[0, 0], [0, 1.4], [1.4, 1.4], [1.4, 0]])
    assert tour_length([0, 1, 2, 3], square) == pytest.approx(5.6)
    assert tour_length([0, 1, 2, 3], square, rounded=True) == 4
    np.testing.assert_allclose(tour_length([[0, 1, 2, 3], [0, 2, 1, 3]], square), [5.6, 2.8 * (1 + 2**0.5)])


def test_two_opt_leaves_no_exchange_that_shortens() -> None:
    rng = np.random.default_rng(0)
    for n in (4, 5, 9, 40):
        X = rng.random((n, 2))
        before = rng.permutation(n)
        tour = two_opt(before, X)
        length = tour_length(tour, X)
        assert length <= tour_length(before, X)
        others = [
            [*tour[: i + 1], *tour[i + 1 : j + 1][::-1], *tour[j + 1 :]] for i, j in itertools.combinations(range(n), 2)
        ]
        assert length <= np.min(tour_length(others, X)) + 1e-6


def test_two_opt_finds_convex_polygons_and_moves_with_copies() -> None:
    angle = np.sort(np.random.default_rng(1).random(12) * 6)
    X = np.stack([np.cos(angle), np.sin(angle)], 1)
    start = np.random.default_rng(2).permutation(12)
    tour = two_opt(start, X)
    assert tour_length(tour, X) == pytest.approx(tour_length(np.arange(12), X))
    for copy in copies(X):
        np.testing.assert_array_equal(two_opt(start, copy), tour)


def test_tours_of_copies_are_the_same(solver: TourSolver) -> None:
    X = np.random.default_rng(3).random((30, 2))
    cases: Any = ({}, {"polish": 0}, {"n_starts": 5, "frames": False})
    for options in cases:
        tour = solver.solve(X, **options)
        assert sorted(tour) == list(range(30))
        for copy in copies(X):
            np.testing.assert_array_equal(solver.solve(copy, **options), tour)
    raw = TourSolver("raw", **TINY).fit()
    assert any((raw.solve(copy, polish=0) != raw.solve(X, polish=0)).any() for copy in copies(X))


def test_every_tour_visits_every_city_and_its_length_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(3, 7, 2, generator=generator)
    net = AttentionModel(2, 16, 2, 1, 16)
    greedy, drawn = net(X), net(X, generator=generator)
    for rollout in (greedy, drawn):
        assert torch.equal(rollout.tours.sort(2).values, torch.arange(7).expand(3, 7, 7))
        assert torch.equal(rollout.tours[:, :, 0], torch.arange(7).expand(3, 7))
        measured = [tour_length(t.numpy(), x.double().numpy()) for t, x in zip(rollout.tours, X, strict=True)]
        np.testing.assert_allclose(lengths(rollout.tours, X).numpy(), measured, rtol=1e-5)
    assert (drawn.log_probability < 0).all()


def test_training_shortens_tours_and_resumes(tmp_path: Path) -> None:
    X = np.random.default_rng(4).random((20, 8, 2))

    def mean(solver: TourSolver) -> float:
        return float(np.mean([tour_length(solver.solve(x, n_starts=1, frames=False, polish=0), x) for x in X]))

    settings = TINY | {"n_cities": 8, "steps": 25, "batch_size": 32}
    whole = TourSolver(**settings).fit()
    assert mean(whole) < 0.9 * mean(TourSolver(**settings | {"steps": 1}).fit())
    TourSolver(**settings).fit(checkpoints=tmp_path)
    again = TourSolver(**settings).fit(checkpoints=tmp_path, resume=True)
    for name, tensor in whole.model_.state_dict().items():
        assert torch.equal(tensor, again.model_.state_dict()[name]), name


def test_saved_and_loaded(solver: TourSolver, tmp_path: Path) -> None:
    X = np.random.default_rng(5).random((9, 2))
    solver.save(tmp_path)
    np.testing.assert_array_equal(TourSolver.load(tmp_path).solve(X), solver.solve(X))
    with pytest.raises(ArtifactError, match="holds a TourSolver"):
        PointCloudClassifier.load(tmp_path)


def test_few_and_equal_cities(solver: TourSolver) -> None:
    for X in (np.eye(2), np.eye(3)[:, :2]):
        assert sorted(solver.solve(X)) == list(range(len(X)))
    with pytest.warns(UserWarning, match="equal"):
        assert sorted(solver.solve(np.ones((4, 2)))) == [0, 1, 2, 3]


@pytest.mark.usefixtures("annotations_unchecked")
def test_refused(solver: TourSolver) -> None:
    X = np.random.default_rng(0).random((5, 2))
    for call, message in [
        (lambda: tour_length([0, 1, 2, 3, 3], X), "once"),
        (lambda: tour_length([0, 1, 2], X), "each of the 5 cities"),
        (lambda: two_opt([[0, 1, 2, 3, 4]], X), "one tour"),
        (lambda: two_opt([0], X[:1]), "two or more cities"),
        (lambda: solver.solve(X * np.nan), "city 0"),
        (lambda: solver.solve(np.eye(4)), "plane"),
        (lambda: solver.solve(X, n_starts=0), "n_starts=0"),
        (lambda: solver.solve(X, polish=-1), "polish=-1"),
        (lambda: TourSolver(**TINY | {"representation": "axes"}).fit(), "representation='axes' must be one of"),
        (lambda: TourSolver(n_cities=2).fit(), "n_cities=2"),
        (lambda: TourSolver(d_model=10, n_heads=4).fit(), "d_model=10 must be a multiple of n_heads"),
        (lambda: TourSolver(steps=0).fit(), "steps=0"),
        (lambda: TourSolver(batch_size=0).fit(), "batch_size=0"),
        (lambda: TourSolver(random_state=cast(Any, None)).fit(), "random_state=None"),
        (lambda: solver.solve(X, n_starts=cast(Any, 1.5)), "n_starts=1.5"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


@given(st.integers(2, 9), st.integers(0, 99))
def test_heuristics_follow_their_rules(n: int, seed: int) -> None:
    D = distances(np.random.default_rng(seed).random((n, 2)))
    for start in range(n):
        tour = nearest_neighbour(D, start)
        assert tour[0] == start
        for k in range(1, n):
            assert D[tour[k - 1], tour[k]] == min(D[tour[k - 1], tour[k:]])
    parts = {i: frozenset([i]) for i in range(n)}
    taken: list[tuple[int, int]] = []
    for i, j in sorted(itertools.combinations(range(n), 2), key=lambda pair: D[pair]):
        degrees = [sum(city in edge for edge in taken) for city in (i, j)]
        if max(degrees) < 2 and j not in parts[i]:
            taken.append((i, j))
            parts |= dict.fromkeys(parts[i] | parts[j], parts[i] | parts[j])
    assert {frozenset(pair) for pair in itertools.pairwise(greedy_edges(D).tolist())} == set(map(frozenset, taken))
