"""Movements in the words of orthodontics: axes that point where they must, signs that mean the same on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from linmap.shapes.tooth_arrangement import ToothSet, slot_of
from linmap.shapes.tooth_arrangement.movements import Movement, axes_of, movement_table, movements, tooth_axes
from shapes.tooth_arrangement.arches import disturbed, mean_arch, moved

TEETH = [quadrant * 10 + tooth for quadrant in (1, 2, 3, 4) for tooth in range(1, 8)]
LEFT, UP, FRONT = np.eye(3)  # of the statistics


@pytest.fixture(scope="module")
def arch() -> ToothSet:
    return mean_arch(5)


def of(teeth: ToothSet, motions: np.ndarray, fdi: int) -> Movement:
    return next(one for one in movements(teeth, motions) if one.fdi == fdi)


def test_axes_are_orthonormal_and_point_to_the_midline_outwards_and_to_the_other_jaw(arch: ToothSet) -> None:
    axes = tooth_axes(arch)
    for fdi in TEETH:
        mesial, buccal, occlusal = frame = axes[slot_of(fdi)]
        np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
        side = 1 if fdi // 10 in (2, 3) else -1  # the patient's left is +x
        assert occlusal @ UP * (-1 if fdi < 30 else 1) > 0.98
        if fdi % 10 <= 2:
            assert buccal @ FRONT > 0.8
            assert mesial @ LEFT * -side > 0.8
        if fdi % 10 >= 6:
            assert buccal @ LEFT * side > 0.9
            assert mesial @ FRONT > 0.9
    assert np.isnan(axes[slot_of(18)]).all()


@settings(max_examples=20, deadline=None)
@given(fdi=st.sampled_from(TEETH), mm=st.floats(-3, 3), axis=st.integers(0, 2))
def test_a_shift_along_an_axis_is_told_as_that_alone(fdi: int, mm: float, axis: int) -> None:
    teeth = mean_arch(5)
    found = of(teeth, moved(teeth, fdi, mm * tooth_axes(teeth)[slot_of(fdi), axis]), fdi)
    expected = np.zeros(6)
    expected[axis] = mm
    values = [found.mesial_mm, found.buccal_mm, found.extrusion_mm, found.rotation_deg, found.tip_deg, found.torque_deg]
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert found.shift_mm == pytest.approx(abs(mm), abs=1e-9)


@pytest.mark.parametrize("fdi", [13, 16, 21, 25, 33, 37, 42, 46])
def test_turns_lean_the_crown_where_their_name_says(arch: ToothSet, fdi: int) -> None:
    mesial, buccal, occlusal = tooth_axes(arch)[slot_of(fdi)]
    for name, start, end in (("rotation_deg", mesial, buccal), ("tip_deg", occlusal, mesial),
                             ("torque_deg", occlusal, buccal)):  # fmt: skip
        turn = np.radians(10) * np.cross(start, end)
        assert Rotation.from_rotvec(turn).apply(start) @ end == pytest.approx(np.sin(np.radians(10)))
        found = of(arch, moved(arch, fdi, np.zeros(3), turn), fdi)
        for other in ("rotation_deg", "tip_deg", "torque_deg"):
            assert getattr(found, other) == pytest.approx(10 if other == name else 0, abs=1e-6)
        assert found.turn_deg == pytest.approx(10)
        assert found.shift_mm == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_movements_do_not_depend_on_the_pose_of_the_scan(arch: ToothSet, seed: int) -> None:
    before, back = disturbed(arch, seed)
    Q = np.eye(4)
    Q[:3, :3] = Rotation.random(None, np.random.default_rng(seed)).as_matrix()
    Q[:3, 3] = [120, -40, 7]
    turned = before.apply(np.tile(Q, (32, 1, 1)))
    table = movement_table(movements(before, back))
    again = movement_table(movements(turned, Q @ back @ np.linalg.inv(Q)))
    for column in table.columns[1:-1]:
        np.testing.assert_allclose(again[column], table[column], atol=0.11 if "deg" in column else 0.011)
    assert list(table["tooth"]) == list(again["tooth"])


def test_a_mirrored_case_has_the_same_words_on_the_other_side(arch: ToothSet) -> None:
    other = {1: 2, 2: 1, 3: 4, 4: 3}
    D = np.diag([-1.0, 1, 1])
    mirror = ToothSet({
        other[fdi // 10] * 10 + fdi % 10: (vertices @ D, faces[:, ::-1]) for fdi, (vertices, faces) in
        arch.meshes.items()
    })  # fmt: skip
    shift, turn = np.array([0.7, -0.2, 0.4]), np.array([0.1, -0.2, 0.05])
    here = of(arch, moved(arch, 14, shift, turn), 14)
    there = of(mirror, moved(mirror, 24, D @ shift, -D @ turn), 24)
    for name in ("mesial_mm", "buccal_mm", "extrusion_mm", "rotation_deg", "tip_deg", "torque_deg"):
        assert getattr(there, name) == pytest.approx(getattr(here, name), abs=1e-6)


def test_words() -> None:
    one = Movement(11, -0.5, 0.04, 0.3, 12.2, -0.4, -3.0, 0.6, 12.6)
    assert one.words() == "0.5 mm distal, 0.3 mm extrusion, 12° rotation mesial-out, 3° torque lingual"
    assert Movement(11, 0, 0, 0, 0, 0, 0, 0, 0).words() == "stays"


def test_few_teeth_take_the_vertical_of_the_other_jaw_and_too_few_are_refused(arch: ToothSet) -> None:
    mask, centers = np.zeros(32, bool), np.asarray(arch.centroids())
    mask[:16] = np.asarray(arch.mask)[:16]
    mask[[slot_of(31), slot_of(32)]] = True
    assert axes_of(centers, mask)[slot_of(31), 2] @ UP > 0.95
    mask[:16] = False
    with pytest.raises(ValueError, match="three"):
        axes_of(centers, mask)


def test_motions_that_are_none_are_refused(arch: ToothSet) -> None:
    good = np.tile(np.eye(4), (32, 1, 1))
    for bad, message in (
        (good[:28], r"\(28, 4, 4\)"),
        (good * np.nan, "no rigid motion"),
        (good * 2, "no rigid motion"),
    ):
        with pytest.raises(ValueError, match=message):
            movements(arch, bad)
