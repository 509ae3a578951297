"""The layers: `S4D`, diagonal, and `S4`, diagonal plus low rank; one interface, (B, L, H) to (B, L, H).

x' = A x + B u, y = 2 Re(C x) + D u for each of H features with its own step dt; then GELU, dropout, a gated linear map.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.maps import DiagonalPlusLowRank
from linmap.sequence.hippo.discretization import zoh_factor
from linmap.sequence.s4.inits import COMBINED, DIAGONAL, DPLR, diagonal_modes, dplr_modes
from linmap.sequence.s4.kernels import (
    causal_convolution,
    dense_scan,
    diagonal_scan,
    krylov_kernel,
    krylov_states,
    real_row,
    real_system,
    vandermonde_kernel,
)

StepTransform = Literal["exp", "softplus"]
SLOWEST = 1e-3  # the largest learning rate of A, B, dt and P


class StateSpaceLayer(nn.Module):
    """What S4 and S4D share: convolution, recurrence, what comes after, and the checks. Not for use by itself."""

    log_decay: nn.Parameter
    frequency: nn.Parameter
    B: nn.Parameter

    def __init__(
        self,
        d_model: int,
        d_state: int,
        dt: tuple[float, float],
        *,
        n_ssm: int | None,
        bidirectional: bool,
        dropout: float,
        tie_dropout: bool,
        activation: bool,
        gate: bool,
        bandlimit: float | None,
        dt_transform: StepTransform,
        real: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if d_model < 1:
            raise ValueError(f"d_model must be a positive number of features, got {d_model}.")
        if not real and (d_state < 2 or d_state % 2):
            raise ValueError(f"d_state must be even and >= 2, got {d_state}: modes come in conjugate pairs.")
        if real and d_state < 1:
            raise ValueError(f"d_state must be positive, got {d_state}.")
        low, high = dt
        if not 0 < low <= high < math.inf:
            raise ValueError(f"dt must be a range of steps with 0 < dt_min <= dt_max, got {dt}.")
        self.n_ssm = d_model if n_ssm is None else n_ssm
        if self.n_ssm < 1 or d_model % self.n_ssm:
            raise ValueError(f"n_ssm must divide d_model = {d_model}, got {n_ssm}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        if dt_transform not in ("exp", "softplus"):
            raise ValueError(f"dt_transform must be 'exp' or 'softplus', got {dt_transform!r}.")
        self.d_model, self.d_state, self.bidirectional, self.bandlimit = d_model, d_state, bidirectional, bandlimit
        self.dt_transform, self.real = dt_transform, real
        self.modes = d_state if real else d_state // 2
        steps = torch.exp(torch.rand(d_model, generator=generator) * math.log(high / low)) * low
        self.raw_dt = nn.Parameter(steps.log() if dt_transform == "exp" else steps.expm1().log())
        C = torch.randn(1 + bidirectional, d_model, self.modes, 1 if real else 2, generator=generator)
        self.C = nn.Parameter(C if real else C / math.sqrt(2))
        self.D = nn.Parameter(torch.randn(d_model, generator=generator))
        self.activation: Callable[[Tensor], Tensor] = F.gelu if activation else _unchanged
        self.dropout = TiedDropout(dropout) if tie_dropout else nn.Dropout(dropout)
        self.output = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GLU(-1)) if gate else nn.Identity()
        self._kept: tuple[Any, Any] | None = None

    # -- what the kinds of system differ in ----------------------------------------------------------------------------

    def _kernels(self, L: int, rate: float) -> Float[Tensor, "channels H L"]:
        raise NotImplementedError

    def _system(self, rate: float) -> tuple[Tensor, ...]:
        """What `step` needs, of one time step."""
        raise NotImplementedError

    def _advance(self, system: tuple[Tensor, ...], u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Output without D, and state, after one sample u (B, H)."""
        raise NotImplementedError

    def _carried(self, state: Tensor, L: int, rate: float) -> Float[Tensor, "B H L"]:
        """What an initial state adds to the output."""
        raise NotImplementedError

    def _final(self, u: Tensor, state: Tensor | None, steps: Tensor, rate: float) -> Complex[Tensor, "B H n"]:
        """The state after u (B, H, L), of which the last `steps` samples of each sequence count."""
        raise NotImplementedError

    # -- use -----------------------------------------------------------------------------------------------------------

    def forward(
        self,
        u: Inexact[Tensor, "B L H"],
        state: Complex[Tensor, "B H n"] | None = None,
        lengths: Int[Tensor, " B"] | None = None,
        rate: float = 1.0,
        return_state: bool | None = None,
    ) -> Any:
        """The layer on whole sequences, by convolution.

        Parameters
        ----------
        u
            (B, L, H).
        state
            Of the samples before these, from `initial_state`, `forward` or `step`; zero when None.
        lengths
            Of each sequence, where shorter ones are padded on the right: padding is not read, and zero in the output.
        rate
            Sampling step in units of that in training: 2 for every other sample.
        return_state
            Also return the state after the last sample of each sequence; by default where a state is given.

        Returns
        -------
        Tensor or (Tensor, Tensor)
            y (B, L, H), and the state (B, H, n).

        Raises
        ------
        ValueError
            If a shape, a length or a value is wrong, or a bidirectional layer is asked for a state.
        TypeError
            If u is not of floating-point numbers.
        """
        return_state = state is not None if return_state is None else return_state
        if self.bidirectional and (return_state or state is not None):
            raise ValueError("a bidirectional layer has no state: it reads the future; use bidirectional=False.")
        x, kept = self._checked(u, 3)
        batch, L, _ = x.shape
        mask = None if lengths is None else _mask(lengths, batch, L, x.device)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        _check_finite(x)
        if state is not None:
            self._check_state(state, batch)
        with torch.autocast(x.device.type, enabled=False):
            features = x.mT.contiguous()
            kernels = self.kernels(L, rate)
            y = causal_convolution(features, kernels[0], kernels[1] if self.bidirectional else None)
            if state is not None:
                y = y + self._carried(state, L, rate)
            y = torch.addcmul(y, features, self.D.unsqueeze(-1)).mT
            after = None
            if return_state:
                counts = torch.full((batch,), L, device=x.device) if lengths is None else lengths.to(x.device)
                after = self._final(_right_aligned(features, counts), state, counts, rate)
        y = self._finish(y, kept)
        if mask is not None:
            y = y.masked_fill(~mask.unsqueeze(-1), 0)
        return (y, after) if return_state else y

    def step(
        self, u: Inexact[Tensor, "B H"], state: Complex[Tensor, "B H n"], rate: float = 1.0
    ) -> tuple[Inexact[Tensor, "B H"], Complex[Tensor, "B H n"]]:
        """One sample of each sequence, by the recurrence: the output, and the state for the next.

        Equals `forward` on the same samples. In training mode the discrete system is built anew at each call; in
        evaluation without gradients it is kept.

        Raises
        ------
        ValueError, TypeError
            As `forward`.
        """
        if self.bidirectional:
            raise ValueError("step: a bidirectional layer reads the future; use bidirectional=False.")
        x, kept = self._checked(u, 2)
        _check_finite(x)
        self._check_state(state, len(x))
        with torch.autocast(x.device.type, enabled=False):
            y, state = self._advance(self._keep(("step", rate), lambda: self._system(rate)), x, state)
            y = y + self.D * x
        return self._finish(y.unsqueeze(1), kept).squeeze(1), state

    def initial_state(self, batch_size: int = 1) -> Complex[Tensor, "B H n"]:
        """Zeros, on the device of the parameters."""
        dtype = torch.promote_types(self.C.dtype, torch.float32).to_complex()
        return torch.zeros(batch_size, self.d_model, self.modes, dtype=dtype, device=self.C.device)

    def kernel(self, L: int, rate: float = 1.0) -> Float[Tensor, "*directions H L"]:
        """K_0 .. K_(L-1) of every feature; (2, H, L) of a bidirectional layer, the reverse one from lag 1 on."""
        kernels = self.kernels(L, rate)
        return kernels if self.bidirectional else kernels[0]

    def kernels(self, L: int, rate: float = 1.0) -> Float[Tensor, "channels H L"]:
        """The kernels of all directions; those of the last length are kept in evaluation without gradients."""
        if not 0 < rate < math.inf:
            raise ValueError(f"rate must be a positive number, got {rate}.")
        return self._keep((L, rate), lambda: self._kernels(L, rate))

    def optim_groups(self, lr: float, weight_decay: float = 0.01) -> list[dict[str, Any]]:
        """Groups for an optimiser: A, B, dt (and P) at no more than 1e-3 and without weight decay, and all others."""
        own = self.state_parameters()
        names = {id(parameter) for parameter in own}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in names]
        return [
            {"params": own, "lr": min(SLOWEST, lr), "weight_decay": 0.0},
            {"params": rest, "lr": lr, "weight_decay": weight_decay},
        ]

    def state_parameters(self) -> list[nn.Parameter]:
        """A, B, dt, and P where there is one."""
        return [getattr(self, name) for name in ("raw_dt", "log_decay", "frequency", "P", "B") if hasattr(self, name)]

    @property
    def dt(self) -> Float[Tensor, " H"]:
        """Steps of the features."""
        return self.raw_dt.exp() if self.dt_transform == "exp" else F.softplus(self.raw_dt)

    def extra_repr(self) -> str:
        shared = "" if self.n_ssm == self.d_model else f", n_ssm={self.n_ssm}"
        return f"{self.d_model}, d_state={self.d_state}{', bidirectional=True' * self.bidirectional}{shared}"

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _modes(self) -> Complex[Tensor, "H n"]:
        """Λ of every feature."""
        decay = -self._spread(self.log_decay.exp())
        return torch.complex(decay, torch.zeros_like(decay) if self.real else -self._spread(self.frequency))

    def _spread(self, copies: Tensor) -> Tensor:
        """The n_ssm copies on dimension -2, for all features: feature h has copy h mod n_ssm."""
        if self.n_ssm == self.d_model:
            return copies
        return copies.repeat(*[1] * (copies.ndim - 2), self.d_model // self.n_ssm, 1)

    def _weights(self, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """B (H, n), C (channels, H, n) with what `bandlimit` leaves, and dt (H)."""
        B, C = self._complex(self.B), self._complex(self.C)
        dt = self.dt * rate
        if self.real:
            C = C / 2  # 2 Re makes up for it
        if self.bandlimit is not None:
            turns = dt.unsqueeze(-1) * self._modes().imag.abs() / (2 * math.pi)
            C = C * (turns < self.bandlimit / 2)
        return self._spread(B), C, dt

    def _complex(self, parts: Tensor) -> Tensor:
        parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
        return torch.view_as_complex(F.pad(parts, (0, 1)) if self.real else parts)

    def _finish(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return self.output(self.dropout(self.activation(y).to(dtype)))

    def _keep(self, key: Any, build: Callable[[], Any]) -> Any:
        if self.training or torch.is_grad_enabled():
            return build()
        full = (key, *((p._version, p.data_ptr(), p.dtype) for p in (*self.state_parameters(), self.C)))
        if self._kept is None or self._kept[0] != full:
            self._kept = (full, build())
        return self._kept[1]

    def _checked(self, u: Tensor, dimensions: int) -> tuple[Tensor, torch.dtype]:
        """u in the precision of the computation, and the precision of the output."""
        layout = "(B, L, H)" if dimensions == 3 else "(B, H)"
        if not u.is_floating_point():
            raise TypeError(f"u must hold floating-point numbers, got {u.dtype}; convert it with .float().")
        if u.ndim != dimensions or u.shape[-1] != self.d_model:
            hint = "; this looks like (B, H, L): pass u.mT" if u.ndim == 3 and u.shape[1] == self.d_model else ""
            raise ValueError(f"u must be {layout} with H = {self.d_model}, got shape {tuple(u.shape)}{hint}.")
        if dimensions == 3 and u.shape[1] == 0:
            raise ValueError("u has length 0; give at least one sample.")
        if torch.finfo(u.dtype).bits < 32:
            if not torch.is_autocast_enabled(u.device.type):
                warnings.warn(f"u is {u.dtype}: the state space is computed in float32.", stacklevel=3)
            return u.float(), u.dtype
        return u.to(torch.promote_types(u.dtype, self.C.dtype)), u.dtype

    def _check_state(self, state: Tensor, batch: int) -> None:
        expected = (batch, self.d_model, self.modes)
        if not state.is_complex() or state.shape != expected:
            raise ValueError(
                f"state must be complex of shape (B, H, n) = {expected}, as `initial_state({batch})` gives, got "
                f"{state.dtype} of shape {tuple(state.shape)}."
            )


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
        generator: torch.Generator | None = None,
    ) -> None:
        if init not in (*DIAGONAL, *COMBINED):
            raise ValueError(f"there is no diagonal init {init!r}; choose from {', '.join((*DIAGONAL, *COMBINED))}.")
        if disc not in ("zoh", "bilinear"):
            raise ValueError(f"disc must be 'zoh' or 'bilinear', got {disc!r}.")
        if is_real and init != "real":
            raise ValueError(f"is_real keeps modes on the real axis: it needs init='real', got {init!r}.")
        super().__init__(
            d_model, d_state, dt, n_ssm=n_ssm, bidirectional=bidirectional, dropout=dropout, tie_dropout=tie_dropout,
            activation=activation, gate=gate, bandlimit=bandlimit, dt_transform=dt_transform, real=is_real,
            generator=generator,
        )  # fmt: skip
        self.disc = disc
        inits = COMBINED.get(init, (init,))
        if self.n_ssm % len(inits):
            raise ValueError(f"init {init!r} needs n_ssm that {len(inits)} divides, got {self.n_ssm}.")
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


class S4(StateSpaceLayer):
    """The state-space layer with HiPPO matrices, diagonal plus low rank, A = Λ - P P*, under the bilinear rule.

    The plain C is kept, whatever the length, so that saved weights mean the same before and after the first use.

    Parameters
    ----------
    init
        "legs", "fout" or "legt", the last two on a window of 2 / dt samples.
    rank
        Of P; 1, and 2 for "legt", when None.
    others
        As in `S4D`.

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
        generator: torch.Generator | None = None,
    ) -> None:
        if init not in DPLR:
            raise ValueError(f"there is no init {init!r} of S4; choose from {', '.join(DPLR)}.")
        super().__init__(
            d_model, d_state, dt, n_ssm=n_ssm, bidirectional=bidirectional, dropout=dropout, tie_dropout=tie_dropout,
            activation=activation, gate=gate, bandlimit=bandlimit, dt_transform=dt_transform, generator=generator,
        )  # fmt: skip
        rank = (2 if init == "legt" else 1) if rank is None else rank
        A, P, B = dplr_modes(init, d_state, rank, clip_B)
        copies = self.n_ssm
        self.log_decay = nn.Parameter((-A.real).log().float().repeat(copies, 1))
        self.frequency = nn.Parameter((-A.imag).float().repeat(copies, 1))
        self.P = nn.Parameter(torch.view_as_real(P.unsqueeze(1).repeat(1, copies, 1)).float().contiguous())
        self.B = nn.Parameter(torch.view_as_real(B.repeat(copies, 1)).float().contiguous())

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


class TiedDropout(nn.Module):
    """Dropout of whole features, (B, 1, H), the same at every time."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "B L H"]) -> Float[Tensor, "B L H"]:
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(torch.ones_like(x[:, :1]), self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _unchanged(y: Tensor) -> Tensor:
    return y


def _to_real(state: Complex[Tensor, "*batch n"]) -> Float[Tensor, "*batch N"]:
    return torch.cat([state.real, state.imag], -1)


def _to_complex(x: Float[Tensor, "*batch N"]) -> Complex[Tensor, "*batch n"]:
    return torch.complex(*(part.contiguous() for part in x.chunk(2, -1)))


def _mask(lengths: Tensor, batch: int, L: int, device: torch.device) -> Tensor:
    """Where a sequence has samples, (B, L)."""
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be {batch} integers, got {lengths.dtype} of shape {tuple(lengths.shape)}.")
    if bool((lengths < 1).any()) or bool((lengths > L).any()):
        raise ValueError(f"lengths must lie between 1 and L = {L}, got {int(lengths.min())} to {int(lengths.max())}.")
    return torch.arange(L, device=device) < lengths.to(device).unsqueeze(-1)


def _right_aligned(u: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence (B, H, L) at the end of its row, zeros before it."""
    L = u.shape[-1]
    if bool((lengths == L).all()):
        return u
    source = torch.arange(L, device=u.device) - (L - lengths).unsqueeze(-1)
    moved = u.gather(-1, source.clamp(min=0).unsqueeze(1).expand_as(u))
    return moved.masked_fill((source < 0).unsqueeze(1), 0)


def _check_finite(u: Tensor) -> None:
    """A NaN anywhere would spread over the whole sequence."""
    if torch.compiler.is_compiling() or bool(torch.isfinite(u.detach().sum())):
        return
    bad = (~torch.isfinite(u)).nonzero()
    if len(bad):
        raise ValueError(f"u has a value that is not finite at index {tuple(bad[0].tolist())}; mend or mask it.")
