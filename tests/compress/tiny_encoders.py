"""Small random encoders of every family, made from configs; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGES: dict[str, Any] = {"image_size": 16, "patch_size": 4}
MLP: dict[str, Any] = {"intermediate_size": 64}
WORDS: dict[str, Any] = {"vocab_size": 50, "max_position_embeddings": 40}
VISION = ("vit", "deit", "dinov2", "dinov2_swiglu", "dinov2_registers", "clip", "siglip")
TEXT = ("bert", "roberta", "electra")


def tiny(name: str, seed: int = 0, **changes: Any) -> Any:
    """An encoder of Transformers in eval mode, its weights wide enough that tokens differ."""
    import transformers as t

    vision: dict[str, Any] = SIZES | IMAGES | changes
    text: dict[str, Any] = SIZES | MLP | WORDS | changes
    torch.manual_seed(seed)
    if name == "vit":
        model = t.ViTModel(t.ViTConfig(**vision, **MLP))
    elif name == "deit":
        model = t.DeiTModel(t.DeiTConfig(**vision, **MLP))
    elif name == "dinov2":
        model = t.Dinov2Model(t.Dinov2Config(**vision))
    elif name == "dinov2_swiglu":
        model = t.Dinov2Model(t.Dinov2Config(**vision, use_swiglu_ffn=True))
    elif name == "dinov2_registers":
        model = t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**vision))
    elif name == "clip":
        model = t.CLIPVisionModel(t.CLIPVisionConfig(**vision, **MLP))
    elif name == "siglip":
        model = t.SiglipVisionModel(t.SiglipVisionConfig(**vision, **MLP))
    elif name == "bert":
        model = t.BertModel(t.BertConfig(**text))
    elif name == "roberta":
        model = t.RobertaModel(t.RobertaConfig(**text))
    else:
        model = t.ElectraModel(t.ElectraConfig(**text))
    return spread(model).eval()


def spread(model: nn.Module, scale: float = 4.0) -> nn.Module:
    """Weights drawn wider than a fresh model's, whose tokens are all alike."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "lambda" in name:
                parameter.mul_(scale if "lambda" not in name else 0.7)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


def inputs_of(name: str, batch: int = 2, seed: int = 1) -> dict[str, Tensor]:
    """A batch for a model of `tiny`."""
    generator = torch.Generator().manual_seed(seed)
    if name in TEXT:
        ids = torch.randint(3, 50, (batch, 14), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {"pixel_values": torch.randn(batch, 3, 16, 16, generator=generator)}


class TimmAttention(nn.Module):
    """Attention as timm writes it, with norms of queries and keys."""

    def __init__(self, dim: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, dim // heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(0.0)
        self.norm = nn.Identity()
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.0)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=attn_mask)
        return self.proj_drop(self.proj(self.norm(x.transpose(1, 2).reshape(batch, tokens, dim))))


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class TimmMlp(nn.Module):
    """Two linear layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TimmBlock(nn.Module):
    """A block as timm writes it."""

    def __init__(self, dim: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = nn.LayerNorm(dim), TimmAttention(dim, heads, qk_norm), LayerScale(dim)
        self.drop_path1 = nn.Identity()
        self.norm2, self.mlp, self.ls2, self.drop_path2 = (
            nn.LayerNorm(dim),
            TimmMlp(dim, 2 * dim),
            LayerScale(dim),
            nn.Identity(),
        )

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class TimmViT(nn.Module):
    """The parts of timm's VisionTransformer that matter here; pooling as `global_pool` says."""

    def __init__(
        self, global_pool: str = "token", registers: int = 0, dim: int = 32, depth: int = 3, qk_norm: bool = True
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, dim, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim)) if global_pool == "token" else None
        self.reg_token = nn.Parameter(torch.randn(1, registers, dim)) if registers else None
        self.num_prefix_tokens = int(self.cls_token is not None) + registers
        self.global_pool = global_pool
        self.pos_embed = nn.Parameter(torch.randn(1, 16, dim))
        self.blocks = nn.Sequential(*(TimmBlock(dim, 4, qk_norm) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.fc_norm = nn.LayerNorm(dim) if global_pool == "avg" else nn.Identity()
        self.head = nn.Linear(dim, 5)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.patch_embed.get_submodule("proj")(x).flatten(2).transpose(1, 2) + self.pos_embed
        prefix = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        return self.norm(self.blocks(torch.cat([*prefix, x], 1)))

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        if (pool_type or self.global_pool) == "avg":
            return x[:, self.num_prefix_tokens :].mean(1)
        return x[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc_norm(self.pool(self.forward_features(x))))


def tiny_timm(seed: int = 0, **changes: Any) -> TimmViT:
    """A small ViT of timm's form in eval mode."""
    torch.manual_seed(seed)
    model = TimmViT(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model.eval()
