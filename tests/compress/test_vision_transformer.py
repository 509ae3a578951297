"""The room's vision transformer."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from linmap.compress.vision_transformer import DropPath, VisionTransformer
from typed import of_class

small = partial(VisionTransformer, 8, 4, 3, 5, 12, 2, 3)


def by_hand(model: VisionTransformer, x: Tensor) -> Tensor:
    """The forward pass from the state dict alone, einsums and softmax written out, in float64."""
    p = {name: value.double() for name, value in model.state_dict().items()}
    B, H, size = x.shape[0], model.num_heads, model.patch_size

    def norm(t: Tensor, name: str) -> Tensor:
        centred = t - t.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + model.eps).sqrt()
        return scaled * p[name + ".weight"] + p[name + ".bias"]

    def linear(t: Tensor, name: str) -> Tensor:
        return t @ p[name + ".weight"].flatten(1).T + p[name + ".bias"]

    patches = [
        x.double()[:, :, i : i + size, j : j + size].flatten(1)
        for i in range(0, x.shape[2], size)
        for j in range(0, x.shape[3], size)
    ]
    t = linear(torch.stack(patches, 1), "patch_embed.proj")
    t = torch.cat([p["cls_token"].expand(B, 1, -1), t], 1) + p["pos_embed"]
    for j in range(len(model.blocks)):
        rows = linear(norm(t, f"blocks.{j}.norm1"), f"blocks.{j}.attn.qkv")
        q, k, v = (part.unflatten(-1, (H, -1)) for part in rows.chunk(3, -1))
        weights = (torch.einsum("bnhc,bmhc->bhnm", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        t = t + linear(torch.einsum("bhnm,bmhc->bnhc", weights, v).flatten(2), f"blocks.{j}.attn.proj")
        hidden = linear(norm(t, f"blocks.{j}.norm2"), f"blocks.{j}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        t = t + linear(hidden, f"blocks.{j}.mlp.fc2")
    return linear(norm(t, "norm")[:, 0], "head")


def test_logits_are_those_written_out_by_hand(generator):
    model = small(generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    x = torch.randn(4, 3, 8, 8, generator=generator)
    torch.testing.assert_close(model(x).double(), by_hand(model, x), rtol=1e-5, atol=1e-5)


def test_names_are_those_of_timm():
    per_block = [
        f"{layer}.{kind}"
        for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ]
    names = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    names |= {f"{layer}.{kind}" for layer in ("norm", "head") for kind in ("weight", "bias")}
    names |= {f"blocks.{j}.{name}" for j in range(2) for name in per_block}
    state = small().state_dict()
    assert set(state) == names
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["patch_embed.proj.weight"] == (12, 3, 4, 4)
    assert (shapes["cls_token"], shapes["pos_embed"]) == ((1, 1, 12), (1, 5, 12))
    assert shapes["blocks.1.attn.qkv.weight"] == (36, 12)
    assert shapes["blocks.0.mlp.fc1.weight"] == (48, 12)


def test_it_says_its_sizes():
    model = small()
    assert (model.embed_dim, model.num_heads, model.n_tokens, model.n_classes) == (12, 3, 5, 5)
    assert model.patch_features == 48
    x = torch.zeros(2, 3, 8, 8)
    assert model.embed(x).shape == model.forward_features(x).shape == (2, 5, 12)
    assert model(x).shape == (2, 5)


def test_the_start_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    one, two = (small(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    wide = VisionTransformer(8, 4, 3, 5, 96, 2, 3, generator=torch.Generator().manual_seed(3))
    for name, value in wide.state_dict().items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.3), name


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 3, 2)
    y = drop(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.mean().item() == pytest.approx(1, abs=0.04)
    assert drop.eval()(x) is x


def test_drop_path_rises_linearly_and_acts_in_training_alone(generator):
    model = VisionTransformer(8, 4, 1, 2, 8, 4, 2, drop_path=0.6, generator=generator)
    assert [of_class(DropPath, block.drop_path1).p for block in model.blocks] == pytest.approx([0, 0.2, 0.4, 0.6])
    x = torch.randn(16, 1, 8, 8, generator=generator)
    torch.manual_seed(1)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_gradients_reach_every_parameter(generator):
    model = small(generator=generator)
    F.cross_entropy(model(torch.randn(4, 3, 8, 8, generator=generator)), torch.arange(4)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_size": 9}, "image_size=9"),
        ({"heads": 5}, "heads=5"),
        ({"depth": 0}, "depth=0"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, words):
    sized = partial(VisionTransformer, image_size=8, patch_size=4, in_channels=3, n_classes=5, dim=12, depth=2, heads=3)
    with pytest.raises(ValueError, match=words):
        sized(**change)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\)"):
        small()(torch.zeros(2, 1, 8, 8))
