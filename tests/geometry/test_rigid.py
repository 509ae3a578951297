"""Rotations and registration, against scipy's `Rotation` and closed forms."""

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from linmap.geometry.rigid import geodesic_angle, kabsch, rotation_from_six, six_from_rotation

METHODS = ("gram_schmidt", "symmetric")
seeds = st.integers(0, 2**16)


def rotations(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(n, np.random.default_rng(seed)).as_matrix())


@given(seed=seeds, method=st.sampled_from(METHODS))
def test_six_numbers_of_any_kind_give_a_rotation(seed: int, method):
    a = torch.randn(7, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 10.0 ** (seed % 9 - 4)
    M = rotation_from_six(a, method)
    assert (M @ M.mT - torch.eye(3)).abs().max() < 1e-12
    assert torch.allclose(torch.linalg.det(M), torch.ones(7, dtype=torch.float64))
    assert torch.allclose(rotation_from_six(a * 3, method), M)


@given(seed=seeds, method=st.sampled_from(METHODS))
def test_six_numbers_of_a_rotation_give_it_back(seed: int, method):
    M = rotations(5, seed)
    assert torch.equal(six_from_rotation(M), torch.cat([M[:, 0], M[:, 1]], -1))
    assert (rotation_from_six(six_from_rotation(M), method) - M).abs().max() < 1e-14


def test_gram_schmidt_keeps_the_first_direction_and_symmetric_the_middle():
    x, y = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0])
    assert torch.allclose(rotation_from_six(torch.cat([x, y])), torch.eye(3))
    M = rotation_from_six(torch.cat([x, y]), "symmetric")
    angles = [math.degrees(math.atan2(float(row[1]), float(row[0]))) for row in M[:2]]
    assert angles == pytest.approx([22.5 - 45, 22.5 + 45])


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_six_numbers_give_rotations_and_finite_gradients(method):
    rows = [[0.0] * 6, [1, 0, 0, 2, 0, 0], [1, 0, 0, -1, 0, 0], [0, 0, 0, 0, 1, 0], [1, 2, 3, 1, 2, 3.0000001]]
    a = torch.tensor(rows, requires_grad=True)
    M = rotation_from_six(a, method)
    assert (M @ M.mT - torch.eye(3)).abs().max() < 1e-5
    assert torch.allclose(torch.linalg.det(M), torch.ones(5), atol=1e-5)
    (M * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_gradient_of_the_six_numbers(method):
    a = torch.randn(2, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: rotation_from_six(a, method), (a,))


@given(seed=seeds, n=st.integers(3, 12))
def test_kabsch_finds_the_motion(seed: int, n: int):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(4, n, 3, generator=generator, dtype=torch.float64)
    R, shift = rotations(4, seed), torch.randn(4, 3, generator=generator, dtype=torch.float64)
    found, t = kabsch(A, A @ R.mT + shift[:, None])
    assert torch.linalg.det(found).sub(1).abs().max() < 1e-9
    assert (A @ found.mT + t[:, None] - A @ R.mT - shift[:, None]).abs().max() < 1e-9


@given(seed=seeds, planar=st.booleans())
def test_kabsch_is_scipys_alignment(seed: int, planar: bool):
    generator = np.random.default_rng(seed)
    A, B = generator.normal(size=(2, 8, 3))
    if planar:
        A[:, 2] = 0
    weights = generator.uniform(0.1, 1, 8)
    R, t = kabsch(torch.from_numpy(A), torch.from_numpy(B), torch.from_numpy(weights))
    a, b = ((P - (weights[:, None] * P).sum(0) / weights.sum()) for P in (A, B))
    aligned: Any = Rotation.align_vectors(b, a, weights)
    expected = aligned[0]
    assert torch.linalg.det(R) == pytest.approx(1)
    assert np.allclose(R.numpy(), expected.as_matrix(), atol=1e-6)
    residual = (weights * ((A @ R.numpy().T + t.numpy() - B) ** 2).sum(1)).sum()
    other = (weights * ((a @ expected.as_matrix().T - b) ** 2).sum(1)).sum()
    assert residual <= other + 1e-9


def test_kabsch_turns_a_reflection_into_a_rotation():
    A = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(
        [3.0, 2.0, 0.1]
    )
    R, _ = kabsch(A, A * torch.tensor([1.0, 1.0, -1.0]))
    assert torch.linalg.det(R) == pytest.approx(1)
    assert torch.allclose(R, torch.eye(3, dtype=torch.float64), atol=0.02)  # the thin direction is given up


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda A: (A[:2], A[:2]), "3 or more points"),
        (lambda A: (A, A[:4]), "A and B"),
        (lambda A: (A[:, :1] * torch.ones(3), A), "A lies on a line"),
        (lambda A: (A, A[:, :1] * torch.tensor([1.0, 2.0, 3.0]) + 100), "B lies on a line"),
        (lambda A: (A, A * 0 + 1), "B lies on a line"),
        (lambda A: (A * float("nan"), A), "A holds values"),
        (lambda A: (A, A / 0), "B holds values"),
        (lambda A: (A, A, torch.ones(3)), "weights must be"),
        (lambda A: (A, A, -torch.ones(5)), "weights must be finite"),
        (lambda A: (A, A, torch.tensor([1.0, 1.0, 0, 0, 0])), "A lies on a line"),
    ],
)
def test_kabsch_refuses_what_fixes_no_rotation(change, word):
    A = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=word):
        kabsch(*change(A))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-5, 1.0, math.pi / 2, math.pi - 1e-6, math.pi - 1e-10, math.pi])
def test_the_angle_is_exact_near_0_and_pi(angle: float):
    S = rotations(6)
    axes = torch.nn.functional.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    R = S @ torch.from_numpy(Rotation.from_rotvec(axes.numpy() * angle).as_matrix())
    assert (geodesic_angle(R, S) - angle).abs().max() < 1e-9
    assert (geodesic_angle(S, R) - angle).abs().max() < 1e-9


@pytest.mark.usefixtures("annotations_unchecked")
def test_shapes_are_refused_by_name():
    for call, word in (
        (lambda: rotation_from_six(torch.ones(2, 5)), r"a must be"),
        (lambda: rotation_from_six(torch.ones(6), cast(Any, "svd")), "method"),
        (lambda: six_from_rotation(torch.ones(2, 3)), "M must be"),
        (lambda: geodesic_angle(torch.ones(3), torch.eye(3)), "R must be"),
        (lambda: geodesic_angle(torch.eye(3), torch.ones(3)), "S must be"),
    ):
        with pytest.raises(ValueError, match=word):
            call()
