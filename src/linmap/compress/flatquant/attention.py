"""Queries, keys and values on their way to attention: P_h after the rotary embedding, and quantisation.

Transformers applies the rotary embedding inside the attention module, then hands keys and values to the cache and all
three to an attention function. `CacheTransform` comes in at these two places: the cache that the module receives is
wrapped, so that what is stored are codes of k P_h and v, and the attention function is wrapped, so that queries become
q P_h^-T. No attention code is replaced, and the model's own choice of an attention function holds.

The cache keeps codes, two to a byte up to four bits, and a scale for each token and head. A token's codes come from the
token alone and are never computed again. The layers of a growing cache of Transformers are replaced by those below at
their first update; a cache of another kind keeps its layers and holds rounded numbers.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from linmap.compress.flatquant.native import layer as native
from linmap.compress.flatquant.quantizer import (
    CLIP_LOGIT,
    dequantize,
    fake_quantize,
    join_nibbles,
    quantize,
    unpack_int4,
)
from linmap.errors import ArgumentError, ArgumentTypeError

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
    cast(Any, attention).config = ConfigView(config)
    attention.register_forward_pre_hook(wrap_cache, with_kwargs=True)
    attention.register_forward_hook(check_queries)


def wrap_cache(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    transform = cast(CacheTransform, attention.cache_transform)
    return args, kwargs | {"past_key_values": Passage(kwargs.get("past_key_values"), transform)}


def check_queries(attention: nn.Module, *_: Any) -> None:
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
        self,
        bits: tuple[int, int, int],
        symmetric: tuple[bool, bool, bool],
        head_dim: int,
        matrix: bool,
        clip: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(bits, symmetric)
        for name in ("key_matrix", "query_matrix"):
            self.register_buffer(name, torch.eye(head_dim, dtype=dtype) if matrix else None)
        for name, b in zip("qkv", bits, strict=True):
            for side in ("max", "min"):
                logit = torch.tensor(CLIP_LOGIT, dtype=dtype) if clip and b < 16 else None
                self.register_buffer(f"{name}_{side}", logit)

    def matrices(self) -> tuple[Tensor | None, Tensor | None]:
        return cast("Tensor | None", self.key_matrix), cast("Tensor | None", self.query_matrix)


# -- the cache ---------------------------------------------------------------------------------------------------------


class TokenQuantizer(NamedTuple):
    """Rounds each row of the last dimension with a scale of its own; 16 bits leave it as it is."""

    bits: int
    symmetric: bool
    max_logit: Tensor | None = None
    min_logit: Tensor | None = None

    def __call__(self, x: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch e"]:
        return fake_quantize(x, self.bits, self.symmetric, self.max_logit, self.min_logit, per="token")[0]

    def encode(self, x: Float[Tensor, "*batch e"]) -> list[Tensor]:
        """Codes, scales and zero points, as they are kept."""
        if self.bits == 16:
            return [x]
        if native.runs(x) and not torch.compiler.is_compiling():
            logits = self.max_logit, self.min_logit
            if all(logit is None or logit.dtype is torch.float32 for logit in logits):
                codes, scale, zero = native.encode(x, logits, self.bits, self.symmetric)
                return [codes, scale] if zero is None else [codes, scale, zero]
        codes, scale, zero = quantize(x, self.bits, self.symmetric, self.max_logit, self.min_logit, per="token")
        if self.bits <= 4:
            codes = join_nibbles(F.pad(codes, (0, 1)) if x.shape[-1] % 2 else codes)
        return [codes, scale] if zero is None else [codes, scale, zero.to(torch.uint8)]

    def decode(self, parts: list[Tensor], e: int, dtype: torch.dtype) -> Float[Tensor, "*batch e"]:
        """The numbers that `encode` rounded to."""
        codes, *rest = parts
        if self.bits == 16:
            return codes
        if self.bits <= 4:
            codes = unpack_int4(codes, signed=self.symmetric)[..., :e]
        scale = rest[0]
        return dequantize(codes, scale, rest[1].to(scale.dtype) if len(rest) > 1 else None).to(dtype)


class Tokens:
    """Codes of the tokens from `start` to `stop`, in tensors (batch, heads, room, ...) that leave room for more."""

    def __init__(self, quantizer: TokenQuantizer) -> None:
        self.quantizer = quantizer
        self.parts: list[Tensor] = []
        self.start = self.stop = 0

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        return sum(part.element_size() * part[..., self.start : self.stop, :].numel() for part in self.parts)

    @torch.no_grad()
    def append(self, x: Float[Tensor, "batch heads tokens e"]) -> None:
        self.e, self.dtype = x.shape[-1], x.dtype
        new = self.quantizer.encode(x)
        if not self.parts:
            self.parts = [part[..., :0, :] for part in new]
        n = x.shape[-2]
        self.make_room(n)
        for part, codes in zip(self.parts, new, strict=True):
            part[..., self.stop : self.stop + n, :] = codes
        self.stop += n

    def make_room(self, n: int) -> None:
        """For n tokens more."""
        if self.stop + n > self.parts[0].shape[-2]:
            self._move(len(self) + n)

    def _move(self, needed: int) -> None:
        """Into tensors with a quarter more room than is needed, so that a token is moved a few times at most."""
        room = needed + max(32, needed // 4)
        parts = [part.new_empty(*part.shape[:-2], room, part.shape[-1]) for part in self.parts]
        for new, old in zip(parts, self.parts, strict=True):
            new[..., : len(self), :] = old[..., self.start : self.stop, :]
        self.parts, self.start, self.stop = parts, 0, len(self)

    def numbers(self, last: int | None = None) -> Float[Tensor, "batch heads tokens e"]:
        """All tokens, or the last ones."""
        start = self.start if last is None else max(self.start, self.stop - last)
        return self.quantizer.decode([part[..., start : self.stop, :] for part in self.parts], self.e, self.dtype)

    def drop(self, n: int) -> None:
        """Forget the last n tokens."""
        self.stop = max(self.start, self.stop - n)

    def keep(self, n: int) -> None:
        """Forget all but the last n tokens."""
        self.start = max(self.start, self.stop - n)
        if self.parts and self.parts[0].shape[-2] > 2 * len(self) + 64:
            self._move(len(self))

    def change(self, f: Callable[[Tensor], Tensor]) -> None:
        self.parts = [f(part) for part in self.parts]


class _Packed:
    """What the two kinds of layers share; `keys` and `values` are read-only."""

    tokens: tuple[Tokens, Tokens]
    is_initialized: bool

    def _start(self, key: TokenQuantizer, value: TokenQuantizer) -> None:
        self.tokens = Tokens(key), Tokens(value)
        self.is_initialized = False

    @property
    def keys(self) -> Tensor | None:
        return self.tokens[0].numbers() if self.is_initialized else None

    @property
    def values(self) -> Tensor | None:
        return self.tokens[1].numbers() if self.is_initialized else None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        for tokens, states in zip(self.tokens, (key_states, value_states), strict=True):
            tokens.append(states[..., :0, :])
        self.is_initialized = True

    def _append(self, key_states: Tensor, value_states: Tensor) -> None:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for tokens, states in zip(self.tokens, (key_states, value_states), strict=True):
            tokens.append(states)

    def _change(self, f: Callable[[Tensor], Tensor]) -> None:
        for tokens in self.tokens:
            tokens.change(f)

    def reset(self) -> None:
        self._start(*(tokens.quantizer for tokens in self.tokens))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._change(lambda part: part.index_select(0, beam_idx.to(part.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._change(lambda part: part.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._change(lambda part: part[indices])

    def offload(self) -> None:
        self._change(lambda part: part.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        self._change(lambda part: part.to(self.device, non_blocking=True))

    def _drop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ArgumentError(f"crop takes the negative number of tokens to remove, got {tokens_to_remove}.")
        for tokens in self.tokens:
            tokens.drop(-tokens_to_remove)


class PackedLayer(_Packed, DynamicLayer):
    """Keys and values of all tokens, as codes."""

    def __init__(self, key: TokenQuantizer, value: TokenQuantizer) -> None:
        self._start(key, value)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._append(key_states, value_states)
        return self.tokens[0].numbers(), self.tokens[1].numbers()

    def get_seq_length(self) -> int:
        return len(self.tokens[0])

    def crop(self, tokens_to_remove: int) -> None:
        self._drop(tokens_to_remove)


class PackedSlidingWindowLayer(_Packed, DynamicSlidingWindowLayer):
    """Keys and values of the tokens that the next one can see, as codes."""

    def __init__(self, key: TokenQuantizer, value: TokenQuantizer, sliding_window: int, record_past: bool) -> None:
        self._start(key, value)
        self.sliding_window = sliding_window
        self.record_past = record_past
        self.cumulative_length = 0
        self._sliding_window_tensor = torch.tensor(sliding_window)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._append(key_states, value_states)
        n = key_states.shape[-2]
        self.cumulative_length += n
        seen = self.sliding_window - 1 + n
        keys, values = self.tokens[0].numbers(seen), self.tokens[1].numbers(seen)
        if not self.record_past:
            self._keep_window()
        return keys, values

    def _keep_window(self) -> None:
        for tokens in self.tokens:
            tokens.keep(self.sliding_window - 1)

    def reset(self) -> None:
        super().reset()
        self.cumulative_length = 0

    def crop(self, tokens_to_remove: int) -> None:
        full = self.cumulative_length >= self.sliding_window
        if full and not self.record_past:
            raise RuntimeError(
                "the tokens before the sliding window are gone, so that crop cannot bring them back; call "
                "`activate_past_recording` first."
            )
        self._drop(tokens_to_remove)
        self.cumulative_length += tokens_to_remove
        if full:
            self._keep_window()


def packs(cache: Any, layer_idx: int, key: TokenQuantizer, value: TokenQuantizer, differentiable: bool = False) -> bool:
    """Whether a layer of a cache keeps codes; a layer that is still empty and of a plain growing kind is replaced.

    Codes have no gradient: where one is wanted (`differentiable`), an empty layer stays as it is.
    """
    layers = getattr(cache, "layers", None)
    if layers is None or (key.bits == 16 and value.bits == 16):
        return False
    if cache.layer_class_to_replicate is DynamicLayer:
        layers.extend(DynamicLayer() for _ in range(len(layers), layer_idx + 1))
    layer = layers[layer_idx]
    if isinstance(layer, _Packed) or differentiable:
        return isinstance(layer, _Packed)
    if type(layer) is DynamicLayer and not layer.is_initialized:
        layers[layer_idx] = PackedLayer(key, value)
    elif type(layer) is DynamicSlidingWindowLayer and not layer.is_initialized:
        layers[layer_idx] = PackedSlidingWindowLayer(key, value, layer.sliding_window, layer.record_past)
    return isinstance(layers[layer_idx], _Packed)


def cache_bytes(cache: Cache) -> int:
    """Bytes of what a cache keeps of its tokens, without the room that it leaves for more."""
    total = 0
    for layer in cache.layers:
        if isinstance(layer, _Packed):
            total += sum(tokens.nbytes for tokens in layer.tokens)
        elif isinstance(layer, CacheLayerMixin) and layer.keys is not None and layer.values is not None:
            total += layer.keys.nbytes + layer.values.nbytes
    return total
