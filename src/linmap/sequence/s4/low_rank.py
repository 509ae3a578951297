"""`S4`: the state-space layer with HiPPO matrices, diagonal plus low rank."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.maps import DiagonalPlusLowRank
from linmap.sequence.s4.inits import COMBINED, DPLR, dplr_modes
from linmap.sequence.s4.kernels import dense_scan, krylov_kernel, krylov_states, real_row, real_system
from linmap.sequence.s4.layers import StateSpaceLayer, StepTransform


class S4(StateSpaceLayer):
    """The state-space layer with HiPPO matrices, diagonal plus low rank, A = Λ - P P*, under the bilinear rule.

    The plain C is kept, whatever the length, so that saved weights mean the same before and after the first use. The
    discrete matrix is dense, so that a pass takes memory for N^2 + L numbers a feature.

    Parameters
    ----------
    init
        "legs", "fout" or "legt", the last two on a window of 2 / dt samples; "hippo" is half legs, half fout.
    rank
        Of P; 1, and 2 for "legt", when None.

    Notes
    -----
    All other arguments are those of `S4D`.

    References
    ----------
    Gu, Goel and Ré, "Efficiently Modeling Long Sequences with Structured State Spaces", ICLR 2022; Gu, Johnson,
    Timalsina, Rudra and Ré, "How to Train Your HiPPO", ICLR 2023.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "legs",
        dt: tuple[float, float] = (1e-3, 0.1),
        bidirectional: bool = False,
        *,
        rank: int | None = None,
        n_ssm: int | None = None,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        activation: bool = True,
        gate: bool = True,
        bandlimit: float | None = None,
        dt_transform: StepTransform = "exp",
        clip_B: float | None = 2.0,
        lr: float | Mapping[str, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if init not in (*DPLR, "hippo"):
            raise ArgumentError(f"init={init} is not one of S4; choose from {', '.join((*DPLR, 'hippo'))}.")
        super().__init__(
            d_model,
            d_state,
            dt,
            n_ssm=n_ssm,
            bidirectional=bidirectional,
            dropout=dropout,
            tie_dropout=tie_dropout,
            activation=activation,
            gate=gate,
            bandlimit=bandlimit,
            dt_transform=dt_transform,
            lr=lr,
            generator=generator,
        )
        inits = COMBINED.get(init, (init,))
        if self.n_ssm % len(inits):
            raise ArgumentError(f"init={init} needs n_ssm that {len(inits)} divides, got {self.n_ssm}.")
        rank = (2 if init == "legt" else 1) if rank is None else rank
        A, P, B = zip(*(dplr_modes(name, d_state, rank, clip_B) for name in inits), strict=True)
        each = self.n_ssm // len(inits)
        A, P, B = (torch.stack(parts, -2).repeat_interleave(each, -2) for parts in (A, P, B))  # (..., n_ssm, n)
        self.log_decay = nn.Parameter((-A.real).log().float())
        self.frequency = nn.Parameter((-A.imag).float())
        self.P = nn.Parameter(torch.view_as_real(P.contiguous()).float().contiguous())
        self.B = nn.Parameter(torch.view_as_real(B.contiguous()).float().contiguous())
        self._freeze()

    def state_matrix(self) -> DiagonalPlusLowRank:
        """A of every feature on all N modes, each beside its conjugate."""
        A, P = self._modes(), self._spread(self._complex(self.P))
        factors = torch.cat([P, P.conj()], -1).movedim(0, -1)
        return DiagonalPlusLowRank.from_factors(torch.cat([A, A.conj()], -1), factors, factors)

    def _system(self, rate: float) -> tuple[Tensor, ...]:
        (B, C, dt), P = self._weights(rate), self._spread(self._complex(self.P))
        dA, dB = real_system(self._modes(), P, P, B, dt)
        return dA, dB, real_row(C)

    def _kernels(self, L: int, rate: float) -> Tensor:
        dA, dB, C = self._system(rate)
        return krylov_kernel(C, dA, dB, L)

    def _advance(self, system: tuple[Tensor, ...], u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        dA, dB, C = system
        x = (dA @ _to_real(state).unsqueeze(-1)).squeeze(-1) + dB * u.unsqueeze(-1)
        return (C[0] * x).sum(-1), _to_complex(x)

    def _carried(self, state: Tensor, L: int, rate: float) -> Tensor:
        dA, _, C = self._system(rate)
        return krylov_states(_to_real(state), C[0], dA, L)

    def _final(self, u: Tensor, state: Tensor | None, steps: Tensor, rate: float) -> Tensor:
        dA, dB, _ = self._system(rate)
        if state is None:
            return _to_complex(dense_scan(u, dB, dA, u.new_zeros(*u.shape[:2], self.d_state)))
        after = torch.empty_like(state)
        for length in steps.unique().tolist():
            rows = steps == length
            after[rows] = _to_complex(dense_scan(u[rows, :, u.shape[-1] - length :], dB, dA, _to_real(state[rows])))
        return after


def _to_real(state: Complex[Tensor, "*batch n"]) -> Float[Tensor, "*batch N"]:
    return torch.cat([state.real, state.imag], -1)


def _to_complex(x: Float[Tensor, "*batch N"]) -> Complex[Tensor, "*batch n"]:
    return torch.complex(*(part.contiguous() for part in x.chunk(2, -1)))
