"""Models of Transformers as plain vision transformers."""

from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from linmap.compress.conversion import plain_vision_transformer

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 7}


def dinov2(**options: Any) -> Dinov2Model:
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**SMALL, image_size=28, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # layer scales and positions that are not trivial
    return model.eval()


@pytest.mark.parametrize("size", [28, 42])
@pytest.mark.parametrize("bias", [True, False])
def test_features_are_those_of_dinov2_at_any_size(size: int, bias: bool) -> None:
    model = dinov2(qkv_bias=bias)
    plain = plain_vision_transformer(model, size, 5)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(plain.forward_features(x), model(x).last_hidden_state, rtol=1e-4, atol=1e-5)
    assert plain(x).shape == (2, 5)


def test_features_are_those_of_a_vit_and_of_its_classifier() -> None:
    torch.manual_seed(0)
    config = ViTConfig(**SMALL, intermediate_size=48, image_size=28, num_channels=1)
    model = ViTForImageClassification(config).eval()
    plain = plain_vision_transformer(model, 28, 3)
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(plain.forward_features(x), model.vit(x).last_hidden_state, rtol=1e-4, atol=1e-5)
    assert plain.mlp_ratio == 1.5
    assert ViTModel(config).training  # a model in training mode stays there
    training = ViTModel(config)
    plain_vision_transformer(training, 28, 3)
    assert training.training


def test_weights_are_copies() -> None:
    model = dinov2()
    plain = plain_vision_transformer(model, 28, 5)
    before = model.embeddings.cls_token.clone()
    with torch.no_grad():
        plain.cls_token.zero_()
    assert torch.equal(model.embeddings.cls_token, before)


def test_what_cannot_be_converted_is_refused() -> None:
    with pytest.raises(TypeError, match="BertModel is neither a ViT nor a DINOv2"):
        plain_vision_transformer(BertModel(BertConfig(hidden_size=12, num_hidden_layers=1)), 28, 2)
    with pytest.raises(ValueError, match="other than two linear layers"):
        plain_vision_transformer(dinov2(use_swiglu_ffn=True), 28, 2)
    with pytest.raises(ValueError, match="image_size=30 must be a multiple of the model's patches of 7"):
        plain_vision_transformer(dinov2(), 30, 2)
