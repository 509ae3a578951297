"""Queries, keys and values on their way to attention: P_h after the rotary embedding, and quantisation.

Transformers applies the rotary embedding inside the attention module, then hands keys and values to the cache and all
three to an attention function. `CacheTransform` comes in at these two places: the cache that the module receives is
wrapped, so that what is stored are codes of k P_h and v, and the attention function is wrapped, so that queries become
q P_h^-T. No attention code is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from linmap.compress.flatquant.quantizer import fake_quantize

PREFIX = "linmap_flatquant_"  # of the names of the wrapped attention functions


class CacheTransform(nn.Module):
    """P_h and the quantisers of queries, keys and values; `matrices` and `clips` are what the subclasses hold."""

    def __init__(self, bits: tuple[int, int, int], symmetric: tuple[bool, bool, bool]) -> None:
        super().__init__()
        self.bits = bits
        self.symmetric = symmetric
        self.waiting = False  # for the queries of keys that were transformed

    def matrices(self) -> tuple[Tensor | None, Tensor | None]:
        """P_h for keys and P_h^-T for queries."""
        raise NotImplementedError

    def query(self, q: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch e"]:
        self.waiting = False
        return self._quantised(q, self.matrices()[1], 0, "q")

    def key(self, k: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch e"]:
        self.waiting = True
        return self._quantised(k, self.matrices()[0], 1, "k")

    def value(self, v: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch e"]:
        return self._quantised(v, None, 2, "v")

    def _quantised(self, x: Tensor, P: Tensor | None, i: int, name: str) -> Tensor:
        if P is not None:
            x = x @ P.to(x.dtype)
        if self.bits[i] == 16:
            return x
        max_logit, min_logit = getattr(self, f"{name}_max", None), getattr(self, f"{name}_min", None)
        return fake_quantize(x, self.bits[i], self.symmetric[i], max_logit, min_logit, per="token")[0]


class Passage:
    """A cache (or none) through which keys and values pass transformed and quantised."""

    def __init__(self, cache: Any, transform: CacheTransform) -> None:
        self.cache = cache
        self.transform = transform

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        key, value = self.transform.key(key), self.transform.value(value)
        if self.cache is None:
            return key, value
        return self.cache.update(key, value, layer_idx, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)


def attach_cache_transform(attention: nn.Module, transform: CacheTransform, config: PretrainedConfig) -> None:
    """Let the queries, keys and values of an attention module pass through `transform`.

    `config` is the model's; its attention function becomes the wrapped one, for all its modules: those without a
    transform see no difference.
    """
    attention.cache_transform = transform
    attention.register_forward_pre_hook(_wrap_cache, with_kwargs=True)
    attention.register_forward_hook(_check_queries)
    config._attn_implementation = wrapped_implementation(config._attn_implementation)


def _wrap_cache(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    transform = cast(CacheTransform, attention.cache_transform)
    return args, kwargs | {"past_key_values": Passage(kwargs.get("past_key_values"), transform)}


def _check_queries(attention: nn.Module, *_: Any) -> None:
    if cast(CacheTransform, attention.cache_transform).waiting:
        raise RuntimeError(
            f"{type(attention).__name__} attended with transformed keys and plain queries: its attention function was "
            "changed after the model was quantised. Choose it when loading: "
            "from_pretrained(folder, attn_implementation=...)."
        )


def wrapped_implementation(name: str | None) -> str:
    """The name of an attention function that transforms the queries first, registered with Transformers."""
    name = name or "eager"
    if name.startswith(PREFIX):
        return name
    wrapped = PREFIX + name

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        transform = getattr(module, "cache_transform", None)
        if transform is not None:
            query = transform.query(query)
        return _attention_function(name, module)(module, query, key, value, *args, **kwargs)

    AttentionInterface.register(wrapped, attend)
    masks = AttentionMaskInterface()
    if name in masks:
        AttentionMaskInterface.register(wrapped, masks[name])
    return wrapped


def _attention_function(name: str, module: nn.Module) -> Callable[..., Any]:
    """As the attention modules find it: a registered one, or "eager", which each file of models has for itself."""
    if name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[name]


class TrainedCacheTransform(CacheTransform):
    """P_h from a trainable factor, and clipping logits; `refresh` computes the matrices once a step."""

    def __init__(
        self, bits: tuple[int, int, int], symmetric: tuple[bool, bool, bool], factor: nn.Module | None, clip: bool
    ) -> None:
        super().__init__(bits, symmetric)
        self.factor = factor
        self.pair: Any = (None, None)
        for name, b in zip("qkv", bits, strict=True):
            for side in ("max", "min"):
                logit = nn.Parameter(torch.tensor(4.0)) if clip and b < 16 else None
                self.register_parameter(f"{name}_{side}", logit)

    def refresh(self) -> None:
        if self.factor is not None:
            with torch.autocast("cpu", enabled=False):
                self.pair = self.factor()

    def matrices(self) -> tuple[Tensor | None, Tensor | None]:
        return self.pair[0], self.pair[1]


class OnlineCacheTransform(CacheTransform):
    """P_h and P_h^-T as buffers, of the quantised model."""

    def __init__(
        self, bits: tuple[int, int, int], symmetric: tuple[bool, bool, bool], head_dim: int, matrix: bool, clip: bool
    ) -> None:
        super().__init__(bits, symmetric)
        for name in ("key_matrix", "query_matrix"):
            self.register_buffer(name, torch.eye(head_dim) if matrix else None)
        for name, b in zip("qkv", bits, strict=True):
            for side in ("max", "min"):
                self.register_buffer(f"{name}_{side}", torch.tensor(4.0) if clip and b < 16 else None)

    def matrices(self) -> tuple[Tensor | None, Tensor | None]:
        return cast("Tensor | None", self.key_matrix), cast("Tensor | None", self.query_matrix)
