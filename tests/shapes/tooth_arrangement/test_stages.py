"""Stages: within the limits, the plan at the end, around collisions where an order does it."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from linmap.geometry.rigid import geodesic_angle
from linmap.shapes.tooth_arrangement import ToothSet, slot_of, stages
from linmap.shapes.tooth_arrangement.neighbours import Neighbours
from linmap.shapes.tooth_arrangement.stages import schedules, spread, stages_between
from shapes.tooth_arrangement.arches import disturbed, mean_arch, moved

REST = np.tile(np.eye(4), (32, 1, 1))


def ball(center: tuple[float, float, float], radius: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    mesh = trimesh.creation.icosphere(3, radius)
    return np.asarray(mesh.vertices) + center, np.asarray(mesh.faces)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_no_stage_moves_a_tooth_farther_than_allowed(seed: int) -> None:
    before, back = disturbed(mean_arch(5), seed)
    found = stages_between(before, back)
    np.testing.assert_array_equal(found.motions[0], REST)
    present = np.asarray(before.mask)
    np.testing.assert_allclose(found.motions[-1][present], back[present], atol=1e-12)
    centers = np.asarray(before.centroids())
    at = np.einsum("ksij,sj->ksi", found.motions[..., :3, :3], centers) + found.motions[..., :3, 3]
    steps = np.linalg.norm(np.diff(at, axis=0), axis=-1)[:, present]
    assert steps.max() <= 0.25 + 1e-6
    R = found.motions[..., :3, :3]
    assert np.degrees(np.asarray(geodesic_angle(R[:-1], R[1:]))).max() <= 2 + 1e-6
    assert (np.diff(found.progress, axis=0) >= -1e-12).all()
    assert found.depths.shape == (found.count + 1, len(Neighbours(before).pairs))


def test_as_many_stages_as_are_needed_or_asked_for() -> None:
    arch = mean_arch(5)
    plan = moved(arch, 17, np.array([0.0, 0, -1.0]))
    assert stages_between(arch, plan).count == 4
    assert stages_between(arch, plan, max_shift=0.1).count == 10
    assert stages_between(arch, plan, 7).count == 7
    assert stages_between(arch, REST).count == 1
    with pytest.raises(ValueError, match="n_stages=3 is too few: 4 are needed"):
        stages_between(arch, plan, 3)
    for name in ("max_shift", "max_turn"):
        with pytest.raises(ValueError, match=name):
            stages_between(arch, plan, **cast(Any, {name: 0.0}))
    with pytest.raises(ValueError, match="tolerance"):
        stages_between(arch, plan, tolerance=-1.0)


def test_a_turn_goes_about_one_axis_through_the_centre() -> None:
    arch = mean_arch(5)
    turn = np.radians(9) * np.array([0.6, 0.0, 0.8])
    found = stages_between(arch, moved(arch, 27, np.zeros(3), turn))
    assert found.count == 5
    slot, center = slot_of(27), np.asarray(arch.centroids())[slot_of(27)]
    for stage in range(6):
        motion = found.motions[stage, slot]
        np.testing.assert_allclose(Rotation.from_matrix(motion[:3, :3]).as_rotvec(), stage / 5 * turn, atol=1e-9)
        np.testing.assert_allclose(motion[:3, :3] @ center + motion[:3, 3], center, atol=1e-9)


def three() -> tuple[ToothSet, np.ndarray]:
    """Tooth 12 crosses behind 11, which makes room only later if all move evenly; 21 and 13 stand far away."""
    teeth = ToothSet({13: ball((-30, 0, -12)), 12: ball((-8.0, 0, 0)), 11: ball((-1.5, 0, 0)), 21: ball((30, 0, -12))})
    plan = moved(teeth, 12, np.array([6.5, 0.0, 0.0])) @ moved(teeth, 11, np.array([0.0, 0.0, 6.5]))
    return teeth, plan


def test_a_tooth_goes_early_where_it_would_stand_in_the_way() -> None:
    teeth, plan = three()
    neighbours = Neighbours(teeth)
    pair = neighbours.pairs.index((slot_of(12), slot_of(11)))
    even = max(
        neighbours.between(neighbours.pairs[pair], *(_shifted(plan[slot], share) for slot in neighbours.pairs[pair]))
        for share in np.linspace(0, 1, 20)
    )
    assert even > 0.5
    found = stages_between(teeth, plan, neighbours=neighbours)
    assert not found.collisions
    assert found.depths[:, pair].max() <= 0.2 + 1e-9
    held = stages_between(teeth, plan, 26, neighbours=neighbours)  # as few as the limits allow: nothing can wait
    assert held.collisions
    assert {one.teeth for one in held.collisions} == {(12, 11)}
    assert max(one.depth_mm for one in held.collisions) == pytest.approx(held.depths[:, pair].max())


def test_a_tooth_leaves_its_line_where_no_order_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 passes 11, which does not move, at 5 mm: 1 mm too near."""
    teeth = ToothSet({12: ball((-6.0, 5.0, 0)), 11: ball((0, 0, 0)), 21: ball((30, 0, -12))})
    plan = moved(teeth, 12, np.array([12.0, 0, 0]))
    found = stages_between(teeth, plan, max_shift=0.5)
    assert not found.collisions
    assert found.depths.max() <= 0.2 + 1e-9
    np.testing.assert_array_equal(found.motions[:, slot_of(11)], np.tile(np.eye(4), (found.count + 1, 1, 1)))
    np.testing.assert_array_equal(found.motions[[0, -1], slot_of(12)], [np.eye(4), plan[slot_of(12)]])
    assert np.linalg.norm(np.diff(found.motions[:, slot_of(12), :3, 3], axis=0), axis=1).max() <= 0.5 + 1e-6
    monkeypatch.setattr(stages, "DETOURS", 0)
    assert max(one.depth_mm for one in stages_between(teeth, plan, max_shift=0.5).collisions) > 0.8


@given(st.integers(2, 12), st.integers(0, 99))
def test_offsets_are_spread_until_no_step_is_too_long(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    line = np.cumsum(random.normal(size=(n + 1, 3)), 0)
    limit = np.linalg.norm(np.diff(line, axis=0), axis=1).max() * random.uniform(1, 2)
    offsets = random.normal(size=(n + 1, 3)) * (random.random((n + 1, 1)) < 0.3)
    offsets[[0, -1]] = 0
    found = spread(line, offsets, limit)
    assert np.linalg.norm(np.diff(line + found, axis=0), axis=1).max() <= limit + 1e-8
    assert not found[[0, -1]].any()
    np.testing.assert_array_equal(spread(line, 0 * offsets, limit), 0 * offsets)


def _shifted(motion: np.ndarray, share: float) -> np.ndarray:
    part = np.eye(4)
    part[:3, 3] = share * motion[:3, 3]
    return part


@pytest.mark.parametrize("needed", [0, 1, 4, 7, 9])
def test_schedules_reach_the_end_and_keep_the_limit(needed: int) -> None:
    for schedule in schedules(needed, 9):
        assert (schedule[0], schedule[-1], len(schedule)) == (0, 1, 10)
        assert np.diff(schedule).min() >= 0
        assert np.diff(schedule).max() <= 1 / max(needed, 1) + 1e-12 or needed == 0


def test_depth_of_two_balls_is_their_overlap_and_symmetric() -> None:
    teeth = ToothSet({12: ball((0, 0, 0)), 11: ball((5.5, 0, 0)), 21: ball((20, 0, 0))})
    neighbours = Neighbours(teeth)
    assert neighbours.pairs == [(6, 7), (6, 8), (7, 8)]
    depths = neighbours.depths(REST)
    assert depths[0] == pytest.approx(0.5, abs=0.03)
    assert depths[1] == depths[2] == 0
    a, b = slot_of(12), slot_of(11)
    assert neighbours.between((b, a), REST[b], REST[a]) == depths[0]
    apart = moved(teeth, 11, np.array([1.0, 0, 0]))
    assert neighbours.between((a, b), apart[a], apart[b]) == 0


def test_what_hangs_beneath_an_open_crown_is_not_in_it() -> None:
    V, F = ball((0, 0, 0), 4.0)
    kept, F = np.unique(F[(V[F][..., 1] >= -1e-9).all(1)], return_inverse=True)
    teeth = ToothSet({12: (V[kept], F.reshape(-1, 3)), 11: ball((2.5, -2.6, 0), 2.0)})
    assert Neighbours(teeth).depths(REST).tolist() == [0.0]
