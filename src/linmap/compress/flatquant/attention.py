"""Queries, keys and values on their way to attention: P_h after the rotary embedding, and quantisation.

Transformers applies the rotary embedding inside the attention module, then hands keys and values to the cache and all
three to an attention function. `CacheTransform` comes in at these two places: the cache that the module receives is
wrapped, so that what is stored are codes of k P_h and v, and the attention function is wrapped, so that queries become
q P_h^-T. No attention code is replaced, and the model's own choice of an attention function holds.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from linmap.compress.flatquant.cache import TokenQuantizer, packs
from linmap.compress.flatquant.quantizer import CLIP_LOGIT
from linmap.errors import ArgumentTypeError

NAME = "linmap_flatquant"  # of the attention function that transforms the queries first


class CacheTransform(nn.Module):
    """P_h and the quantisers of queries, keys and values; `matrices` and the clipping logits are the subclasses'."""

    def __init__(self, bits: tuple[int, int, int], symmetric: tuple[bool, bool, bool]) -> None:
        super().__init__()
        self.bits = dict(zip("qkv", bits, strict=True))
        self.symmetric = dict(zip("qkv", symmetric, strict=True))
        self.waiting = False  # for the queries of keys that were transformed

    def matrices(self) -> tuple[Tensor | None, Tensor | None]:
        """P_h for keys and P_h^-T for queries."""
        return None, None

    def quantizer(self, name: str) -> TokenQuantizer:
        """Of the queries "q", keys "k" or values "v": one scale a token and head."""
        logits = getattr(self, f"{name}_max", None), getattr(self, f"{name}_min", None)
        return TokenQuantizer(self.bits[name], self.symmetric[name], *logits)

    def queries(self, q: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch e"]:
        """Q(q P_h^-T).

        Raises
        ------
        RuntimeError
            If no keys were transformed before.
        """
        if not self.waiting:
            raise RuntimeError(
                "queries came without keys: this attention module does not hand its keys and values to "
                "`past_key_values.update`, so that they cannot be transformed; set q_bits=16, k_bits=16 and v_bits=16."
            )
        self.waiting = False
        return self.quantizer("q")(_product(q, self.matrices()[1]))

    def stored(self, cache: Any, key: Tensor, value: Tensor, layer_idx: int, *args: Any) -> tuple[Tensor, Tensor]:
        """Q(k P_h) and Q(v) of all tokens so far, kept as codes where the cache can grow, as numbers elsewhere."""
        self.waiting = True
        key = _product(key, self.matrices()[0])
        quantizers = self.quantizer("k"), self.quantizer("v")
        if cache is not None and packs(cache, layer_idx, *quantizers, key.requires_grad):
            return cache.update(key, value, layer_idx, *args)
        key, value = quantizers[0](key), quantizers[1](value)
        return (key, value) if cache is None else cache.update(key, value, layer_idx, *args)


def _product(x: Tensor, P: Tensor | None) -> Tensor:
    return x if P is None else x @ P.to(x.dtype)


class Passage:
    """A cache (or none) through which keys and values pass transformed and quantised."""

    def __init__(self, cache: Any, transform: CacheTransform) -> None:
        self.cache = cache
        self.transform = transform

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args: Any) -> tuple[Tensor, Tensor]:
        return self.transform.stored(self.cache, key, value, layer_idx, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)


class ConfigView:
    """The config of an attention module, but for the name of the attention function."""

    _attn_implementation = NAME

    def __init__(self, config: PretrainedConfig) -> None:
        self.original = config

    def __getattr__(self, name: str) -> Any:
        if name == "original":  # not there yet: somebody copies this object
            raise AttributeError(name)
        return getattr(self.original, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(copy.deepcopy(self.original, memo))  # that of the copied model, which changes with it


def configs_of(module: nn.Module) -> list[PretrainedConfig]:
    """The configs that a module and those inside it look at."""
    found = [getattr(m, "config", None) for m in module.modules()]
    found = [config.original if isinstance(config, ConfigView) else config for config in found]
    return [config for config in found if isinstance(config, PretrainedConfig)]


def attach_cache_transform(attention: nn.Module, transform: CacheTransform) -> None:
    """Let the queries, keys and values of an attention module pass through `transform`.

    Raises
    ------
    TypeError
        If the module does not look up its attention function in a config, as those of Transformers do.
    """
    config = getattr(attention, "config", None)
    if not isinstance(config, PretrainedConfig):
        raise ArgumentTypeError(
            f"{type(attention).__name__} has no `config` with the name of an attention function, so that its queries "
            "and keys cannot be transformed; set q_bits=16, k_bits=16 and v_bits=16."
        )
    attention.cache_transform = transform
    attention.config = ConfigView(config)  # pyright: ignore[reportArgumentType]
    attention.register_forward_pre_hook(_wrap_cache, with_kwargs=True)
    attention.register_forward_hook(_check_queries)


def _wrap_cache(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    transform = cast(CacheTransform, attention.cache_transform)
    return args, kwargs | {"past_key_values": Passage(kwargs.get("past_key_values"), transform)}


def _check_queries(attention: nn.Module, *_: Any) -> None:
    if cast(CacheTransform, attention.cache_transform).waiting:
        raise RuntimeError(
            f"{type(attention).__name__} attended with transformed keys and plain queries: it does not call the "
            "attention function that its config names; set q_bits=16, k_bits=16 and v_bits=16."
        )


def _attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The model's attention function over transformed queries."""
    view = cast(ConfigView, module.config)
    query = cast(CacheTransform, module.cache_transform).queries(query)
    module.config = view.original  # pyright: ignore[reportArgumentType]  # flash attention reads its own name there
    try:
        attend = _attention_function(view.original._attn_implementation, module)
        return attend(module, query, key, value, *args, **kwargs)
    finally:
        module.config = view  # pyright: ignore[reportArgumentType]


AttentionInterface.register(NAME, _attend)


def _attention_function(name: str | None, module: nn.Module) -> Callable[..., Any]:
    """As the attention modules find it: a registered one, or "eager", which each file of models has for itself."""
    if name is None or name == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, _attend)


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
                logit = nn.Parameter(torch.tensor(CLIP_LOGIT)) if clip and b < 16 else None
                self.register_parameter(f"{name}_{side}", logit)

    def refresh(self) -> None:
        if self.factor is not None:
            device = next((t.device.type for t in (*self.factor.parameters(), *self.factor.buffers())), "cpu")
            with torch.autocast(device, enabled=False):
                self.pair = self.factor()

    def matrices(self) -> tuple[Tensor | None, Tensor | None]:
        return self.pair[0], self.pair[1]


class OnlineCacheTransform(CacheTransform):
    """P_h and P_h^-T as buffers, of the quantised model."""

    def __init__(
        self, bits: tuple[int, int, int], symmetric: tuple[bool, bool, bool], head_dim: int, matrix: bool, clip: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        super().__init__(bits, symmetric)
        for name in ("key_matrix", "query_matrix"):
            self.register_buffer(name, torch.eye(head_dim, dtype=dtype) if matrix else None)
        for name, b in zip("qkv", bits, strict=True):
            for side in ("max", "min"):
                logit = torch.tensor(CLIP_LOGIT, dtype=dtype) if clip and b < 16 else None
                self.register_buffer(f"{name}_{side}", logit)

    def matrices(self) -> tuple[Tensor | None, Tensor | None]:
        return cast("Tensor | None", self.key_matrix), cast("Tensor | None", self.query_matrix)
