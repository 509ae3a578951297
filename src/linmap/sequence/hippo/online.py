"""`OnlineProjection`: the whole past of a stream in N numbers, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike
from scipy import linalg, special
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.sequence.hippo.discretization import discretize, implicitness
from linmap.sequence.hippo.matrices import WINDOWS, basis, check_measure, hippo_matrices


class OnlineProjection:
    """Coefficients of the past of one or many signals on a measure's functions, in float64, without gradients.

    Parameters
    ----------
    measure
        As in `hippo_matrices`. "legs" without `dt` is the original, time-varying HiPPO-LegS: the whole past counts
        alike, and nothing depends on the sampling rate; it takes O(N) a sample (O(N^3) with "zoh").
    N
        Coefficients.
    dt
        Time between samples; 1 when None, so that times are counted in samples.
    method
        Of `discretize`.
    window
        Length of the past that "legt", "fout", "fourier2" and "lmu" keep, in the unit of `dt`; 1 when None.

    Attributes
    ----------
    coefficients
        (*batch, N); zeros before the first sample.
    count
        Samples so far.

    Raises
    ------
    ValueError
        If a windowed measure has neither window nor `dt`, another than "legs" has no `dt`, or a value is wrong.

    References
    ----------
    Gu, Dao, Ermon, Rudra and Ré, "HiPPO: Recurrent Memory with Optimal Polynomial Projections", NeurIPS 2020.
    """

    def __init__(
        self,
        measure: str,
        N: int,
        dt: float | None = None,
        method: str | float = "bilinear",
        window: float | None = None,
    ) -> None:
        check_measure(measure, N, window)
        if measure in WINDOWS and window is None and dt is None:
            raise ArgumentError(f"{measure} keeps a window of the past: give window=, its length in samples, or dt=.")
        window = 1.0 if measure in WINDOWS and window is None else window
        if measure not in WINDOWS and measure != "legs" and dt is None:
            raise ArgumentError(f"{measure} has a timescale of its own: give dt=, the time between samples.")
        if dt is not None and not 0 < dt < math.inf:
            raise ArgumentError(f"dt must be a positive step, got {dt}.")
        if method != "zoh":
            implicitness(method)
        self.measure, self.N, self.dt, self.method, self.window = measure, N, dt, method, window
        self.scaled = measure == "legs" and dt is None
        self._A, self._B = hippo_matrices(measure, N, window)
        if not self.scaled:
            self._dA, self._dB = discretize(self._A, self._B, dt or 1.0, method)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.coefficients, self.count = torch.zeros(self.N, dtype=torch.float64), 0

    @torch.no_grad()
    def update(self, u: Float[Tensor, "*batch"] | np.ndarray | float) -> Float64[Tensor, "*batch N"]:
        """The coefficients after one more sample of each signal.

        Raises
        ------
        ValueError
            If the sample is complex or not finite, or its shape is not that of the samples before.
        """
        sample = _real(u, "u")
        if not torch.isfinite(sample).all():
            raise ArgumentError(f"u: sample {self.count} is not finite; fill gaps before they are stored.")
        if self.count and sample.shape != self.coefficients.shape[:-1]:
            raise ArgumentError(
                f"u has shape {tuple(sample.shape)}, and the samples before had {tuple(self.coefficients.shape[:-1])}; "
                "`reset()` starts anew."
            )
        x, u_ = self.coefficients.expand(*sample.shape, self.N), sample.unsqueeze(-1)
        self.count += 1
        if not self.scaled:
            self.coefficients = x @ self._dA.mT + u_ * self._dB
        elif self.method == "zoh":
            step = math.log1p(1 / self.count)  # x' = (A x + B u) / t from t = k to k + 1
            dA, dB = discretize(self._A, self._B, step, "zoh")
            self.coefficients = x @ dA.mT + u_ * dB
        else:
            self.coefficients = legs_step(x, u_, 1 / self.count, implicitness(self.method))
        return self.coefficients

    def extend(self, u: Any) -> Float64[Tensor, "time *batch N"]:
        """The coefficients after each of many samples u, (time, *batch)."""
        return torch.stack([self.update(sample) for sample in _real(u, "u")])

    def reconstruct(self, t: Float[Tensor, "*times"] | ArrayLike) -> Float64[Tensor, "*batch *times"]:
        """The signals at times t before now, in the unit of `dt` (samples, where `dt` is None).

        Raises
        ------
        ValueError
            If a time lies outside of what is kept: negative, before the first sample of a scaled "legs", or before the
            window.
        """
        times = _real(t, "t")
        reach = self.count if self.scaled else self.window or math.inf
        if times.numel() and not bool(((times >= 0) & (times <= reach * (1 + 1e-12))).all()):
            raise ArgumentError(
                f"t must lie between 0 (now) and {reach:g} (the oldest that is kept), got values from "
                f"{float(times.min()):g} to {float(times.max()):g}."
            )
        if self.scaled:
            n = np.arange(self.N)
            s = 1 - 2 * times.numpy()[..., None] / max(self.count, 1)  # 2 s / t - 1
            p = torch.from_numpy(np.sqrt(2 * n + 1) * special.eval_legendre(n, s))
        else:
            p = basis(self.measure, self.N, times, self.window)
        shape = (*self.coefficients.shape[:-1], *times.shape)
        return (self.coefficients @ p.reshape(-1, self.N).mT).reshape(shape)

    def state(self) -> dict[str, Tensor]:
        """What `restore` needs to continue from here, as tensors."""
        return {"coefficients": self.coefficients.clone(), "count": torch.tensor(self.count)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` has returned.

        Raises
        ------
        ValueError
            If it is of another number of coefficients.
        """
        coefficients = state["coefficients"]
        if coefficients.dtype != torch.float64 or coefficients.shape[-1:] != (self.N,):
            raise ArgumentError(
                f"state: coefficients must be float64 with {self.N} on the last dimension, got {coefficients.dtype} of "
                f"shape {tuple(coefficients.shape)}."
            )
        self.coefficients, self.count = coefficients.clone(), int(state["count"])


def _real(values: Any, name: str) -> Float64[Tensor, "*shape"]:
    """Real numbers in float64 on the CPU; Python's own keep all their digits."""
    tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
    if tensor.is_complex():
        raise ArgumentError(f"{name} is complex; give real and imaginary parts as two signals.")
    return tensor.to("cpu", torch.float64)


def legs_step(
    x: Float64[Tensor, "*batch N"], u: Float64[Tensor, "*batch 1"], c: float, a: float
) -> Float64[Tensor, "*batch N"]:
    """(I - a c A)^-1 ((I + (1 - a) c A) x + c B u) for A and B of LegS, in O(N).

    -A = diag(n + 1) + strict lower triangle of r r^T with r_n = sqrt(2n + 1) = B_n, so A x needs the running sums
    S_n = sum_{k <= n} r_k x_k only; in the equation to solve they obey S_n = (1 - a c n) / d_n S_{n-1} + r_n y_n / d_n
    with d_n = 1 + a c (n + 1), a banded system.
    """
    N = x.shape[-1]
    n = torch.arange(N, dtype=torch.float64)
    r = (2 * n + 1).sqrt()
    before = torch.cumsum(r * x, -1) - r * x
    y = x - (1 - a) * c * (r * before + (n + 1) * x) + c * r * u
    d = 1 + a * c * (n + 1)
    bands = np.stack([np.ones(N), np.append(-((1 - a * c * n[1:]) / d[1:]).numpy(), 0.0)])
    sums = linalg.solve_banded((1, 0), bands, (r * y / d).reshape(-1, N).T.numpy())
    S = torch.from_numpy(np.ascontiguousarray(sums.T)).reshape(x.shape)
    S_before = torch.cat([torch.zeros_like(S[..., :1]), S[..., :-1]], -1)
    return (y - a * c * r * S_before) / d
