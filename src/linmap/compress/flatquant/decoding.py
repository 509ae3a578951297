"""A quantised decoder for few tokens as one native call, where that is possible; every other call as it always was.

A decoder spends a generated token in some twenty modules of each block, most of the time not in arithmetic. `decodable`
gives a decoder, and each of its blocks, another `forward`, which looks whether this call can be computed by
`native/block.cpp`: few tokens, on a CPU, no gradient wanted, a growing cache of codes, a known structure (`llama`), and
nobody who listens inside. A decoder calls all its blocks and the norm behind them at once; where it cannot, for
a block that is not quantised or has a hook, the others are called one by one; else a module's own `forward` is called.
All ways read and write the same cache and the same tensors, so that they can take turns; nothing is kept of a block but
what it was made of, which is checked at each call. In a model of half precision native calls compute in float32 from
their input to their output.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_modules
from torch.utils._device import DeviceContext
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils import output_capturing

from linmap.compress.flatquant.facts import HALVES, Facts, Other
from linmap.compress.flatquant.llama import (
    Block,
    Described,
    Linear,
    Norm,
    Stack,
    described,
    described_decoder,
    halves,
)
from linmap.compress.flatquant.native import choice
from linmap.compress.flatquant.stores import Stores, stores_of

FLOATS = (torch.float32, *HALVES)
FEW_TOKENS = 16  # of all sequences together; more go through layers that multiply codes only
MOST_TOKENS = 1024  # of all sequences together in one call; of a longer prompt one piece after the other
KNOWN = frozenset(
    ("attention_mask", "position_ids", "past_key_values", "use_cache", "position_embeddings", "cache_position")
)
KNOWN_OF_DECODER = frozenset(
    ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache")
)
SPLIT = 1 << 18  # products of a step that one thread computes faster than two start
NO_MASK, BOOLEAN, ADDED = range(3)
STEP = struct.Struct("14q 176x")  # `Step`, but for the places of the codes


@lru_cache(maxsize=8)
def _native(library: ctypes.CDLL) -> Any:
    call = library.linmap_stack_step
    call.argtypes, call.restype = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p), ctypes.c_int64
    return call


class Structure:
    """Blocks as `native/block.cpp` takes them, or None, with the facts that this rests on.

    Parameters
    ----------
    describe
        Gives the blocks, one behind the other, and the norm behind them.
    """

    def __init__(self, describe: Callable[[Facts], tuple[list[Described], Norm]]) -> None:
        self.facts = Facts()
        self.blocks: list[Block] | None = None
        try:
            found, norm = describe(self.facts)
            self.layer_idx = [self.facts.attribute(block.attention, "layer_idx") for block in found]
        except (Other, AttributeError, TypeError):  # none that can be read is none that is known
            return
        self.blocks, self.name = [block.block for block in found], found[0].name
        transforms: list[Any] = [block.attention.cache_transform for block in found]
        self.quantizers = [(transform.quantizer("k"), transform.quantizer("v")) for transform in transforms]
        self.work = sum(_products(block) for block in self.blocks)
        self.only_codes = all(linear.multiplies_codes for block in self.blocks for linear in _linears(block))
        self.stores: WeakKeyDictionary[DynamicCache, Stores] = WeakKeyDictionary()
        places = (ctypes.c_void_p * len(found))(*map(ctypes.addressof, self.blocks))
        found_halves = halves(self.facts)
        self.stack = Stack(places, len(found), norm, found_halves, len(found_halves))
        self.address = ctypes.addressof(self.stack)

    def stale(self) -> bool:
        return not self.facts.hold()

    def listened(self) -> bool:
        """Whether Transformers collects what is inside."""
        return self.facts.captures and bool(output_capturing._active_collector.get())


def _linears(block: Block) -> tuple[Linear, ...]:
    return block.q, block.k, block.v, block.o, block.gate, block.up, block.down_projection


def _products(block: Block) -> int:
    return sum(linear.weight.rows * linear.weight.cols for linear in _linears(block))


# -- modules that look for the native way ------------------------------------------------------------------------------


def decodable(module: nn.Module, of: str = "block") -> nn.Module:
    """The same block, or decoder, of a class that differs in `forward` only."""
    module.__class__ = _class(type(module), of)
    cast(Any, module).structure = None
    return module


@lru_cache(maxsize=64)
def _class(base: type[nn.Module], of: str) -> type[nn.Module]:
    @wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            y = (step if of == "block" else decoder_step)(self, base, args, kwargs)
            if y is not None:
                return y
        return base.forward(self, *args, **kwargs)

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        return _empty, (base, of), vars(self) | {"structure": None}

    names = {"forward": forward, "__reduce_ex__": reduce, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), names | {"__qualname__": base.__qualname__})


def _empty(base: type[nn.Module], of: str) -> nn.Module:
    kind = _class(base, of)
    return kind.__new__(kind)


def step(block: Any, base: type[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a block makes of these arguments, or None if it must be computed in the ordinary way."""
    if len(args) != 1 or not KNOWN.issuperset(kwargs):
        return None
    x: Any = args[0]
    cache: Any = kwargs.get("past_key_values")
    if type(x) is not Tensor or x.dim() != 3:
        return None
    known = _known(block, cache, lambda facts: ([described(block, base, facts)], Norm()))
    if known is None:
        return None
    return computed(known, x, cache, kwargs.get("position_embeddings"), kwargs.get("attention_mask"))


def decoder_step(decoder: Any, base: type[nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a decoder makes of these arguments, its blocks and last norm as one call, or None."""
    ids: Any = kwargs.get("input_ids")
    cache: Any = kwargs.get("past_key_values")
    if args or type(ids) is not Tensor or ids.dim() != 2 or not ids.numel():
        return None
    if not KNOWN_OF_DECODER.issuperset(kwargs) or kwargs.get("inputs_embeds") is not None:
        return None
    known = _known(decoder, cache, lambda facts: described_decoder(decoder, base, facts))
    if known is None or _asked(decoder, kwargs):
        return None
    x, positions = decoder.embed_tokens(ids), kwargs.get("position_ids")
    if positions is None:
        positions = (torch.arange(x.shape[1]) + cache.get_seq_length()).unsqueeze(0)
    mask = kwargs.get("attention_mask")
    if x.shape[1] == 1 and _sees_all(mask, len(x), cache.get_seq_length() + 1):
        mask = None
    elif mask is not None or x.shape[1] > 1:
        mask = create_causal_mask(decoder.config, x, mask, cache, positions)
    y = computed(known, x, cache, decoder.rotary_emb(x, position_ids=positions), mask)
    return None if y is None else BaseModelOutputWithPast(last_hidden_state=y, past_key_values=cache)


def _sees_all(mask: Any, batch: int, tokens: int) -> bool:
    """Whether a mask of tokens hides none of them."""
    return type(mask) is Tensor and mask.shape == (batch, tokens) and bool(mask.all())


def _asked(decoder: Any, kwargs: dict[str, Any]) -> bool:
    """Whether more is asked for than the last hidden state and the cache."""
    config, use_cache = decoder.config, kwargs.get("use_cache")
    if not (config.use_cache if use_cache is None else use_cache) or not getattr(config, "return_dict", True):
        return True
    return any(getattr(config, f"output_{name}", False) for name in output_capturing._CAN_RECORD_REGISTRY.get(decoder))


def _known(module: Any, cache: Any, describe: Callable[[Facts], tuple[list[Described], Norm]]) -> Structure | None:
    """The structure of a module as it is now, if a call on this cache may be native."""
    if type(cache) is not DynamicCache or cache.offloading or choice.active().library is None or _watched():
        return None
    known: Structure | None = module.structure
    if known is None or known.stale():
        module.structure = known = Structure(describe)
    return None if known.blocks is None or known.listened() else known


def computed(known: Structure, x: Tensor, cache: DynamicCache, embeddings: Any, mask: Any) -> Tensor | None:
    """What blocks make of x: (batch, tokens, hidden), or None."""
    blocks, dtype, (batch, n, hidden) = cast("list[Block]", known.blocks), x.dtype, x.shape
    if type(x) is not Tensor or dtype not in FLOATS or not x.is_cpu or hidden != blocks[0].hidden or not x.numel():
        return None
    at_once = n if batch * n <= MOST_TOKENS else MOST_TOKENS // batch
    turned = _turned(embeddings, batch, n, blocks[0].head_dim)
    if turned is None or not at_once or (batch * n > FEW_TOKENS and not known.only_codes):
        return None
    stores = stores_of(cache, known, batch, dtype)
    if stores is None:
        return None
    seen = _seen(mask, batch, n, stores.past, known.name)
    if seen is None or (at_once < n and seen[1] != NO_MASK):
        return None
    if at_once == n:
        return _called(known, stores, x, turned[1], seen).to(dtype)
    found = []
    for start in range(0, n, at_once):
        parts = tuple(part[:, start : start + at_once].contiguous() for part in embeddings)
        turned = cast("Turned", _turned(parts, batch, parts[0].shape[1], blocks[0].head_dim))
        found.append(_called(known, stores, x[:, start : start + at_once], turned[1], seen).to(dtype))
    return torch.cat(found, 1)


def _called(known: Structure, stores: Stores, x: Tensor, turned: tuple[int, ...], seen: tuple[int, ...]) -> Tensor:
    """The native call, in float32, which writes the codes of these tokens into the cache."""
    batch, n, _ = x.shape
    stores.make_room(n)
    x = x.to(torch.float32).contiguous()
    y = torch.empty_like(x)
    threads = choice.threads() if known.work * batch * n > SPLIT else 1
    first = STEP.pack(x.data_ptr(), y.data_ptr(), batch, n, threads, *turned, *seen)
    if _native(choice.library())(known.address, first, stores.address):
        raise MemoryError(f"no memory for a step of {batch} sequences after {stores.past} tokens.")
    stores.append(n)
    return y


def _watched() -> bool:
    """Whether gradients are wanted, or something else looks at operations or changes them."""
    return (
        torch.is_grad_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.is_autocast_enabled("cpu")
        or cast(Any, torch._C)._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
        or bool(torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks)
        or (torch._C._len_torch_function_stack() > 0 and _other_modes())
    )


def _other_modes() -> bool:
    modes = [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]
    return any(type(mode) is not DeviceContext for mode in modes)


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
