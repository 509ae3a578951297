"""Keys and values as codes."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from compress.flatquant.models import CONFIGS, tiny, tokens
from compress.flatquant.students import merged, with_students
from linmap.compress.flatquant.attention import (
    PackedLayer,
    PackedSlidingWindowLayer,
    TokenQuantizer,
    Tokens,
    cache_bytes,
    packs,
)
from linmap.compress.flatquant.config import FlatQuantConfig
from typed import gradient_of

OFF = TokenQuantizer(16, True)
WINDOW = 6


def states(batch: int = 2, heads: int = 3, length: int = 7, e: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, heads, length, e, generator=torch.Generator().manual_seed(seed))


def quantizer(bits: int = 4, symmetric: bool = False, clip: bool = True) -> TokenQuantizer:
    logits = (torch.tensor(1.5), torch.tensor(2.5)) if clip else (None, None)
    return TokenQuantizer(bits, symmetric, *logits)


def layers(sliding: bool, **kwargs: Any) -> tuple[Any, Any]:
    """Ours, and that of Transformers."""
    key, value = quantizer(), quantizer(8, True)
    if sliding:
        theirs = DynamicSlidingWindowLayer(WINDOW)
        theirs.record_past = kwargs.get("record_past", False)
        return PackedSlidingWindowLayer(key, value, WINDOW, theirs.record_past), theirs
    return PackedLayer(key, value), DynamicLayer()


def assert_same_state(ours: Any, theirs: Any) -> None:
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)
    assert ours.get_seq_length() == theirs.get_seq_length()
    assert ours.get_mask_sizes(3) == theirs.get_mask_sizes(3)
    assert ours.get_max_length() == theirs.get_max_length()


def update_both(ours: Any, theirs: Any, length: int, seed: int = 0) -> None:
    """Theirs stores what is rounded before, ours rounds."""
    k, v = states(length=length, seed=seed), states(length=length, seed=seed + 100)
    found = ours.update(k, v)
    expected = theirs.update(quantizer()(k), quantizer(8, True)(v))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert_same_state(ours, theirs)


# -- codes -------------------------------------------------------------------------------------------------------------


@given(
    bits=st.sampled_from([2, 3, 4, 5, 8, 16]),
    symmetric=st.booleans(),
    clip=st.booleans(),
    e=st.integers(1, 9),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_decoding_gives_the_rounded_numbers_bit_for_bit(
    bits: int, symmetric: bool, clip: bool, e: int, dtype: torch.dtype, seed: int
) -> None:
    x = states(e=e, seed=seed).to(dtype)
    q = quantizer(bits, symmetric, clip)
    found = q.decode(q.encode(x), e, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, q(x))
    if bits == 16:
        assert torch.equal(found, x)
    else:
        assert max(len(row.unique()) for row in found.reshape(-1, e)) <= 2**bits


@given(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=12), bits=st.sampled_from([4, 8, 16]))
def test_tokens_grow_in_pieces_as_at_once(pieces: list[int], bits: int) -> None:
    x = states(length=sum(pieces))
    growing, whole = Tokens(quantizer(bits)), Tokens(quantizer(bits))
    whole.append(x)
    for piece in x.split(pieces, dim=2):
        growing.append(piece)
    assert len(growing) == sum(pieces)
    assert torch.equal(growing.numbers(), whole.numbers())
    assert torch.equal(growing.numbers(2), whole.numbers()[:, :, -2:])
    assert growing.nbytes == whole.nbytes


def test_a_token_is_never_quantised_again() -> None:
    store = Tokens(quantizer())
    store.append(states())
    before = [part[..., :7, :].clone() for part in store.parts]
    for i in range(80):
        store.append(1000 * states(length=1, seed=i))
    for part, old in zip(store.parts, before, strict=True):
        assert torch.equal(part[..., :7, :], old)


def test_growth_moves_the_codes_rarely() -> None:
    store, places = Tokens(quantizer()), []
    for i in range(400):
        store.append(states(1, 1, 1, seed=i))
        places.append(store.parts[0].data_ptr())
    moved = sum(before != after for before, after in pairwise(places))
    assert moved <= 10
    assert store.parts[0].shape[-2] <= 1.25 * 400 + 32


def test_a_window_keeps_its_size_in_memory() -> None:
    store = Tokens(quantizer())
    store.append(states(length=3000))
    store.keep(5)
    expected = store.numbers()
    assert store.parts[0].shape[-2] < 64
    for i in range(300):
        store.append(states(length=1, seed=i))
        store.keep(5)
        assert store.parts[0].shape[-2] < 80
    assert len(store) == 5
    assert not torch.equal(store.numbers(), expected)


def test_bytes_of_a_token() -> None:
    """64 numbers in 4 bits: 32 bytes, 4 of the scale and 1 of the zero point, where float16 takes 128."""
    store = Tokens(quantizer(4))
    store.append(states(1, 1, 10, 64))
    assert store.nbytes == 10 * (32 + 4 + 1)
    symmetric = Tokens(quantizer(8, symmetric=True))
    symmetric.append(states(1, 1, 10, 64))
    assert symmetric.nbytes == 10 * (64 + 4)


# -- layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sliding", [False, True])
@given(pieces=st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_a_layer_is_that_of_transformers_over_rounded_states(sliding: bool, pieces: list[int]) -> None:
    ours, theirs = layers(sliding)
    for i, n in enumerate(pieces):
        update_both(ours, theirs, n, seed=i)


@pytest.mark.parametrize("sliding", [False, True])
def test_batches_are_reordered_repeated_and_selected(sliding: bool) -> None:
    ours, theirs = layers(sliding)
    update_both(ours, theirs, 5)
    for change in (
        lambda layer: layer.reorder_cache(torch.tensor([1, 1])),
        lambda layer: layer.batch_repeat_interleave(3),
        lambda layer: layer.batch_select_indices(torch.tensor([0, 5, 2])),
        lambda layer: layer.offload(),
        lambda layer: layer.prefetch(),
    ):
        change(ours)
        change(theirs)
        assert_same_state(ours, theirs)
    ours.reset()
    theirs.reset()
    assert ours.keys is None
    assert ours.values is None
    assert ours.get_seq_length() == theirs.get_seq_length() == 0
    update_both(ours, theirs, 4)


@pytest.mark.parametrize(("sliding", "lengths"), [(False, [9]), (True, [4]), (True, [9]), (True, [5, 4])])
def test_cropped_tokens_are_gone(sliding: bool, lengths: list[int]) -> None:
    ours, theirs = layers(sliding, record_past=True)
    for i, n in enumerate(lengths):
        update_both(ours, theirs, n, seed=i)
    for n in (0, -1, -2):
        ours.crop(n)
        theirs.crop(n)
        assert_same_state(ours, theirs)
    update_both(ours, theirs, 2, seed=9)
    with pytest.raises((ValueError, RuntimeError), match=r"crop|negative"):
        ours.crop(3)


def test_crop_before_a_window_that_was_not_recorded() -> None:
    ours, _ = layers(sliding=True)
    ours.update(states(length=9), states(length=9))
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        ours.crop(-1)


def test_which_caches_keep_codes() -> None:
    q, config = quantizer(), CONFIGS["gemma3"]()
    cache = DynamicCache(config=config)
    assert packs(cache, 0, q, OFF)
    assert packs(cache, 1, OFF, q)
    assert [type(layer) for layer in cache.layers] == [PackedSlidingWindowLayer, PackedLayer]
    first = cache.layers[0]
    assert packs(cache, 0, q, OFF)
    assert cache.layers[0] is first
    empty = DynamicCache()
    assert packs(empty, 1, q, q)
    assert [type(layer) for layer in empty.layers] == [DynamicLayer, PackedLayer]
    assert not packs(DynamicCache(config=config), 0, OFF, OFF)
    assert not packs(DynamicCache(config=config), 0, q, q, differentiable=True)
    assert not packs(StaticCache(config=config, max_cache_len=8), 0, q, q)
    filled = DynamicCache(config=config)
    filled.update(states(), states(), 0)
    assert not packs(filled, 0, q, q)
    assert not packs(object(), 0, q, q)


# -- in a model --------------------------------------------------------------------------------------------------------


def quantised(family: str, **options: Any) -> Any:
    config = partial(FlatQuantConfig, w_bits=4, a_bits=8, k_bits=4, v_bits=4)
    return merged(with_students(tiny(family).double(), config(**options)))


@pytest.mark.parametrize("family", ["gemma3", pytest.param("llama", marks=pytest.mark.slow)])  # the first slides, too
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True}], ids=["greedy", "beams", "sampling"])
def test_generation_with_and_without_a_cache(family: str, options: dict[str, Any]) -> None:
    model, ids = quantised(family), tokens(2, 5)
    options = {"do_sample": False, "max_new_tokens": 12, "return_dict_in_generate": True} | options
    torch.manual_seed(0)
    cached = model.generate(ids, **options)
    torch.manual_seed(0)
    assert torch.equal(cached.sequences, model.generate(ids, use_cache=False, **options).sequences)
    assert all(isinstance(layer, PackedLayer | PackedSlidingWindowLayer) for layer in cached.past_key_values.layers)
    assert len(cached.sequences.unique()) > 4


def test_static_caches_hold_rounded_numbers() -> None:
    model, ids = quantised("llama"), tokens(2, 6)
    cache = StaticCache(config=model.config, max_cache_len=6)
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        parts = [model(part, past_key_values=cache).logits for part in ids.split([4, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-8, atol=1e-8)


def test_gradients_pass_through_a_cache_that_is_still_empty() -> None:
    model, ids = quantised("llama"), tokens()
    embedding = model.get_input_embeddings().weight
    gradients = []
    for use_cache in (True, False):
        model(ids, use_cache=use_cache).logits.square().sum().backward()
        gradients.append(gradient_of(embedding).clone())
        embedding.grad = None
    assert torch.equal(*gradients)
    assert gradients[0].any()


def test_bytes_of_a_cache() -> None:
    """A token of 6 numbers: 3 bytes of codes, a scale in float64 (the model's), a zero point; 2 x 2 heads a block."""
    ids = tokens(1, 10)
    with torch.no_grad():
        ours = quantised("llama")(ids).past_key_values
        plain = tiny("llama").double()(ids).past_key_values
    assert cache_bytes(ours) == 10 * 8 * (3 + 8 + 1)
    assert cache_bytes(plain) == 10 * 8 * 6 * 8
