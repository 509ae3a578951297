"""Where clipping starts: no row and no input is rounded worse than from the paper's start, and hardly any better."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compress.flatquant.models import tiny, tokens
from linmap.compress.architecture import block_paths
from linmap.compress.flatquant.block import SITES_OF, StudentBlock
from linmap.compress.flatquant.blockwise import calibrated_block, row_logits, start_clipping, start_student, token_logit
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.linear import CalibratedLinear, LinearBits
from linmap.compress.flatquant.quantizer import CLIP_LOGIT, fake_quantize
from linmap.compress.flatquant.teacher import embedded, teacher_outputs
from typed import present


def layer(bits: int = 4, symmetric: bool = True) -> CalibratedLinear:
    return CalibratedLinear(nn.Linear(8, 3), LinearBits(bits, bits, symmetric, symmetric), True, None, True)


def row_errors(W: torch.Tensor, bits: int, symmetric: bool, *logits: torch.Tensor) -> torch.Tensor:
    return (fake_quantize(W, bits, symmetric, *logits, per="row")[0] - W).square().sum(-1, keepdim=True)


@given(
    seed=st.integers(0, 2**31), bits=st.integers(2, 8), symmetric=st.booleans(), shift=st.sampled_from([-3.0, 0.0, 3.0])
)
@settings(max_examples=30, deadline=None)
def test_rows_are_rounded_no_worse_than_from_the_widest_range(seed, bits, symmetric, shift) -> None:
    W = torch.randn(6, 40, generator=torch.Generator().manual_seed(seed)) + shift
    logits = row_logits(W, layer(bits, symmetric))
    widest = torch.full((6, 1), CLIP_LOGIT)
    ours = row_errors(W, bits, symmetric, *logits)
    assert bool((ours <= row_errors(W, bits, symmetric, widest, widest)).all())
    assert all(logit.shape == (6, 1) and bool((logit <= CLIP_LOGIT).all()) for logit in logits)


def test_a_row_finds_the_best_share_of_a_fine_grid() -> None:
    """Of a flat row of 576 numbers: .8 to .9 in four bits, and a tenth of the error of the paper's start is gone."""
    W = torch.randn(20, 576, generator=torch.Generator().manual_seed(0))
    logits = row_logits(W, layer())
    reach = W.abs().amax(-1, keepdim=True)
    fine = []
    for share in torch.linspace(0.4, 0.999, 600):
        s = share * reach / 7
        fine.append(((W / s).round().clamp(-7, 7) * s - W).square().sum(-1, keepdim=True))
    ours, best = row_errors(W, 4, True, *logits), torch.stack(fine).amin(0)
    assert bool((ours <= 1.03 * best).all())
    shares = torch.maximum(logits[0].sigmoid() * W.amax(-1, True), -logits[1].sigmoid() * W.amin(-1, True)) / reach
    assert 0.7 < float(shares.mean()) < 0.9
    widest = torch.full((20, 1), CLIP_LOGIT)
    assert float((ours / row_errors(W, 4, True, widest, widest)).mean()) < 0.9


def test_a_row_of_one_sign_and_a_row_of_zeros_have_finite_logits() -> None:
    W = torch.stack([torch.rand(30) + 1, -torch.rand(30) - 1, torch.zeros(30)])
    for symmetric in (True, False):
        logits = torch.cat(row_logits(W, layer(symmetric=symmetric)))
        assert bool(logits.isfinite().all())


@given(seed=st.integers(0, 2**31), bits=st.integers(2, 8), symmetric=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_size_of_a_token_does_not_matter(seed, bits, symmetric) -> None:
    """A massive activation is one token of many; and no share is better than the one that is found."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 20, 64, generator=generator, dtype=torch.float64).float()
    sizes = 2.0 ** torch.randint(-10, 10, (2, 20, 1), generator=generator)
    found = token_logit(x, layer(bits, symmetric))
    assert token_logit(x * sizes, layer(bits, symmetric)) == found

    def error(logit: torch.Tensor) -> float:
        y = fake_quantize(x, bits, symmetric, logit, logit, per="token")[0]
        return float(((y - x).square().sum(-1) / x.square().sum(-1)).mean())

    assert error(found) <= error(torch.tensor(CLIP_LOGIT)) * (1 + 1e-5)


def student_of(dtype: torch.dtype = torch.float32, **options) -> tuple[StudentBlock, tuple]:
    config = FlatQuantConfig(k_bits=4, v_bits=4, epochs=1, **options)
    model = tiny("llama").to(dtype)
    block = model.model.layers[0]
    x, arguments = embedded(model, tokens(6, 10), "model.layers")
    y, channels = teacher_outputs(block, block_paths(block), x, arguments[0], 4)
    return start_student(block, config, 0, channels), (block, config, 0, channels, x, y, arguments[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_layers_of_a_block_are_set(dtype) -> None:
    student, (*_, x, _, arguments) = student_of(dtype)
    start_clipping(student, x[:4], arguments)
    for part in SITES_OF:
        linear = student.linear(part)
        assert present(linear.input_max).item() == present(linear.input_min).item() <= CLIP_LOGIT
        moved = (linear.weight_max != CLIP_LOGIT) | (linear.weight_min != CLIP_LOGIT)
        assert bool(moved.any()) == (part != "v")
        assert all(bool(p.isfinite().all()) and p.dtype == torch.float32 for p in linear.parameters(recurse=False))
    assert not any(linear._forward_pre_hooks for linear in map(student.linear, SITES_OF))


@pytest.mark.parametrize("options", [{"w_bits": 16}, {"a_bits": 16}, {"clip": False}, {"transform": "none"}])
def test_what_is_not_clipped_is_left_alone(options) -> None:
    trained = calibrated_block(*student_of(**options)[1])
    assert all(bool(tensor.isfinite().all()) for tensor in trained.tensors.values())


def test_a_calibration_starts_there_unless_it_is_told_to_start_wide() -> None:
    found = {
        start: calibrated_block(*student_of(clip_start=start, lr=0.0, clip_lr=0.0)[1]) for start in ("search", "wide")
    }
    assert bool((found["wide"].tensors["down.weight_max"] == CLIP_LOGIT).all())
    assert not bool((found["search"].tensors["down.weight_max"] == CLIP_LOGIT).all())
