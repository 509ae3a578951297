"""Compiled passes of the quantisers against those that are operations of PyTorch."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from compress.flatquant.models import tiny, tokens
from linmap.compress.architecture import block_paths
from linmap.compress.flatquant.blockwise import start_student, train_block
from linmap.compress.flatquant.calibration import checked_config, pays_to_compile
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.kernels import INT8_DOT
from linmap.compress.flatquant.passes import RoundedProduct, can_compile, compiled_passes, multiplies_codes
from linmap.compress.flatquant.quantizer import fake_quantize
from linmap.compress.flatquant.teacher import embedded, teacher_outputs

pytestmark = pytest.mark.slow  # Inductor compiles C++ for 5 to 15 s; test_quantizer.py compiles without it by default
WAYS = list(itertools.product(("token", "row"), (True, False), (True, False)))


@pytest.fixture(autouse=True)
def _compiler(annotations_unchecked: None) -> None:
    if not can_compile():
        pytest.skip("no C++ compiler")


def logits(rows: int, per: str, clips: bool) -> list[torch.Tensor | None]:
    shape = (rows, 1) if per == "row" else ()
    return [torch.full(shape, start, requires_grad=True) if clips else None for start in (1.0, 2.0)]


@pytest.mark.parametrize(("per", "symmetric", "clips"), WAYS)
def test_compiled_quantisers_are_the_same(per, symmetric, clips, generator) -> None:
    x = torch.randn(37, 24, generator=generator)
    x[3], x[5], x[4, 5] = 0, 2, x[4].max()  # a row of zeros, one of one value, two largest values
    x.requires_grad_()
    ends = logits(37, per, clips)
    weights = torch.randn(37, 24, generator=generator)

    def everything() -> list[torch.Tensor]:
        y, scale, zero = fake_quantize(x, 4, symmetric, *ends, per=per)
        grads = torch.autograd.grad((y * weights).sum() + scale.sum(), [x, *(end for end in ends if end is not None)])
        return [y, scale, zero, *grads]

    expected = everything()
    with compiled_passes():
        found = everything()
    for a, b in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(found[3:], expected[3:], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not INT8_DOT, reason="no integer products on this processor")
def test_the_product_of_codes_is_that_of_the_rounded_values(generator) -> None:
    x, W = (torch.randn(rows, 24, generator=generator, requires_grad=True) for rows in (20, 16))
    x_ends, W_ends = logits(20, "token", True), logits(16, "row", True)
    weights = torch.randn(20, 16, generator=generator)
    given = [x, *x_ends, W, *W_ends]
    rounded = fake_quantize(x, 4, False, *x_ends, per="token")[0]
    expected = F.linear(rounded, fake_quantize(W, 4, True, *W_ends, per="row")[0])
    with compiled_passes():
        assert multiplies_codes(x)
        assert not multiplies_codes(x.double())
        y = RoundedProduct.apply(x, *x_ends, (4, False, "token"), W, *W_ends, (4, True, "row"))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad((out * weights).sum(), given) for out in (y, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_training_goes_the_same_way() -> None:
    model = tiny("llama")
    block = model.model.layers[0]
    x, (arguments, *_) = embedded(model, tokens(8, 10), "model.layers")
    y, channels = teacher_outputs(block, block_paths(block), x, arguments, 4)

    def losses(compiled: bool) -> list[float]:
        config = FlatQuantConfig(k_bits=4, v_bits=4, epochs=3, compile=compiled)
        return train_block(start_student(block, config, 0, channels), x, y, arguments).losses

    assert losses(True) == pytest.approx(losses(False), rel=0.02)


def test_short_trainings_are_not_compiled() -> None:
    assert checked_config(tiny("llama"), FlatQuantConfig(epochs=1)).compile is False
    assert checked_config(tiny("llama"), FlatQuantConfig(epochs=1, compile=True)).compile is True
    assert pays_to_compile(FlatQuantConfig(n_samples=32, epochs=4), 100_000_000)
    assert not pays_to_compile(FlatQuantConfig(n_samples=32, epochs=0), 100_000_000)
    assert pays_to_compile(FlatQuantConfig(epochs=0, distil_steps=150), 100_000_000)
