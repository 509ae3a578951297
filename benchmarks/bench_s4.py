"""S4D and S4: kernels in two levels, and a training step of a layer, against the other ways and other layers.

A training step is forward, backward and AdamW on 8 sequences of 4,096 steps. The official layer without its CUDA
extension is the same S4D with all exponentials written out and an FFT of length 2L.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare, peak_memory
from linmap.sequence.s4 import S4, S4D, causal_convolution, dplr_kernel, vandermonde_kernel
from linmap.sequence.s4.inits import dplr_modes

STATES, BATCH, LENGTH = 64, 8, 4096


def run() -> list[Measurement]:
    return [
        *(row for H, L, bar in ((64, 1024, 8.0), (64, 4096, 25.0), (16, 16384, None)) for row in kernels(H, L, bar)),
        *low_rank_kernels(),
        *layers(64),
        *lengths(),
    ]


def naive_kernel(C: Tensor, z: Tensor, L: int) -> Tensor:
    powers = torch.exp(z.unsqueeze(-1) * torch.arange(L, device=z.device))
    return 2 * torch.einsum("hn,hnl->hl", C, powers).real


def kernels(H: int, L: int, bar: float | None) -> Iterable[Measurement]:
    torch.manual_seed(0)
    z, dB, C = (t.detach() for t in S4D(H, STATES)._discrete(1.0))
    C = C[0] * dB
    exact = vandermonde_kernel(C.to(torch.complex128), z.to(torch.complex128), L)
    error = float((vandermonde_kernel(C, z, L) - exact).abs().max())
    theirs = float((naive_kernel(C, z, L) - exact).abs().max())
    what = f"Vandermonde kernel, {H} features, {STATES // 2} modes, L = {L:,}"
    yield compare(
        what,
        lambda: vandermonde_kernel(C, z, L),
        "all exponentials",
        lambda: naive_kernel(C, z, L),
        bar=bar,
        memory=peak_memory(lambda: vandermonde_kernel(C, z, L)),
        note=f"largest error {error:.1e}, the peer's {theirs:.1e}; the peer's memory "
        f"{peak_memory(lambda: naive_kernel(C, z, L)) / 2**20:.0f} MiB",
    )
    leaves = C.clone().requires_grad_(), z.clone().requires_grad_()
    yield compare(
        f"{what}, with gradients",
        lambda: torch.autograd.grad(vandermonde_kernel(*leaves, L).sum(), leaves),
        "all exponentials",
        lambda: torch.autograd.grad(naive_kernel(*leaves, L).sum(), leaves),
    )


def low_rank_kernels() -> Iterable[Measurement]:
    H, L = 64, LENGTH
    A, P, B = (t.to(torch.complex64) for t in dplr_modes("legs", STATES))
    A, B, P = A.expand(H, -1), B.expand(H, -1), P.unsqueeze(1).expand(-1, H, -1)
    layer = S4(H, STATES)
    C, dt = torch.view_as_complex(layer.C.detach()), layer.dt.detach()

    def ours() -> Tensor:
        with torch.no_grad():
            return layer._kernels(L, 1.0)

    error = float((ours() - dplr_kernel(A, P, P, B, C, dt, L)).abs().max())
    yield compare(
        f"kernel of S4 (LegS), {H} features, {STATES} states, L = {L:,}",
        ours,
        "its Cauchy form, C given",
        lambda: dplr_kernel(A, P, P, B, C, dt, L, truncated=True),
        note=f"largest difference {error:.0e}",
    )


class OfficialS4D(S4D):
    """The same layer with the kernel and the FFT of the official code on a CPU."""

    def forward(self, u: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        L, x = u.shape[1], u.mT
        z, dB, C = self._discrete(1.0)
        K = naive_kernel(C[0] * dB, z, L)
        spectrum = torch.fft.rfft(x, n=2 * L) * torch.fft.rfft(K, n=2 * L)
        y = torch.fft.irfft(spectrum, n=2 * L)[..., :L] + x * self.D.unsqueeze(-1)
        return self._finish(y.mT, u.dtype)


class GRU(nn.GRU):
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x)[0]


def layers(H: int) -> Iterable[Measurement]:
    torch.manual_seed(0)
    ours = training_step(S4D(H, STATES), H, LENGTH)
    peers: dict[str, nn.Module] = {
        "the official layer's way on a CPU": OfficialS4D(H, STATES),
        f"torch.nn.GRU, {H} units": GRU(H, H, batch_first=True),
        f"TransformerEncoderLayer, {H} wide, 4 heads": nn.TransformerEncoderLayer(H, 4, 4 * H, 0.0, batch_first=True),
    }
    for name, layer in peers.items():
        yield compare(
            f"training step of S4D, {BATCH} x {LENGTH:,} x {H}",
            ours,
            name,
            training_step(layer, H, LENGTH),
            bar=1.0,
            repeats=7,
            warm_up=1,
        )
    yield compare(
        f"training step of S4 (LegS), {BATCH} x {LENGTH:,} x {H}",
        training_step(S4(H, STATES), H, LENGTH),
        "that of S4D",
        ours,
        repeats=7,
        warm_up=1,
    )


def training_step(layer: nn.Module, H: int, L: int) -> Callable[[], None]:
    x = torch.randn(BATCH, L, H)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    return step


def lengths() -> Iterable[Measurement]:
    """One sample at a time against the convolution of the whole sequence, which is what a stream has otherwise."""
    layer, H = S4D(64, STATES).eval(), 64
    u, state = torch.randn(1, H), layer.initial_state()
    window = torch.randn(1, 1024, H)
    with torch.inference_mode():
        yield compare(
            "S4D, one further sample of a stream",
            lambda: layer.step(u, state),
            "convolution of the last 1,024",
            lambda: layer(window),
        )
    x = torch.randn(BATCH, H, LENGTH)
    K = torch.randn(H, LENGTH)
    yield compare(
        f"causal convolution, {BATCH} x {H} x {LENGTH:,}",
        lambda: causal_convolution(x, K),
        "FFT of length 2L",
        lambda: torch.fft.irfft(torch.fft.rfft(x, n=2 * LENGTH) * torch.fft.rfft(K, n=2 * LENGTH), n=2 * LENGTH)[
            ..., :LENGTH
        ],
    )
