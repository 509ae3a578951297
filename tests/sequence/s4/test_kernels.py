import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linmap.sequence.hippo import hippo_matrices
from linmap.sequence.s4 import (
    S4D,
    cauchy_kernel,
    causal_convolution,
    dplr_kernel,
    krylov_kernel,
    vandermonde_kernel,
)
from linmap.sequence.s4.inits import diagonal_modes, dplr_modes
from linmap.sequence.s4.kernels import dense_scan, diagonal_scan, krylov_states, matrix_power, real_row, real_system

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


def modes(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def decaying(seed: int, *shape: int) -> Tensor:
    z = modes(seed, *shape)
    return torch.complex(-z.real.abs() / 10, z.imag)


def powers(dA: Tensor, dB: Tensor, C: Tensor, L: int) -> Tensor:
    """K_l = C dA^l dB, one l after the other."""
    x, found = dB, []
    for _ in range(L):
        found.append((C * x).sum(-1))
        x = (dA @ x.unsqueeze(-1)).squeeze(-1)
    return torch.stack(found, -1)


@given(sizes, seeds)
def test_the_two_level_kernel_equals_the_sum_over_all_exponentials(L: int, seed: int) -> None:
    C, z = modes(seed, 2, 3, 4), decaying(seed + 1, 3, 4)
    naive = 2 * (C.unsqueeze(-1) * torch.exp(z.unsqueeze(-1) * torch.arange(L))).sum(-2).real
    torch.testing.assert_close(vandermonde_kernel(C, z, L), naive, rtol=0, atol=1e-11)


def test_gradients_of_the_two_level_kernel() -> None:
    C, z = modes(0, 2, 3).requires_grad_(), decaying(1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda C, z: vandermonde_kernel(C, z, 7), (C, z))


def test_float32_is_as_accurate_as_the_naive_form() -> None:
    z, _ = diagonal_modes("lin", 64)
    z, C = z * torch.logspace(-3, -1, 8, dtype=torch.float64).unsqueeze(-1), modes(0, 8, 32)
    exact = vandermonde_kernel(C, z, 4096)
    C32, z32 = C.to(torch.complex64), z.to(torch.complex64)
    naive = 2 * (C32.unsqueeze(-1) * torch.exp(z32.unsqueeze(-1) * torch.arange(4096.0))).sum(-2).real
    two_levels = vandermonde_kernel(C32, z32, 4096)
    assert (two_levels - exact).abs().max() <= 1.5 * (naive - exact).abs().max()


@pytest.mark.parametrize("L", [1024, 4096, 16384])
def test_a_layer_keeps_memory_for_states_and_samples_not_for_their_product(L: int) -> None:
    """What the backward pass of an S4D kernel needs: some N + L numbers a feature, where all exponentials are N L."""
    H, N, kept = 8, 64, []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.untyped_storage())
        return x

    layer = S4D(H, N)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        layer.kernel(L)
    numbers = sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values()) / 4
    assert numbers < 16 * H * (N + L)
    assert numbers < H * N * L / 4


@given(sizes, seeds)
def test_the_final_state_of_diagonal_modes(L: int, seed: int) -> None:
    u, dB, z = modes(seed, 2, 3, L).real, modes(seed + 1, 3, 4), decaying(seed + 2, 3, 4)
    state = torch.zeros(2, 3, 4, dtype=torch.complex128)
    for l in range(L):
        state = z.exp() * state + dB * u[:, :, l, None]
    torch.testing.assert_close(diagonal_scan(u, dB, z), state, rtol=0, atol=1e-11)


@given(seeds, st.integers(1, 70))
@settings(max_examples=20)
def test_powers_by_squaring(seed: int, exponent: int) -> None:
    A = modes(seed, 2, 3, 3).real / 4
    torch.testing.assert_close(matrix_power(A, exponent), torch.linalg.matrix_power(A, exponent))


def test_cauchy_sums_and_their_gradients() -> None:
    v, w, z = modes(0, 3, 4), decaying(1, 3, 4), modes(2, 5)
    naive = (v.unsqueeze(-1) / (z - w.unsqueeze(-1)) + v.conj().unsqueeze(-1) / (z - w.conj().unsqueeze(-1))).sum(-2)
    torch.testing.assert_close(cauchy_kernel(v, z, w), naive, rtol=0, atol=1e-11)
    v, w, z = (x.requires_grad_() for x in (v, w, z))
    assert torch.autograd.gradcheck(lambda v, w: torch.view_as_real(cauchy_kernel(v, z, w)), (v, w))


@pytest.mark.parametrize(("init", "rank"), [("legs", 1), ("legs", 2), ("fout", 1), ("legt", 2)])
@pytest.mark.parametrize("L", [1, 2, 7, 16, 100])
def test_all_kernels_of_low_rank_systems_are_powers_of_the_discrete_matrix(init: str, rank: int, L: int) -> None:
    A, P, B = dplr_modes(init, 16, rank)
    dt = torch.tensor([0.01, 0.05, 0.2], dtype=torch.float64)
    A, B, P = A.expand(3, -1), B.expand(3, -1), P.unsqueeze(1).expand(-1, 3, -1)
    C = modes(0, 2, 3, 8)
    dA, dB = real_system(A, P, P, B, dt)
    K = powers(dA, dB, real_row(C), L)
    torch.testing.assert_close(krylov_kernel(real_row(C), dA, dB, L), K, rtol=0, atol=1e-12)
    torch.testing.assert_close(dplr_kernel(A, P, P, B, C, dt, L), K, rtol=0, atol=1e-10)
    u, s = modes(1, 2, 3, L).real, modes(2, 2, 3, 16).real
    state, outputs = s, []
    for l in range(L):
        s = (dA @ s.unsqueeze(-1)).squeeze(-1)
        outputs.append((real_row(C)[0] * s).sum(-1))
        state = (dA @ state.unsqueeze(-1)).squeeze(-1) + dB * u[:, :, l, None]
    start = modes(2, 2, 3, 16).real
    torch.testing.assert_close(dense_scan(u, dB, dA, start), state, rtol=0, atol=1e-11)
    found = krylov_states(start, real_row(C)[0], dA, L)
    torch.testing.assert_close(found, torch.stack(outputs, -1), rtol=0, atol=1e-11)


def test_the_stored_truncated_output_gives_the_same_kernel() -> None:
    A, P, B = (x.unsqueeze(-2) for x in dplr_modes("legs", 16))
    dt, C, L = torch.tensor([0.03], dtype=torch.float64), modes(0, 1, 8), 12
    dA, _ = real_system(A, P, P, B, dt)
    row = real_row(C) @ (torch.eye(16) - torch.linalg.matrix_power(dA[0], L))
    truncated = torch.complex(row[:, :8], -row[:, 8:]) / 2
    ours = dplr_kernel(A, P, P, B, truncated, dt, L, truncated=True)
    torch.testing.assert_close(ours, dplr_kernel(A, P, P, B, C, dt, L), rtol=0, atol=1e-11)


def test_gradients_of_the_low_rank_kernels_agree() -> None:
    A, P, B = (x.unsqueeze(-2).clone() for x in dplr_modes("legs", 8))
    leaves = [A, P, B, modes(0, 1, 1, 4), torch.tensor([0.1], dtype=torch.float64)]
    weights, gradients = torch.randn(9, dtype=torch.float64), []
    for route in ("cauchy", "krylov"):
        A, P, B, C, dt = (leaf.clone().requires_grad_() for leaf in leaves)
        if route == "cauchy":
            K = dplr_kernel(A, P, P, B, C, dt, 9)
        else:
            K = krylov_kernel(real_row(C), *real_system(A, P, P, B, dt), 9)
        gradients.append(torch.autograd.grad((K * weights).sum(), (A, P, B, C, dt)))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@given(sizes, seeds)
def test_convolution_equals_numpy_both_ways(L: int, seed: int) -> None:
    u, K, back = (modes(seed + i, *shape).real for i, shape in enumerate([(2, 3, L), (3, L), (3, L)]))
    one, both = causal_convolution(u, K), causal_convolution(u, K, back)
    for b in range(2):
        for h in range(3):
            forward = np.convolve(u[b, h], K[h])[:L]
            np.testing.assert_allclose(one[b, h], forward, rtol=0, atol=1e-11)
            future = [sum(back[h, j - i - 1] * u[b, h, j] for j in range(i + 1, L)) for i in range(L)]
            np.testing.assert_allclose(both[b, h], forward + np.array([float(x) for x in future]), rtol=0, atol=1e-11)


def test_lengths_must_be_positive() -> None:
    with pytest.raises(ValueError, match="L must be a positive length, got 0"):
        vandermonde_kernel(modes(0, 1, 2), decaying(1, 1, 2), 0)
    A, P, B = (x.unsqueeze(-2) for x in dplr_modes("legs", 4))
    with pytest.raises(ValueError, match="L must be a positive length, got 0"):
        dplr_kernel(A, P, P, B, B, torch.ones(1, dtype=torch.float64), 0)


# -- inits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("init", "rank", "moved"), [("legs", 1, 0), ("fout", 1, 1e-4), ("legt", 2, 1e-4)])
def test_modes_put_together_are_the_hippo_system(init: str, rank: int, moved: float) -> None:
    """The transfer function C (s - A)^-1 B does not depend on the basis; FouT and LegT decay by 1e-4 more."""
    A, P, B = dplr_modes(init, 32, rank, clip=None)
    both, factor, b = torch.cat([A, A.conj()]), torch.cat([P, P.conj()], 1).mT, torch.cat([B, B.conj()])
    whole = torch.diag(both) - factor @ factor.mH
    exact, exact_B = (x.to(torch.complex128) for x in hippo_matrices(init, 32))
    identity = torch.eye(32, dtype=torch.complex128)
    for s in (0.3 + 0.2j, 1 + 4j, 5j + 0.1):
        ours = b.conj() @ torch.linalg.solve((s - moved) * identity - whole, b)
        theirs = exact_B.conj() @ torch.linalg.solve(s * identity - exact, exact_B)
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    assert (A.imag <= 1e-12).all()
    assert (B.real >= 0).all()
    assert B.imag.abs().max() < 1e-12


def test_the_frequencies_of_the_closed_forms() -> None:
    largest = dplr_modes("legs", 64)[0].imag[:3]
    torch.testing.assert_close(
        -largest, torch.tensor([1303.27, 433.03, 258.15], dtype=torch.float64), atol=6e-3, rtol=0
    )
    inverse = diagonal_modes("inv", 64)[0].imag[:3]
    torch.testing.assert_close(-inverse, torch.tensor([1283.4, 414.2, 240.4], dtype=torch.float64), atol=6e-2, rtol=0)
    torch.testing.assert_close(-diagonal_modes("lin", 8)[0].imag, math.pi * torch.arange(4, dtype=torch.float64))
    torch.testing.assert_close(
        -diagonal_modes("quad", 8)[0].imag, torch.tensor([1, 9, 25, 49], dtype=torch.float64) / math.pi
    )
    assert diagonal_modes("real", 8)[0].tolist() == [-1, -2, -3, -4]
    assert (diagonal_modes("rand", 8)[0].imag < 0).all()
    assert dplr_modes("legs", 64, clip=None)[2].abs().max() == pytest.approx(40.75, abs=5e-3)
    assert dplr_modes("legs", 64)[2].abs().max() == pytest.approx(2)


def test_the_diagonal_legs_approaches_the_kernels_of_legs_when_smoothed() -> None:
    """Only weakly: kernel n = 0 of S4D-LegS, in the eigenvectors' basis, against e^-t after a moving average."""
    errors = []
    for N in (64, 256):
        A, P = hippo_matrices("legs", N)[0], torch.sqrt(torch.arange(N, dtype=torch.float64) + 0.5)
        _, V = torch.linalg.eigh(-1j * ((A + torch.outer(P, P)) - (A + torch.outer(P, P)).mT) / 2)
        full = torch.diagonal(V.mH @ (A + torch.outer(P, P)).to(V.dtype) @ V)
        t = torch.arange(0, 3, 1e-3, dtype=torch.float64)
        b = V.mH @ hippo_matrices("legs", N)[1].to(V.dtype) / 2
        kernel = (V[0] * b * torch.exp(t.unsqueeze(-1) * full)).sum(-1).real
        smooth = np.convolve((kernel - torch.exp(-t)).numpy(), np.ones(100) / 100, "valid")
        errors.append(np.abs(smooth).mean())
    assert errors[0] < 0.06
    assert errors[1] < errors[0] / 4
