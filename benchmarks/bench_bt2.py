"""BT²: upgrading a gallery of 1,000,000 x 384 vectors, and a training step of an orthogonal basis with n = 512.

The upgrade checks, normalises and maps float32 vectors; its peer is the matrix product alone, into memory that is there
already. The training step is the forward and the backward of one basis on a batch of 128 and a step of Adam.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from benchmarks.measure import Measurement, medians
from linmap.maps import Cayley
from linmap.retrieve.bt2 import EmbeddingUpgrade

ROWS, DIM, N, BATCH = 1_000_000, 384, 512, 128


def run() -> list[Measurement]:
    return [upgrade(), *training_steps()]


def upgrade(rows: int = ROWS) -> Measurement:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, DIM), np.float32)
    R = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    fitted = EmbeddingUpgrade(method="procrustes").fit(X[:2000], _unit(X[:2000]) @ R)
    out = np.empty((rows, DIM), np.float32)
    ours, plain = medians(lambda: fitted.transform(X), lambda: np.matmul(X, R, out=out), repeats=5, warm_up=1)
    return Measurement(
        f"upgrade {rows:,} x {DIM} float32",
        ours,
        "numpy.matmul alone",
        plain,
        bar=0.5,
        items=rows,
        unit="vectors",
        note="the bar is twice the time of the product",
    )


def _unit(X: np.ndarray) -> np.ndarray:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def training_steps() -> list[Measurement]:
    torch.manual_seed(0)
    x = torch.randn(BATCH, N)
    ours = step(Cayley.from_matrix(nn.init.orthogonal_(torch.empty(N, N))), x)
    peers = {
        name: step(orthogonal(nn.Linear(N, N, bias=False), "weight", name), x) for name in ("cayley", "matrix_exp")
    }
    seconds, *others = medians(ours, *peers.values(), repeats=7, warm_up=2)
    return [
        Measurement(
            f"training step of a basis, n = {N}, linmap.maps.Cayley",
            seconds,
            f"parametrizations.orthogonal({name})",
            other,
            bar=1.0,
        )
        for name, other in zip(peers, others, strict=True)
    ]


def step(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-4)

    def once() -> None:
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    return once
