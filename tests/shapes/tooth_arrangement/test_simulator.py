"""The simulated pairs: what is true of each, and what is true of many."""

from itertools import pairwise

import pytest
import torch

from linmap.shapes.tooth_arrangement import FDI, DentitionSimulator, apply_motion, metrics, slot_of
from linmap.shapes.tooth_arrangement.statistics import ShapeStatistics

TEXTBOOK = {1: (8.5, 5.0), 2: (6.5, 5.5), 3: (7.5, 7.0), 4: (7.0, 7.0), 5: (7.0, 7.0), 6: (10.0, 11.0), 7: (9.0, 10.5)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulator():
    return DentitionSimulator()


@pytest.fixture(scope="module")
def pairs(simulator):
    return simulator.sample(60, generator=seeded())


def test_the_set_up_is_the_motion_of_the_malocclusion(pairs):
    moved = apply_motion(pairs.before, pairs.centroid, pairs.y)
    assert (moved - pairs.after)[pairs.mask].abs().max() < 1e-4
    assert pairs.before.dtype == torch.float32
    assert (pairs.rotation @ pairs.rotation.mT - torch.eye(3)).abs().max() < 1e-5
    assert not pairs.mask[:, [slot_of(fdi) for fdi in (18, 28, 38, 48)]].any()
    assert not pairs.before[~pairs.mask].any()


def test_a_seed_gives_the_same_cases_and_touches_no_global_generator(simulator, pairs):
    state = torch.get_rng_state()
    again = simulator.sample(60, generator=seeded())
    assert torch.equal(again.before, pairs.before)
    assert torch.equal(again.rotation, pairs.rotation)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(simulator.sample(8, generator=seeded(1)).before, pairs.before[:8])


def test_widths_and_bolton_ratios_are_the_textbooks(pairs):
    widths = [metrics.tooth_widths(a, m) for a, m in zip(pairs.after, pairs.mask, strict=True)]
    for fdi in [fdi for fdi in FDI if fdi % 10 < 8]:
        found = torch.tensor([w[fdi] for w in widths if fdi in w]).mean()
        assert found == pytest.approx(TEXTBOOK[fdi % 10][fdi // 10 > 2], abs=1.6), fdi
    ratios = torch.tensor([metrics.bolton(w) for w in widths if len(w) == 28])
    overall, anterior = ratios.mean(0).tolist()
    assert 85 < overall < 97
    assert 70 < anterior < 86


def test_the_malocclusion_has_its_size_and_grows_with_severity(simulator, pairs):
    eye = torch.eye(3).expand_as(pairs.rotation)
    assert metrics.me_rot(eye, pairs.rotation, pairs.mask) == pytest.approx(12.7, abs=1.5)
    shift = torch.linalg.vector_norm(pairs.centroid - pairs.after_centroid, dim=-1)[pairs.mask].mean()
    assert shift == pytest.approx(1.2, abs=0.3)
    mild = simulator.sample(20, 0.25, seeded())
    assert metrics.me_rot(eye[:20], mild.rotation, mild.mask) == pytest.approx(12.7 / 4, abs=1)
    none = simulator.sample(4, 0.0, seeded())
    assert torch.allclose(none.before, none.after, atol=1e-5)


def test_premolars_are_missing_in_a_tenth_of_the_cases(simulator):
    present = simulator._present(4000, 0.1, seeded())
    missing = (~present).sum(1)
    assert (missing > 0).float().mean() == pytest.approx(0.1, abs=0.02)
    assert missing.max() == 4
    gone = {FDI[slot] % 10 for slot in simulator.statistics.slots[(~present).any(0)].tolist()}
    assert gone == {4, 5}


def test_set_ups_have_no_deep_contacts(simulator):
    for before, after in simulator.sample_sets(2, generator=seeded(3)):
        teeth = list(after.meshes)
        pairs = [(a, b) for a, b in pairwise(teeth) if (a // 10 in (1, 2)) == (b // 10 in (1, 2))]
        depth = max(metrics.collision_depth(after.meshes[a], after.meshes[b]) for a, b in pairs)
        assert depth < 0.3  # 0.2 on the points that the simulator looks at
        assert set(before.meshes) == set(after.meshes)


def test_whole_meshes_are_those_of_the_sample(simulator):
    pairs = simulator.sample(2, generator=seeded(5))
    for case, (before, after) in enumerate(simulator.sample_sets(2, generator=seeded(5))):
        assert torch.equal(before.mask, pairs.mask[case])
        assert (before.centroids() - pairs.centroid[case]).abs().max() < 1e-3
        assert (after.centroids() - pairs.after_centroid[case]).abs().max() < 1e-3
        V = torch.from_numpy(before.meshes[11][0]).float()
        nearest = torch.cdist(pairs.before[case, slot_of(11)], V).amin(1)
        assert nearest.max() < 1e-2


def test_the_other_task_has_two_set_ups_for_one_malocclusion(simulator):
    first, second = simulator.alternatives(24, generator=seeded())
    assert torch.equal(first.before, second.before)
    assert torch.equal(first.rotation, second.rotation)
    mask, upper = first.mask, slot_of(16)
    assert not mask.all(1).all()
    for pairs in (first, second):
        assert (apply_motion(pairs.before, pairs.centroid, pairs.y) - pairs.after)[mask].abs().max() < 1e-4
    whole = mask.sum(1) == 28
    wide = [
        (p.after_centroid[whole, slot_of(26)] - p.after_centroid[whole, upper]).norm(dim=-1) for p in (first, second)
    ]
    assert (wide[1] > wide[0] + 1).all()
    drawn = simulator.sample(24, generator=seeded(), ambiguous=True)
    is_first = (drawn.after == first.after).flatten(1).all(1)
    is_second = (drawn.after == second.after).flatten(1).all(1)
    assert (is_first | is_second).all()
    assert 4 < int(is_first.sum()) < 20


def test_closed_spaces_bring_the_neighbours_together(simulator):
    first, second = simulator.alternatives(24, generator=seeded())
    lacks = [c for c in range(24) if not first.mask[c, slot_of(14)] and first.mask[c, slot_of(15)]]
    assert lacks
    for case in lacks:
        kept, closed = (
            float((p.after_centroid[case, slot_of(13)] - p.after_centroid[case, slot_of(15)]).norm())
            for p in (first, second)
        )
        assert closed < kept - 4


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda s: s.sample(0), "n must"),
        (lambda s: s.sample(2, severity=-1.0), "severity"),
        (lambda s: s.sample(2, severity=float("nan")), "severity"),
        (lambda s: DentitionSimulator(points=2), "points"),
        (lambda s: DentitionSimulator(points=5000), "points"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, word, simulator):
    with pytest.raises(ValueError, match=word):
        call(simulator)


def test_the_statistics_are_read_in_slot_order():
    statistics = ShapeStatistics.read()
    assert [FDI[slot] for slot in statistics.slots.tolist()] == [fdi for fdi in FDI if fdi % 10 < 8]
    flat = statistics.modes.flatten(2)
    assert (flat @ flat.mT - torch.eye(8)).abs().max() < 1e-2
    x = statistics.center[:, 0]
    assert (x[:14].diff() > 0).all()
    assert (x[14:].diff() > 0).all()
    outward = (statistics.shape * statistics.normals).sum(-1) > 0
    assert outward.float().mean() > 0.99


@pytest.mark.parametrize("content", [None, b"no archive", b"PK\x03\x04 half of one"])
def test_a_file_that_holds_no_statistics_is_named(content, tmp_path):
    path = tmp_path / "shapes.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shapes\.npz"):
        DentitionSimulator(path)
