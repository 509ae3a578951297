"""The first guess of how teeth are turned: moments by hand, turns that are known, mirrored cases, absent teeth."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from linmap.shapes.tooth_arrangement.rotations import from_rotation_vector, rotation_vector
from linmap.shapes.tooth_arrangement.slots import MIRROR, TEETH
from linmap.shapes.tooth_arrangement.turns import MONOMIALS, RADIUS, Turns, moments


def teeth(seed: int = 0) -> Tensor:
    """A cloud for each slot, of no symmetry, its other side mirrored."""
    random = torch.Generator().manual_seed(seed)
    clouds = torch.randn(TEETH, 60, 3, generator=random) * torch.tensor([4.0, 3.0, 2.0]) + 0.3
    clouds = clouds + 0.1 * clouds[..., [1, 2, 0]] ** 2
    clouds = clouds - clouds.mean(1, keepdim=True)
    first = torch.arange(TEETH) < torch.as_tensor(MIRROR)
    return torch.where(first[:, None, None], clouds, clouds[MIRROR] * torch.tensor([-1.0, 1, 1])).double()


def turned(vectors: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cases in which each tooth needs the rotation of its vector to stand as in `teeth`."""
    rotation = from_rotation_vector(vectors)
    return teeth(seed) @ rotation, rotation  # rows: R p = tooth, p = R^T tooth


def angles(found: Tensor, expected: Tensor) -> Tensor:
    return rotation_vector(found @ expected.mT).norm(dim=-1)


def vectors_of(cases: int, scale: float, constant: float = 0.0, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    drawn = scale * torch.randn(cases, TEETH, 3, generator=random).double()
    mean = constant * torch.tensor([1.0, -0.5, 0.3]).double().expand(TEETH, 3)
    axial = torch.tensor([1.0, -1.0, -1.0]).double()  # how a mirror at x = 0 takes an axis of rotation
    first = torch.arange(TEETH) < torch.as_tensor(MIRROR)
    return drawn + torch.where(first[:, None], mean, mean * axial)


def test_moments_are_means_of_products() -> None:
    points = torch.randn(2, TEETH, 9, 3, generator=torch.Generator().manual_seed(0)).double()
    found = moments(points)
    assert found.shape == (2, TEETH, 6 + 10 + 15)
    for m, axes in enumerate(MONOMIALS):
        expected = np.prod([points[..., axis].numpy() / RADIUS for axis in axes], axis=0).mean(-1)
        np.testing.assert_allclose(found[..., m], expected, atol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.4])
def test_turns_of_known_teeth_are_found_but_for_a_tenth(constant: float) -> None:
    mask = torch.ones(40, TEETH, dtype=torch.bool)
    points, rotation = turned(vectors_of(40, 0.15, constant))
    fitted = Turns.fit(points, rotation, mask)
    points, rotation = turned(vectors_of(10, 0.15, constant, seed=2))
    off = angles(fitted(points, mask[:10]), rotation)
    before = angles(torch.eye(3).double().expand_as(rotation), rotation)
    assert off.mean() < 0.1 * before.mean()


def test_teeth_that_all_need_one_turn_get_it() -> None:
    mask = torch.ones(6, TEETH, dtype=torch.bool)
    points, rotation = turned(vectors_of(6, 0.0, 0.5))
    found = Turns.fit(points, rotation, mask)(points, mask)
    assert angles(found, rotation).max() < 1e-6


@given(seed=st.integers(0, 1000))
def test_a_mirrored_case_is_turned_as_in_a_mirror(seed: int) -> None:
    flip = torch.tensor([-1.0, 1.0, 1.0]).double()
    mask = torch.rand(8, TEETH, generator=torch.Generator().manual_seed(seed)) < 0.9
    points, rotation = turned(vectors_of(8, 0.2, 0.2, seed))
    fitted = Turns.fit(points, rotation, mask)
    found, mirrored = fitted(points, mask), fitted(points[:, MIRROR] * flip, mask[:, MIRROR])
    torch.testing.assert_close(mirrored, found[:, MIRROR] * flip[:, None] * flip)
    absent = found[~mask]
    torch.testing.assert_close(absent, torch.eye(3).double().expand_as(absent))
    kept = Turns.from_tensors(fitted.tensors())
    assert torch.equal(kept(points, mask), found)
