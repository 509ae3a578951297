from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import cont2discrete

from linmap.sequence.hippo import OnlineProjection, discretize, hippo_matrices
from linmap.sequence.hippo.discretization import zoh_factor
from linmap.sequence.hippo.online import legs_step
from typed import gradient_of


@given(
    st.sampled_from(["legs", "legt", "lagt", "foud"]),
    st.sampled_from(["bilinear", "zoh", "forward", "backward", 0.3]),
    st.floats(1e-3, 0.5),
    st.sampled_from([2, 6, 10]),
)
def test_discretisation_is_that_of_scipy(measure, method, dt, N) -> None:
    A, B = hippo_matrices(measure, N)
    dA, dB = discretize(A, B, dt, method)
    name: Any = {"forward": "euler", "backward": "backward_diff", 0.3: "gbt"}.get(method, method)
    system = (A.numpy(), B.numpy()[:, None], np.eye(N), np.zeros((N, 1)))
    expected: Any = cont2discrete(system, dt, name, alpha=0.3 if name == "gbt" else None)
    np.testing.assert_allclose(dA, expected[0], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(dB, expected[1][:, 0], rtol=1e-11, atol=1e-12)


@given(st.floats(-8, 1), st.floats(0, 2 * np.pi))
def test_the_factor_of_zero_order_hold_is_exact_near_zero(size: float, angle: float) -> None:
    z = 10.0**size * np.exp(1j * angle)
    z = complex(min(z.real, 1.0), z.imag)
    got = complex(zoh_factor(torch.tensor([z], dtype=torch.complex128), torch.tensor([0.5], dtype=torch.float64))[0])
    terms = np.cumprod([0.5 * z / (k + 2) for k in range(60)])
    assert got == pytest.approx(0.5 * (1 + terms.sum()), rel=1e-11)
    zero = torch.zeros(1, dtype=torch.complex128, requires_grad=True)
    value = zoh_factor(zero, torch.tensor([0.5], dtype=torch.float64))
    assert value.item() == 0.5
    value.real.sum().backward()
    assert torch.isfinite(torch.view_as_real(gradient_of(zero))).all()


@given(st.integers(1, 12), st.integers(1, 40), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 99))
def test_the_fast_step_of_legs_is_the_dense_one(N: int, k: int, a: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, u = torch.from_numpy(rng.normal(size=(3, N))), torch.from_numpy(rng.normal(size=(3, 1)))
    A, B = hippo_matrices("legs", N)
    dA, dB = discretize(A, B, 1 / k, a)
    np.testing.assert_allclose(legs_step(x, u, 1 / k, a), x @ dA.T + u * dB, atol=1e-10)


@pytest.mark.parametrize("method", ["bilinear", "backward", "zoh"])
def test_e0_is_the_fixed_point_of_a_constant_and_is_approached_like_one_over_k(method: str) -> None:
    memory = OnlineProjection("legs", 8, method=method)
    errors = []
    for k in range(1, 401):
        errors.append(float((memory.update(1.0) - torch.eye(8)[0]).norm()))
        if k == 200:
            fixed = OnlineProjection("legs", 8, method=method)
            fixed.restore({"coefficients": torch.eye(8, dtype=torch.float64)[0], "count": torch.tensor(k)})
            np.testing.assert_allclose(fixed.update(1.0), np.eye(8)[0], atol=1e-12)
    assert errors[-1] < 0.6 * errors[199] < 0.1


def test_a_polynomial_is_kept_by_scaled_legs() -> None:
    t = (np.arange(1000) + 0.5) / 1000
    u = 1 - 3 * t + 2 * t**3
    memory = OnlineProjection("legs", 6)
    memory.extend(torch.from_numpy(u))
    np.testing.assert_allclose(memory.reconstruct(np.arange(1000) + 0.5)[33:].flip(0), u[:-33], atol=0.02)


def test_twice_the_sampling_rate_leaves_the_coefficients_of_scaled_legs() -> None:
    def after(n: int) -> torch.Tensor:
        t = (np.arange(n) + 0.5) / n
        return OnlineProjection("legs", 8).extend(torch.from_numpy(np.sin(5 * t)))[-1]

    assert (after(1000) - after(500)).abs().max() < (after(250) - after(125)).abs().max() / 2 < 0.01


def test_legt_is_a_delay_line() -> None:
    W, N = 50.0, 16
    memory = OnlineProjection("legt", N, window=W)
    u = np.sin(2 * np.pi * np.arange(400) / 60)
    x = memory.extend(torch.from_numpy(u)).numpy()
    C = np.sqrt(2 * np.arange(N) + 1) * (-1.0) ** np.arange(N)
    # held samples lie half a step later than their index
    delayed = np.sin(2 * np.pi * (np.arange(400) - W) / 60)
    assert np.abs(x @ C - delayed)[120:].max() < 0.05
    np.testing.assert_allclose(memory.reconstruct(W), x[-1] @ C, atol=1e-10)


@pytest.mark.parametrize(("measure", "largest"), [("legt", 0.05), ("fout", 0.15)])
def test_without_a_window_a_measure_with_one_keeps_a_unit_of_time(measure: str, largest: float) -> None:
    t = np.arange(400) * 0.01
    u = np.sin(2 * np.pi * 1.3 * t)
    memory = OnlineProjection(measure, 16, dt=0.01)
    memory.extend(torch.from_numpy(u))
    assert memory.window == 1
    ago = (np.arange(100) + 0.5) * 0.01
    assert np.abs(memory.reconstruct(ago).numpy() - u[::-1][:100]).mean() < largest


@pytest.mark.parametrize(
    "options", [("legs", 6), ("legs", 6, 0.01, "zoh"), ("legt", 6, None, "bilinear", 20.0), ("lagt", 4, 0.1)]
)
def test_streams_side_by_side_and_restored_ones_are_the_same_bytes(options: tuple) -> None:
    u = torch.from_numpy(np.random.default_rng(0).normal(size=(30, 2, 3)))
    whole = OnlineProjection(*options)
    expected = whole.extend(u)
    assert expected.shape == (30, 2, 3, options[1])
    alone = OnlineProjection(*options).extend(u[:, 1, 2])
    np.testing.assert_allclose(alone, expected[:, 1, 2], atol=1e-12)
    first, second = OnlineProjection(*options), OnlineProjection(*options)
    first.extend(u[:11])
    second.restore(first.state())
    assert torch.equal(second.extend(u[11:]), expected[11:])
    whole.reset()
    assert torch.equal(whole.extend(u), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("legt", 4), "legt keeps a window of the past: give window="),
        (("lagt", 4), "lagt has a timescale of its own: give dt="),
        (("legs", 4, 0.0), "dt must be a positive step, got 0.0"),
        (("legs", 4, None, "euler"), "there is no method 'euler'; choose from bilinear, zoh"),
        (("legs", 4, None, 1.5), r"must lie in \[0, 1\]"),
    ],
)
def test_wrong_options_are_told(options: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OnlineProjection(*options)


def test_wrong_samples_and_times_are_told() -> None:
    memory = OnlineProjection("legs", 4)
    memory.update(torch.ones(2))
    with pytest.raises(ValueError, match="sample 1 is not finite"):
        memory.update(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match=r"shape \(3,\), and the samples before had \(2,\)"):
        memory.update(torch.ones(3))
    assert memory.count == 1
    with pytest.raises(ValueError, match=r"between 0 \(now\) and 1"):
        memory.reconstruct(2.0)
    with pytest.raises(ValueError, match="float64 with 4 on the last dimension"):
        memory.restore({"coefficients": torch.zeros(3), "count": 1})
    with pytest.raises(ValueError, match="dt must be a positive step"):
        discretize(*hippo_matrices("legs", 2), -1.0)


def test_numbers_of_python_keep_all_their_digits() -> None:
    """0.1 and 10 MHz + 1 mHz, which float32 does not have."""
    values = [0.1, 1e7 + 1e-3, -0.7]
    kept = [OnlineProjection("legs", 4) for _ in range(3)]
    kept[0].extend(torch.tensor(values, dtype=torch.float64))
    kept[1].extend(values)
    for value in values:
        kept[2].update(value)
    for other in kept[1:]:
        assert torch.equal(other.coefficients, kept[0].coefficients)
    assert torch.equal(kept[1].reconstruct([0.1]), kept[0].reconstruct(torch.tensor([0.1], dtype=torch.float64)))


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize("sample", [1j, np.array([1j]), torch.tensor([1j])])
def test_complex_signals_are_refused_by_name(sample) -> None:
    with pytest.raises(ValueError, match="u is complex; give real and imaginary parts as two signals"):
        OnlineProjection("legs", 4).update(sample)
