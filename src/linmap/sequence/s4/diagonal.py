"""`S4D`: the diagonal state-space layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from linmap.errors import ArgumentError
from linmap.sequence.hippo.discretization import zoh_factor
from linmap.sequence.s4.inits import COMBINED, DIAGONAL, diagonal_modes
from linmap.sequence.s4.kernels import diagonal_scan, vandermonde_kernel
from linmap.sequence.s4.layers import StateSpaceLayer, StepTransform


class S4D(StateSpaceLayer):
    """The diagonal state-space layer.

    Parameters
    ----------
    d_model
        Features H.
    d_state
        Real states N of a feature: N/2 complex modes. Even.
    init
        Of A: "lin", "inv", "inv2", "quad", "legs", "fout", "real", "rand", or halves of the features "diag" (inv and
        lin) and "hippo" (legs and fout). "legs" is the diagonal LegS, the normal part of the matrix.
    disc
        "zoh" or "bilinear".
    dt
        Range of the steps, log-uniform over the features. 1 / dt is the length, in samples, of the dependencies that a
        feature can see at first: the range must cover those of the task.
    bidirectional
        Also a kernel over the future, from lag 1 on.
    n_ssm
        Distinct copies of (A, B), which the features share; one for each feature when None.
    dropout, tie_dropout
        Share of entries dropped after the activation, and whether a feature is dropped for the whole sequence.
    activation, gate
        Whether GELU, and Linear(H, 2H) with a gated linear unit, come after; without either the layer is linear.
    bandlimit
        Modes that turn by more than half of this share of a full turn a step have no output: 1 for those that the
        sampling aliases.
    normalize
        Divide B so that the output of white noise has variance 1.
    dt_transform
        dt = exp or softplus of the parameter.
    clip_B
        Largest |B| of "legs", "fout" and "hippo"; None for the exact one.
    lr
        Learning rate of the state space in `optim_groups`: one number for all of it, C included, or numbers for some of
        "dt", "A", "B" and "C"; 0 is not trained. When None, the smaller of 1e-3 and that of the optimiser, which C has.
    is_real
        N real modes, of `init="real"` alone, in place of N/2 complex ones.
    generator
        Source of the random draws.

    References
    ----------
    Gu, Gupta, Goel and Ré, "On the Parameterization and Initialization of Diagonal State Space Models", NeurIPS 2022.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        init: str = "lin",
        disc: Literal["zoh", "bilinear"] = "zoh",
        dt: tuple[float, float] = (1e-3, 0.1),
        bidirectional: bool = False,
        *,
        n_ssm: int | None = None,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        activation: bool = True,
        gate: bool = True,
        bandlimit: float | None = None,
        normalize: bool = False,
        dt_transform: StepTransform = "exp",
        clip_B: float | None = 2.0,
        is_real: bool = False,
        lr: float | Mapping[str, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if init not in (*DIAGONAL, *COMBINED):
            raise ArgumentError(f"init={init} is not one of S4D; choose from {', '.join((*DIAGONAL, *COMBINED))}.")
        if disc not in ("zoh", "bilinear"):
            raise ArgumentError(f"disc must be 'zoh' or 'bilinear', got {disc!r}.")
        if is_real and init != "real":
            raise ArgumentError(f"is_real keeps modes on the real axis: it needs init='real', got {init!r}.")
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
            real=is_real,
            lr=lr,
            generator=generator,
        )
        self.disc = disc
        inits = COMBINED.get(init, (init,))
        if self.n_ssm % len(inits):
            raise ArgumentError(f"init={init} needs n_ssm that {len(inits)} divides, got {self.n_ssm}.")
        each = self.n_ssm // len(inits)
        states = 2 * self.modes if is_real else d_state
        pairs = [diagonal_modes(name, states, clip_B, generator) for name in inits for _ in range(each)]
        A, B = torch.stack([A for A, _ in pairs]), torch.stack([B for _, B in pairs])
        if normalize:
            zeta = (1 if is_real else 2) * (B / A).abs().square().sum(-1, keepdim=True)
            B = B / zeta.sqrt()
        self.log_decay = nn.Parameter((-A.real).log().float())
        if not is_real:
            self.frequency = nn.Parameter((-A.imag).float())
        self.B = nn.Parameter(B.real.unsqueeze(-1).float() if is_real else torch.view_as_real(B).float().contiguous())
        self._freeze()

    def _discrete(self, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """log dA and dB (H, n), C (channels, H, n)."""
        A, (B, C, dt) = self._modes(), self._weights(rate)
        z = dt.unsqueeze(-1) * A
        if self.disc == "zoh":
            return z, B * zoh_factor(A, dt.unsqueeze(-1).expand_as(z.real)), C
        return ((1 + z / 2) / (1 - z / 2)).log(), B * dt.unsqueeze(-1) / (1 - z / 2), C

    def _kernels(self, L: int, rate: float) -> Tensor:
        z, dB, C = self._discrete(rate)
        return vandermonde_kernel(C * dB, z, L)

    def _system(self, rate: float) -> tuple[Tensor, ...]:
        z, dB, C = self._discrete(rate)
        return z.exp(), dB, C[0]

    def _advance(self, system: tuple[Tensor, ...], u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        dA, dB, C = system
        state = dA * state + dB * u.unsqueeze(-1)
        return 2 * (C * state).sum(-1).real, state

    def _carried(self, state: Tensor, L: int, rate: float) -> Tensor:
        z, _, C = self._discrete(rate)
        return vandermonde_kernel(C[0] * z.exp() * state, z, L)

    def _final(self, u: Tensor, state: Tensor | None, steps: Tensor, rate: float) -> Tensor:
        z, dB, _ = self._discrete(rate)
        after = diagonal_scan(u, dB, z)
        return after if state is None else after + torch.exp(steps[:, None, None] * z) * state
