"""Finding the encoder in a model, and its parts."""

import pytest
import torch
from torch import nn

from compress.tiny_encoders import IMAGES, MLP, SIZES, TEXT, VISION, WORDS, tiny, tiny_timm
from linmap.compress.encoders import FAMILIES, find_encoder

PREFIX = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2_swiglu": 1, "dinov2_registers": 5, "clip": 1, "siglip": 0}


@pytest.mark.parametrize("name", [*VISION, *TEXT])
def test_families_of_transformers_are_found(name: str) -> None:
    model = tiny(name)
    for wrapped, path in ((model, ""), (nn.Sequential(nn.Sequential(model)), "0.0")):
        encoder = find_encoder(wrapped)
        assert encoder.path == path
        assert encoder.module is model
        assert (len(encoder.blocks), encoder.dim, encoder.heads) == (3, 32, 4)
        assert encoder.hidden == {"dinov2": 128, "dinov2_registers": 128, "dinov2_swiglu": 88}.get(name, 64)
        assert encoder.prefix_tokens == PREFIX.get(name, 0)
        assert encoder.class_token == (name in VISION and name != "siglip")
        assert (encoder.patches is None) == (name in TEXT)
    for role in ("query", "key", "value", "output"):
        assert isinstance(encoder.part(encoder.blocks[-1], role), nn.Linear)


@pytest.mark.parametrize(("changes", "prefix"), [({}, 1), ({"registers": 3}, 4), ({"global_pool": "avg"}, 0)])
def test_vit_of_timm_is_found(changes: dict, prefix: int) -> None:
    model = tiny_timm(**changes)
    encoder = find_encoder(model)
    assert (encoder.dim, encoder.heads, encoder.hidden, encoder.prefix_tokens) == (32, 4, 64, prefix)
    assert encoder.class_token == ("global_pool" not in changes)
    assert encoder.patches is model.patch_embed.proj
    assert encoder.final_norm is model.norm
    assert encoder.branch_end(encoder.blocks[0], "after_mlp") == [model.blocks[0].ls2, model.blocks[0].drop_path2]


def test_of_text_and_vision_the_vision_tower_is_meant() -> None:
    import transformers as t

    parts = {"text_config": SIZES | MLP | {"vocab_size": 50}, "vision_config": SIZES | MLP | IMAGES}
    assert find_encoder(t.CLIPModel(t.CLIPConfig(**parts))).path == "vision_model"
    assert find_encoder(t.SiglipModel(t.SiglipConfig(**parts))).path == "vision_model"
    assert find_encoder(nn.ModuleDict({"text": tiny("bert"), "image": tiny("vit")})).path == "image"
    with pytest.raises(TypeError, match=r"several encoders \(0, 1\)"):
        find_encoder(nn.ModuleList([tiny("bert"), tiny("bert")]))


def test_refusals_name_the_model_and_what_was_looked_for() -> None:
    import transformers as t

    swin = t.SwinModel(t.SwinConfig(embed_dim=16, depths=[1], num_heads=[2], image_size=16, patch_size=4))
    for model in (swin, nn.Conv2d(3, 3, 3)):
        with pytest.raises(TypeError, match=type(model).__name__) as error:
            find_encoder(model)
        assert all(family.name in str(error.value) and family.blocks in str(error.value) for family in FAMILIES)
    for model in (
        t.BeitModel(t.BeitConfig(**SIZES, **MLP, **IMAGES)),
        t.MPNetModel(t.MPNetConfig(**SIZES, **MLP, **WORDS)),
    ):
        with pytest.raises(TypeError, match=f"model_type '{model.config.model_type}'"):
            find_encoder(model)


def test_blocks_with_unknown_parts_are_refused() -> None:
    model = tiny_timm()
    model.blocks[1].adapter = nn.Linear(32, 32)
    with pytest.raises(TypeError, match=r"Block 1 .* has adapter, and what these do is not known"):
        find_encoder(model)
    model = tiny_timm()
    model.get_submodule("blocks.0.attn").relative_position_bias_table = nn.Parameter(torch.zeros(3, 4))
    with pytest.raises(TypeError, match=r"relative_position_bias_table .*not supported"):
        find_encoder(model)
