"""Lie group convolutions, forward + backward: C = 40 channels, N = 10 samples, 5 x 5 kernels, 8 maps of 20 x 20.

Peers: the layer that sums over the whole kernel, for separable kernels; escnn's regular convolution of C_N, for
rotations alone, where both expand a kernel and convolve with as many channels; eigenvalues (`eigh` of g g^T) for the
closed form of the polar decomposition in the plane. The kernels of the two libraries differ (Siren and circular
harmonics), their sizes do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare, optional
from linmap.shapes.lie_decomposition import (
    SO2,
    GroupSamples,
    HaarSampler,
    LieConv2d,
    LieResNet,
    SLn,
    polar,
    rotation,
)

CHANNELS, SAMPLES, KERNEL, BATCH, SIZE = 40, 10, 5, 8, 20
BAR = 5.0  # of separable kernels
MATRICES = 10_000


def run() -> list[Measurement]:
    torch.manual_seed(0)
    return [separable(), network(), kept(), regular(), closed_form()]


def separable() -> Measurement:
    samples = HaarSampler(SLn(2)).sample(SAMPLES)
    ours, plain = (step(layer(SLn(2), separable=kind), samples) for kind in (True, False))
    return compare("separable LieConv2d of SL(2)", ours, "the plain LieConv2d", plain, bar=BAR, repeats=7, warm_up=1)


def network() -> Measurement:
    x = torch.randn(BATCH, 1, SIZE, SIZE)

    def both_ways(kind: bool) -> Callable[[], object]:
        net = LieResNet(SLn(2), separable=kind)
        return lambda: net(x).sum().backward()

    what = f"LieResNet of SL(2), {BATCH} images of {SIZE} x {SIZE}, separable"
    return compare(what, both_ways(True), "plain", both_ways(False), repeats=5, warm_up=1)


def kept() -> Measurement:
    """A single image, with the kernel of the last call or with a new one."""
    samples, x = HaarSampler(SLn(2)).sample(SAMPLES), torch.randn(1, CHANNELS, SAMPLES, 10, 10)
    conv = layer(SLn(2), separable=False).eval()

    def forward(forget: bool) -> Callable[[], object]:
        def call() -> None:
            with torch.no_grad():
                conv._kept = None if forget else conv._kept
                conv(x, samples, samples)

        return call

    what = "forward of one map of 10 x 10, evaluation mode, kernel kept"
    return compare(what, forward(False), "kernel computed", forward(True), repeats=9)


def regular() -> Measurement:
    """SO(2) with N equal rotations, beside escnn where it is installed."""
    R = rotation(2 * torch.pi * torch.arange(SAMPLES) / SAMPLES)
    ours = step(layer(SO2(), separable=False), GroupSamples(R, R.mT))
    what = f"LieConv2d of SO(2), {SAMPLES} rotations"
    peer = f"escnn, regular convolution of C{SAMPLES}"
    return compare(what, ours, peer, regular_of_escnn(), repeats=7, warm_up=1)


def regular_of_escnn() -> Callable[[], object] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gspaces, escnn = optional("escnn.gspaces"), optional("escnn.nn")
        if gspaces is None or escnn is None:
            return None
        plane = gspaces.rot2dOnR2(N=SAMPLES)
        kind = escnn.FieldType(plane, CHANNELS * [plane.regular_repr])
        conv: Any = escnn.R2Conv(kind, kind, KERNEL, padding=KERNEL // 2, bias=False, initialize=False)
    nn.init.normal_(conv.weights, std=0.01)
    x = torch.randn(BATCH, CHANNELS * SAMPLES, SIZE, SIZE, requires_grad=True)
    return lambda: conv(escnn.GeometricTensor(x, kind)).tensor.sum().backward()


def closed_form() -> Measurement:
    g = torch.randn(MATRICES, 2, 2, dtype=torch.float64)
    g[torch.linalg.det(g) < 0, 0] *= -1
    what = f"polar coordinates of {MATRICES:,} matrices, float64"
    return compare(what, lambda: polar(g), "eigh of g g^T", lambda: by_eigenvalues(g))


def by_eigenvalues(g: Tensor) -> tuple[Tensor, Tensor]:
    e, V = torch.linalg.eigh(g @ g.mT)
    half = e.log() / 2
    return (V * half.unsqueeze(-2)) @ V.mT, (V * (-half).exp().unsqueeze(-2)) @ V.mT @ g


def layer(group: Any, separable: bool) -> LieConv2d:
    return LieConv2d(group, CHANNELS, CHANNELS, KERNEL, padding=KERNEL // 2, separable=separable)


def step(conv: LieConv2d, samples: GroupSamples) -> Callable[[], object]:
    x = torch.randn(BATCH, CHANNELS, len(samples), SIZE, SIZE, requires_grad=True)
    return lambda: conv(x, samples, samples).sum().backward()
