"""The C++ kernels, each set of instructions that this CPU has, beside float64 and PyTorch's operations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from linmap.compress.flatquant.attention import TokenQuantizer
from linmap.compress.flatquant.kernels import active_kernels, integer_linear, use
from linmap.compress.flatquant.linear import LinearBits, QuantizedLinear
from linmap.compress.flatquant.native import choice
from linmap.compress.flatquant.native.build import Unavailable
from linmap.compress.flatquant.quantizer import quantize
from linmap.compress.flatquant.transforms import OnlineTransform, kronecker_apply
from linmap.errors import ArgumentError

HERE = [kind for kind in ("avx512", "avx2", "neon", "portable") if kind == "portable" or choice.has(kind)]
"""Instructions of this processor, the ones that it runs by itself first; each of the others takes long to compile."""


@pytest.fixture(
    scope="module", autouse=True, params=[HERE[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in HERE[1:])]
)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        choice._load(request.param)
    except Unavailable as error:
        pytest.skip(str(error))
    with use(request.param):
        yield request.param


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(n: int, m: int, bits: LinearBits, groups: int = 1, *, bias: bool = True, clip: bool = True, seed: int = 0):
    size = None if groups == 1 else n // groups
    new = QuantizedLinear(n, m, bias, bits, clip, group_size=size)
    parts = quantize(drawn(m * groups, n // groups, seed=seed), bits.weight, bits.weight_symmetric, per="row")
    codes, scale, zero = parts
    zero = None if zero is None else zero.view(m, groups)
    new.store_codes(codes.view(m, n), scale.view(m, groups), zero)
    if new.bias is not None:
        new.bias.copy_(drawn(m, seed=seed + 1))
    if new.input_max is not None and new.input_min is not None:
        new.input_max.fill_(1.5)
        new.input_min.fill_(0.7)
    return new


def runs_natively(new: QuantizedLinear, x: Tensor) -> bool:
    return new._runs_natively(x)


SIZES = {"n": st.integers(1, 300), "m": st.integers(1, 70), "tokens": st.integers(0, 40), "seed": st.integers(0, 99)}


@given(**SIZES, w_bits=st.sampled_from([2, 3, 4, 8]), a_bits=st.sampled_from([3, 4, 8]), bias=..., clip=...)
def test_products_of_codes_are_the_formula(
    n: int, m: int, tokens: int, seed: int, w_bits: int, a_bits: int, bias: bool, clip: bool
):
    """On the same codes in float64, and bit for bit those of PyTorch's operations."""
    new, x = layer(n, m, LinearBits(w_bits, a_bits), bias=bias, clip=clip, seed=seed), drawn(tokens, n, seed=seed)
    assert runs_natively(new, x)
    codes, scale, _ = quantize(x, a_bits, True, new.input_max, new.input_min, "token")
    y = new(x)
    exact = (codes.double() @ new.codes().double().T) * scale.double() * new.weight_scale.double().T
    torch.testing.assert_close(y.double(), exact if new.bias is None else exact + new.bias, rtol=1e-5, atol=1e-5)
    assert torch.equal(y, integer_linear(codes, scale, new.codes(), new.weight_scale, new.bias))


@given(
    **SIZES | {"n": st.integers(1, 12)},
    groups=st.integers(1, 5),
    w_bits=st.sampled_from([3, 4, 8]),
    symmetric=...,
    bias=...,
)
def test_products_of_numbers_are_the_formula(
    n: int, m: int, tokens: int, seed: int, groups: int, w_bits: int, symmetric: bool, bias: bool
):
    columns = 8 * n * groups if groups > 1 else 23 * n + 1
    new = layer(columns, m, LinearBits(w_bits, 16, symmetric), groups, bias=bias, seed=seed)
    x = drawn(tokens, columns, seed=seed)
    assert runs_natively(new, x)
    W = new.dequantized_weight(torch.float64)
    exact = F.linear(x.double(), W, None if new.bias is None else new.bias.double())
    error = (new(x) - exact).abs()
    assert bool((error <= 1e-6 * (x.double().abs() @ W.abs().T) + 1e-6).all())


@pytest.mark.parametrize(
    ("bits", "groups"),
    [(LinearBits(4, 4), 1), (LinearBits(8, 8), 1), (LinearBits(4, 16), 1), (LinearBits(4, 16, False), 4),
     (LinearBits(8, 16), 1)],
)  # fmt: skip
@pytest.mark.parametrize("n", [192, 1056])
def test_a_token_does_not_depend_on_its_company_or_on_threads(bits, groups, n, monkeypatch):
    monkeypatch.setattr(choice, "processors", lambda: 3)
    new, x = layer(n, 150, bits, groups), drawn(53, n)
    assert runs_natively(new, x)
    whole = new(x)
    for size in (1, 3, 8, 17, 40):
        assert torch.equal(torch.cat([new(part) for part in x.split(size)]), whole)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(new(x), whole)
    finally:
        torch.set_num_threads(before)


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.sampled_from(["both", "first", "none"]), st.booleans()
)
def test_transforms(n1, n2, tokens, factors, scaled):
    n = n1 * n2
    sizes = {"both": (n1, n2), "first": (n1,), "none": ()}[factors]
    online = OnlineTransform(sizes, n, scaled)
    matrices = [drawn(size, size, seed=i) for i, size in enumerate(sizes)]
    for i, matrix in enumerate(matrices):
        online.get_buffer(f"factor_{i}").copy_(matrix)
    if online.scale is not None:
        online.scale.copy_(drawn(n, seed=3))
    x = drawn(tokens, n, seed=4)
    expected = x.double() if online.scale is None else x.double() * online.scale
    dense = [matrix.double() for matrix in matrices]
    if factors == "first":
        dense.append(torch.eye(n2, dtype=torch.float64))
    if dense:
        expected = kronecker_apply(expected, dense)
    torch.testing.assert_close(online(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_transform_inside_the_layer_is_the_one_before_it():
    online = OnlineTransform((6, 8), 48, scale=True)
    for i, size in enumerate((6, 8)):
        online.get_buffer(f"factor_{i}").copy_(drawn(size, size, seed=i))
    assert online.scale is not None
    online.scale.copy_(drawn(48, seed=7))
    for bits in (LinearBits(4, 4), LinearBits(4, 16), LinearBits(4, 4, False, False)):
        new, x = layer(48, 20, bits), drawn(9, 48)
        expected = new(online(x))
        new.transform = online
        assert torch.equal(new(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [LinearBits(4, 4), LinearBits(4, 16)])
def test_half_precision_is_converted_at_the_edge(dtype, bits):
    new, x = layer(40, 12, bits), drawn(5, 40).to(dtype)
    assert torch.equal(new(x), new(x.float()).to(dtype))


def test_inputs_that_are_not_contiguous():
    new, x = layer(40, 12, LinearBits(4, 4)), drawn(40, 3, 5)
    turned = x.permute(2, 1, 0)
    assert new(turned).shape == (5, 3, 12)
    assert torch.equal(new(turned), new(turned.contiguous()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("a_bits", [4, 8, 16])
def test_what_is_no_number_stays_in_its_token_and_is_seen(bad, a_bits):
    new, x = layer(40, 12, LinearBits(4, a_bits)), drawn(5, 40)
    good = new(x)
    x[2, 7] = bad
    y = new(x)
    assert torch.equal(y[[0, 1, 3, 4]], good[[0, 1, 3, 4]])
    assert not y[2].isfinite().any()
    with use("torch"):
        assert not new(x)[2].isfinite().any()


def test_tokens_of_zeros_and_tiny_numbers():
    new = layer(40, 12, LinearBits(4, 4), bias=False)
    x = torch.stack([torch.zeros(40), torch.full((40,), 1e-44), drawn(40) * 1e-30])
    with use("torch"):
        expected = new(x)
    assert torch.equal(new(x)[[0, 2]], expected[[0, 2]])
    assert bool(new(x)[1].isfinite().all())


@pytest.mark.usefixtures("annotations_unchecked")
def test_other_lengths_are_refused_as_ever():
    with pytest.raises(RuntimeError):
        layer(40, 12, LinearBits(4, 4))(drawn(3, 39))


def test_what_follows_operations_sees_operations():
    new, x = layer(40, 12, LinearBits(4, 16)), drawn(3, 40)
    mapped = torch.func.vmap(new)(x)
    torch.testing.assert_close(mapped, new(x), rtol=1e-5, atol=1e-5)
    new.to("meta")
    assert new(x.to("meta")).shape == (3, 12)


@pytest.mark.usefixtures("annotations_unchecked")
def test_compiled_graphs_hold_one_operator_and_exported_ones_none():
    new, x = layer(48, 20, LinearBits(4, 4)), drawn(3, 48)
    new.transform = OnlineTransform((6, 8), 48, scale=False)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    with torch.no_grad():
        y = new(x)
        assert torch.equal(torch.compile(new, fullgraph=True, backend=keep)(x), y)
        exported = torch.export.export(nn.Sequential(new), (x,))
        torch.testing.assert_close(exported.module()(x), y, rtol=1e-5, atol=1e-5)
    assert "linmap_flatquant" in graphs[0].code
    assert "linmap_flatquant" not in exported.graph_module.code


@given(st.integers(1, 150), st.integers(0, 9), st.sampled_from([2, 3, 4, 5, 8]), st.booleans(), st.booleans())
def test_kept_keys_and_values_are_the_same_codes(n, tokens, bits, symmetric, clip):
    logit = torch.tensor(1.5) if clip else None
    quantizer, x = TokenQuantizer(bits, symmetric, logit, logit), drawn(2, 3, tokens, n)
    found = quantizer.encode(x)
    with use("torch"):
        expected = quantizer.encode(x)
    assert [part.dtype for part in found] == [part.dtype for part in expected]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    x[..., -1] = float("nan")
    assert not quantizer.decode(quantizer.encode(x), n, torch.float32).isfinite().any()


# -- the choice --------------------------------------------------------------------------------------------------------


def test_the_choice_is_seen_and_goes_back(instructions):
    assert active_kernels().startswith(instructions)
    with use("torch"):
        assert active_kernels() == "torch"
    assert active_kernels().startswith(instructions)


def test_unknown_and_impossible_names_are_refused(monkeypatch):
    before = active_kernels()
    with pytest.raises(ArgumentError, match="'sse' is none of auto, avx512"):
        use("sse")
    other = "neon" if choice.has("avx2") else "avx2"
    with pytest.raises(ArgumentError, match="no such instructions"):
        use(other)
    assert active_kernels() == before
    monkeypatch.setattr(choice, "_active", None)
    monkeypatch.setenv("LINMAP_FLATQUANT_KERNELS", "fast")
    with pytest.raises(ArgumentError, match="LINMAP_FLATQUANT_KERNELS='fast' is none of"):
        layer(8, 3, LinearBits(4, 4))(drawn(1, 8))


def test_without_a_compiler_it_warns_once_and_works(monkeypatch):
    def missing(kind: str) -> Any:
        raise Unavailable("there is no g++ or clang++; install a C++ compiler")

    monkeypatch.setattr(choice.build, "library", missing)
    monkeypatch.setattr(choice, "_loaded", {})
    monkeypatch.setattr(choice, "_active", None)
    monkeypatch.delenv("LINMAP_FLATQUANT_KERNELS", raising=False)
    monkeypatch.setattr(choice, "has", lambda name: name == "avx2")
    new, x = layer(40, 12, LinearBits(4, 4)), drawn(3, 40)
    with pytest.warns(RuntimeWarning, match="install a C\\+\\+ compiler"):
        y = new(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(new(x), y)
    with pytest.raises(ArgumentError, match="cannot be had on this machine"):
        use("avx2")
