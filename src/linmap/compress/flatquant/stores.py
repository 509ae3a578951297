"""Where the codes of a cache lie, as `native/block.cpp` takes them.

A step writes behind the tokens of some sixty tensors of codes and as many of scales, and moves none of them: they are
looked at whole once, and again when a layer of the cache has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, is_
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from linmap.compress.flatquant.attention import PackedLayer, TokenQuantizer, Tokens, packs

NUMBERS = 11  # of a `Store`: three parts of a place and two strides, the tokens before and behind
START, STOP = 9, 10
PAIR, PARTS, QUANTIZER = attrgetter("tokens"), attrgetter("parts"), attrgetter("quantizer")
STARTS, STOPS = attrgetter("start"), attrgetter("stop")


class Stores:
    """The codes of some layers of a cache.

    Attributes
    ----------
    past
        Tokens of each layer, by the last `hold`.
    address
        Of two `Store` a layer, keys and values.
    """

    def __init__(self, layers: list[PackedLayer], places: Sequence[int]) -> None:
        self.layers, self.indices = layers, places
        self.pairs = [layer.tokens for layer in layers]
        self.tokens = [tokens for pair in self.pairs for tokens in pair]
        self.quantizers = [tokens.quantizer for tokens in self.tokens]
        self.batch, self.dtype = len(self.tokens[0].parts[0]), self.tokens[0].dtype
        self.past = 0
        self._look()

    def _look(self) -> None:
        self.parts = [tokens.parts for tokens in self.tokens]
        self.tensors = [part for parts in self.parts for part in parts]
        self.places = [*map(Tensor.data_ptr, self.tensors)]
        self.room = min(part.shape[2] for part in self.tensors)
        self.numbers = np.array([_numbers(parts) for parts in self.parts], np.int64)
        self.address: int = self.numbers.ctypes.data

    def hold(self, cache: DynamicCache) -> bool:
        """Whether these are the codes of the cache still, and as many tokens in each layer."""
        layers, last = cache.layers, self.indices[-1]
        if not (
            last < len(layers)
            and all(map(is_, map(layers.__getitem__, self.indices), self.layers))
            and all(map(is_, map(PAIR, self.layers), self.pairs))
            and all(map(is_, map(PARTS, self.tokens), self.parts))
            and all(map(is_, map(QUANTIZER, self.tokens), self.quantizers))
            and [*map(Tensor.data_ptr, self.tensors)] == self.places
            and all(map(Tensor.is_contiguous, self.tensors))
        ):
            return False
        self.numbers[:, START] = [*map(STARTS, self.tokens)]
        self.numbers[:, STOP] = [*map(STOPS, self.tokens)]
        lengths = self.numbers[:, STOP] - self.numbers[:, START]
        self.past = int(lengths[0])
        return bool((lengths == self.past).all())

    def make_room(self, n: int) -> None:
        """For n tokens more."""
        if int(self.numbers[:, STOP].max()) + n <= self.room:
            return
        for tokens in self.tokens:
            tokens.make_room(n)
        self._look()
        self.numbers[:, START] = [*map(STARTS, self.tokens)]
        self.numbers[:, STOP] = [*map(STOPS, self.tokens)]

    def append(self, n: int) -> None:
        """n tokens were written."""
        for tokens in self.tokens:
            tokens.stop += n
        self.numbers[:, STOP] += n

    def fit(self, blocks: Sequence[Any]) -> bool:
        """Whether all parts have the batch, the heads of their block, and as much room as their codes."""
        shapes = [[part.shape for part in parts] for parts in self.parts]
        expected = [(self.batch, block.kv_heads, own[0][2]) for block, own in zip(_twice(blocks), shapes, strict=True)]
        return all(shape[:3] == e for own, e in zip(shapes, expected, strict=True) for shape in own)


def stores_of(cache: DynamicCache, known: Any, batch: int, dtype: torch.dtype) -> Stores | None:
    """The codes of the blocks' layers, begun if it is the first call, if their quantisers are the blocks'."""
    found: Stores | None = known.stores.get(cache)
    if found is None or not found.hold(cache):
        layers = _layers(cache, known, batch, dtype)
        if layers is None:
            return None
        found = Stores(layers, known.layer_idx)
        if not found.fit(known.blocks) or not found.hold(cache):
            return None
        known.stores[cache] = found
    return found if found.batch == batch and found.dtype is dtype else None


def _twice(blocks: Sequence[Any]) -> list[Any]:
    return [block for block in blocks for _ in range(2)]


def _numbers(parts: list[Tensor]) -> list[int]:
    """Where codes, scales and zero points (none: 0) lie, and how far apart sequences and heads."""
    found = [number for part in parts for number in (part.data_ptr(), part.stride(0), part.stride(1))]
    return found + [0] * (NUMBERS - len(found))


def _layers(cache: DynamicCache, known: Any, batch: int, dtype: torch.dtype) -> list[PackedLayer] | None:
    found = []
    for i, own, block in zip(known.layer_idx, known.quantizers, known.blocks, strict=True):
        layer = cache.layers[i] if i < len(cache.layers) else None
        if type(layer) is not PackedLayer:
            if not packs(cache, i, *own) or type(cache.layers[i]) is not PackedLayer:
                return None
            layer = cast(PackedLayer, cache.layers[i])
        if not layer.is_initialized:
            nothing = torch.empty(batch, block.kv_heads, 0, block.head_dim, dtype=dtype)
            layer.lazy_initialization(nothing, nothing)
        if not all(_readable(tokens, q, block.head_dim, dtype) for tokens, q in zip(layer.tokens, own, strict=True)):
            return None
        found.append(layer)
    return found


def _readable(tokens: Tokens, quantizer: TokenQuantizer, head_dim: int, dtype: torch.dtype) -> bool:
    """Whether a block reads and writes such codes; they lie without gaps then."""
    if tokens.e != head_dim or tokens.dtype is not dtype:
        return False
    if tokens.quantizer is not quantizer:
        if not _equal(quantizer, tokens.quantizer):
            return False
        tokens.quantizer = quantizer
    if not all(map(Tensor.is_contiguous, tokens.parts)):
        tokens.change(Tensor.contiguous)
    return True


def _equal(own: TokenQuantizer, theirs: TokenQuantizer) -> bool:
    pairs: Any = zip(own[2:], theirs[2:], strict=True)
    return own[:2] == theirs[:2] and all((a is None) == (b is None) and (a is b or torch.equal(a, b)) for a, b in pairs)
