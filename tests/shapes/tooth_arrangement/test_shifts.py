"""The first guess of shifts: ridge regression on what all teeth show."""

from typing import Any

import pytest
import torch

from linmap.shapes.tooth_arrangement.shifts import Shifts
from linmap.shapes.tooth_arrangement.slots import MIRROR, TEETH

CASES, FEATURES = 400, 7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points about centroids, and centroids, of eight teeth that no two cases share."""
    points = torch.randn(n, TEETH, 5, 3, generator=seeded(seed), dtype=torch.float64)
    return points, 3 * torch.randn(n, TEETH, 3, generator=seeded(seed + 1), dtype=torch.float64)


def some(n: int) -> torch.Tensor:
    """Six teeth: both sides, both jaws."""
    mask = torch.zeros(n, TEETH, dtype=torch.bool)
    slots = [1, 7, 20]
    mask[:, slots + [MIRROR[slot] for slot in slots]] = True
    return mask


@pytest.fixture(scope="module")
def rule() -> torch.Tensor:
    """Weights of centroids and of extents that a mirror leaves as they are."""
    weights = 0.3 * torch.randn(TEETH, 3, TEETH, 2, 3, generator=seeded(9), dtype=torch.float64)
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    signs = torch.stack([flip, flip.abs()])  # extents have no sign
    mirrored = weights[MIRROR][:, :, MIRROR] * flip[:, None, None, None] * signs
    return (weights + mirrored) / 2


def truth(rule, points, centroid, mask) -> torch.Tensor:
    """Written out in another way than the guess."""
    extent = points.max(2).values - points.min(2).values
    shown = torch.stack([centroid, extent], 2) * mask[:, :, None, None]
    axes: Any = [[1, 2, 3], [2, 3, 4]]
    return centroid + torch.tensordot(shown, rule, dims=axes)


def test_a_linear_rule_is_found_exactly(rule):
    mask = some(CASES)
    points, centroid = drawn(CASES)
    guess = Shifts.fit(points, centroid, truth(rule, points, centroid, mask), mask)
    points, centroid = drawn(20, seed=5)
    expected = truth(rule, points, centroid, mask[:20])
    found = guess(points, centroid, mask[:20])
    assert (found - expected)[mask[:20]].abs().max() < 1e-4
    assert not found[~mask[:20]].any()


def test_what_cannot_be_learnt_is_not_followed():
    """Noise: a strong ridge is chosen, so that the guess on other cases is the mean."""
    mask = some(60)
    points, centroid = drawn(60)
    noise = torch.randn(60, TEETH, 3, generator=seeded(3), dtype=torch.float64)
    guess = Shifts.fit(points, centroid, centroid + noise, mask)
    points, centroid = drawn(200, seed=5)
    shift = (guess(points, centroid, some(200)) - centroid)[some(200)]
    assert shift.square().mean().sqrt() < 0.4


def test_absent_teeth_tell_nothing_and_stand_at_the_mean(rule):
    mask = some(CASES) & (torch.rand(CASES, TEETH, generator=seeded(2)) > 0.1)
    points, centroid = drawn(CASES)
    after = truth(rule, points, centroid, mask)
    guess = Shifts.fit(points, centroid, after, mask)
    given = (points, centroid, after)
    wilds: Any = [torch.where(mask.reshape(CASES, TEETH, *[1] * (part.ndim - 2)), part, 1e6) for part in given]
    wild = Shifts.fit(wilds[0], wilds[1], wilds[2], mask)
    for name, value in guess.tensors().items():
        assert torch.equal(value, wild.tensors()[name]), name
    moved = torch.where(mask[..., None], centroid, 1e6)
    assert torch.equal(guess(points, moved, mask), guess(points, centroid, mask))
    assert guess(points, centroid, mask).isfinite().all()
    error = (guess(points, centroid, mask) - after)[mask].square().mean().sqrt()
    assert error < (centroid - after)[mask].square().mean().sqrt()


def test_a_mirrored_case_gets_the_mirrored_guess(rule):
    mask = some(CASES)
    points, centroid = drawn(CASES)
    noise = torch.randn(CASES, TEETH, 3, generator=seeded(4), dtype=torch.float64)
    guess = Shifts.fit(points, centroid, truth(rule, points, centroid, mask) + noise, mask)
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    mirrored = guess(points[:, MIRROR] * flip, centroid[:, MIRROR] * flip, mask[:, MIRROR])
    assert torch.allclose(mirrored, guess(points, centroid, mask)[:, MIRROR] * flip, atol=1e-9)


def test_tensors_give_the_same_guess_back():
    points, centroid = drawn(10)
    guess = Shifts.fit(points, centroid, centroid + 1, some(10))
    tensors = guess.tensors() | {"other": torch.zeros(1)}
    again = Shifts.from_tensors(tensors)
    assert torch.equal(again(points, centroid, some(10)), guess(points, centroid, some(10)))
    assert list(tensors) == ["other"]


def test_two_cases_are_enough():
    points, centroid = drawn(1)
    guess = Shifts.fit(points, centroid, centroid + torch.tensor([0.0, 1.0, 2.0]), some(1))
    found = guess(points, centroid, some(1))
    assert (found - centroid - torch.tensor([0.0, 1.0, 2.0]))[some(1)].abs().max() < 1e-6
