import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linmap.compress.flatquant.quantizer import dequantize, fake_quantize, quantize
from linmap.compress.flatquant.rounding import Hessian, gptq, inverse_factor
from typed import present

seeds = st.integers(0, 2**16)


def problem(seed=0, m=7, n=24, tokens=200):
    """A weight and correlated inputs with their Hessian, float64."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(m, n, dtype=torch.float64, generator=generator)
    X = torch.randn(tokens, n, dtype=torch.float64, generator=generator)
    X = X @ torch.randn(n, n, dtype=torch.float64, generator=generator)
    return W, X, X.mT @ X * (2 / tokens)


def one_column_at_a_time(W, H, bits, symmetric, damping=0.01):
    """The greedy step from its definition: fix a column, solve for the others, shrink the problem."""
    W, H = W.clone(), H + torch.eye(len(H), dtype=H.dtype) * damping * H.diagonal().mean()
    _, scale, zero = quantize(W, bits, symmetric, per="row")
    first, last = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    z = torch.zeros_like(scale) if zero is None else zero
    for i in range(W.shape[1]):
        q = ((W[:, i : i + 1] / scale).round() + z).clamp(first, last)
        error = (q - z) * scale - W[:, i : i + 1]
        rest = slice(i + 1, None)
        # minimise tr(D H D^T) over the columns that are left, given D_i = error
        W[:, rest] -= error @ torch.linalg.solve(H[rest, rest], H[rest, i]).unsqueeze(0) if i + 1 < len(H) else 0
        W[:, i : i + 1] += error
    return W


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [1, 5, 128])
@given(bits=st.sampled_from([2, 4, 8]), seed=seeds)
def test_it_is_the_greedy_minimiser_whatever_the_block(symmetric, block_size, bits, seed):
    W, _, H = problem(seed)
    rounded = gptq(W, H, bits, symmetric, block_size=block_size)
    torch.testing.assert_close(rounded.weight, one_column_at_a_time(W, H, bits, symmetric), rtol=1e-8, atol=1e-8)
    assert torch.equal(dequantize(rounded.codes, rounded.scale, rounded.zero), rounded.weight)


@pytest.mark.parametrize("symmetric", [True, False])
@given(bits=st.integers(2, 8), seed=seeds)
def test_without_correlations_it_is_rounding_to_nearest(symmetric, bits, seed):
    W = problem(seed)[0].float()
    rounded = gptq(W, torch.eye(24), bits, symmetric)
    codes, scale, zero = quantize(W, bits, symmetric, per="row")
    assert torch.equal(rounded.weight, fake_quantize(W, bits, symmetric, per="row")[0])
    assert torch.equal(rounded.codes, codes)
    assert rounded.codes.dtype == codes.dtype
    assert torch.equal(rounded.scale, scale)
    assert (rounded.zero is None) == symmetric
    assert zero is None or torch.equal(present(rounded.zero), zero)


@pytest.mark.parametrize("group_size", [None, 8, 24])
@given(seed=seeds)
def test_its_outputs_are_nearer_than_those_of_rounding_to_nearest(group_size, seed):
    W, X, H = problem(seed)
    rounded = gptq(W, H, 4, group_size=group_size)
    nearest = fake_quantize(W, 4, True, per="row")[0]
    assert (X @ (W - rounded.weight).mT).norm() <= (X @ (W - nearest).mT).norm()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("block_size", [4, 5, 12, 128])
def test_a_group_is_the_range_of_the_columns_as_the_sweep_left_them(symmetric, block_size):
    """With blocks shorter than, longer than and across groups."""
    W, _, H = problem()
    expected = gptq(W, H, 4, symmetric, group_size=8, block_size=24)
    rounded = gptq(W, H, 4, symmetric, group_size=8, block_size=block_size)
    torch.testing.assert_close(rounded.weight, expected.weight, rtol=1e-9, atol=1e-9)
    assert rounded.scale.shape == (7, 3)
    weight = torch.cat(
        [gptq(W, torch.eye(24, dtype=W.dtype), 4, symmetric, 8).weight.split(8, 1)[i] for i in range(3)], 1
    )
    nearest = torch.cat([fake_quantize(part, 4, symmetric, per="row")[0] for part in W.split(8, 1)], 1)
    torch.testing.assert_close(weight, nearest)


def test_dead_inputs_get_no_weight():
    W, X, _ = problem()
    X[:, [0, 5]] = 0
    rounded = gptq(W, X.mT @ X * (2 / len(X)), 4)
    assert rounded.weight[:, [0, 5]].abs().max() == 0
    assert rounded.weight[:, 1].abs().max() > 0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [None, 12])
@given(seed=seeds, dead=st.sets(st.integers(0, 23), min_size=1, max_size=20), size=st.sampled_from([0.0, 1.0, 1e6]))
def test_weights_of_dead_inputs_move_nothing(symmetric, group_size, seed, dead, size):
    """Codes and scales are those of a weight that is 0 there, whatever it is."""
    W, X, _ = problem(seed)
    columns = sorted(dead)
    X[:, columns] = 0
    H = X.mT @ X
    blank, other = W.clone(), W.clone()
    blank[:, columns], other[:, columns] = 0, size * W[:, columns]
    expected, rounded = gptq(blank, H, 4, symmetric, group_size), gptq(other, H, 4, symmetric, group_size)
    assert torch.equal(rounded.codes, expected.codes)
    assert torch.equal(rounded.scale, expected.scale)


def test_the_factor_is_the_upper_cholesky_factor_of_the_inverse():
    H = problem()[2]
    damped = H + torch.eye(24, dtype=H.dtype) * 0.01 * H.diagonal().mean()
    expected = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    torch.testing.assert_close(inverse_factor(H), expected, rtol=1e-8, atol=1e-8)


def test_singular_inputs_need_the_damping():
    W, X, _ = problem(tokens=5)
    H = X.mT @ X
    assert gptq(W, H, 4).weight.isfinite().all()
    with pytest.raises(RuntimeError, match=r"not positive definite with damping=0.*raise the damping"):
        gptq(W.float(), -H.float(), 4, damping=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    W, _, H = problem()
    rounded = gptq(W.to(dtype), H, 4)
    assert rounded.weight.dtype == dtype
    assert rounded.scale.dtype == torch.promote_types(dtype, torch.float32)
    assert gptq(W.to(dtype), H, 4, dtype=torch.float64).scale.dtype == torch.float64


def test_arguments_stay_as_they_are():
    W, _, H = problem()
    W_before, H_before = W.clone(), H.clone()
    gptq(W, H, 3)
    assert torch.equal(W, W_before)
    assert torch.equal(H, H_before)


def test_the_hessian_is_a_sum_over_batches():
    _, X, H = problem()
    streamed = Hessian(24, dtype=torch.float64)
    streamed.add(X[:50].reshape(5, 10, 24))
    streamed.add(X[50:])
    torch.testing.assert_close(streamed.matrix, H)
    with pytest.raises(ValueError, match=r"length 24 are expected, got x of shape \(2, 23\)"):
        streamed.add(torch.ones(2, 23))
    with pytest.raises(RuntimeError, match="has seen no inputs"):
        _ = Hessian(3).matrix


def test_wrong_arguments_are_refused():
    W, _, H = problem()
    for group_size in (7, 0, 48):
        with pytest.raises(ValueError, match=rf"group_size={group_size} does not divide the 24 columns"):
            gptq(W, H, 4, group_size=group_size)
    with pytest.raises(ValueError, match=r"bits=.* is none of 2"):
        gptq(W, H, 9)
    with pytest.raises(ValueError, match="keep the weight as it is"):
        gptq(W, H, 16)
    for name, arguments in (("W", (W / 0, H)), ("H", (W, H / 0))):
        with pytest.raises(ValueError, match=f"{name} has entries that are not finite"):
            gptq(*arguments, 4)
    with pytest.raises(ValueError, match="damping must be >= 0 and block_size >= 1"):
        gptq(W, H, 4, damping=-1.0)


@pytest.mark.usefixtures("annotations_unchecked")
def test_a_hessian_of_another_size_is_refused():
    W, _, H = problem()
    with pytest.raises(ValueError, match=r"H must be 24 x 24 for W of shape \(7, 24\), got \(23, 23\)"):
        gptq(W, H[1:, 1:], 4)
