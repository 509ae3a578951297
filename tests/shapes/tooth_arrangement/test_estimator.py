"""The estimators: tiny ones, for their laws."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from linmap import artifacts
from linmap.errors import ArtifactError
from linmap.shapes.tooth_arrangement import (
    FDI,
    TADPM,
    DentitionSimulator,
    MotionRegression,
    ToothSet,
    arch_form,
    metrics,
    slot_of,
)
from linmap.shapes.tooth_arrangement.neighbours import Neighbours

TINY: dict[str, Any] = {"points": 16, "width": 16, "blocks": 1, "epochs": 1, "batch_size": 8, "random_state": 3}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulator():
    return DentitionSimulator(points=16)


@pytest.fixture(scope="module")
def pairs(simulator):
    return simulator.sample(16, generator=seeded())


@pytest.fixture(scope="module")
def teeth(simulator) -> ToothSet:
    return simulator.sample_sets(1, generator=seeded(1))[0][0]


@pytest.fixture(scope="module")
def tadpm(pairs) -> TADPM:
    return TADPM(sampling_steps=5, **TINY).fit(pairs)


def test_motions_are_rigid_ranked_and_the_identity_for_absent_teeth(tadpm, teeth):
    found = tadpm.arrange(teeth, n_samples=3)
    T = found.motions
    assert T.shape == (3, 32, 4, 4)
    assert (T[..., :3, :3] @ T[..., :3, :3].mT - torch.eye(3)).abs().max() < 1e-6
    absent = [slot_of(fdi) for fdi in (18, 28, 38, 48)]
    assert torch.equal(T[:, absent], torch.eye(4).double().expand(3, 4, 4, 4))
    assert set(found.scores) == {"collision", "smoothness", "total"}
    assert (np.diff(found.scores["total"]) >= 0).all()
    assert np.allclose(found.scores["total"], found.scores["collision"] + found.scores["smoothness"])
    moved = teeth.apply(T[0])
    assert metrics.collision_depth(moved.meshes[11], moved.meshes[12]) <= found.scores["collision"][0] + 0.1


def test_fixed_teeth_do_not_move_and_the_others_know(tadpm, teeth):
    free, held = (tadpm.arrange(teeth, n_samples=2, fixed=fixed, seed=5).motions for fixed in ((), (16, 26)))
    for fdi in (16, 26):
        assert torch.equal(held[:, slot_of(fdi)], torch.eye(4).double().expand(2, 4, 4))
    moved = teeth.apply(held[0])
    assert np.array_equal(moved.meshes[16][0], teeth.meshes[16][0])
    assert not torch.equal(free[:, slot_of(11)], held[:, slot_of(11)])


def test_a_seed_gives_the_same_and_global_generators_are_left_alone(tadpm, teeth, pairs):
    state = torch.get_rng_state()
    again = TADPM(sampling_steps=5, **TINY).fit(pairs)
    first, second = (model.arrange(teeth, n_samples=2, seed=7) for model in (tadpm, again))
    assert torch.equal(first.motions, second.motions)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(tadpm.arrange(teeth, n_samples=2, seed=8).motions, first.motions)


def test_the_pose_of_the_whole_model_does_not_matter(tadpm, simulator):
    pairs = simulator.sample(3, generator=seeded(4))
    shift = torch.tensor([30.0, -20.0, 10.0])
    moved = type(pairs)(
        pairs.before + shift, pairs.after + shift, pairs.centroid + shift, pairs.after_centroid + shift,
        pairs.rotation, pairs.mask,
    )  # fmt: skip
    first, second = tadpm.predict(pairs, 2, seed=1), tadpm.predict(moved, 2, seed=1)
    difference = (second - first)[:, pairs.mask]
    assert torch.allclose(difference[..., :3], shift.double().expand_as(difference[..., :3]), atol=2e-3)
    assert difference[..., 3:].abs().max() < 2e-3


def test_a_turned_scan_gets_the_same_set_up(tadpm, teeth):
    angle = 2.0
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned = teeth.apply(np.tile(turn, (32, 1, 1)))
    first, second = tadpm.arrange(teeth, n_samples=1, seed=2), tadpm.arrange(turned, n_samples=1, seed=2)
    expected = torch.from_numpy(turn) @ first.motions @ torch.from_numpy(np.linalg.inv(turn))
    present = teeth.mask
    assert (second.motions - expected)[0, present].abs().max() < 5e-2


def test_teeth_that_training_never_saw_stay_and_disturb_nothing(tadpm, teeth):
    V, F = teeth.meshes[17]
    more = ToothSet(teeth.meshes | {18: (V + np.array([-1.0, 0, -11.0]), F)})
    with pytest.warns(UserWarning, match="18"):
        found = tadpm.arrange(more, n_samples=1)
    assert torch.equal(found.motions[0, slot_of(18)], torch.eye(4).double())
    expected = tadpm.arrange(teeth, n_samples=1).motions
    front = [slot_of(fdi) for fdi in (11, 21, 36)]
    assert torch.allclose(found.motions[0, front], expected[0, front], atol=1e-9)


def test_content_of_absent_teeth_changes_no_prediction(tadpm, simulator):
    pairs = simulator.sample(4, generator=seeded(6))
    wild = type(pairs)(
        *(torch.where(pairs.mask.reshape(4, 32, *[1] * (v.ndim - 2)), v, torch.nan) for v in
          (pairs.before, pairs.after, pairs.centroid, pairs.after_centroid, pairs.rotation)), pairs.mask,
    )  # fmt: skip
    assert torch.equal(tadpm.predict(wild), tadpm.predict(pairs))


def test_saved_and_loaded_is_the_same(tadpm, teeth, tmp_path):
    tadpm.save(tmp_path / "run")
    loaded = TADPM.load(tmp_path / "run")
    assert torch.equal(loaded.arrange(teeth, n_samples=1).motions, tadpm.arrange(teeth, n_samples=1).motions)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(ArtifactError, match="holds a TADPM, not a MotionRegression"):
        MotionRegression.load(tmp_path / "run")
    with pytest.raises(ArtifactError):
        TADPM.load(tmp_path)


def test_a_stopped_training_goes_on_to_the_same_weights(pairs, tmp_path):
    class Stop(Exception):
        pass

    class Stopping(TADPM):
        left = 4

        def _loss(self, model, batch):
            self.left -= 1
            if not self.left:
                raise Stop
            return super()._loss(model, batch)

    settings: dict[str, Any] = {**TINY, "epochs": 2, "sampling_steps": 5}
    whole = TADPM(**settings).fit(pairs)
    with pytest.raises(Stop):
        Stopping(**settings).fit(pairs, checkpoints=tmp_path)
    resumed = TADPM(**settings).fit(pairs, checkpoints=tmp_path, resume=True)
    for name, value in whole.model_.state_dict().items():
        assert torch.equal(value, resumed.model_.state_dict()[name]), name


def test_arch_forms_are_what_is_asked(tadpm, simulator):
    pairs = simulator.sample(2, generator=seeded(9))
    from linmap.shapes.tooth_arrangement.guidance import ArchForm

    form = ArchForm({"upper": 52.0}, 31.0, pairs.mask[0])
    y = tadpm._predicted(pairs.to(torch.float64), 2, seeded(), form=form)
    width, depth = arch_form(y[..., :3], "upper")
    assert width == pytest.approx(torch.full_like(width, 52.0), abs=1e-3)
    assert depth == pytest.approx(torch.full_like(depth, 31.0), abs=1e-3)
    lower_width, lower_depth = arch_form(y[..., :3], "lower")
    assert lower_depth == pytest.approx(torch.full_like(depth, 31.0), abs=1e-3)
    assert (lower_width - 52).abs().max() > 0.1


def test_regression_proposes_one_set_up_with_the_same_parts(pairs, teeth, tmp_path):
    model = MotionRegression(**TINY).fit(pairs)
    found = model.arrange(teeth, n_samples=2, fixed=(11,))
    assert torch.equal(found.motions[0], found.motions[1])
    assert torch.equal(found.motions[0, slot_of(11)], torch.eye(4).double())
    model.save(tmp_path)
    assert torch.equal(MotionRegression.load(tmp_path).predict(pairs), model.predict(pairs))
    names = dict(TADPM(**TINY).fit(pairs).model_.named_parameters()).keys()
    assert dict(model.model_.named_parameters()).keys() == names


@pytest.mark.parametrize("target", ["shift", "absolute"])
def test_both_targets_learn_an_easy_task(target, simulator):
    pairs = simulator.sample(16, severity=0.0, generator=seeded())  # nothing moves
    model = MotionRegression(**(TINY | {"epochs": 30, "target": target, "lr": 3e-3})).fit(pairs)
    y = model.predict(pairs)[0]
    error = torch.linalg.vector_norm(y[..., :3] - pairs.after_centroid, dim=-1)[pairs.mask].mean()
    assert error < (0.05 if target == "shift" else 12.0)


def test_teeth_that_collide_are_moved_apart_and_fixed_ones_stay(teeth):
    neighbours = Neighbours(teeth, reach=1)
    motions = np.tile(np.eye(4), (32, 1, 1))
    motions[slot_of(11), :3, 3] = [-2.0, 0, 0]
    assert neighbours.deepest(motions) > 0.5
    apart = neighbours.apart(motions, [slot_of(12)])
    assert neighbours.deepest(apart) <= 0.2
    assert np.array_equal(apart[slot_of(12)], np.eye(4))
    assert np.array_equal(apart[:, :3, :3], motions[:, :3, :3])


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda m, t: m.arrange(t, n_samples=0), "n_samples"),
        (lambda m, t: m.arrange(t, fixed=(18,)), "18"),
        (lambda m, t: m.arrange(t, fixed=(99,)), "99"),
        (lambda m, t: m.arrange(t, arch_width=5.0), "arch_width"),
        (lambda m, t: m.arrange(t, arch_depth={"middle": 30.0}), "arch_depth"),
        (lambda m, t: TADPM().arrange(t), "not fitted"),
    ],
)
def test_arrange_refuses_by_name(call, word, tadpm, teeth):
    with pytest.raises(ValueError, match=word):
        call(tadpm, teeth)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"points": 8}, "16 points"),
        ({"target": "both"}, "target"),
        ({"encoder": "meshes"}, "encoder must be one of moments, points, mesh, joint"),
        ({"epochs": 0}, "epochs"),
        ({"eta": 2.0}, "eta"),
        ({"sampling_steps": 1}, "steps"),
        ({"width": 10}, "width"),
    ],
)
def test_fit_refuses_by_name(settings, word, pairs):
    with pytest.raises(ValueError, match=word):
        TADPM(**({"points": 16, "width": 16, "blocks": 1, "epochs": 1} | settings)).fit(pairs)


def test_pairs_with_holes_are_refused(pairs):
    before = pairs.before.clone()
    before[3, slot_of(11), 0, 0] = float("nan")
    broken = type(pairs)(before, pairs.after, pairs.centroid, pairs.after_centroid, pairs.rotation, pairs.mask)
    with pytest.raises(ValueError, match=r"pairs\.before"):
        TADPM(**TINY).fit(broken)
    empty = type(pairs)(
        pairs.before, pairs.after, pairs.centroid, pairs.after_centroid, pairs.rotation, pairs.mask & False
    )
    with pytest.raises(ValueError, match="without teeth"):
        TADPM(**TINY).fit(empty)
    assert len(FDI) == 32


@pytest.mark.parametrize("lost", ["scales", "parameters", "turns.mean"])
def test_a_folder_without_a_part_is_told_as_such(lost, tadpm, tmp_path):
    tadpm.save(tmp_path)
    config, tensors = artifacts.load(tmp_path, "tooth_arrangement")
    for values in (config, tensors):
        values.pop(lost, None)
    artifacts.save(tmp_path, "tooth_arrangement", config, tensors, seed=0)
    with pytest.raises(ArtifactError, match="damaged, or was written by another version"):
        TADPM.load(tmp_path)


@pytest.mark.parametrize(("kept", "told"), [((11,), True), ((11, 21), True), ((16, 11, 26), False)])
def test_too_few_teeth_for_a_pose_are_told(kept, told, tadpm, teeth):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few = ToothSet({fdi: teeth.meshes[fdi] for fdi in kept})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tadpm.arrange(few, n_samples=1)
    assert any("pose" in str(one.message) for one in caught) == told


def test_teeth_that_are_all_held_are_proposed_where_they_are(tadpm, pairs):
    case = pairs[torch.tensor([0])].to(torch.float64)
    held = case.mask[0].nonzero()[:, 0].tolist()
    y = tadpm._predicted(case, 1, seeded(), held)[0, 0, held]
    assert (y[:, :3] - case.centroid[0, held]).abs().max() < 1e-3
    assert (y[:, 3:] - y.new_tensor([1.0, 0, 0, 0, 1, 0])).abs().max() < 1e-4


@pytest.mark.slow  # two more trainings
def test_both_jaws_may_be_read_by_pointnet_too(pairs, tmp_path):
    one = pairs[torch.arange(1)]
    model = MotionRegression(**TINY, encoder="points").fit(one)
    untrained = MotionRegression(**TINY, encoder="points")
    untrained.mean_arch_ = model.mean_arch_
    before = dict(untrained.build().named_parameters())
    assert all((before[name] != p).any() for name, p in model.model_.named_parameters() if name.startswith("jaws."))
    model.save(tmp_path)
    hidden = replace(one, before=one.before.masked_fill(~one.mask[..., None, None], 99.0))
    assert torch.equal(MotionRegression.load(tmp_path).predict(hidden), model.predict(one))
