"""Members of a pool: transformers in the parts that descendants are put together from.

A member has `embed(x)`, `blocks`, `norm` and `head`, and says its sizes. The vision transformer of this room is one as
it is; timm's and Transformers' models are looked at through an adapter that shares their parameters and changes
nothing in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.compress.encoders import Encoder, EncoderFamily, find_encoder
from linmap.errors import ArgumentError, ArgumentTypeError

PARTS = ("embed", "blocks", "norm", "head", "embed_dim", "num_heads", "n_tokens", "n_classes", "patch_features")


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
    ValueError
        If `head` or `n_tokens` is given for a model that has its own.
    """
    unused = [name for name, value in (("head", head), ("n_tokens", n_tokens)) if value is not None]
    if is_member(model):
        _refuse(unused, model)
        return model
    looked = f"{type(model).__name__} is no member of a pool: it lacks some of {', '.join(PARTS)}"
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"{looked}, and is no nn.Module.")
    try:
        encoder = find_encoder(model)
    except TypeError as error:
        raise ArgumentTypeError(f"{looked}; and it is no encoder that is known. {error}") from None
    if encoder.family.qkv:
        _refuse(unused, model)
        return _from_timm(model, encoder)
    return _from_transformers(model, encoder, head, n_tokens)


def _refuse(unused: Sequence[str], model: nn.Module) -> None:
    if unused:
        raise ArgumentError(
            f"{unused[0]} is for backbones of Transformers; a {type(model).__name__} has its own. Leave it out."
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


def check_members(members: Sequence[Any], unequal: bool) -> None:
    """Refuse members that cannot be stitched."""
    if not members:
        raise ArgumentError("members is empty; a pool needs one auxiliary or more.")
    first = members[0]
    alike = {"n_tokens": "token counts", "patch_features": "patch sizes (numbers in a patch)", "n_classes": "classes"}
    for number, member in enumerate(members):
        if not len(member.blocks):
            raise ArgumentError(f"member {number} has no blocks.")
        for name, words in alike.items():
            if getattr(member, name) != getattr(first, name):
                raise ArgumentError(
                    f"{words} of members differ: {getattr(first, name)} of member 0 and {getattr(member, name)} of "
                    f"member {number} ({name}); members of a pool share them."
                )
    dtypes = [next((p.dtype for p in member.parameters()), None) for member in members]
    if len(set(dtypes)) > 1:
        raise ArgumentError(f"members have weights of types {dtypes}; give them one, such as with member.float().")
    widths, depths = [member.embed_dim for member in members], [len(member.blocks) for member in members]
    if widths != sorted(widths):
        raise ArgumentError(f"members must not get narrower; their widths are {widths}. Order them by width.")
    if len(set(depths)) > 1 and not unequal:
        raise ArgumentError(f"members have depths {depths}; give them one depth, or pass unequal=True.")


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


def _from_timm(model: Any, encoder: Encoder) -> AdaptedMember:
    name, projection = type(model).__name__, cast(nn.Conv2d, encoder.patches)
    missing = [part for part in ("cls_token", "pos_embed", "norm", "head") if getattr(model, part, None) is None]
    if missing or not isinstance(model.head, nn.Linear):
        raise ArgumentTypeError(f"{name} needs {', '.join(missing) or 'a linear head'} to be a member of a pool.")
    if encoder.prefix_tokens != 1 or getattr(model, "attn_pool", None) is not None:
        raise ArgumentTypeError(
            f"{name} has {encoder.prefix_tokens} tokens before its patches, or attention pooling; a member has one CLS "
            "token, whose features its head reads."
        )
    if (pooling := getattr(model, "global_pool", "token")) != "token":
        raise ArgumentTypeError(f"{name} has global_pool={pooling!r}; a member's head reads the CLS token ('token').")
    if not isinstance(getattr(model, "fc_norm", nn.Identity()), nn.Identity):
        raise ArgumentTypeError(f"{name} has a norm after pooling (fc_norm); a member has one norm, before.")
    patches = getattr(model.patch_embed, "num_patches", model.pos_embed.shape[1] - 1)
    return AdaptedMember(
        model,
        TimmEmbedding(model),
        nn.ModuleList(encoder.blocks),
        model.norm,
        model.head,
        embed_dim=encoder.dim,
        num_heads=encoder.heads,
        n_tokens=patches + 1,
        n_classes=model.head.out_features,
        patch_features=projection.weight[0].numel(),
    )


# -- Transformers ------------------------------------------------------------------------------------------------------


class TransformersBlock(nn.Module):
    """A layer of Transformers as a block: tokens to tokens, whatever else the layer returns.

    Parameters
    ----------
    layer
        The layer.
    family
        Where its parts are.
    """

    def __init__(self, layer: nn.Module, family: EncoderFamily) -> None:
        super().__init__()
        self.layer, self.family = layer, family

    @property
    def attn(self) -> nn.Module:
        """What gives the attention after its projection, before the residual is added."""
        family = self.family  # BERT's attention adds the residual itself
        return self.layer.get_submodule(family.output if family.order == "post" else family.attention)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        return first(self.layer(x))


def _from_transformers(model: Any, encoder: Encoder, head: nn.Module | None, n_tokens: int | None) -> AdaptedMember:
    name, d, family = type(model).__name__, encoder.dim, encoder.family
    config = cast(Any, encoder.module).config
    post = family.order == "post"
    norm = nn.Identity() if post else encoder.final_norm
    if encoder.embeddings is None or norm is None or not (post or encoder.class_token):
        raise ArgumentTypeError(f"{name} ({family.name}) has no CLS token that a final norm and a head read.")
    head = _head(model, encoder) if head is None else head
    linear = [part for part in head.modules() if isinstance(part, nn.Linear)] if head is not None else []
    if head is None or not linear or linear[0].in_features != d:
        raise ArgumentTypeError(
            f"{name} has no head that reads the CLS token of width {d} alone; give its backbone one: as_member("
            f"backbone, head=nn.Linear({d}, n_classes))."
        )
    patches = encoder.patches
    return AdaptedMember(
        model,
        encoder.embeddings,
        nn.ModuleList(TransformersBlock(layer, family) for layer in encoder.blocks),
        norm,
        head,
        embed_dim=d,
        num_heads=encoder.heads,
        n_tokens=_tokens(encoder, config) if n_tokens is None else n_tokens,
        n_classes=linear[-1].out_features,
        patch_features=0 if patches is None else patches.weight[0].numel(),
    )


def _tokens(encoder: Encoder, config: Any) -> int:
    """Tokens of an input of the size that the configuration names."""
    if encoder.patches is None:
        return config.max_position_embeddings
    sides = config.image_size if isinstance(config.image_size, list | tuple) else [config.image_size] * 2
    kernel = cast("tuple[int, ...]", encoder.patches.kernel_size)
    return encoder.prefix_tokens + (sides[0] // kernel[0]) * (sides[1] // kernel[1])


def _head(model: Any, encoder: Encoder) -> nn.Module | None:
    """The linear classifier, after BERT's pooler where there is one; None for another head."""
    classifier = getattr(model, "classifier", None)
    if not isinstance(classifier, nn.Linear):
        return None
    pooler = getattr(encoder.module, "pooler", None)
    if encoder.family.order == "pre" or pooler is None:
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
