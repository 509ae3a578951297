"""Meshes of teeth: templates on simulated shapes, patches, mirrors, and the estimators that read them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from linmap.errors import ArgumentError
from linmap.shapes.tooth_arrangement import (
    MIRROR,
    TADPM,
    DentitionSimulator,
    MotionRegression,
    ToothPairs,
    ToothSet,
    patch_features,
    rotation_from_six,
    slot_of,
)
from linmap.shapes.tooth_arrangement import meshes as module
from linmap.shapes.tooth_arrangement.augmentation import _mirrored
from linmap.shapes.tooth_arrangement.meshes import ToothMeshes, framed_patches, read_patches, remeshed
from linmap.shapes.tooth_arrangement.pairs import joined, unmoved
from linmap.shapes.tooth_arrangement.remeshing import closest_points, remesh
from shapes.tooth_arrangement.crowns import arches, ball

PATCHES = 6
TINY: dict[str, Any] = {"points": 12, "width": 8, "blocks": 1, "epochs": 1, "batch_size": 4, "patches": PATCHES}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulator() -> DentitionSimulator:
    return DentitionSimulator(points=12, templates=1)


@pytest.fixture(scope="module")
def pairs(simulator: DentitionSimulator) -> ToothPairs:
    return simulator.sample(8, generator=seeded(), patches=PATCHES)


@pytest.fixture(scope="module")
def model(pairs: ToothPairs) -> TADPM:
    return TADPM(**TINY, encoder="mesh", sampling_steps=2, pretrain_epochs=1).fit(pairs)


def meshes_of(pairs: ToothPairs) -> ToothMeshes:
    assert pairs.meshes is not None
    return pairs.meshes


# -- meshes ------------------------------------------------------------------------------------------------------------


def test_template_vertices_lie_on_the_shapes_and_the_rest_of_the_draw_is_the_same(
    simulator: DentitionSimulator, pairs: ToothPairs
) -> None:
    plain = simulator.sample(8, generator=seeded())
    assert plain.meshes is None
    for name in ("centroid", "after_centroid", "rotation", "mask"):
        assert torch.equal(getattr(plain, name), getattr(pairs, name)), name
    for name in ("before", "after"):  # products of other sizes round otherwise
        torch.testing.assert_close(getattr(plain, name), getattr(pairs, name), atol=1e-5, rtol=0)
    found, (whole, _) = meshes_of(pairs), simulator.sample_sets(8, generator=seeded())[2]
    for fdi in (11, 46):
        kind = int(found.kind[2, slot_of(fdi)])
        V = found.vertices[2, slot_of(fdi)][found.faces[kind - 1].unique()].double().numpy()
        off = np.linalg.norm(closest_points(V, *whole.meshes[fdi]) - V, axis=1)
        assert off.max() < 1e-4
        assert (np.ptp(V, 0) > 0.7 * np.ptp(whole.meshes[fdi][0], 0)).all()
    assert (found.kind == 0).equal(~pairs.mask)


def test_patches_of_many_teeth_at_once_are_those_of_each(pairs: ToothPairs) -> None:
    found = meshes_of(pairs).to(torch.float64)
    slots = [0 + 1, 5, 30]
    together = read_patches(found.vertices[1, slots], found.faces, found.kind[1, slots])
    for row, slot in enumerate(slots):
        V, F = found.tooth(1, slot, torch.zeros(3, dtype=torch.float64))
        features, centers = patch_features(4 * V, F)
        n = len(features)
        assert together.mask[row].tolist() == [True] * n + [False] * (PATCHES - n)
        assert (together.numbers[row, :n] - torch.cat([features, centers], -1)).abs().max() < 1e-9
        outwards = (features[..., 1:4] * (centers - 4 * V.mean(0))).sum(-1)
        assert (outwards * features[..., 0]).sum() > 0


def test_a_mirror_of_pairs_is_the_mirror_that_training_draws_and_twice_nothing(pairs: ToothPairs) -> None:
    def patches(of: ToothPairs) -> Any:
        eye = torch.eye(3, dtype=torch.float64).expand(len(of), 32, 3, 3)
        return framed_patches(meshes_of(of).to(torch.float64), of.centroid.double(), eye, of.mask)

    seen, mirrored = patches(pairs), patches(pairs.mirrored())
    batch = (pairs.before, pairs.centroid, pairs.after_centroid, pairs.rotation, pairs.mask, *seen)
    drawn = _mirrored(batch, seeded(3))
    flipped = (drawn[4] != pairs.mask).any(1) | (drawn[1] != pairs.centroid).flatten(1).any(1)
    assert 0 < flipped.sum() < 8
    assert torch.equal(drawn[5][flipped], mirrored.numbers[flipped])
    assert torch.equal(drawn[5][~flipped], seen.numbers[~flipped])
    twice = meshes_of(pairs.mirrored().mirrored())
    assert torch.equal(twice.vertices, meshes_of(pairs).vertices)
    assert torch.equal(twice.kind, meshes_of(pairs).kind)
    assert torch.equal(meshes_of(pairs.mirrored()).kind, -meshes_of(pairs).kind[:, MIRROR])


def test_some_of_the_pairs_and_several_of_them_keep_their_meshes(pairs: ToothPairs) -> None:
    first, rest = pairs[:3], pairs[torch.arange(3, 8)]
    again = joined(first, rest)
    turn = torch.eye(3).expand(8, 32, 3, 3)
    old, new = (framed_patches(meshes_of(p), p.centroid, turn, p.mask) for p in (pairs, again))
    assert torch.equal(old.numbers, new.numbers)
    assert joined(first, replace(rest, meshes=None)).meshes is None


def test_a_mesh_whose_faces_run_the_other_way_is_turned_round() -> None:
    V, F = ball(4.0, level=2)
    for faces in (F, F[:, ::-1]):
        found, parts = remeshed(11, V, faces, 8)
        a, b, c = found[parts].transpose(1, 0, 2)
        assert np.einsum("ij,ij->", np.cross(b - a, c - a), a) > 0


# -- estimators --------------------------------------------------------------------------------------------------------


def test_the_mesh_encoder_is_trained_saved_and_loaded(model: TADPM, pairs: ToothPairs, tmp_path) -> None:
    before = dict(model.build().named_parameters())
    changed = [(before[name] != p).any() for name, p in model.model_.named_parameters() if name.startswith("mesh.")]
    assert changed
    assert all(changed)
    model.save(tmp_path)
    again = TADPM.load(tmp_path)
    assert (again.encoder, again.patches, again.pretrain_epochs) == ("mesh", PATCHES, 1)
    assert torch.equal(again.predict(pairs), model.predict(pairs))


def test_what_is_read_of_a_mesh_turns_with_the_teeth_and_counts(model: TADPM, pairs: ToothPairs) -> None:
    Q = rotation_from_six(torch.tensor([0.2, 1.0, -0.3, 0.5, 0.1, 1.0])).mT
    moved = ToothPairs(
        pairs.before @ Q.mT + 5, pairs.after @ Q.mT + 5, pairs.centroid @ Q.mT + 5, pairs.after_centroid @ Q.mT + 5,
        Q @ pairs.rotation @ Q.mT, pairs.mask, replace(meshes_of(pairs), vertices=meshes_of(pairs).vertices @ Q.mT + 5),
    )  # fmt: skip
    y, turned = model.predict(pairs, seed=1)[0], model.predict(moved, seed=1)[0]
    there = pairs.mask
    gap = (turned[..., :3] - y[..., :3] @ Q.mT.double() - 5)[there].abs().max()
    others = meshes_of(pairs).each(lambda values: values.roll(1, 0))
    other, mask = replace(pairs, meshes=others), pairs.mask & others.kind.bool()
    first, second = (model.predict(replace(one, mask=mask), seed=1)[..., :3] for one in (pairs, other))
    assert gap < (first - second).abs().max() / 10  # of another patient's teeth; half precision is what is left


def test_meshes_of_absent_teeth_do_not_count(model: TADPM, pairs: ToothPairs) -> None:
    mask = pairs.mask.clone()
    mask[:, slot_of(11)] = False
    fewer, found = replace(pairs, mask=mask), meshes_of(pairs)
    wild = found.vertices.masked_fill(~mask[..., None, None], torch.nan)
    hidden = replace(fewer, meshes=replace(found, vertices=wild, kind=found.kind * mask))
    assert torch.equal(model.predict(hidden), model.predict(fewer))


def test_teeth_of_a_scan_are_remeshed_and_arranged(model: TADPM, simulator: DentitionSimulator) -> None:
    teeth = ToothSet(arches((16, 13, 11, 21, 23, 26, 36, 33, 31, 41, 43, 46)))
    found = model.arrange(teeth, n_samples=1, fixed=(16,))
    assert found.motions.isfinite().all()
    assert torch.equal(found.motions[0, slot_of(16)], torch.eye(4).double())


@pytest.mark.slow  # test_autoencoder.py goes on by default
def test_an_interrupted_pre_training_goes_on_to_the_same_weights(pairs: ToothPairs, tmp_path) -> None:
    options = TINY | {"encoder": "mesh", "pretrain_epochs": 1}
    first = MotionRegression(**options).fit(pairs[:4], checkpoints=tmp_path)
    assert (tmp_path / "pretraining").is_dir()
    again = MotionRegression(**options).fit(pairs[:4], checkpoints=tmp_path, resume=True)
    assert torch.equal(first.predict(pairs[:4]), again.predict(pairs[:4]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "mesh", "patches": 7}, "meshes of 6 patches, and patches=7"),
        ({"encoder": "mesh", "patches": 3}, "patches must be a whole number of at least 4"),
        ({"pretrain_epochs": 2}, "pretrain_epochs=2 needs encoder='mesh' or encoder='joint'"),
        ({"encoder": "mesh", "pretrain_epochs": -1}, "pretrain_epochs must be a whole number of at least 0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str, pairs: ToothPairs) -> None:
    with pytest.raises(ArgumentError, match=message):
        TADPM(**TINY | options).fit(pairs)


def test_pairs_without_meshes_are_refused_in_one_line(model: TADPM, pairs: ToothPairs) -> None:
    plain = replace(pairs, meshes=None)
    for act in (lambda: model.predict(plain), lambda: TADPM(**TINY, encoder="mesh").fit(plain)):
        with pytest.raises(
            ArgumentError, match="points alone, and encoder='mesh' reads meshes: make them with patches=6"
        ):
            act()
    lost = meshes_of(pairs).kind.clone()
    lost[0, slot_of(11)] = 0
    with pytest.raises(ArgumentError, match="a tooth without a mesh"):
        model.predict(replace(pairs, meshes=replace(meshes_of(pairs), kind=lost)))
    with pytest.raises(ArgumentError, match="meshes must be of 8 cases, got 2"):
        replace(pairs, meshes=meshes_of(pairs[:2]))


def test_cases_of_one_tooth_and_too_few_patches_are_refused(pairs: ToothPairs, simulator: DentitionSimulator) -> None:
    mask = torch.zeros_like(pairs.mask)
    mask[:, slot_of(11)] = True
    with pytest.raises(ArgumentError, match="one tooth in each case"):
        MotionRegression(**TINY).fit(replace(pairs, mask=mask))
    with pytest.raises(ArgumentError, match="patches must be a whole number of at least 4, got 1"):
        simulator.sample(2, patches=1)


def test_a_flat_tooth_is_remeshed_and_a_folded_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    V = np.array([[0, 0, 0], [5, 0, 0], [0, 5, 0], [5, 5, 1e-3]], float)
    F = np.array([[0, 1, 2], [2, 1, 3], [0, 2, 1], [2, 3, 1]])
    with pytest.warns(UserWarning, match="one jaw only"):
        teeth = ToothSet({11: (V, F)})
    assert meshes_of(unmoved([teeth], 4, 4)).kind[0, slot_of(11)] == 1
    monkeypatch.setattr(module, "_is_thin", lambda V, F: True)
    with pytest.raises(ArgumentError, match="tooth 11 cannot be remeshed"):
        unmoved([teeth], 4, 4)
    monkeypatch.setattr(module, "_is_thin", lambda V, F: False)
    monkeypatch.setattr(module, "remesh", lambda V, F, base, project: remesh(V, F, 4 * base, 3, project))
    with pytest.raises(ArgumentError, match="tooth 11 cannot be made of patches=4 coarse faces"):
        remeshed(11, *ball(4.0), 4)
