"""The metrics: closed forms, and second implementations."""

import math
import warnings
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import directed_hausdorff
from scipy.spatial.transform import Rotation

from linmap.shapes.tooth_arrangement import FDI, DentitionSimulator, metrics
from shapes.tooth_arrangement.crowns import ball

seeds = st.integers(0, 2**16)


@pytest.fixture(scope="module")
def pairs():
    return DentitionSimulator(points=16).sample(4, generator=torch.Generator().manual_seed(0))


def rotation(seed: int) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(None, np.random.default_rng(seed)).as_matrix())


def test_the_truth_scores_perfectly(pairs):
    assert metrics.add(pairs.after, pairs.after, pairs.mask) == 0
    assert metrics.pa_add(pairs.after, pairs.after, pairs.mask) < 1e-6
    assert metrics.me_rot(pairs.rotation, pairs.rotation, pairs.mask) < 1e-4
    assert metrics.csa(pairs.before, pairs.after, pairs.after, pairs.mask) == pytest.approx(1)
    for curve in ("quartic", "beta", "spline"):
        assert metrics.arch_frechet(pairs.after_centroid[0], pairs.after_centroid[0], pairs.mask[0], curve) == 0


def test_a_shift_of_all_is_add_and_no_pa_add(pairs):
    shift = torch.tensor([1.0, -2.0, 2.0])
    assert metrics.add(pairs.after + shift, pairs.after, pairs.mask) == pytest.approx(3, rel=1e-6)
    assert metrics.pa_add(pairs.after + shift, pairs.after, pairs.mask) < 1e-5
    share = pairs.mask.float().mean().item()
    assert metrics.add(pairs.after + shift, pairs.after, pairs.mask, "official") == pytest.approx(3 * share, rel=1e-6)


@given(seed=seeds)
def test_a_rigid_motion_of_each_case_is_no_pa_add(seed: int):
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(2, 32, 5, 3, generator=generator, dtype=torch.float64) * 20
    pred = torch.stack([case @ rotation(seed + i).T + 5 * i for i, case in enumerate(true)])
    mask = torch.rand(2, 32, generator=generator) < 0.7
    assert metrics.pa_add(pred, true, mask) < 1e-9
    pred[0, :16] += 3  # the jaws by themselves
    assert metrics.pa_add(pred, true, mask, per_jaw=True) < 1e-9
    assert metrics.pa_add(pred, true, mask) > 0.1


@given(seed=seeds, angle=st.floats(0.001, 179.9))
def test_the_angle_of_one_turn_is_me_rot(seed: int, angle: float):
    R = torch.stack([rotation(seed + i) for i in range(32)])
    axis = np.random.default_rng(seed).normal(size=3)
    turn = torch.from_numpy(Rotation.from_rotvec(axis / np.linalg.norm(axis) * math.radians(angle)).as_matrix())
    assert metrics.me_rot(R @ turn, R, torch.ones(32)) == pytest.approx(angle, rel=1e-6)
    assert metrics.me_rot((R @ turn)[None], R[None], torch.ones(1, 32)) == pytest.approx(angle, rel=1e-6)


def test_csa_by_hand():
    before = torch.zeros(32, 2, 3)
    true, pred = before.clone(), before.clone()
    true[:2] = torch.tensor([1.0, 0, 0])
    true[2] = torch.tensor([0.05, 0, 0])  # moves too little to count
    pred[0, 0], pred[0, 1] = torch.tensor([2.0, 0, 0]), torch.tensor([0.0, 3.0, 0])  # along it, and across
    pred[1, 0] = torch.tensor([-1.0, 0, 0])  # against it; the other point is left where it is
    pred[2] = torch.tensor([-5.0, 0, 0])
    assert metrics.csa(before, pred, true, torch.ones(32)) == pytest.approx((1 + 0 - 1 + 0) / 4)
    assert metrics.csa(before, pred, true, torch.ones(32), threshold=0.01) == pytest.approx((0 - 2) / 6)


def test_csa_of_nothing_that_moves_is_nan_with_a_warning(pairs):
    with pytest.warns(UserWarning, match="csa is undefined"):
        assert math.isnan(metrics.csa(pairs.after, pairs.before, pairs.after, pairs.mask))


def test_absent_teeth_never_count(pairs):
    wild = pairs.before.clone()
    wild[~pairs.mask] = float("nan")
    turned = pairs.rotation.clone()
    turned[~pairs.mask] = float("nan")
    eye = torch.eye(3).expand_as(turned)
    for function in (metrics.add, metrics.pa_add):
        assert function(wild, pairs.after, pairs.mask) == function(pairs.before, pairs.after, pairs.mask)
    assert metrics.csa(wild, wild, pairs.after, pairs.mask) == metrics.csa(
        pairs.before, pairs.before, pairs.after, pairs.mask
    )
    assert metrics.me_rot(eye, turned, pairs.mask) == metrics.me_rot(eye, pairs.rotation, pairs.mask)
    centers = pairs.centroid[0].clone()
    centers[~pairs.mask[0]] = float("nan")
    found = [metrics.arch_frechet(c, pairs.after_centroid[0], pairs.mask[0]) for c in (centers, pairs.centroid[0])]
    assert found[0] == found[1]


def frechet(A, B) -> float:
    """The recursion of Eiter and Mannila, entry by entry."""
    reach = {}
    for i, a in enumerate(A):
        for j, b in enumerate(B):
            before = [reach[p] for p in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if p in reach]
            reach[i, j] = max(min(before, default=0.0), float(np.linalg.norm(a - b)))
    return reach[len(A) - 1, len(B) - 1]


@given(seed=seeds, n=st.integers(1, 9), m=st.integers(1, 9))
def test_frechet_is_the_recursion_symmetric_and_at_least_hausdorff(seed: int, n: int, m: int):
    generator = np.random.default_rng(seed)
    A, B = generator.normal(size=(n, 2)), generator.normal(size=(m, 2))
    found = metrics.frechet_distance(A, B)
    assert found == pytest.approx(frechet(A, B), abs=1e-12)
    assert found == pytest.approx(metrics.frechet_distance(B, A), abs=1e-12)
    assert found >= max(directed_hausdorff(A, B)[0], directed_hausdorff(B, A)[0]) - 1e-12


def test_frechet_of_parallel_lines_is_their_distance():
    x = np.linspace(0, 9, 50)
    assert metrics.frechet_distance(np.stack([x, 0 * x], 1), np.stack([x, 0 * x + 0.7], 1)) == pytest.approx(0.7)


def arch(widen: float = 1.0) -> torch.Tensor:
    """Both jaws on y = -x^4 / 20000 - x^2 / 30, a quartic, in the horizontal plane."""
    x = torch.linspace(-22, 22, 16, dtype=torch.float64)
    rows = torch.stack([x * widen, torch.zeros(16), 30 - x**4 / 20000 - x**2 / 30], -1)
    return torch.cat([rows, rows - torch.tensor([0.0, 8.0, 0.0])])


@pytest.mark.parametrize("curve", ["quartic", "beta", "spline"])
def test_arch_frechet_sees_the_plane_only_and_no_pose(curve):
    true, mask = arch(), torch.ones(32)
    up = torch.tensor([0.0, 3.0, 0.0])
    assert metrics.arch_frechet(true + up, true, mask, curve) < 1e-3
    forward = metrics.arch_frechet(true + torch.tensor([0.0, 0.0, 1.5]), true, mask, curve)
    assert forward == pytest.approx(1.5, rel=1e-2 if curve == "beta" else 1e-6)  # beta is fitted by iterations
    R = rotation(1)
    wide = metrics.arch_frechet(arch(1.1), true, mask, curve)
    assert 1 < wide < 3
    assert metrics.arch_frechet(arch(1.1) @ R.T + 7, true @ R.T + 7, mask, curve) == pytest.approx(wide, rel=1e-3)


def test_arch_frechet_takes_the_jaws_of_five_teeth():
    true = arch()
    pred = true.clone()
    pred[16:] += torch.tensor([0.0, 0.0, 2.0])
    mask = torch.ones(32)
    assert metrics.arch_frechet(pred, true, mask) == pytest.approx(1, rel=1e-3)
    mask[20:] = 0
    assert metrics.arch_frechet(pred, true, mask) == pytest.approx(0, abs=1e-9)
    mask[4:] = 0
    with pytest.raises(ValueError, match="5 teeth"):
        metrics.arch_frechet(pred, true, mask)


@pytest.mark.parametrize("apart", [0.5, 2.0, 4.5, 6.6, 7.5])
def test_depth_and_gap_of_two_balls(apart: float):
    axis = np.random.default_rng(int(10 * apart)).normal(size=3)
    first, second = ball(4.0, level=3), ball(3.0, tuple(axis / np.linalg.norm(axis) * apart), level=3)
    depth = metrics.collision_depth(first, second)
    assert depth == pytest.approx(max(0.0, 4.0 - abs(3.0 - apart)), abs=0.08)
    assert depth == metrics.collision_depth(second, first)
    assert metrics.gap(first, second) == pytest.approx(max(0.0, apart - 7.0), abs=0.08)
    assert metrics.gap(first, second) == metrics.gap(second, first)
    inside_out = (first[0], first[1][:, ::-1])
    assert metrics.collision_depth(inside_out, second) == pytest.approx(depth, abs=1e-9)


@pytest.mark.parametrize("shift", [-0.5, 0.0, 0.3, 2.0])
def test_depth_and_gap_of_boxes_without_vertices_inside(shift: float):
    corners = np.array([[x, y, z] for x in (0, 8) for y in (0, 7) for z in (0, 6)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    other = corners + np.array([8 - shift, 0, 0])
    assert metrics.collision_depth((corners, faces), (other, faces)) == pytest.approx(max(0, shift), abs=1e-9)
    assert metrics.gap((corners, faces), (other, faces)) == pytest.approx(max(0, -shift), abs=1e-9)


def test_irregularity_and_bolton():
    contacts = torch.zeros(6, 2, 3)
    contacts[1, 0, 0], contacts[4, 1, 1] = 2.0, 1.5  # two displacements of the five
    contacts[0, 0], contacts[5, 1] = 9.0, 9.0  # the outer ends do not count
    assert metrics.irregularity_index(contacts) == 3.5
    textbook = {1: (8.5, 5.0), 2: (6.5, 5.5), 3: (7.5, 7.0), 4: (7.0, 7.0), 5: (7.0, 7.0), 6: (10.0, 11.0)}
    widths = {fdi: textbook[fdi % 10][fdi // 10 > 2] for fdi in FDI if fdi % 10 in textbook}
    ratios = metrics.bolton(widths)
    assert ratios.overall == pytest.approx(100 * 85 / 93)
    assert ratios.anterior == pytest.approx(100 * 35 / 45)
    with pytest.raises(ValueError, match="lack the teeth 16, 33"):
        metrics.bolton({fdi: w for fdi, w in widths.items() if fdi not in (16, 33)})


def test_metrics_do_not_depend_on_where_the_model_lies(pairs):
    R, mask = rotation(3), pairs.mask
    before, pred, after = (points.double() @ R.T + 9 for points in (pairs.before, pairs.before + 0.3, pairs.after))
    for function in (metrics.add, metrics.pa_add):
        assert function(pred, after, mask) == pytest.approx(function(pairs.before + 0.3, pairs.after, mask), rel=1e-4)
    expected = metrics.csa(pairs.before, pairs.before + 0.3, pairs.after, mask)
    assert metrics.csa(before, pred, after, mask) == pytest.approx(expected, rel=1e-4)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda p: metrics.add(p.after[:, :5], p.after, p.mask), "pred must"),
        (lambda p: metrics.add(p.after, p.after[:2], p.mask), "true must"),
        (lambda p: metrics.add(p.after, p.after, p.mask[:2]), "mask must"),
        (lambda p: metrics.add(p.after, p.after, p.mask & False), "no present tooth"),
        (lambda p: metrics.add(p.after, p.after, p.mask, cast(Any, "all")), "convention"),
        (lambda p: metrics.me_rot(p.rotation[..., :2], p.rotation, p.mask), "R_pred"),
        (lambda p: metrics.arch_frechet(p.centroid, p.centroid[0], p.mask[0]), "pred_centers"),
        (lambda p: metrics.arch_frechet(p.centroid[0], p.centroid[0], p.mask[0], cast(Any, "cubic")), "curve"),
        (lambda p: metrics.arch_frechet(p.centroid[0], p.centroid[0], p.mask[0], samples=1), "samples"),
        (lambda p: metrics.frechet_distance([[0.0, 1]], [[0.0, 1, 2]]), "one dimension"),
        (lambda p: metrics.frechet_distance([[math.nan, 1]], [[0.0, 1]]), "A must"),
        (lambda p: metrics.collision_depth(([[0, 0, 0]], [[0, 1, 2]]), ball()), "first"),
        (lambda p: metrics.gap(ball(), ball()[0]), "second"),
        (lambda p: metrics.irregularity_index(torch.zeros(5, 2, 3)), "contacts"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, word, pairs):
    with pytest.raises(ValueError, match=word):
        call(pairs)


def test_widths_of_a_set_up_are_those_of_its_shapes(pairs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        widths = metrics.tooth_widths(pairs.after[0], pairs.mask[0])
    assert set(widths) == {fdi for fdi, here in zip(FDI, pairs.mask[0].tolist(), strict=True) if here}
    assert all(3 < width < 14 for width in widths.values())


def test_values_that_are_not_finite_count_only_where_no_tooth_is(pairs):
    slot = int(pairs.mask[0].nonzero()[0, 0])
    wild, turned = pairs.before.clone(), pairs.rotation.clone()
    wild[0, slot, 0, 0] = turned[0, slot, 0, 0] = float("nan")
    calls = {
        "pred": lambda: metrics.add(wild, pairs.after, pairs.mask),
        "true": lambda: metrics.pa_add(pairs.after, wild, pairs.mask),
        "before": lambda: metrics.csa(wild, pairs.after, pairs.after, pairs.mask),
        "R_pred": lambda: metrics.me_rot(turned, pairs.rotation, pairs.mask),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name} holds values that are not finite"):
            call()


@pytest.mark.parametrize("threshold", [-1.0, math.nan, math.inf])
def test_a_threshold_is_a_number_of_mm(threshold, pairs):
    with pytest.raises(ValueError, match=r"^threshold"):
        metrics.csa(pairs.before, pairs.after, pairs.after, pairs.mask, threshold=threshold)
