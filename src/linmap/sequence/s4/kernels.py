"""Convolution kernels of state spaces, K_l = C dA^l dB: Vandermonde, Cauchy and Krylov; and the causal convolution.

Modes come in conjugate pairs of which one is kept: n complex modes are 2n real states, and a sum over both is twice the
real part. H features, L length.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Complex, Float
from scipy.fft import next_fast_len
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from linmap.errors import ArgumentError

CAUCHY_CHUNK = 2**20  # entries of the (H, modes, nodes) array that are in memory at a time


def vandermonde_kernel(
    C: Complex[Tensor, "*channels H n"], dA_log: Complex[Tensor, "H n"], L: int
) -> Float[Tensor, "*channels H L"]:
    """K_l = 2 Re sum_n C_n e^(l z_n) with z = log dA, for l = 0 .. L - 1, in two levels.

    With l = a M + b, e^(lz) = e^(aMz) e^(bz): two tables of about sqrt(L) powers and one real matrix product for each
    feature, in place of n L exponentials.

    Parameters
    ----------
    C
        Output weights times input weights, C dB.
    dA_log
        z = log dA, with a real part that is not positive.
    L
        Length.

    Raises
    ------
    ValueError
        If L is not positive.
    """
    M, R = _levels(L)
    real, imaginary = dA_log.real.unsqueeze(-2), dA_log.imag.unsqueeze(-2)
    steps = torch.arange(max(M, R), dtype=real.dtype, device=real.device).unsqueeze(-1)
    coarse, fine = M * steps[:R], steps[:M]
    size, phase = torch.exp(coarse * real), coarse * imaginary
    cos, sin = size * torch.cos(phase), size * torch.sin(phase)  # (H, R, n)
    c_real, c_imaginary = 2 * C.real.unsqueeze(-2), 2 * C.imag.unsqueeze(-2)
    left = torch.cat([c_real * cos - c_imaginary * sin, -(c_real * sin + c_imaginary * cos)], -1)
    size, phase = torch.exp(fine * real), fine * imaginary
    right = torch.cat([size * torch.cos(phase), size * torch.sin(phase)], -1)  # (H, M, 2n)
    return (left @ right.mT).flatten(-2)[..., :L]


def diagonal_scan(
    u: Float[Tensor, "B H L"], dB: Complex[Tensor, "H n"], dA_log: Complex[Tensor, "H n"]
) -> Complex[Tensor, "B H n"]:
    """The state after u, from zero: sum_l dA^(L - 1 - l) dB u_l, in two levels as the kernel."""
    L = u.shape[-1]
    M, R = _levels(L)
    steps = torch.arange(max(M, R), dtype=u.dtype, device=u.device).flip(0).unsqueeze(-1)
    blocks = torch.nn.functional.pad(u, (R * M - L, 0)).unflatten(-1, (R, M))
    fine = torch.exp(steps[-M:] * dA_log.unsqueeze(-2))  # e^((M - 1 - b) z), (H, M, n)
    inner = torch.complex(blocks @ fine.real, blocks @ fine.imag)  # (B, H, R, n)
    return (inner * torch.exp(M * steps[-R:] * dA_log.unsqueeze(-2))).sum(-2) * dB


def krylov_kernel(
    C: Float[Tensor, "*channels H N"], dA: Float[Tensor, "H N N"], dB: Float[Tensor, "H N"], L: int
) -> Float[Tensor, "*channels H L"]:
    """K_l = C dA^l dB of dense real systems, in two levels: (C dA^(aM)) (dA^b dB), both sides by repeated squaring.

    It takes log2 L products of N x N matrices for each feature, as many as dA^L alone, which the Cauchy form needs.
    """
    M, R = _levels(L)
    columns, power = _krylov(dB.unsqueeze(-2), dA.mT, M)  # (H, M, N), (dA^T)^M
    rows = C.unsqueeze(-2)
    rows, _ = _krylov(rows, power.mT, R)
    return (rows @ columns.mT).flatten(-2)[..., :L]


def krylov_states(
    s: Float[Tensor, "B H N"], C: Float[Tensor, "H N"], dA: Float[Tensor, "H N N"], L: int
) -> Float[Tensor, "B H L"]:
    """C dA^(l + 1) s for l = 0 .. L - 1: what an initial state adds to the output."""
    M, R = _levels(L)
    columns, power = _krylov((s.unsqueeze(-2) @ dA.mT), dA.mT, M)
    rows, _ = _krylov(C.unsqueeze(-2), power.mT, R)
    return (rows @ columns.mT).flatten(-2)[..., :L]


def dense_scan(
    u: Float[Tensor, "B H L"], dB: Float[Tensor, "H N"], dA: Float[Tensor, "H N N"], s: Float[Tensor, "B H N"]
) -> Float[Tensor, "B H N"]:
    """The state after u, from s."""
    L = u.shape[-1]
    M, R = _levels(L)
    first = L - (R - 1) * M  # the first block is the short one
    columns, power = _krylov(dB.unsqueeze(-2), dA.mT, M)
    columns = columns.flip(-2)  # dA^(M - 1 - b) dB
    blocks = torch.nn.functional.pad(u, (R * M - L, 0)).unflatten(-1, (R, M)) @ columns  # (B, H, R, N)
    s = (s.unsqueeze(-2) @ matrix_power(dA.mT, first)).squeeze(-2) + blocks[:, :, 0]
    for a in range(1, R):
        s = (s.unsqueeze(-2) @ power).squeeze(-2) + blocks[:, :, a]
    return s


def matrix_power(A: Float[Tensor, "*batch N N"], exponent: int) -> Float[Tensor, "*batch N N"]:
    """A^exponent for exponent >= 1 by squaring, all batches at once."""
    result, square = None, A
    while True:
        if exponent & 1:
            result = square if result is None else result @ square
        exponent >>= 1
        if not exponent:
            return A if result is None else result
        square = square @ square


def _krylov(rows: Tensor, A: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """rows A^k for k = 0 .. count - 1, one row each, and A^count for a count that is a power of two."""
    power, have = A, 1
    while have < count:
        rows = torch.cat([rows, rows @ power], -2)
        power, have = power @ power, 2 * have
    return rows[..., :count, :], power


def _levels(L: int) -> tuple[int, int]:
    """M, a power of two near sqrt(L), and R = ceil(L / M)."""
    if L < 1:
        raise ArgumentError(f"L must be a positive length, got {L}.")
    M = 2 ** math.ceil(math.log2(math.sqrt(L)))
    return M, math.ceil(L / M)


# -- the Cauchy form of diagonal plus low-rank systems -----------------------------------------------------------------


def cauchy_kernel(
    v: Complex[Tensor, "*batch n"], z: Complex[Tensor, " L"], w: Complex[Tensor, "*modes n"]
) -> Complex[Tensor, "*batch L"]:
    """sum_n v_n / (z - w_n) + conj(v_n) / (z - conj(w_n)) at every node z.

    Each pair of conjugate terms is one real quadratic, (2 z Re v - 2 Re(v conj(w))) / (z^2 - 2 z Re w + |w|^2).
    """
    return _cauchy(v, w, z, torch.ones_like(z))


def _cauchy(v: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """sum_n v_n / (a - b w_n) + conj(v_n) / (a - b conj(w_n)): homogeneous nodes, so that z = a / b may be infinite.

    A chunk of modes at a time, computed again for the gradient, so that memory is O(H (n + L)).
    """
    width = max(1, CAUCHY_CHUNK // max(1, v[..., 0].numel() * len(a)))
    chunks = zip(v.split(width, -1), w.split(width, -1), strict=True)
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (v, w, a))
    total = None
    for part, modes in chunks:
        found = (
            checkpoint(_cauchy_terms, part, modes, a, b, use_reentrant=False)
            if differentiable
            else _cauchy_terms(part, modes, a, b)
        )
        total = found if total is None else total + found
    assert total is not None  # v has at least one mode
    return total


def _cauchy_terms(v: Tensor, w: Tensor, a: Tensor, b: Tensor) -> Tensor:
    v, w = v.unsqueeze(-1), w.unsqueeze(-1)
    above = 2 * (a * v.real - b * (v * w.conj()).real)
    below = a * a - 2 * a * b * w.real + b * b * (w.real.square() + w.imag.square())
    return (above / below).sum(-2)


def dplr_kernel(
    diagonal: Complex[Tensor, "H n"],
    P: Complex[Tensor, "rank H n"],
    Q: Complex[Tensor, "rank H n"],
    B: Complex[Tensor, "H n"],
    C: Complex[Tensor, "*channels H n"],
    dt: Float[Tensor, " H"],
    L: int,
    truncated: bool = False,
) -> Float[Tensor, "*channels H L"]:
    """K_l = 2 Re(C dA^l dB), bilinear, of A = Λ - P Q*, by its generating function on the roots of unity.

    At w = e^(-2πik/L) and z = 2 (1 - w) / (1 + w), the resolvent (z - dt A)^-1 is a sum over the modes of a Cauchy
    matrix, corrected for the low rank by the Woodbury identity. All is kept multiplied by 1 + w, so that nothing is
    infinite at w = -1.

    Parameters
    ----------
    diagonal, P, Q, B, C
        Of the continuous system, one of each conjugate pair of modes.
    dt
        Steps.
    L
        Length.
    truncated
        C is already C~ = C (I - dA^L), as the published layer stores it.

    References
    ----------
    Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces", ICLR 2022, algorithm 1.
    """
    if L < 1:
        raise ArgumentError(f"L must be a positive length, got {L}.")
    if not truncated:
        C = _truncate(diagonal, P, Q, B, C, dt, L)
    angle = -2 * math.pi / L * torch.arange(L // 2 + 1, dtype=dt.dtype, device=dt.device)
    root = torch.polar(torch.ones_like(angle), angle)
    a, b = 2 * (1 - root), 1 + root
    w, scale = dt.unsqueeze(-1) * diagonal, dt.unsqueeze(-1)

    def sums(left: Tensor, right: Tensor) -> Tensor:  # (..., H, nodes): dt left (z - dt Λ)^-1 right, times 1 / (1 + w)
        return scale * _cauchy(left * right, w, a, b)

    c_b = sums(C, B)
    rank = len(P)
    lowered = C.unsqueeze(0)
    c_p = sums(lowered, P.reshape(rank, *[1] * (C.ndim - 2), *P.shape[1:]))  # (rank, *channels, H, nodes)
    q_b = sums(Q.conj(), B)  # (rank, H, nodes)
    q_p = torch.stack([sums(Q[i].conj().unsqueeze(0), P) for i in range(rank)])  # (rank, rank, H, nodes)
    inner = torch.eye(rank, dtype=q_p.dtype, device=q_p.device)[:, :, None, None] + b * q_p
    weighted = torch.linalg.solve(inner.permute(2, 3, 0, 1), q_b.permute(1, 2, 0))  # (H, nodes, rank)
    correction = (c_p * b * weighted.permute(2, 0, 1).reshape(rank, *[1] * (C.ndim - 2), *c_b.shape[-2:])).sum(0)
    return torch.fft.irfft(2 * (c_b - correction), n=L)


def _truncate(diagonal: Tensor, P: Tensor, Q: Tensor, B: Tensor, C: Tensor, dt: Tensor, L: int) -> Tensor:
    """C~ = C (I - dA^L), so that the generating function ends after L terms."""
    dA, _ = real_system(diagonal, P, Q, B, dt)
    row = real_row(C)
    row = row - (row.unsqueeze(-2) @ matrix_power(dA, L)).squeeze(-2)
    real, imaginary = row.chunk(2, -1)
    return torch.complex(real, -imaginary) / 2


def real_system(
    diagonal: Complex[Tensor, "H n"],
    P: Complex[Tensor, "rank H n"],
    Q: Complex[Tensor, "rank H n"],
    B: Complex[Tensor, "H n"],
    dt: Float[Tensor, " H"],
) -> tuple[Float[Tensor, "H N N"], Float[Tensor, "H N"]]:
    """dA and dB (bilinear) on the real state [Re x; Im x], N = 2n.

    With the conjugate mode beside each, A x = Λ x - P 2 Re(Q* x), which is linear in (Re x, Im x) but not in x.
    """
    real, imaginary = torch.diag_embed(diagonal.real), torch.diag_embed(diagonal.imag)
    A = torch.cat([torch.cat([real, -imaginary], -1), torch.cat([imaginary, real], -1)], -2)
    A = A - 2 * torch.einsum("rhi,rhj->hij", torch.cat([P.real, P.imag], -1), torch.cat([Q.real, Q.imag], -1))
    half = dt[:, None, None] / 2 * A
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    right = torch.cat([identity + half, (dt.unsqueeze(-1) * torch.cat([B.real, B.imag], -1)).unsqueeze(-1)], -1)
    both = torch.linalg.solve(identity - half, right)
    return both[..., :-1], both[..., -1]


def real_row(C: Complex[Tensor, "*channels H n"]) -> Float[Tensor, "*channels H N"]:
    """The row of 2 Re(C x) on the real state [Re x; Im x]."""
    return 2 * torch.cat([C.real, -C.imag], -1)


# -- convolution -------------------------------------------------------------------------------------------------------


def causal_convolution(
    u: Float[Tensor, "B H L"], kernel: Float[Tensor, "H L"], reverse: Float[Tensor, "H L"] | None = None
) -> Float[Tensor, "B H L"]:
    """y_i = sum_{j <= i} K_{i-j} u_j, and with `reverse` plus sum_{j > i} K'_{j-i-1} u_j, by FFT."""
    L = u.shape[-1]
    length = cast(int, next_fast_len(2 * L - 1, real=True))
    if reverse is not None:
        gap: int = length - kernel.shape[-1] - reverse.shape[-1]
        if gap < 0:  # 2L - 1: the last lag of `reverse` has no input to meet
            reverse = reverse[..., :gap]
            gap = 0
        kernel = torch.cat([kernel, kernel.new_zeros(*kernel.shape[:-1], gap), reverse.flip(-1)], -1)
    spectrum = torch.fft.rfft(u, n=length) * torch.fft.rfft(kernel, n=length)
    return torch.fft.irfft(spectrum, n=length)[..., :L]
