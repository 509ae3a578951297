"""Vision transformers of Transformers as the plain one of this room, with the same features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from linmap.compress.vision_transformer import VisionTransformer
from linmap.errors import ArgumentError, ArgumentTypeError

TYPES = ("vit", "dinov2")
TOLERANCE = 1e-3  # of features that a layer norm has brought to unit variance


def plain_vision_transformer(
    model: Any, image_size: int, n_classes: int, *, generator: torch.Generator | None = None
) -> VisionTransformer:
    """A ViT or DINOv2 of Transformers as a `VisionTransformer`: copies of its weights, and a new head.

    DINOv2's layer scales go into the layers before them, and positions are interpolated to the image size, as
    Transformers does for each batch; so the result saves, exports and trains as any model of this room does.

    Parameters
    ----------
    model
        `ViTModel`, `Dinov2Model`, or a model with one of them as its base.
    image_size
        Pixels of a side, a multiple of the patch size.
    n_classes
        Of the head, which starts as that of `VisionTransformer`.
    generator
        Draws the head.

    Raises
    ------
    TypeError
        If the model is neither.
    ValueError
        If it has parts that a `VisionTransformer` has not, or the image size does not fit.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) not in TYPES:
        raise ArgumentTypeError(f"{type(model).__name__} is neither a ViT nor a DINOv2 of Transformers.")
    backbone = getattr(model, "base_model", model)
    if config.hidden_act != "gelu" or getattr(config, "use_swiglu_ffn", False):
        raise ArgumentError(f"{type(model).__name__} has MLPs other than two linear layers with an exact GELU between.")
    layers = _layers(backbone)
    state = _embeddings(backbone, image_size)
    for number, layer in enumerate(layers):
        state |= {f"blocks.{number}.{name}": value for name, value in _block(layer).items()}
    state |= {f"norm.{name}": value for name, value in backbone.layernorm.state_dict().items()}
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    plain = VisionTransformer(
        image_size, config.patch_size, config.num_channels, n_classes, config.hidden_size, len(layers),
        config.num_attention_heads, mlp_ratio=hidden / config.hidden_size, eps=config.layer_norm_eps,
        generator=generator,
    )  # fmt: skip
    plain.load_state_dict({name: value.detach().clone() for name, value in state.items()} | _head(plain))
    _check(plain, backbone)
    return plain.eval()


def _layers(backbone: Any) -> nn.ModuleList:
    encoder = getattr(backbone, "encoder", backbone)
    found = (getattr(part, name, None) for part in (backbone, encoder) for name in ("layers", "layer"))
    return next(layers for layers in found if isinstance(layers, nn.ModuleList))


def _embeddings(backbone: Any, image_size: int) -> dict[str, Tensor]:
    """Patches, CLS token, and positions at the image size."""
    embeddings = backbone.embeddings
    projection, patch = embeddings.patch_embeddings.projection, backbone.config.patch_size
    if image_size < patch or image_size % patch:
        raise ArgumentError(f"image_size={image_size} must be a multiple of the model's patches of {patch} pixels.")
    tokens = torch.zeros(1, 1 + (image_size // patch) ** 2, backbone.config.hidden_size)
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(tokens.to(projection.weight), image_size, image_size)
    found = {"cls_token": embeddings.cls_token, "pos_embed": positions}
    return found | {f"patch_embed.proj.{name}": value for name, value in projection.state_dict().items()}


def _block(layer: Any) -> dict[str, Tensor]:
    """The weights of a layer by timm's names."""
    q, k, v, out = (part for part in layer.attention.modules() if isinstance(part, nn.Linear))
    fc1, fc2 = (part for part in layer.mlp.modules() if isinstance(part, nn.Linear))
    norms = [part for part in layer.children() if isinstance(part, nn.LayerNorm)]
    scales = [getattr(getattr(layer, f"layer_scale{i}", None), "lambda1", None) for i in (1, 2)]
    weight, zeros = torch.cat([q.weight, k.weight, v.weight]), torch.zeros_like(q.weight[:, 0])
    bias = torch.cat([zeros if part.bias is None else part.bias for part in (q, k, v)])
    found = {"attn.qkv.weight": weight, "attn.qkv.bias": bias}
    for name, linear, scale in (("attn.proj", out, scales[0]), ("mlp.fc1", fc1, None), ("mlp.fc2", fc2, scales[1])):
        by = torch.ones(()) if scale is None else scale
        found[f"{name}.weight"] = linear.weight if scale is None else by[:, None] * linear.weight
        found[f"{name}.bias"] = by * linear.bias
    for number, norm in enumerate(norms, 1):
        found |= {f"norm{number}.{name}": value for name, value in norm.state_dict().items()}
    return found


def _head(plain: VisionTransformer) -> dict[str, Tensor]:
    return {f"head.{name}": value for name, value in plain.head.state_dict().items()}


def _check(plain: VisionTransformer, backbone: Any) -> None:
    """Refuse to give out what computes something else."""
    x = torch.randn(
        1, plain.in_channels, plain.image_size, plain.image_size, generator=torch.Generator().manual_seed(0)
    )
    training = backbone.training
    try:
        with torch.no_grad():
            theirs = backbone.eval()(x.to(plain.cls_token), interpolate_pos_encoding=True).last_hidden_state
            ours = plain.eval().forward_features(x.to(plain.cls_token))
    finally:
        backbone.train(training)
    if float((ours - theirs).abs().max()) > TOLERANCE:
        raise ArgumentError(f"{type(backbone).__name__} computes something else than a plain vision transformer.")
