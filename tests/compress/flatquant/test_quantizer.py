import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.flatquant.passes import can_compile
from linmap.compress.flatquant.quantizer import (
    CLIP_LOGIT,
    dequantize,
    fake_quantize,
    pack_int4,
    quantize,
    unpack_int4,
)
from typed import gradient_of, other, present

ways = pytest.mark.parametrize(
    ("per", "symmetric", "clips"), [(p, s, c) for p in ("token", "row") for s in (True, False) for c in (True, False)]
)
bits_below_16, seeds = st.integers(2, 8), st.integers(0, 2**16)


def rounded_straight_through(x):
    return x + (x.round() - x).detach()


def composed(x, bits, symmetric, a, b, per, rounding=rounded_straight_through, zero_rounding=torch.round):
    """The definitions, one operation after the other, under autograd."""
    if per == "row" and a is not None:
        x = torch.clamp(x, x.amin(-1, keepdim=True) * b.sigmoid(), x.amax(-1, keepdim=True) * a.sigmoid())
    nothing = torch.zeros((), dtype=x.dtype)
    largest, smallest = (
        torch.maximum(x.amax(-1, keepdim=True), nothing),
        torch.minimum(x.amin(-1, keepdim=True), nothing),
    )
    if per == "token" and a is not None:
        largest, smallest = largest * a.sigmoid(), smallest * b.sigmoid()
    span = torch.maximum(largest, smallest.abs()) if symmetric else largest - smallest
    span = (
        span.clamp(min=1e-5)
        if per == "row"
        else span.where(span > 0, 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1)
    )
    if symmetric:
        scale = span / (2 ** (bits - 1) - 1)
        return (
            scale * rounding(x / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1),
            scale,
            torch.zeros_like(scale),
        )
    scale = span / (2**bits - 1)
    zero = zero_rounding(-smallest / scale)
    return scale * ((rounding(x / scale) + zero).clamp(0, 2**bits - 1) - zero), scale, zero


def special_rows(generator, n=9):
    """Random rows, then zero, all positive, all negative, constant, tied, one entry, and tiny ones."""
    x = torch.randn(13, n, dtype=torch.float64, generator=generator)
    x[1], x[4], x[5], x[8] = 0, 1.5, -1.5, 1e-7 * x[8]
    x[2], x[3] = x[2].abs() + 0.3, -x[3].abs() - 0.3
    x[6, :4], x[6, 4:7] = 3, -3  # ties at both ends, and of the two ends
    x[7, 1:] = 0
    x[9, 2:5], x[10] = 4, x[10].abs()
    x[10, 0] = 0
    return x


def logits_for(x, per, clips, generator):
    shape = (len(x), 1) if per == "row" else ()
    if not clips:
        return None, None
    return tuple((torch.randn(shape, dtype=torch.float64, generator=generator) + 1).requires_grad_() for _ in range(2))


@ways
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_values_and_gradients_are_those_of_the_composition(per, symmetric, clips, bits, generator):
    x = special_rows(generator).requires_grad_()
    logits = logits_for(x, per, clips, generator)
    y, scale, zero = fake_quantize(x, bits, symmetric, *logits, per=per)
    expected, expected_scale, expected_zero = composed(x, bits, symmetric, *logits, per=per)
    for ours, theirs in ((y, expected), (scale, expected_scale), (zero, expected_zero)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    leaves = [leaf for leaf in (x, *logits) if leaf is not None]
    g, g_scale = torch.randn_like(y), torch.randn_like(scale)
    ours = torch.autograd.grad([y, scale], leaves, [g, g_scale])
    theirs = torch.autograd.grad([expected, expected_scale], leaves, [g, g_scale])
    for name, a, b in zip(("x", "max_logit", "min_logit"), ours, theirs, strict=False):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert ours[0].abs().sum() > 0


@ways
def test_rows_whose_bounds_cross_have_the_gradient_of_clamp(per, symmetric, clips, generator):
    x = torch.tensor([[1.5, 1.5], [-1.5, -1.5], [1.5, 1.5], [-1.5, -1.5]], dtype=torch.float64, requires_grad=True)
    logits = (None, None)
    if clips:
        values = torch.tensor([[-1.0], [2.0], [2.0], [-1.0]], dtype=torch.float64)
        values = values if per == "row" else values[0, 0]
        logits = values.clone().requires_grad_(), (-values).requires_grad_()
    leaves = [leaf for leaf in (x, *logits) if leaf is not None]
    y, expected = fake_quantize(x, 4, symmetric, *logits, per=per)[0], composed(x, 4, symmetric, *logits, per)[0]
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    g = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    for a, b in zip(torch.autograd.grad(y, leaves, g), torch.autograd.grad(expected, leaves, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@ways
def test_the_gradient_is_that_of_the_smooth_part(per, symmetric, clips, generator):
    """Finite differences of y = s (K u + constant): what rounds is fixed, and so is which codes are clipped."""
    x = torch.randn(4, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    logits = logits_for(x, per, clips, generator)
    leaves = [leaf for leaf in (x, *logits) if leaf is not None]

    def u_and_scale(x, a=None, b=None):
        scale = composed(x, 4, symmetric, a, b, per)[1]
        clamps = per == "row" and clips
        low, high = (x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)) if clamps else (None, None)
        return (torch.clamp(x, low * present(b).sigmoid(), high * present(a).sigmoid()) if clamps else x) / scale, scale

    u, scale = u_and_scale(*leaves)
    y = fake_quantize(x, 4, symmetric, *logits, per=per)[0]
    steps = (y / scale).round().detach()
    K = (u.round() == steps).double()
    constant = (steps - K * u).detach()

    def smooth(*leaves):
        u, scale = u_and_scale(*leaves)
        return scale * (K * u + constant)

    torch.testing.assert_close(smooth(*leaves), y)
    assert torch.autograd.gradcheck(smooth, leaves)
    g = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    for a, b in zip(torch.autograd.grad(y, leaves, g), torch.autograd.grad(smooth(*leaves), leaves, g), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@ways
@given(bits=bits_below_16, seed=seeds)
def test_it_keeps_to_its_grid(per, symmetric, clips, bits, seed):
    generator = torch.Generator().manual_seed(seed)
    x = special_rows(generator)
    logits = tuple(None if a is None else a.detach() for a in logits_for(x, per, clips, generator))
    y, scale, zero = fake_quantize(x, bits, symmetric, *logits, per=per)
    codes, scale_of_codes, zero_of_codes = quantize(x, bits, symmetric, *logits, per=per)
    assert torch.equal(dequantize(codes, scale_of_codes, zero_of_codes), y)
    assert torch.equal(scale, scale_of_codes)
    first, last = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert codes.dtype == (torch.int8 if symmetric else torch.uint8)
    assert first <= int(codes.min())
    assert int(codes.max()) <= last
    assert all(len(row.unique()) <= 2**bits for row in y)
    again = dequantize(((y / scale).round() + zero).clamp(first, last), scale, zero)
    assert torch.equal(again, y)  # idempotent with the same scale
    inside = ((x / scale).round() + zero).clamp(first, last) == (x / scale).round() + zero
    if not (per == "row" and clips):
        assert ((x - y).abs() <= scale / 2 + 1e-12)[inside].all()
    assert torch.equal(y[1], torch.zeros_like(y[1]))


@ways
@given(seed=seeds, factor=st.floats(0.1, 100))
def test_it_scales_with_its_input(per, symmetric, clips, seed, factor):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(5, 11, dtype=torch.float64, generator=generator)
    logits = tuple(None if a is None else a.detach() for a in logits_for(x, per, clips, generator))
    y, scale, _ = fake_quantize(x, 4, symmetric, *logits, per=per)
    y_scaled, scale_scaled, _ = fake_quantize(x * factor, 4, symmetric, *logits, per=per)
    torch.testing.assert_close(scale_scaled, scale * factor, rtol=1e-12, atol=0)
    assert ((y_scaled - y * factor).abs() < 1e-9 * factor).float().mean() > 0.98  # up to ties of the rounding


def test_known_answers():
    x = torch.tensor([[7.0, -3.5, 0.5, 1.5, -8.0 / 3]])
    y, scale, zero = fake_quantize(x, 4, True)
    assert scale.item() == 1.0
    assert zero.item() == 0.0
    assert y.tolist() == [[7.0, -4.0, 0.0, 2.0, -3.0]]  # half to even
    y, scale, zero = fake_quantize(torch.tensor([[-5.0, 10.0, 0.4]]), 4, False)
    assert (scale.item(), zero.item()) == (1.0, 5.0)
    assert y.tolist() == [[-5.0, 10.0, 0.0]]
    half = torch.tensor(0.0)  # sigmoid 1/2
    y, scale, _ = fake_quantize(torch.tensor([[7.0, -2.0]]), 4, True, half, half, per="token")
    assert scale.item() == 0.5
    assert y.tolist() == [[3.5, -2.0]]
    y, scale, _ = fake_quantize(torch.tensor([[7.0, -2.0]]), 4, True, half.expand(1, 1), half.expand(1), per="row")
    assert scale.item() == 0.5
    assert y.tolist() == [[3.5, -1.0]]
    assert torch.tensor(CLIP_LOGIT).sigmoid().item() == pytest.approx(0.982, abs=1e-4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_zero_token_has_scale_1_and_a_zero_row_the_smallest_range(symmetric):
    zeros = torch.zeros(2, 3)
    y, scale, _ = fake_quantize(zeros, 4, symmetric, per="token")
    assert torch.equal(y, zeros)
    assert scale.tolist() == [[1.0], [1.0]]
    y, scale, _ = fake_quantize(zeros, 4, symmetric, per="row")
    assert torch.equal(y, zeros)
    torch.testing.assert_close(scale, torch.full((2, 1), 1e-5 / (7 if symmetric else 15)))


@pytest.mark.parametrize("per", ["token", "row"])
def test_16_bits_are_the_identity_whatever_the_logits(per):
    x, logit = torch.randn(3, 4), torch.tensor(0.0)
    y, scale, zero = fake_quantize(x, 16, True, logit, logit, per=per)
    assert y is x
    assert scale.tolist() == [[1.0]] * 3
    assert zero.tolist() == [[0.0]] * 3


@ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(per, symmetric, clips, dtype, generator):
    x = torch.randn(5, 33, generator=generator).to(dtype).requires_grad_()
    logits = logits_for(x, per, clips, generator)
    wide = x.detach().float().requires_grad_()
    y, scale, _ = fake_quantize(x, 4, symmetric, *logits, per=per)
    expected, expected_scale, _ = fake_quantize(wide, 4, symmetric, *logits, per=per)
    assert y.dtype == dtype
    assert torch.equal(y, expected.to(dtype))
    assert torch.equal(scale, expected_scale)
    y.sum().backward()
    expected.sum().backward()
    assert gradient_of(x).dtype == dtype
    torch.testing.assert_close(gradient_of(x), gradient_of(wide).to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fake_quantize(wide, 4, symmetric, *logits, per=per)[0], expected)


def test_leading_dimensions_and_strides_do_not_matter(generator):
    x = torch.randn(2, 6, 3, 4, generator=generator).transpose(1, 2)
    y, scale, _ = fake_quantize(x, 4, False)
    assert scale.shape == (2, 3, 6, 1)
    assert torch.equal(y.reshape(-1, 4), fake_quantize(x.reshape(-1, 4), 4, False)[0])


def test_no_graph_is_kept_without_gradients():
    with torch.no_grad():
        y, scale, _ = fake_quantize(
            torch.randn(2, 4, requires_grad=True), 4, True, torch.tensor(4.0, requires_grad=True)
        )
    assert y.grad_fn is None
    assert scale.grad_fn is None


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("per", ["token", "row"])
def test_it_compiles_as_one_graph_without_gradients(per, generator):
    x, logit = torch.randn(4, 8, generator=generator), torch.full((4, 1) if per == "row" else (), 2.0)
    compiled = torch.compile(fake_quantize, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for a, b in zip(
            compiled(x, 4, True, logit, logit, per), fake_quantize(x, 4, True, logit, logit, per), strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("per", ["token", "row"])
def test_compiled_gradients_are_the_same(per, generator):
    x = torch.randn(4, 8, generator=generator, requires_grad=True)
    logit = torch.full((4, 1) if per == "row" else (), 1.0, requires_grad=True)
    compiled = torch.compile(fake_quantize, backend="aot_eager")
    ours, expected = (
        torch.autograd.grad(function(x, 4, False, logit, logit, per)[0].square().sum(), [x, logit])
        for function in (compiled, fake_quantize)
    )
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("per", ["token", "row"])
def test_blocks_of_rows_make_no_difference(per, generator, monkeypatch):
    x = torch.randn(10, 8, generator=generator, requires_grad=True)
    logit = torch.full((10, 1) if per == "row" else (), 1.0, requires_grad=True)

    def everything():
        outputs = fake_quantize(x, 4, False, logit, logit, per)
        return *outputs, *torch.autograd.grad(outputs[0].square().sum(), [x, logit]), quantize(x, 4, True, per=per)[0]

    whole = everything()
    for numbers in (1, 24):  # a row, three rows
        monkeypatch.setattr("linmap.compress.flatquant.passes.BLOCK", numbers)
        for a, b in zip(everything(), whole, strict=True):
            torch.testing.assert_close(a, b)


def test_no_rows_are_no_problem():
    x = torch.ones(0, 4, requires_grad=True)
    y, scale, _ = fake_quantize(x, 4, True)
    assert torch.autograd.grad(y.sum(), x)[0].shape == (0, 4)
    assert scale.shape == (0, 1)
    assert quantize(torch.ones(2, 0, 4), 4, False)[0].shape == (2, 0, 4)


@pytest.mark.parametrize("bits", [1, 9, 0, 32, True, 4.5])
@pytest.mark.usefixtures("annotations_unchecked")
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=r"bits=.* is none of 2, 3, 4, 5, 6, 7, 8, 16 \(16: off\)"):
        fake_quantize(torch.ones(1, 2), bits, True)
    with pytest.raises(ValueError, match="bits"):
        quantize(torch.ones(1, 2), bits, True)


@pytest.mark.usefixtures("annotations_unchecked")
def test_wrong_arguments_are_refused():
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="no codes"):
        quantize(x, 16, True)
    with pytest.raises(ValueError, match="per must be 'token'"):
        fake_quantize(x, 4, True, per=other("column"))
    with pytest.raises(ValueError, match=r"max_logit: one logit is expected .* got \(3,\)"):
        fake_quantize(x, 4, True, torch.ones(3))
    with pytest.raises(ValueError, match=r"min_logit: one logit for each of the rows, of shape \(3, 1\)"):
        fake_quantize(x, 4, True, None, torch.ones(4), per="row")


# -- Packing -----------------------------------------------------------------------------------------------------------


def test_every_byte_comes_back():
    every = torch.arange(256).to(torch.uint8).reshape(4, 64)
    for signed in (True, False):
        assert torch.equal(pack_int4(unpack_int4(every, signed)), every)
    signed, unsigned = unpack_int4(every), unpack_int4(every, signed=False)
    assert (signed.dtype, int(signed.min()), int(signed.max())) == (torch.int8, -8, 7)
    assert (unsigned.dtype, int(unsigned.min()), int(unsigned.max())) == (torch.uint8, 0, 15)


@given(seeds, st.integers(0, 5), st.booleans())
def test_codes_come_back(seed, pairs, signed):
    low, dtype = (-8, torch.int8) if signed else (0, torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(low, low + 16, (2, 3, 2 * pairs), generator=generator).to(dtype)
    assert torch.equal(unpack_int4(pack_int4(codes), signed), codes)


@pytest.mark.usefixtures("annotations_unchecked")
@given(st.lists(st.integers(-40, 40), min_size=1, max_size=8), st.sampled_from([torch.int8, torch.int64, torch.uint8]))
def test_codes_come_back_as_they_were_or_are_refused(codes, dtype):
    signed = dtype.is_signed
    if not signed:
        codes = [abs(code) for code in codes]
    x = torch.tensor([*codes, *codes], dtype=dtype)
    low, high = (-8, 7) if signed else (0, 15)
    if all(low <= code <= high for code in codes):
        assert torch.equal(unpack_int4(pack_int4(x), signed), x.to(torch.int8 if signed else torch.uint8))
    else:
        with pytest.raises(ValueError, match=rf"got {min(codes)}\.\.{max(codes)} in {str(dtype)[6:]}"):
            pack_int4(x)


def test_the_even_index_is_in_the_low_nibble():
    assert pack_int4(torch.tensor([1, -2], dtype=torch.int8)).tolist() == [0xE1]
    assert unpack_int4(torch.tensor([0x8F], dtype=torch.uint8)).tolist() == [-1, -8]
    assert unpack_int4(torch.tensor([0x8F], dtype=torch.uint8), signed=False).tolist() == [15, 8]


@pytest.mark.usefixtures("annotations_unchecked")
def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="the last dimension is 3; append a code of 0"):
        pack_int4(torch.zeros(2, 3, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"-8\.\.7 in signed .* 0\.\.15 in uint8, got 0\.\.16"):
        pack_int4(torch.tensor([0, 16], dtype=torch.uint8))
    with pytest.raises(TypeError, match="codes must be integers, got torch"):
        pack_int4(torch.zeros(2))
    with pytest.raises(TypeError, match="packed must be uint8"):
        unpack_int4(torch.zeros(2, dtype=torch.int8))


def test_where_a_loop_cannot_be_compiled_nothing_is(monkeypatch):
    """No compiler on the path, or one that fails."""
    asked = can_compile.__wrapped__  # without what was found before

    def fails(*_):
        raise RuntimeError("Python.h: no such file")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
        patch.setattr("linmap.compress.flatquant.passes._loop", lambda loop: loop)
        assert asked()
        patch.setattr("linmap.compress.flatquant.passes._loop", lambda loop: fails)
        assert not asked()
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert not asked()
