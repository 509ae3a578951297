"""What the layers `S4D` and `S4` share: one interface, (B, L, H) to (B, L, H).

x' = A x + B u, y = 2 Re(C x) + D u for each of H features with its own step dt; then GELU, dropout, a gated linear map.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.sequence.s4.kernels import causal_convolution
from linmap.sequence.s4.padding import right_aligned, sample_mask
from linmap.training import Dropout

StepTransform = Literal["exp", "softplus"]
SLOWEST = 1e-3  # the largest learning rate of A, B, dt and P, unless they have one of their own
PARTS = {"dt": ("raw_dt",), "A": ("log_decay", "frequency", "P"), "B": ("B",), "C": ("C",)}


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
        lr: float | Mapping[str, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.rates = _own_rates(lr)
        if d_model < 1:
            raise ArgumentError(f"d_model={d_model} must be a positive number of features.")
        if not real and (d_state < 2 or d_state % 2):
            raise ArgumentError(f"d_state={d_state} must be even and >= 2: modes come in conjugate pairs.")
        if real and d_state < 1:
            raise ArgumentError(f"d_state={d_state} must be positive.")
        low, high = dt
        if not 0 < low <= high < math.inf:
            raise ArgumentError(f"dt={dt[0]:g} {dt[1]:g} must be a range of steps with 0 < dt_min <= dt_max.")
        self.n_ssm = d_model if n_ssm is None else n_ssm
        if self.n_ssm < 1 or d_model % self.n_ssm:
            raise ArgumentError(f"n_ssm must divide d_model = {d_model}, got {n_ssm}.")
        if not 0 <= dropout < 1:
            raise ArgumentError(f"dropout={dropout} must lie in [0, 1).")
        if dt_transform not in ("exp", "softplus"):
            raise ArgumentError(f"dt_transform must be 'exp' or 'softplus', got {dt_transform!r}.")
        self.d_model, self.d_state, self.bidirectional, self.bandlimit = d_model, d_state, bidirectional, bandlimit
        self.dt_transform, self.real = dt_transform, real
        self.modes = d_state if real else d_state // 2
        steps = torch.exp(torch.rand(d_model, generator=generator) * math.log(high / low)) * low
        self.raw_dt = nn.Parameter(steps.log() if dt_transform == "exp" else steps.expm1().log())
        C = torch.randn(1 + bidirectional, d_model, self.modes, 1 if real else 2, generator=generator)
        self.C = nn.Parameter(C if real else C / math.sqrt(2))
        self.D = nn.Parameter(torch.randn(d_model, generator=generator))
        self.activation: Callable[[Tensor], Tensor] = F.gelu if activation else _unchanged
        self.dropout = TiedDropout(dropout) if tie_dropout else Dropout(dropout)
        self.output = nn.Sequential(nn.Linear(d_model, 2 * d_model), nn.GLU(-1)) if gate else nn.Identity()
        self._kept: tuple[Any, tuple[Tensor, ...], Any] | None = None  # what for, of which weights, what

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
            raise ArgumentError("a bidirectional layer has no state: it reads the future; use bidirectional=False.")
        x, kept = self._checked(u, 3)
        batch, L, _ = x.shape
        mask = None if lengths is None else sample_mask(lengths, batch, L, x.device)
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
            y = torch.addcmul(y, features, _at_least_float32(self.D).unsqueeze(-1)).mT
            after = None
            if return_state:
                counts = torch.full((batch,), L, device=x.device) if lengths is None else lengths.to(x.device)
                after = self._final(right_aligned(features, counts), state, counts, rate)
        y = self._finish(y, kept)
        if mask is not None:
            y = y.masked_fill(~mask.unsqueeze(-1), 0)
        return (y, after) if return_state else y

    def step(
        self, u: Inexact[Tensor, "B H"], state: Complex[Tensor, "B H n"], rate: float = 1.0
    ) -> tuple[Inexact[Tensor, "B H"], Complex[Tensor, "B H n"]]:
        """One sample of each sequence, by the recurrence: the output, and the state for the next.

        Equals `forward` on the same samples. In training mode the discrete system is built anew at each call, and a
        warning says so; in evaluation without gradients it is kept.

        Raises
        ------
        ValueError, TypeError
            As `forward`.
        """
        if self.bidirectional:
            raise ArgumentError("step: a bidirectional layer reads the future; use bidirectional=False.")
        if self.training:
            warnings.warn("step in training mode builds dA and dB anew at each call; .eval() keeps them.", stacklevel=2)
        x, kept = self._checked(u, 2)
        _check_finite(x)
        self._check_state(state, len(x))
        with torch.autocast(x.device.type, enabled=False):
            y, state = self._advance(self._keep(("step", rate), lambda: self._system(rate)), x, state)
            y = y + _at_least_float32(self.D) * x
        return self._finish(y.unsqueeze(1), kept).squeeze(1), state

    def scan(
        self, u: Inexact[Tensor, "B L H"], state: Complex[Tensor, "B H n"] | None = None, rate: float = 1.0
    ) -> tuple[Inexact[Tensor, "B L H"], Complex[Tensor, "B L H n"]]:
        """The outputs of `forward` and the state after every sample, by the recurrence.

        Raises
        ------
        ValueError, TypeError
            As `forward`.
        """
        if self.bidirectional:
            raise ArgumentError("scan: a bidirectional layer reads the future; use bidirectional=False.")
        x, kept = self._checked(u, 3)
        _check_finite(x)
        state = self.initial_state(len(x)) if state is None else state
        self._check_state(state, len(x))
        outputs, states = [], []
        with torch.autocast(x.device.type, enabled=False):
            system = self._keep(("step", rate), lambda: self._system(rate))
            for sample in x.unbind(1):
                y, state = self._advance(system, sample, state)
                outputs.append(y)
                states.append(state)
            y = torch.stack(outputs, 1) + _at_least_float32(self.D) * x
        return self._finish(y, kept), torch.stack(states, 1)

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
            raise ArgumentError(f"rate must be a positive number, got {rate}.")
        return self._keep((L, rate), lambda: self._kernels(L, rate))

    def optim_groups(self, lr: float, weight_decay: float = 0.01) -> list[dict[str, Any]]:
        """Groups for an optimiser: A, B, dt (and P) at no more than 1e-3 and without weight decay, and all others.

        Rates of the layer's own (`lr=` of the layer) come first; C and all others decay.
        """
        return optimiser_groups(self, [self], lr, weight_decay)

    def state_parameters(self) -> list[nn.Parameter]:
        """A, B, dt, and P where there is one."""
        return [parameter for part in ("dt", "A", "B") for parameter in self._part(part)]

    def _part(self, part: str) -> list[nn.Parameter]:
        return [getattr(self, name) for name in PARTS[part] if hasattr(self, name)]

    def _freeze(self) -> None:
        """What has a rate of 0 is not trained."""
        for part, rate in self.rates.items():
            if rate == 0:
                for parameter in self._part(part):
                    parameter.requires_grad_(False)

    @property
    def dt(self) -> Float[Tensor, " H"]:
        """Steps of the features."""
        raw = _at_least_float32(self.raw_dt)
        return raw.exp() if self.dt_transform == "exp" else F.softplus(raw)

    def extra_repr(self) -> str:
        shared = "" if self.n_ssm == self.d_model else f", n_ssm={self.n_ssm}"
        return f"{self.d_model}, d_state={self.d_state}{', bidirectional=True' * self.bidirectional}{shared}"

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _modes(self) -> Complex[Tensor, "H n"]:
        """Λ of every feature."""
        decay = -self._spread(_at_least_float32(self.log_decay).exp())
        frequency = torch.zeros_like(decay) if self.real else -self._spread(_at_least_float32(self.frequency))
        return torch.complex(decay, frequency)

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
        parts = _at_least_float32(parts)
        return torch.view_as_complex(F.pad(parts, (0, 1)) if self.real else parts)

    def _finish(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        return self.output(self.dropout(self.activation(y).to(dtype)))

    def _keep(self, key: Any, build: Callable[[], Any]) -> Any:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._kept = None
            return build()
        weights = (*self.state_parameters(), self.C)
        if any(is_functorch_wrapped_tensor(weight) for weight in weights):  # of many models at once, under vmap
            return build()
        if self._kept is None or self._kept[0] != key or not _same(self._kept[1], weights):
            self._kept = key, tuple(weight.detach().clone() for weight in weights), build()
        return self._kept[2]

    def _checked(self, u: Tensor, dimensions: int) -> tuple[Tensor, torch.dtype]:
        """u in the precision of the computation, and the precision of the output."""
        layout = "(B, L, H)" if dimensions == 3 else "(B, H)"
        if not u.is_floating_point():
            raise ArgumentTypeError(f"u must hold floating-point numbers, got {u.dtype}; convert it with .float().")
        if u.ndim != dimensions or u.shape[-1] != self.d_model:
            hint = "; this looks like (B, H, L): pass u.mT" if u.ndim == 3 and u.shape[1] == self.d_model else ""
            raise ArgumentError(f"u must be {layout} with H = {self.d_model}, got shape {tuple(u.shape)}{hint}.")
        if dimensions == 3 and u.shape[1] == 0:
            raise ArgumentError("u has length 0; give at least one sample.")
        if torch.finfo(u.dtype).bits < 32:
            if not torch.is_autocast_enabled(u.device.type):
                warnings.warn(f"u is {u.dtype}: the state space is computed in float32.", stacklevel=3)
            return u.float(), u.dtype
        return u.to(torch.promote_types(u.dtype, self.C.dtype)), u.dtype

    def _check_state(self, state: Tensor, batch: int) -> None:
        expected = (batch, self.d_model, self.modes)
        if not state.is_complex() or state.shape != expected:
            raise ArgumentError(
                f"state must be complex of shape (B, H, n) = {expected}, as `initial_state({batch})` gives, got "
                f"{state.dtype} of shape {tuple(state.shape)}."
            )


class TiedDropout(Dropout):
    """Dropout of whole features, (B, 1, H), the same at every time."""

    def forward(self, input: Float[Tensor, "B L H"]) -> Float[Tensor, "B L H"]:
        return input * self.mask(input[:, :1]) if self.training and self.p else input


def optimiser_groups(
    module: nn.Module, layers: Iterable[StateSpaceLayer], lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The parameters of a module that are trained, by rate and decay; those of its state spaces have their own."""
    own: dict[int, tuple[float, float]] = {}
    for layer in layers:
        for part in PARTS:
            usual = lr if part == "C" else min(SLOWEST, lr)
            setting = layer.rates.get(part, usual), weight_decay if part == "C" else 0.0
            own |= {id(parameter): setting for parameter in layer._part(part)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(min(SLOWEST, lr), 0.0): [], (lr, weight_decay): []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault(own.get(id(parameter), (lr, weight_decay)), []).append(parameter)
    return [{"params": some, "lr": rate, "weight_decay": decay} for (rate, decay), some in groups.items() if some]


def _own_rates(lr: float | Mapping[str, float] | None) -> dict[str, float]:
    """One rate counts for all parts of a state space, C included; a mapping for those that it names."""
    rates: dict[str, float] = {}
    if lr is not None:
        rates.update(lr if isinstance(lr, Mapping) else dict.fromkeys(PARTS, lr))
    for part, rate in rates.items():
        if part not in PARTS:
            raise ArgumentError(f"lr: there is no part {part!r} of a state space; there are {', '.join(PARTS)}.")
        if not 0 <= rate < math.inf:
            raise ArgumentError(f"lr of {part} must be 0 (not trained) or positive, got {rate}.")
    return rates


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unchanged(y: Tensor) -> Tensor:
    return y


def _check_finite(u: Tensor) -> None:
    """A NaN anywhere would spread over the whole sequence."""
    if torch.compiler.is_compiling() or bool(torch.isfinite(u.detach().sum())):
        return
    bad = (~torch.isfinite(u)).nonzero()
    if len(bad):
        raise ArgumentError(f"u has a value that is not finite at index {tuple(bad[0].tolist())}; mend or mask it.")


def _same(kept: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> bool:
    """Whether weights are what they were: neither addresses nor versions tell, which `.data` writes leave."""
    return all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in zip(kept, weights, strict=True)
    )
