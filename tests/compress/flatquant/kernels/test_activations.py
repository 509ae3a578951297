from __future__ import annotations

import importlib
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.flatquant.kernels.cases import CLIPS, DTYPES, SIZES, any_numbers, exact
from linmap.compress import flatquant
from linmap.compress.flatquant import kernels
from linmap.compress.flatquant.kernels import quantize_pack, transform_quantize_pack
from linmap.compress.flatquant.quantizer import fake_quantize, unpack_int4

SMALL = [(n1, n2) for n1, n2 in SIZES if n1 * n2 <= 1536]


def codes(packed, n):
    return unpack_int4(packed)[..., :n].double()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(DTYPES), st.sampled_from(CLIPS), st.integers(0, 99))
def test_codes_are_those_of_the_definition(n1, n2, dtype, clips, seed):
    case = exact(n1, n2, dtype, seed)
    packed, scale = transform_quantize_pack(**case, clip_max=clips[0], clip_min=clips[1])
    Y = case["x"].double() @ torch.kron(case["left"], case["right"]).double()
    s = torch.maximum(clips[0] * Y.amax(-1).clamp(min=0), clips[1] * (-Y).amax(-1).clamp(min=0)) / 7
    s = torch.where(s == 0, 1.0, s)[:, None]
    assert torch.equal(scale, s.float())
    q = (Y.float() / s.float()).round().clamp(-8, 7)
    assert torch.equal(codes(packed, n1 * n2), q.double())
    assert packed.shape == (6, (n1 * n2 + 1) // 2)


@pytest.mark.parametrize(("n1", "n2"), SMALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_near_the_product_in_float64(n1, n2, dtype):
    case = any_numbers(n1, n2, dtype)
    packed, scale = transform_quantize_pack(**case)
    Y = case["x"].double() @ torch.kron(case["left"].double(), case["right"].double())
    assert bool(((Y / scale - codes(packed, n1 * n2)).abs() <= 0.5 + 1e-3).all())
    assert packed.shape[:-1] == scale.shape[:-1] == (2, 3)
    assert scale.dtype == torch.float32


def test_half_precision_inputs_do_not_overflow_between_the_products():
    x = torch.full((1, 64), 3e4, dtype=torch.float16)
    packed, scale = transform_quantize_pack(x, torch.ones(8, 8), torch.ones(8, 8))
    assert scale.item() == pytest.approx(64 * x[0, 0].item() / 7)
    assert bool((packed == 0x77).all())


@pytest.mark.parametrize("clips", CLIPS)
def test_same_as_the_fake_quantiser(clips):
    x = any_numbers(6, 8, torch.float32)["x"]
    logits = [torch.logit(torch.tensor(min(c, 0.999))) for c in clips]
    shares = [logit.sigmoid() for logit in logits]
    y, scale, _ = fake_quantize(x, 4, True, *logits, per="token")
    packed, ours = quantize_pack(x, *shares)
    torch.testing.assert_close(ours, scale.reshape(ours.shape), rtol=1e-6, atol=0)
    torch.testing.assert_close(unpack_int4(packed) * ours, y, rtol=1e-6, atol=1e-6)


def test_input_stays_as_it_is():
    x = torch.randn(3, 6)
    before = x.clone()
    quantize_pack(x)
    transform_quantize_pack(x, torch.eye(2), torch.eye(3))
    assert torch.equal(x, before)


def test_tokens_of_zeros_have_scale_one():
    packed, scale = transform_quantize_pack(torch.zeros(2, 0, 6), torch.eye(2), torch.eye(3))
    assert packed.shape == (2, 0, 3)
    assert scale.shape == (2, 0, 1)
    packed, scale = transform_quantize_pack(torch.zeros(4, 6), torch.eye(2), torch.eye(3))
    assert bool((packed == 0).all())
    assert bool((scale == 1).all())


def test_tiny_activations_keep_their_codes():
    x = torch.tensor([[7.0, -7.0, 3.0, 1.0]])
    tiny, scale = quantize_pack(x * 2.0**-60)
    assert torch.equal(tiny, quantize_pack(x)[0])
    assert scale.item() == 2.0**-60


@pytest.mark.parametrize(("left", "right"), [((2, 3), (3, 3)), ((2, 2), (4, 4)), ((2,), (3, 3))])
def test_factors_that_do_not_fit(left, right, annotations_unchecked):
    with pytest.raises(ValueError, match="6 channels"):
        transform_quantize_pack(torch.zeros(1, 6), torch.zeros(left), torch.zeros(right))


def test_compiles_to_one_graph(annotations_unchecked):
    compiled = torch.compile(transform_quantize_pack, fullgraph=True, backend="aot_eager")
    case = exact(6, 10, torch.float32)
    for ours, theirs in zip(compiled(**case), transform_quantize_pack(**case), strict=True):
        assert torch.equal(ours, theirs)


def test_triton_is_not_imported_before_a_gpu_needs_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(kernels.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(flatquant, "kernels", kernels)  # so that it comes back
    monkeypatch.setitem(sys.modules, "triton", None)
    anew = importlib.import_module(kernels.__name__)
    assert anew.quantize_pack is not quantize_pack
    assert anew.quantize_pack(torch.tensor([[7.0, -7.0]]))[0].item() == 0x97
