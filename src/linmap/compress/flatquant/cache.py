"""The cache of keys and values in few bits: codes, two to a byte up to four bits, and a scale for each token and head.

A token's codes come from the token alone and are never computed again. The layers of a growing cache of Transformers
are replaced by those below at their first update; a cache of another kind keeps its layers and holds rounded numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from linmap.compress.flatquant.quantizer import dequantize, fake_quantize, join_nibbles, quantize, unpack_int4
from linmap.errors import ArgumentError


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
        if self.stop + n > self.parts[0].shape[-2]:
            self._move(len(self) + n)
        for part, codes in zip(self.parts, new, strict=True):
            part[..., self.stop : self.stop + n, :] = codes
        self.stop += n

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
