"""What a state remembers, in closed form: the past of a signal reconstructed, and a signal delayed by a linear readout.

The signals: white noise cut at a frequency, as in the authors' synthetic tasks; an electrocardiogram; the sea surface
temperature of El Niño, by quarters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from linmap.data.sequences import real_signal
from linmap.sequence.hippo import OnlineProjection, discretize, hippo_matrices

WINDOW, QUARTERS = 256, 128  # samples of the past that are reconstructed; of El Niño, 32 years
STEP, DURATION, CUT = 0.01, 4.0, 2.0  # of the band-limited signals: seconds, seconds, hertz
SIGNALS = 20
DELAY, LENGTH, STATES, RIDGE = 500, 4000, 64, 1e-6
CYCLES = (1, 2, 5, 10, 20, 40)  # highest frequencies of the delayed signal, in cycles per delay
DELAYED = 4  # signals that a readout is tested on

PAST = {
    "LegS, all of the past": lambda N, window: OnlineProjection("legs", N),
    "LegT": lambda N, window: OnlineProjection("legt", N, window=window),
    "FouT": lambda N, window: OnlineProjection("fout", N, window=window),
    "LegS, time-invariant": lambda N, window: OnlineProjection("legs", N, dt=2 / window),
}
"""How the past is kept. The first counts all of it alike; the others forget, with the timescale of the window."""
WHOLE = next(iter(PAST))


@dataclass(frozen=True)
class Reconstruction:
    """The error of what is kept of a signal, relative to the signal's own deviation."""

    signal: str
    method: str
    N: int
    error: float


def band_limited(samples: int, cycles: float, random: np.random.Generator) -> np.ndarray:
    """White noise up to a number of cycles over all samples; it begins at 0 and has variance 1."""
    spectrum = np.zeros(samples // 2 + 1, np.complex128)
    count = int(cycles) + 1
    spectrum[:count] = random.normal(size=count) + 1j * random.normal(size=count)
    signal = np.fft.irfft(spectrum, n=samples)
    return (signal - signal[0]) / signal.std()


def signals(seed: int) -> dict[str, tuple[np.ndarray, int]]:
    """(signals, samples) by name, real ones standardised, and how many samples of the past are wanted."""
    random = np.random.default_rng(seed)
    samples = round(DURATION / STEP)
    drawn = np.stack([band_limited(samples, CUT * DURATION, random) for _ in range(SIGNALS)])
    years = np.convolve(real_signal("nino"), np.ones(4) / 4, "valid")  # without the seasons, at half of Nyquist's rate
    heart, sea = ((u - u.mean())[None] / u.std() for u in (real_signal("ecg"), years))
    return {
        f"white up to {CUT:g} Hz": (drawn, WINDOW),
        "electrocardiogram": (heart, WINDOW),
        "El Niño, yearly means": (sea, QUARTERS),
    }


def reconstructions(states: tuple[int, ...], seed: int) -> list[Reconstruction]:
    """The error on all of the past (scaled LegS) or on the last window (the others), for every signal and N."""
    found = []
    for name, (values, window) in signals(seed).items():
        for method in PAST:
            for N in states:
                past, again = kept(method, N, values, window)
                error = np.sqrt(np.square(past - again).mean()) / values.std()
                found.append(Reconstruction(name, method, N, float(error)))
    return found


def kept(method: str, N: int, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The past of each signal (signals, samples) as far as a method keeps it, and what it has of that at the end."""
    memory = PAST[method](N, window)
    memory.extend(torch.from_numpy(values.T.copy()))
    length = values.shape[1] if method == WHOLE else window
    ago = (np.arange(length)[::-1] + 0.5) * (memory.dt or 1.0)  # the middle of the time over which a sample is held
    return values[:, -length:], memory.reconstruct(ago).numpy()


# -- the delay ---------------------------------------------------------------------------------------------------------


def systems(seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """A, B and the step of each method: that of the timescale rule, dt = 2 / delay, unless said otherwise."""
    random = torch.Generator().manual_seed(seed)
    eye, ones = torch.eye(STATES, dtype=torch.float64), torch.ones(STATES, dtype=torch.float64)
    noise = torch.randn(STATES, STATES, dtype=torch.float64, generator=random) / STATES
    real = -torch.diag(torch.arange(1.0, STATES + 1, dtype=torch.float64))
    dt = 2 / DELAY
    return {
        "LegT": (*hippo_matrices("legt", STATES), dt),
        "LegT, dt ten times too small": (*hippo_matrices("legt", STATES), dt / 10),
        "LegT, dt ten times too large": (*hippo_matrices("legt", STATES), dt * 10),
        "LegS": (*hippo_matrices("legs", STATES), dt),
        "FouT": (*hippo_matrices("fout", STATES), dt),
        "FouD (damped rotations)": (*hippo_matrices("foud", STATES), dt),
        "S4D-Real": (real, ones, dt),
        "random": (noise - eye, torch.randn(STATES, dtype=torch.float64, generator=random), dt),
    }


def delays(seed: int, progress: Callable[[str], object] = lambda _: None) -> dict[str, list[float]]:
    """log10 of the relative squared error of each method for each of `CYCLES`.

    A ridge regression from the state to the signal `DELAY` samples ago, fitted to one signal and tested on others, from
    two delays after the beginning on.
    """
    random = np.random.default_rng(seed)
    drawn = np.stack(
        [band_limited(LENGTH, cycles * LENGTH / DELAY, random) for cycles in CYCLES for _ in range(1 + DELAYED)]
    )
    found = {}
    for name, (A, B, dt) in systems(seed).items():
        progress(name)
        X = states(*discretize(A, B, dt), torch.from_numpy(drawn)).numpy()
        groups = zip(
            X.reshape(len(CYCLES), 1 + DELAYED, *X.shape[1:]), drawn.reshape(len(CYCLES), 1 + DELAYED, -1), strict=True
        )
        found[name] = [readout_error(states_, u) for states_, u in groups]
    return found


def states(dA: torch.Tensor, dB: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """x_l = dA x_(l-1) + dB u_l of each signal, (signals, samples, N)."""
    x, found = u.new_zeros(len(u), len(dB)), []
    for sample in u.T:
        x = x @ dA.mT + sample.unsqueeze(-1) * dB
        found.append(x)
    return torch.stack(found, 1)


def readout_error(X: np.ndarray, u: np.ndarray) -> float:
    """log10 of the mean relative squared error on all signals but the first, which the readout is fitted to."""
    X, target = X[:, 2 * DELAY :], u[:, DELAY:-DELAY]
    gram = X[0].T @ X[0]
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    C = np.linalg.solve(gram + ridge, X[0].T @ target[0])
    errors = [np.square(x @ C - y).mean() / y.var() for x, y in zip(X[1:], target[1:], strict=True)]
    return float(np.log10(np.mean(errors))) + 0.0
