"""`compress`: fewer tokens inside a trained encoder, without training it and without changing its class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from linmap.compress.encoders import Encoder, find_encoder
from linmap.compress.token_transforming.blocks import BlockForward, Capture
from linmap.compress.token_transforming.budget import Budget, model_size, read_budget
from linmap.compress.token_transforming.encoder_handle import CompressedEncoder
from linmap.compress.token_transforming.flow import needs
from linmap.compress.token_transforming.handle import Pruned, Restore, compressed
from linmap.compress.token_transforming.latency import solve_latency
from linmap.compress.token_transforming.patches import Hook, Patch
from linmap.compress.token_transforming.readers import (
    CLASS_TOKEN_HEADS,
    MEAN_HEADS,
    AttentionPoolMask,
    EncoderForward,
    FeaturesForward,
    PoolForward,
    Reading,
    SentencePooling,
)
from linmap.compress.token_transforming.token_transform import TokenTransform
from linmap.errors import ArgumentError, ArgumentTypeError


def compress(
    model: nn.Module,
    *,
    keep: float | None = None,
    r: int | tuple[int, float] | None = None,
    stages: tuple[float, Sequence[int]] | None = None,
    schedule: Mapping[int, int] | None = None,
    target_flops: float | None = None,
    target_speedup: float | None = None,
    example: Any = None,
    transform: TokenTransform | None = None,
    restore: Restore = None,
    hard_restore: bool = False,
    pruned: Pruned = "error",
    debug: bool = False,
) -> CompressedEncoder:
    """Make a trained encoder run on fewer tokens.

    The model stays the object that it is: its class, its parameters and the keys of its state_dict do not change, and
    `handle.remove()` makes it what it was, bit for bit. A copy of a compressed model is compressed too
    (`compressed(copy)` is its handle).

    Parameters
    ----------
    model
        A ViT of timm's form (or `VisionTransformer`), a ViT, DeiT, DINOv2 (with or without registers), the vision tower
        of CLIP or SigLIP, or a BERT-like encoder of Transformers; or a model that holds one, such as a classifier, a
        segmenter or a SentenceTransformer. (Decoders: `compress_prefill`.)
    keep
        Share of the unprotected tokens that each layer keeps. In a padded batch all counts follow the padded length, so
        that shorter samples lose less.
    r
        Tokens that each layer removes, or (r, inflection) as of `tome_removals`.
    stages
        (keep, layers): the share that is kept at each of these layers.
    schedule
        {layer: M}: tokens left after a layer, the protected ones counted.
    target_flops
        Share of the plain model's MACs, the transformations' own included: the smallest constant r.
    target_speedup, example
        How many times as fast the model shall be on `example`, its input as it is given to the model (a tensor, a tuple
        or a mapping), measured here and now: three stages where `solve_stages` puts them, and the largest
        share that is fast enough.
    transform
        How tokens are transformed; None for `TokenTransform()`. `protect` is at least the number of prefix tokens.
    restore
        None: the final tokens are fewer. "end": the encoder's token outputs (`last_hidden_state`, `hidden_states`,
        `forward_features`) are restored to all N tokens. "block": each chosen block is compressed by itself and its
        change of the tokens is restored; pre-LN only. A larger model around the encoder that reads tokens in a way that
        is not known here gets them restored in any case.
    hard_restore
        Each token gets the value of its one main output instead of a mixture.
    pruned
        What tokens that were dropped are restored as: "error" refuses, "zero", or "nearest": the output whose centre is
        most similar.
    debug
        Check every layer for NaN.

    Returns
    -------
    CompressedEncoder
        The handle, a `Compressed`.

    Warns
    -----
    UserWarning
        If the model is in training mode.

    Raises
    ------
    TypeError
        If the model has no blocks that are recognised, with what was looked for.
    ValueError
        If not exactly one budget is given, or it is out of its range; if the score needs a class token that the model
        does not have; if the model is compressed already; if tokens that are dropped would have to be restored; if a
        target cannot be reached, with what can.

    Examples
    --------
    >>> with compress(model, stages=(0.65, (3, 6, 9))) as handle:  # doctest: +SKIP
    ...     logits = model(images)
    ...     handle.macs(197)
    """
    encoder = find_encoder(model)
    transform = TokenTransform() if transform is None else transform
    _check(model, encoder, transform, restore, pruned)
    transform = replace(transform, protect=max(transform.protect, encoder.prefix_tokens))
    depth = len(encoder.blocks)
    given = {"keep": keep, "r": r, "stages": stages, "schedule": schedule, "target_flops": target_flops}
    if target_speedup is None:
        budget = read_budget(depth, transform.protect, **given)
    elif any(value is not None for value in given.values()):
        raise ArgumentError("target_speedup is a budget; give no other one beside it.")
    else:
        budget = Budget("stages", (1.0, ()))
    handle = CompressedEncoder(
        model,
        encoder,
        budget,
        model_size(encoder, model, transform.feature, restore == "block"),
        transform,
        _score(encoder, transform),
        restores=restore,
        hard_restore=hard_restore,
        pruned=pruned,
        reading=_reading(model, encoder, transform, restore, pruned),
        debug=debug,
    )
    blocks = [BlockForward(handle, layer, block) for layer, block in enumerate(encoder.blocks)]
    handle.install([*blocks, *_captures(handle, needs(transform, handle.score)), *_around(handle, model)])
    if target_speedup is not None:
        solve_latency(handle, target_speedup, example)
    return handle


def _check(model: nn.Module, encoder: Encoder, transform: TokenTransform, restore: Any, pruned: Any) -> None:
    if compressed(model) is not None:
        raise ArgumentError("the model is already compressed; call handle.remove() first.")
    if not isinstance(transform, TokenTransform):
        raise ArgumentTypeError(f"transform is a {type(transform).__name__}, and a TokenTransform is expected.")
    if transform.causal:
        raise ArgumentError("causal=True is for decoders (compress_prefill); encoders see all tokens.")
    if restore not in (None, "end", "block"):
        raise ArgumentError(f"restore={restore!r} must be None, 'end' or 'block'.")
    if pruned not in ("error", "zero", "nearest"):
        raise ArgumentError(f"pruned={pruned!r} must be 'error', 'zero' or 'nearest'.")
    if restore == "block" and encoder.family.order == "post":
        raise ArgumentError(f"restore='block' is for pre-LN blocks, and those of a {encoder.family.name} are post-LN.")
    if restore is not None and transform.drops and pruned == "error":
        raise ArgumentError(
            f"restore={restore!r} cannot bring back tokens that the transform drops (assign='prune' or min_sim); "
            "choose pruned='nearest' or pruned='zero', or a transform that merges."
        )
    if getattr(getattr(encoder.module, "config", None), "is_decoder", False):
        raise ArgumentTypeError(f"{type(encoder.module).__name__} is configured as a decoder (is_decoder=True).")
    if model.training:
        warnings.warn(
            "the model is in training mode: dropout acts, and gradients flow through the transformations; call "
            "model.eval() to use it as it is.",
            stacklevel=3,
        )


def _score(encoder: Encoder, transform: TokenTransform) -> str:
    """What importance is, for this encoder; "callable" for a function."""
    if callable(transform.score):
        return "callable"
    if transform.score == "auto":
        return "cls" if encoder.class_token else "received"
    if transform.score == "cls" and not (encoder.class_token or encoder.family.order == "post"):
        raise ArgumentError(
            f"score='cls' needs a class token, and {type(encoder.module).__name__} has none; use 'received'."
        )
    return transform.score


def _reading(
    model: nn.Module, encoder: Encoder, transform: TokenTransform, restore: Restore, pruned: Pruned
) -> Reading:
    """How what stands around the encoder reads its tokens."""
    if restore == "end" or _gives_maps(encoder):
        reading: Reading = "restored"
    elif restore == "block" or not encoder.path or encoder.family.qkv:
        return "as they are"
    else:
        around = {type(module).__name__ for module in model.modules()} | {type(model).__name__}
        if around & set(MEAN_HEADS):
            return "mean"
        if around & set(CLASS_TOKEN_HEADS) or (_poolings(model) and transform.drops):
            return "as they are"
        reading = "restored"
    if transform.drops and pruned == "error":
        where = f", or compress the encoder itself (model.{encoder.path})" if encoder.path else ""
        raise ArgumentError(
            f"{type(model).__name__} reads all tokens of its encoder, and the transform drops some (assign='prune' or "
            f"min_sim); choose pruned='nearest' or 'zero', or a transform that merges{where}."
        )
    return reading


def _gives_maps(encoder: Encoder) -> bool:
    return type(encoder.module).__name__.endswith("Backbone")


def _poolings(model: nn.Module) -> list[nn.Module]:
    """SentenceTransformers' pooling modules."""
    return [
        module for module in model.modules() if type(module).__name__ == "Pooling" and hasattr(module, "pooling_mode")
    ]


def _captures(handle: CompressedEncoder, roles: tuple[str, ...]) -> list[Hook]:
    """Hooks that keep the projections of the blocks."""
    if handle.restores == "block" or handle.encoder.family.qkv:
        return []
    hooks = []
    for block in handle.encoder.blocks:
        for role in roles:
            part = handle.encoder.part(block, role)
            assert part is not None
            hooks.append(Hook(part, Capture(handle, role)))
    return hooks


def _around(handle: CompressedEncoder, model: nn.Module) -> list[Patch | Hook]:
    """Methods and hooks around the blocks."""
    encoder, module = handle.encoder, handle.encoder.module
    if encoder.family.qkv:
        return _around_timm(handle, module)
    around: list[Patch | Hook] = [
        EncoderForward(handle, module.get_submodule("encoder") if _gives_maps(encoder) else module)
    ]
    head = getattr(module, "head", None)
    if encoder.family.model_types == ("siglip_vision_model",) and head is not None:
        around.append(Hook(head.attention, AttentionPoolMask(handle), before=True, keywords=True))
    if handle.transform.drops:
        around += [Hook(pooling, SentencePooling(handle), before=True) for pooling in _poolings(model)]
    return around


def _around_timm(handle: CompressedEncoder, module: nn.Module) -> list[Patch | Hook]:
    patches: list[Patch | Hook] = []
    kind = getattr(module, "global_pool", None)
    unknown = kind is None and not handle.encoder.class_token and isinstance(getattr(module, "head", None), nn.Linear)
    if kind not in (None, "", "token", "avg") or unknown or (kind == "avg" and not hasattr(module, "pool")):
        raise ArgumentTypeError(
            f"{type(module).__name__} pools its tokens with global_pool={kind!r} and "
            f"{'a' if hasattr(module, 'pool') else 'no'} method `pool`; 'token' and '' are supported, and 'avg' with a "
            "method pool(x, pool_type=None), which becomes the mean by masses."
        )
    if kind == "avg":
        patches.append(PoolForward(handle, module))
    if handle.restores == "end":
        name = "forward_features" if hasattr(module, "forward_features") else "forward"
        patches.append(FeaturesForward(handle, module, name))
    return patches
