"""Where the state matrices of S4 and S4D begin: diagonal modes, and HiPPO matrices as diagonal plus low rank."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex128
from torch import Tensor

from linmap.sequence.hippo import hippo_matrices, low_rank

DIAGONAL = ("lin", "inv", "inv2", "quad", "legs", "fout", "real", "rand")
COMBINED = {"diag": ("inv", "lin"), "hippo": ("legs", "fout")}
DPLR = ("legs", "fout", "legt")
SMALLEST_DECAY = 1e-4


def diagonal_modes(
    init: str, N: int, clip: float | None = 2.0, generator: torch.Generator | None = None
) -> tuple[Complex128[Tensor, " n"], Complex128[Tensor, " n"]]:
    """A and B of n = N/2 diagonal modes, one of each conjugate pair, with Im A <= 0.

    Parameters
    ----------
    init
        "lin", "inv", "inv2", "quad", "real", "rand" in closed form; "legs" and "fout" are the normal parts of these
        HiPPO matrices in their eigenvectors.
    N
        Real states.
    clip
        Largest |B| of "legs" and "fout".
    generator
        Of "rand".

    References
    ----------
    Gu, Gupta, Goel and Ré, "On the Parameterization and Initialization of Diagonal State Space Models", NeurIPS 2022.
    """
    n = torch.arange(N // 2, dtype=torch.float64)
    if init in ("legs", "fout"):
        A, _, B = dplr_modes(init, N, clip=clip)
        return A, B
    half = torch.full_like(n, -0.5)
    parts = {
        "lin": lambda: (half, math.pi * n),
        "inv": lambda: (half, N / math.pi * (N / (2 * n + 1) - 1)),
        "inv2": lambda: (half, N / math.pi * (N / (n + 1) - 1)),
        "quad": lambda: (half, (2 * n + 1).square() / math.pi),
        "real": lambda: (-(n + 1), torch.zeros_like(n)),
        "rand": lambda: (half, torch.randn(n.shape, generator=generator, dtype=n.dtype).exp()),
    }
    real, imaginary = parts[init]()
    A = torch.complex(real, -imaginary)
    return A, torch.ones_like(A)


def dplr_modes(
    init: str, N: int, rank: int = 1, clip: float | None = 2.0
) -> tuple[Complex128[Tensor, " n"], Complex128[Tensor, "rank n"], Complex128[Tensor, " n"]]:
    """Λ, P and B of a HiPPO matrix A = V (Λ - P P*) V*, one of each conjugate pair of modes, with Im Λ <= 0.

    Only the normal part A + P P^T is diagonalised, as -i times its skew part, which is Hermitian: the eigenvectors of A
    itself are exponentially ill-conditioned. The phase of each eigenvector is set so that its entry of V* B is real and
    positive, so that nothing depends on the LAPACK at hand.

    Parameters
    ----------
    init
        "legs", "fout" or "legt".
    N
        Real states, even.
    rank
        Of P; "legt" needs 2.
    clip
        Largest |B|; the largest modes of "legs" have 40 at N = 64. None leaves B alone.
    """
    A, B = hippo_matrices(init, N)
    P = low_rank(init, N, rank)
    normal = A + P.mT @ P
    frequencies, V = torch.linalg.eigh(-1j * (normal - normal.mT) / 2)
    frequencies, V = frequencies[: N // 2], V[:, : N // 2].clone()
    if init == "fout":  # states 0 and 1 do not turn: an arbitrary basis of them is replaced by a conjugate pair
        V[:, -1] = 0
        V[:2, -1] = torch.tensor([1, 1j], dtype=V.dtype) / math.sqrt(2)
        frequencies[-1] = 0
    b = V.mH @ B.to(V.dtype)
    size = b.abs()
    phase = torch.where(size > 1e-12 * size.max(), b / size.clamp(min=1e-300), torch.ones_like(b))
    V, b = V * phase, b * phase.conj()
    decay = -normal.diagonal().mean().clamp(max=-SMALLEST_DECAY)
    if clip is not None:
        b = b * (clip / size.clamp(min=clip))
    return torch.complex(-decay.expand_as(frequencies), frequencies), (V.mH @ P.mT.to(V.dtype)).mT, b
