from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.flatquant import kernels
from linmap.compress.flatquant.kernels import int4_linear, weight_only_linear
from linmap.compress.flatquant.quantizer import pack_int4

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))


def codes(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Symmetric codes; a column of zeros fills up an odd number."""
    q = torch.randint(-8, 8, shape, generator=generator, dtype=torch.int8)
    return torch.nn.functional.pad(q, (0, shape[-1] % 2))


@pytest.fixture(params=["int8", "float32"])
def arithmetic(request, monkeypatch):
    """What multiplies codes on processors with and without int8 dot products."""
    monkeypatch.setattr(kernels, "INT8_DOT", request.param == "int8")
    return request.param


@given(sizes, st.integers(0, 99))
def test_sums_of_codes_are_exact(size, seed):
    tokens, m, n = size
    generator = torch.Generator().manual_seed(seed)
    x, w = codes(generator, tokens, n), codes(generator, m, n)
    y = int4_linear(pack_int4(x), torch.ones(tokens, 1), pack_int4(w), torch.ones(m, 1))
    assert torch.equal(y.double(), x.double() @ w.double().T)


def test_exact_for_long_rows(arithmetic, monkeypatch):
    monkeypatch.setattr(kernels, "EXACT_COLUMNS", 512)  # several sums of float32 products
    n = 3000
    for x, w in ((-8, -8), (7, -8), (-8, 7)):
        x, w = torch.full((2, n), x, dtype=torch.int8), torch.full((3, n), w, dtype=torch.int8)
        w[:, ::7] = 3
        y = int4_linear(pack_int4(x), torch.ones(2, 1), pack_int4(w), torch.ones(3, 1))
        assert torch.equal(y.double(), x.double() @ w.double().T)


def test_rows_taken_some_at_a_time_change_nothing(generator, arithmetic, monkeypatch):
    x, w = codes(generator, 5, 24), codes(generator, 50, 24)
    args = pack_int4(x), torch.rand(5, 1), pack_int4(w), torch.rand(50, 1)
    whole = int4_linear(*args)
    monkeypatch.setattr(kernels, "CPU_CODES", 1)  # 16 rows at a time
    assert torch.equal(int4_linear(*args), whole)


def test_scales_bias_and_leading_dimensions(generator):
    x, w = codes(generator, 2, 3, 7), codes(generator, 5, 7)
    s_x, s_w, bias = torch.rand(2, 3, 1), torch.rand(5, 1), torch.randn(5)
    expected = s_x.double() * s_w.mT.double() * (x.double() @ w.double().T) + bias
    for lead in ((2, 3), (6,), (1, 6)):
        y = int4_linear(pack_int4(x).reshape(*lead, -1), s_x.reshape(*lead, 1), pack_int4(w), s_w, bias)
        torch.testing.assert_close(y.double(), expected.reshape(*lead, 5), rtol=1e-5, atol=1e-5)
    one = int4_linear(pack_int4(x)[0, 0], s_x[0, 0], pack_int4(w), s_w, bias)
    torch.testing.assert_close(one.double(), expected[0, 0], rtol=1e-5, atol=1e-5)


@given(sizes, st.integers(0, 99))
def test_padding_for_tensor_cores_changes_nothing(size, seed):
    tokens, m, n = size
    generator = torch.Generator().manual_seed(seed)
    x, w = codes(generator, tokens, n), codes(generator, m, n)
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        int_mm = torch._int_mm
        patch.setattr(torch, "_int_mm", lambda a, b: seen.append((*a.shape, *b.shape)) or int_mm(a, b))
        y = kernels._padded_products(x, w)
    assert torch.equal(y.double(), x.double() @ w.double().T)
    [(rows, columns, _, outputs)] = seen
    assert rows > 16
    assert rows % 8 == columns % 8 == outputs % 8 == 0


@given(sizes, st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_weight_only_is_the_product_with_the_numbers(size, groups, symmetric, seed):
    tokens, m, n = size[0], size[1], size[2] * (2 * groups if groups > 1 else 1)
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(0, 16, (m, n), generator=generator, dtype=torch.uint8)
    scale = torch.rand(m, groups, generator=generator)
    zero = None if symmetric else torch.randint(0, 16, (m, groups), generator=generator).float()
    offset = torch.full((m, groups), 8.0) if zero is None else zero
    W = (scale[..., None] * (q.double().unflatten(1, (groups, -1)) - offset[..., None])).flatten(1)
    x, bias = torch.randn(tokens, n, generator=generator), torch.randn(m, generator=generator)
    padded = torch.nn.functional.pad(q, (0, n % 2))
    packed = pack_int4((padded.int() - 8).to(torch.int8) if symmetric else padded)
    y = weight_only_linear(x, packed, scale, zero, bias)
    torch.testing.assert_close(y.double(), x.double() @ W.T + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weight_only_keeps_dtype_and_leading_dimensions(generator, dtype):
    w, scale = codes(generator, 5, 8), torch.rand(5, 1)
    x = torch.randn(2, 3, 8).to(dtype)
    y = weight_only_linear(x, pack_int4(w), scale)
    assert y.dtype == dtype
    assert y.shape == (2, 3, 5)
    torch.testing.assert_close(y, x @ (w * scale).to(dtype).mT, rtol=0.02, atol=0.1)
    assert weight_only_linear(x[0, 0], pack_int4(w), scale).shape == (5,)


def test_weights_in_groups_have_no_integer_product(annotations_unchecked):
    packed = torch.zeros(3, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="one scale a row"):
        int4_linear(packed, torch.ones(3, 1), packed, torch.ones(3, 2))


def test_groups_of_an_odd_number_of_columns(annotations_unchecked):
    with pytest.raises(ValueError, match="even numbers"):
        weight_only_linear(torch.zeros(1, 6), torch.zeros(2, 3, dtype=torch.uint8), torch.ones(2, 2))


def test_rows_of_other_lengths(annotations_unchecked):
    packed = torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="in_features"):
        int4_linear(packed[:, :2], torch.ones(2, 1), packed, torch.ones(2, 1))
    with pytest.raises(ValueError, match="in_features"):
        weight_only_linear(torch.zeros(2, 8), packed, torch.ones(2, 1))


def test_rows_too_long_for_integers():
    row = torch.zeros(1, 2**20 + 1, dtype=torch.uint8)
    with pytest.raises(ValueError, match="int32"):
        int4_linear(row, torch.ones(1, 1), row, torch.ones(1, 1))


def test_compile_to_one_graph(generator, annotations_unchecked):
    x, w, scale = codes(generator, 4, 12), codes(generator, 9, 12), torch.rand(9, 1)
    for function, args in (
        (int4_linear, (pack_int4(x), torch.rand(4, 1), pack_int4(w), scale)),
        (weight_only_linear, (x.float(), pack_int4(w), scale)),
    ):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), function(*args))
