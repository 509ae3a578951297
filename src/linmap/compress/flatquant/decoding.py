"""A quantised block for few tokens as one native call, where that is possible; every other call as it always was.

A decoder spends a generated token in some twenty modules of each block, most of the time not in arithmetic. `decodable`
gives a block another `forward`, which looks whether this call can be computed by `native/block.cpp`: few tokens, on a
CPU, no gradient wanted, a growing cache of codes, a block of a known structure (`llama`), and nobody who
listens inside. If not, the block's own `forward` is called. Both ways read and write the same cache and the same
tensors, so that they can take turns; nothing is kept of a block but what it was made of, which is checked at each call.
In a model of half precision a block computes in float32 from its input to its output.
"""

from __future__ import annotations

import ctypes
import struct
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext
from transformers.cache_utils import DynamicCache
from transformers.utils import output_capturing

from linmap.compress.flatquant.attention import PackedLayer, TokenQuantizer, Tokens, packs
from linmap.compress.flatquant.llama import HALVES, Block, Facts, Other, described
from linmap.compress.flatquant.native import choice

FLOATS = (torch.float32, *HALVES)
MOST_TOKENS = 16  # of all sequences together; with more, the ordinary way does as well
KNOWN = frozenset(
    ("attention_mask", "position_ids", "past_key_values", "use_cache", "position_embeddings", "cache_position")
)
SPLIT = 1 << 18  # products of a step that one thread computes faster than two start
NO_MASK, BOOLEAN, ADDED = range(3)
STEP = struct.Struct("14q 11q 11q")


@lru_cache(maxsize=8)
def _native(library: ctypes.CDLL) -> Any:
    call = library.linmap_block_step
    call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_char_p), ctypes.c_int64
    return call


class Structure:
    """A block as `native/block.cpp` takes it, or None, with the facts that this rests on."""

    def __init__(self, block: nn.Module, base: type[nn.Module]) -> None:
        self.facts = Facts()
        self.block: Block | None = None
        try:
            self.block, self.attention, self.name = described(block, base, self.facts)
        except (Other, AttributeError, TypeError):  # none that can be read is none that is known
            return
        self.address = ctypes.addressof(self.block)
        transform: Any = self.attention.cache_transform
        self.quantizers: tuple[TokenQuantizer, TokenQuantizer] = transform.quantizer("k"), transform.quantizer("v")
        self.layer_idx: int = self.facts.attribute(self.attention, "layer_idx")
        sizes = (self.block.q, self.block.o, self.block.gate, self.block.up, self.block.down_projection)
        self.work = sum(linear.weight.rows * linear.weight.cols for linear in sizes)


def decodable(block: nn.Module) -> nn.Module:
    """The same block, of a class that differs in `forward` only."""
    block.__class__ = _class(type(block))
    cast(Any, block).structure = None
    return block


@lru_cache(maxsize=64)
def _class(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            y = step(self, base, args, kwargs)
            if y is not None:
                return y
        return base.forward(self, *args, **kwargs)

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        return _empty, (base,), vars(self) | {"structure": None}

    names = {"forward": forward, "__reduce_ex__": reduce, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), names | {"__qualname__": base.__qualname__})


def _empty(base: type[nn.Module]) -> nn.Module:
    kind = _class(base)
    return kind.__new__(kind)


def step(block: Any, base: type[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a block makes of these arguments, or None if it must be computed in the ordinary way."""
    if len(args) != 1 or not KNOWN.issuperset(kwargs):
        return None
    x, cache = args[0], kwargs.get("past_key_values")
    if type(x) is not Tensor or x.dtype not in FLOATS or x.dim() != 3 or not x.is_cpu:
        return None
    (batch, n, hidden), dtype = x.shape, x.dtype
    if not 0 < batch * n <= MOST_TOKENS or type(cache) is not DynamicCache or cache.offloading:
        return None
    library = choice.active().library
    if library is None or _watched():
        return None
    known = block.structure
    if known is None or not known.facts.hold():
        block.structure = known = Structure(block, base)
    if known.block is None or known.block.hidden != hidden:
        return None
    if known.facts.captures and output_capturing._active_collector.get():
        return None
    layer = _layer(cache, known, batch, dtype)
    turned = _turned(kwargs.get("position_embeddings"), batch, n, known.block.head_dim)
    if layer is None or turned is None:
        return None
    seen = _seen(kwargs.get("attention_mask"), batch, n, len(layer.tokens[0]), known.name)
    stored = [_room(tokens, n, batch, known.block.kv_heads) for tokens in layer.tokens]
    if seen is None or stored[0] is None or stored[1] is None:
        return None
    known.facts.widen()
    x = x.to(torch.float32).contiguous()
    y = torch.empty_like(x)
    threads = torch.get_num_threads() if known.work * batch * n > SPLIT else 1
    packed = STEP.pack(x.data_ptr(), y.data_ptr(), batch, n, threads, *turned[1], *seen, *stored[0], *stored[1])
    if _native(library)(known.address, packed):
        raise MemoryError(f"no memory for a step of {batch} sequences after {len(layer.tokens[0])} tokens.")
    for tokens in layer.tokens:
        tokens.stop += n
    return y.to(dtype)


def _watched() -> bool:
    """Whether gradients are wanted, or something else looks at operations or changes them."""
    return (
        torch.is_grad_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.is_autocast_enabled("cpu")
        or cast(Any, torch._C)._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or (torch._C._len_torch_function_stack() > 0 and _other_modes())
    )


def _other_modes() -> bool:
    modes = [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]
    return any(type(mode) is not DeviceContext for mode in modes)


def _layer(cache: DynamicCache, known: Structure, batch: int, dtype: torch.dtype) -> PackedLayer | None:
    """The layer of codes of this block, begun if it is the first call, if its quantisers are the block's."""
    layers, i = cache.layers, known.layer_idx
    if len(layers) <= i or type(layers[i]) is not PackedLayer:
        packs(cache, i, *known.quantizers)
        if len(layers) <= i or type(layers[i]) is not PackedLayer:
            return None
    layer, block = cast(PackedLayer, layers[i]), cast(Block, known.block)
    if not layer.is_initialized:
        nothing = torch.empty(batch, block.kv_heads, 0, block.head_dim, dtype=dtype)
        layer.lazy_initialization(nothing, nothing)
    for tokens, own in zip(layer.tokens, known.quantizers, strict=True):
        if tokens.e != block.head_dim or tokens.dtype is not dtype:
            return None
        if tokens.quantizer is not own:
            if not _equal(own, tokens.quantizer):
                return None
            tokens.quantizer = own
    return layer


def _equal(own: TokenQuantizer, theirs: TokenQuantizer) -> bool:
    pairs: Any = zip(own[2:], theirs[2:], strict=True)
    return own[:2] == theirs[:2] and all((a is None) == (b is None) and (a is b or torch.equal(a, b)) for a, b in pairs)


Turned = tuple[tuple[Tensor, ...], tuple[int, ...]]


class _Turned:
    """Cosines and sines in float32, where they lie, and how far apart those of two sequences; all blocks of a step get
    the same. Whoever calls holds the tensors: another thread may ask for others meanwhile."""

    last: tuple[Any, tuple[int, int, int], Turned | None] = ((), (0, 0, 0), None)

    def __call__(self, embeddings: Any, *sizes: int) -> Turned | None:
        of, of_sizes, found = self.last
        if of is not embeddings or of_sizes != sizes:
            found = self._found(embeddings, *sizes)
            self.last = embeddings, cast(Any, sizes), found
        return found

    def _found(self, embeddings: Any, batch: int, n: int, head_dim: int) -> Turned | None:
        if type(embeddings) is not tuple or len(embeddings) != 2:
            return None
        for part in embeddings:
            if type(part) is not Tensor or part.dtype not in FLOATS or not part.is_cpu:
                return None
            if part.shape not in ((batch, n, head_dim), (1, n, head_dim)) or not part.is_contiguous():
                return None
        strides = [n * head_dim if len(part) > 1 else 0 for part in embeddings]
        cosines, sines = wide = tuple(part.to(torch.float32) for part in embeddings)
        return wide, (cosines.data_ptr(), sines.data_ptr(), *strides)


_turned = _Turned()


def _seen(mask: Any, batch: int, n: int, past: int, name: str) -> tuple[int, ...] | None:
    """Where the mask lies, its kind, and its strides."""
    if mask is None:
        return (0, NO_MASK, 0, 0, 0) if n == 1 or (name == "sdpa" and past == 0) else None
    kind = {torch.bool: BOOLEAN, torch.float32: ADDED}.get(mask.dtype)
    if type(mask) is not Tensor or kind is None or (kind == BOOLEAN and name != "sdpa") or not mask.is_cpu:
        return None
    if mask.shape != (batch, 1, n, past + n) and mask.shape != (1, 1, n, past + n):
        return None
    of_batch, _, *strides = mask.stride()
    return mask.data_ptr(), kind, of_batch if len(mask) > 1 else 0, *strides


def _room(tokens: Tokens, n: int, batch: int, heads: int) -> list[int] | None:
    """Where codes, scales and zero points lie, with room for n tokens more, and which of them are filled."""
    if tokens.layout is None or tokens.layout[0] is not tokens.parts or tokens.stop + n > tokens.layout[1]:
        tokens.make_room(n)
        if not all(part.is_contiguous() for part in tokens.parts):
            tokens.change(Tensor.contiguous)
        tokens.layout = (tokens.parts, tokens.parts[0].shape[2], [part.shape for part in tokens.parts])
    _, room, shapes = tokens.layout
    found = []
    for part, (b, h, r, last) in zip(tokens.parts, shapes, strict=True):
        if b != batch or h != heads or r != room:
            return None
        found += (part.data_ptr(), h * r * last, r * last)
    if len(shapes) == 2:
        found += (0, 0, 0)
    return [*found, tokens.start, tokens.stop]
