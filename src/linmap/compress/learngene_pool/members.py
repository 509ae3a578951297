"""Members of a pool: transformers in the parts that descendants are put together from.

A member has `embed(x)`, `blocks`, `norm` and `head`, and says its sizes. The vision transformer of this room is one as
it is; timm's and Transformers' models are looked at through an adapter that shares their parameters and changes
nothing in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.errors import ArgumentTypeError

PARTS = ("embed", "blocks", "norm", "head", "embed_dim", "num_heads", "n_tokens", "n_classes", "patch_features")
TIMM_PARTS = ("patch_embed", "cls_token", "pos_embed", "blocks", "norm", "head")


class Member(Protocol):
    """What a pool needs of a transformer: logits are `head(norm(x)[:, 0])` after `embed` and all `blocks`."""

    blocks: nn.ModuleList
    """Each maps tokens to tokens; its `attn` is the attention sub-layer with its projection."""
    norm: nn.Module
    head: nn.Module
    embed_dim: int
    num_heads: int
    n_tokens: int
    """The CLS token included."""
    n_classes: int
    patch_features: int
    """Numbers in a patch: channels times height times width."""

    def embed(self, x: Tensor) -> Tensor:
        """Tokens (batch, n_tokens, embed_dim), CLS at 0, with positions."""
        ...


def is_member(model: object) -> bool:
    """Whether a model has all parts of a `Member`."""
    return isinstance(model, nn.Module) and all(hasattr(model, part) for part in PARTS)


def as_member(model: Any, *, head: nn.Module | None = None, n_tokens: int | None = None) -> Any:
    """A model as a `Member` that shares its parameters.

    Parameters
    ----------
    model
        A member, which comes back as it is; a timm-like vision transformer; or an encoder of Transformers: ViT, DINOv2
        or DeiT with a classifier on the CLS token, or BERT, which takes token ids of sequences without padding. It and
        the keys of its state dict stay as they are.
    head
        CLS features, after the final norm, to logits, for a backbone of Transformers without such a classifier.
    n_tokens
        Tokens of an input, CLS included, where the model takes several sizes; those of its configuration if None.

    Raises
    ------
    TypeError
        If it is none of these; the message lists what was looked for.
    """
    if is_member(model):
        return model
    if isinstance(model, nn.Module):
        if all(hasattr(model, part) for part in TIMM_PARTS) and hasattr(model.patch_embed, "proj"):
            return _from_timm(model)
        if _backbone(model) is not None:
            return _from_transformers(model, head, n_tokens)
    raise ArgumentTypeError(
        f"{type(model).__name__} is no member of a pool. Looked for: {', '.join(PARTS)} (a member); or "
        f"{', '.join(TIMM_PARTS)}, with patch_embed.proj (a timm vision transformer); or embeddings, a list of layers, "
        "layernorm and classifier (Transformers' ViTForImageClassification and its like)."
    )


class AdaptedMember(nn.Module):
    """The parts of another library's vision transformer, as a member.

    Parameters
    ----------
    model
        Theirs; the adapter begins in its mode.
    embedding
        Images to tokens with positions.
    blocks, norm, head
        As of a `Member`.
    num_heads, n_tokens, patch_features
        The sizes that the parts do not say.
    """

    def __init__(
        self,
        model: nn.Module,
        embedding: nn.Module,
        blocks: nn.ModuleList,
        norm: nn.Module,
        head: nn.Module,
        *,
        embed_dim: int,
        num_heads: int,
        n_tokens: int,
        n_classes: int,
        patch_features: int,
    ) -> None:
        super().__init__()
        self.embedding, self.blocks, self.norm, self.head = embedding, blocks, norm, head
        self.embed_dim, self.num_heads, self.n_tokens = embed_dim, num_heads, n_tokens
        self.n_classes, self.patch_features = n_classes, patch_features
        theirs = set(model.modules())
        for module in self.modules():
            if module not in theirs:
                module.training = model.training

    def embed(self, x: Tensor) -> Tensor:
        return self.embedding(x)

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


# -- timm --------------------------------------------------------------------------------------------------------------


class TimmEmbedding(nn.Module):
    """Patches, CLS token and positions of a timm vision transformer, whose positions may leave out the CLS token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patch_embed, self.cls_token, self.pos_embed = model.patch_embed, model.cls_token, model.pos_embed
        self.after = nn.Sequential(
            *(part for name in ("pos_drop", "norm_pre") if isinstance(part := getattr(model, name, None), nn.Module))
        )

    def forward(self, x: Tensor) -> Float[Tensor, "batch tokens dim"]:
        patches = self.patch_embed(x)
        cls = self.cls_token.expand(len(patches), -1, -1)
        if self.pos_embed.shape[1] == patches.shape[1]:
            return self.after(torch.cat([cls, patches + self.pos_embed], 1))
        return self.after(torch.cat([cls, patches], 1) + self.pos_embed)


def _from_timm(model: Any) -> AdaptedMember:
    name, proj = type(model).__name__, model.patch_embed.proj
    unlike = {
        "dist_token": "a distillation token",
        "reg_token": "register tokens",
        "attn_pool": "attention pooling",
    }
    for part, what in unlike.items():
        if getattr(model, part, None) is not None:
            raise ArgumentTypeError(f"{name} has {what} ({part}); a member has one CLS token whose features are read.")
    if (pooling := getattr(model, "global_pool", "token")) != "token":
        raise ArgumentTypeError(f"{name} has global_pool={pooling!r}; a member's head reads the CLS token ('token').")
    if not isinstance(getattr(model, "fc_norm", nn.Identity()), nn.Identity):
        raise ArgumentTypeError(f"{name} has a norm after pooling (fc_norm); a member has one norm, before.")
    if not isinstance(model.head, nn.Linear) or not isinstance(model.cls_token, Tensor):
        raise ArgumentTypeError(f"{name} needs a cls_token and a linear head; got {type(model.head).__name__}.")
    attention = model.blocks[0].attn
    n_positions = model.pos_embed.shape[1]
    patches = getattr(model.patch_embed, "num_patches", n_positions - 1)
    return AdaptedMember(
        model,
        TimmEmbedding(model),
        nn.ModuleList(model.blocks),
        model.norm,
        model.head,
        embed_dim=proj.out_channels,
        num_heads=attention.num_heads,
        n_tokens=patches + 1,
        n_classes=model.head.out_features,
        patch_features=proj.weight[0].numel(),
    )


# -- Transformers ------------------------------------------------------------------------------------------------------


class TransformersBlock(nn.Module):
    """A layer of Transformers as a block: tokens to tokens, whatever else the layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    @property
    def attn(self) -> nn.Module:
        """What gives the output of the attention before the residual: the sub-layer, or the projection inside it."""
        attention = cast(Any, self.layer).attention
        output = getattr(attention, "output", None)
        return output.dense if isinstance(getattr(output, "LayerNorm", None), nn.Module) else attention

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        return first(self.layer(x))


def _from_transformers(model: Any, head: nn.Module | None, n_tokens: int | None) -> AdaptedMember:
    backbone, name = _backbone(model), type(model).__name__
    layers = _layers(backbone)
    is_text = hasattr(backbone.embeddings, "word_embeddings")
    norm = nn.Identity() if is_text else backbone.layernorm
    head = _head(model, backbone, is_text) if head is None else head
    d = model.config.hidden_size
    linear = [part for part in head.modules() if isinstance(part, nn.Linear)]
    if not linear or linear[0].in_features != d:
        raise ArgumentTypeError(
            f"{name} has no head that reads the CLS token of width {d}; give one: as_member(model.base_model, "
            f"head=nn.Linear({d}, n_classes))."
        )
    patch_features = 0
    if is_text:
        n_tokens = model.config.max_position_embeddings if n_tokens is None else n_tokens
    else:
        projection = backbone.embeddings.patch_embeddings.projection
        patch_features = projection.weight[0].numel()
        patches = backbone.embeddings.position_embeddings.shape[1]
        n_tokens = patches + getattr(model.config, "num_register_tokens", 0) if n_tokens is None else n_tokens
    return AdaptedMember(
        model,
        backbone.embeddings,
        nn.ModuleList(TransformersBlock(layer) for layer in layers),
        norm,
        head,
        embed_dim=d,
        num_heads=model.config.num_attention_heads,
        n_tokens=n_tokens,
        n_classes=linear[-1].out_features,
        patch_features=patch_features,
    )


def _backbone(model: Any) -> Any:
    """The part of a model of Transformers that has the embeddings; None if it is no such encoder."""
    for part in (model, getattr(model, "base_model", None)):
        if hasattr(part, "embeddings") and hasattr(part, "config") and _layers(part) is not None:
            is_text = hasattr(part.embeddings, "word_embeddings")
            if is_text or (hasattr(part, "layernorm") and hasattr(part.embeddings, "patch_embeddings")):
                return part
    return None


def _layers(backbone: Any) -> nn.ModuleList | None:
    encoder = getattr(backbone, "encoder", None)
    found = (getattr(backbone, "layers", None), getattr(encoder, "layer", None), getattr(encoder, "layers", None))
    return next((layers for layers in found if isinstance(layers, nn.ModuleList) and len(layers)), None)


def _head(model: Any, backbone: Any, is_text: bool) -> nn.Module:
    """The classifier on the CLS token, after BERT's pooler where it has one."""
    classifier = getattr(model, "classifier", None)
    if not isinstance(classifier, nn.Module):
        return nn.Identity()
    pooler = getattr(backbone, "pooler", None)
    if not is_text or pooler is None:
        return classifier
    return nn.Sequential(pooler.dense, pooler.activation, getattr(model, "dropout", nn.Identity()), classifier)


# -- modes -------------------------------------------------------------------------------------------------------------


def first(output: Any) -> Tensor:
    """The tensor that a module returns, alone or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; each part of the modules gets its own mode back."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
