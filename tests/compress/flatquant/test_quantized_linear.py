"""The layer of the quantised model: its product of codes, and the codes that it keeps unpacked."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from linmap.compress.flatquant import kernels
from linmap.compress.flatquant.kernels import integer_linear, use
from linmap.compress.flatquant.linear import LinearBits, QuantizedLinear, fingerprint
from linmap.compress.flatquant.quantizer import quantize, unpack_int4
from linmap.compress.flatquant.transforms import OnlineTransform
from linmap.maps.orthogonal import haar_orthogonal

FEW = [2, 3, 4, 5, 8]


@pytest.fixture(autouse=True, scope="module", params=["torch", "auto"])
def running(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each law holds with the C++ kernels, where there is a compiler, and without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with use(request.param):
            yield request.param


def layer(
    n: int = 12,
    m: int = 10,
    bits: LinearBits | None = None,
    *,
    transform: bool = False,
    bias: bool = True,
    clip: bool = True,
    seed: int = 0,
    **options: Any,
) -> QuantizedLinear:
    generator = torch.Generator().manual_seed(seed)
    online = OnlineTransform((2, n // 2), n, scale=False) if transform else None
    new = QuantizedLinear(n, m, bias, bits or LinearBits(4, 4), clip, online, **options)
    new.store(torch.randn(m, n, generator=generator) / n**0.5)
    if new.bias is not None:
        new.bias.copy_(torch.randn(m, generator=generator))
    if online is not None:
        online.get_buffer("factor_0").copy_(haar_orthogonal(2, generator))
        online.get_buffer("factor_1").copy_(haar_orthogonal(n // 2, generator))
    return new


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dequantised_product(layer: QuantizedLinear, x: Tensor) -> Tensor:
    return F.linear(layer.quantised_input(x), layer.dequantized_weight(x.dtype), layer.bias)


# -- the product of codes ----------------------------------------------------------------------------------------------


@given(
    st.integers(1, 20),
    st.integers(1, 9),
    st.integers(0, 9),
    st.sampled_from(FEW),
    st.sampled_from(FEW),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_it_is_the_product_with_the_dequantised_weight(half, m, tokens, w_bits, a_bits, transform, bias, clip, seed):
    bits = LinearBits(w_bits, a_bits)
    new = layer(2 * half, m, bits, transform=transform, bias=bias, clip=clip, seed=seed)
    x = inputs(2, tokens, 2 * half, seed=seed)
    assert new.multiplies_codes
    torch.testing.assert_close(new(x), dequantised_product(new, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    new, x = layer(dtype=dtype), inputs(3, 12).to(dtype)
    assert new(x).dtype == dtype
    expected = new.to(torch.float64)(x.double()) if dtype == torch.float64 else dequantised_product(new, x)
    torch.testing.assert_close(new(x), expected, rtol=1e-12 if dtype == torch.float64 else 0.02, atol=1e-2)


def test_sums_of_codes_in_float64_are_exact():
    new, x = layer(clip=False, bias=False, dtype=torch.float64), inputs(5, 12).double()
    torch.testing.assert_close(new(x), dequantised_product(new, x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("a_bits", [4, 8])
def test_the_same_numbers_for_any_batch_and_processor(a_bits, monkeypatch):
    """Integers leave nothing to the order of summation."""
    new, x = layer(600, 7, LinearBits(8, a_bits)), inputs(9, 600)
    whole = new(x)
    assert torch.equal(torch.cat([new(token[None]) for token in x]), whole)
    monkeypatch.setattr(kernels, "EXACT_COLUMNS", 128)
    monkeypatch.setattr(kernels, "INT8_DOT", False)
    assert torch.equal(new(x), whole)


@pytest.mark.parametrize("int8_dot", [True, False])
def test_the_largest_sums_are_exact(int8_dot, monkeypatch):
    monkeypatch.setattr(kernels, "INT8_DOT", int8_dot)
    x, w = torch.full((2, 5000), -128, dtype=torch.int8), torch.full((3, 5000), -128, dtype=torch.int8)
    w[1, ::7] = 3
    one = torch.ones(2, 1, dtype=torch.float64)
    y = integer_linear(x, one, w, torch.ones(3, 1, dtype=torch.float64))
    assert torch.equal(y, x.double() @ w.double().T)


def test_rows_too_long_for_int32():
    row = torch.zeros(1, 2**17, dtype=torch.int8)
    with pytest.raises(ValueError, match="int32 sums of 8-bit codes hold up to 131071"):
        integer_linear(row, torch.ones(1, 1), row, torch.ones(1, 1))


@pytest.mark.parametrize(
    ("bits", "options"),
    [
        (LinearBits(16, 4), {}),
        (LinearBits(4, 16), {}),
        (LinearBits(4, 4, weight_symmetric=False), {}),
        (LinearBits(4, 4, input_symmetric=False), {}),
        (LinearBits(8, 8, weight_symmetric=False), {}),
    ],
)
def test_other_quantisers_dequantise(bits, options):
    new, x = layer(bits=bits, **options), inputs(3, 12)
    assert not new.multiplies_codes
    torch.testing.assert_close(new(x), dequantised_product(new, x), rtol=1e-5, atol=1e-6)
    with use("torch"):
        assert torch.equal(new(x), dequantised_product(new, x))


def test_groups_dequantise():
    new = QuantizedLinear(12, 10, False, LinearBits(4, 4), clip=False, group_size=4)
    W = inputs(10, 3, 4)
    codes, scale, zero = quantize(W, 4, True, per="row")
    new.store_codes(codes.flatten(1), scale[..., 0], zero)
    assert not new.multiplies_codes
    x = inputs(3, 12, seed=1)
    expected = new.quantised_input(x) @ (codes * scale).flatten(1).mT
    torch.testing.assert_close(new(x), expected)


def test_gradients_are_those_of_the_dequantised_product():
    new, x = layer(transform=True), inputs(3, 12).requires_grad_()
    weights = torch.linspace(-1, 1, 3 * new.out_features).view(3, -1)
    [found] = torch.autograd.grad((new(x) * weights).sum(), x)
    [expected] = torch.autograd.grad((dequantised_product(new, x) * weights).sum(), x)
    assert torch.equal(found, expected)


def test_the_output_does_not_depend_on_whether_gradients_are_wanted():
    new, x = layer(transform=True), inputs(3, 12)
    assert torch.equal(new(x.clone().requires_grad_()), new(x))


@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_packed_inputs_are_the_same_codes(transform, clip):
    """What a GPU multiplies."""
    new, x = layer(transform=transform, clip=clip), inputs(7, 12)
    packed, scale = new.packed_input(x)
    torch.testing.assert_close(unpack_int4(packed) * scale, new.quantised_input(x))


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (2, 2, 3)])
def test_packed_inputs_of_other_transforms(sizes):
    new, x = layer(), inputs(7, 12)
    new.transform = OnlineTransform(sizes, 12, scale=True)
    for i, size in enumerate(sizes):
        new.transform.get_buffer(f"factor_{i}").copy_(haar_orthogonal(size, torch.Generator().manual_seed(i)))
    packed, scale = new.packed_input(x)
    torch.testing.assert_close(unpack_int4(packed) * scale, new.quantised_input(x))


@pytest.mark.usefixtures("annotations_unchecked")
def test_compile_to_one_graph():
    new, x = layer(transform=True), inputs(3, 12)
    with torch.no_grad():
        compiled = torch.compile(new, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), new(x), rtol=1e-5, atol=1e-5)


# -- unpacked codes ----------------------------------------------------------------------------------------------------


def test_codes_are_unpacked_once(monkeypatch):
    new, x = layer(), inputs(3, 12)
    y, calls = new(x), []
    unpack = new.codes
    monkeypatch.setattr(new, "codes", lambda: calls.append(1) or unpack())
    assert torch.equal(new(x), y)
    assert not calls


CHANGES: dict[str, Any] = {
    "in place": lambda new, other: new.store(other.dequantized_weight()),
    "loaded": lambda new, other: new.load_state_dict(other.state_dict()),
    "assigned": lambda new, other: new.load_state_dict(other.state_dict(), assign=True),
    "the data": lambda new, other: [setattr(t, "data", other.state_dict()[k].data) for k, t in new.named_buffers()],
    "through the data": lambda new, other: [t.data.copy_(other.state_dict()[k]) for k, t in new.named_buffers()],
    "the buffer": lambda new, other: [setattr(new, name, t) for name, t in other.named_buffers()],
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_a_changed_weight_is_unpacked_anew(change):
    new, other, x = layer(bias=False), layer(bias=False, seed=1), inputs(3, 12)
    before = new(x)
    CHANGES[change](new, other)
    assert not torch.allclose(new(x), before, atol=0.1)
    torch.testing.assert_close(new(x), other(x))


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31), st.booleans())
def test_a_change_of_one_byte_or_of_places_is_another_fingerprint(m, n, seed, places):
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(256, (m, n), generator=generator, dtype=torch.uint8)
    other = packed.clone()
    if places:
        order = torch.randperm(m * n, generator=generator)
        other = packed.flatten()[order].reshape(m, n)
    else:
        i, j = (int(torch.randint(size, (), generator=generator)) for size in (m, n))
        other[i, j] ^= 1 + int(torch.randint(255, (), generator=generator))
    assert (fingerprint(other) == fingerprint(packed)) == torch.equal(other, packed)


def test_a_weight_of_inference_mode_is_kept_and_compared_too():
    x = inputs(3, 12)
    with torch.inference_mode():
        new, other = layer(bias=False), layer(bias=False, seed=1)
        new(x)
        new.weight.copy_(other.weight)
        new.weight_scale.copy_(other.weight_scale)
        assert torch.equal(new(x), other(x))
    assert torch.equal(new(x), other(x))


def test_copies_unpack_their_own():
    new, x = layer(bias=False), inputs(3, 12)
    y = new(x)
    same = copy.deepcopy(new)
    assert torch.equal(same(x), y)
    same.weight = same.weight.clone().zero_()
    assert torch.equal(same(x), torch.zeros(3, 10))
    assert torch.equal(new(x), y)


def test_a_copy_of_a_changed_weight():
    new, x = layer(bias=False), inputs(3, 12)
    new(x)
    new.weight.zero_()
    assert torch.equal(copy.deepcopy(new)(x), torch.zeros(3, 10))


def test_files_hold_packed_codes_only():
    new = layer()
    before = {name: t.clone() for name, t in new.state_dict().items()}
    new(inputs(3, 12))
    after = new.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], t) for name, t in before.items())
    assert not any(t.numel() == 120 for t in new.buffers())


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        new, x = layer(bias=False), inputs(3, 12)
        y = new(x)
        new.weight.zero_()
        assert torch.equal(new(x), torch.zeros(3, 10))
        assert not torch.equal(y, torch.zeros(3, 10))
