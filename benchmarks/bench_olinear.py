"""OLinear: the correlation by recursion against the lagged windows, and folded inference against the unfolded model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Measurement, compare
from linmap.data.timeseries import load_time_series
from linmap.sequence.olinear import OLinear, OrthoTrans, fold, temporal_correlation

TRAIN_ROWS = 8640  # of ETTh1
VARIATES, STEPS = 7, 96


def run() -> list[Measurement]:
    rows = load_time_series("etth1").values[:TRAIN_ROWS]
    return [
        *(correlation(rows, length, bar) for length, bar in ((96, None), (336, 10.0), (720, None))),
        *(row for batch in (1, 32, 256) for row in folded(rows, batch)),
    ]


def correlation(rows: np.ndarray, length: int, bar: float | None) -> Measurement:
    error = np.abs(temporal_correlation(rows, length) - lagged_windows(rows, length)).max()
    return compare(
        f"correlation of {length} steps, ETTh1 ({len(rows):,} rows x {rows.shape[1]})",
        lambda: temporal_correlation(rows, length),
        "np.corrcoef of the lagged windows",
        lambda: lagged_windows(rows, length),
        bar=bar,
        repeats=7,
        note=f"largest difference {error:.0e}",
    )


def lagged_windows(rows: np.ndarray, length: int) -> np.ndarray:
    windows = len(rows) - length + 1
    return np.mean([np.corrcoef([x[i : i + windows] for i in range(length)]) for x in rows.T], axis=0)


def folded(rows: np.ndarray, batch: int) -> Iterable[Measurement]:
    """Against the definition, as the authors compute it, and against `OLinear.forward`, whose encoder has no copies.

    The bar is on batches: one window is bound by calls and memory, not by operations.
    """
    Q = OrthoTrans(STEPS).fit(rows).Q_
    torch.manual_seed(0)
    model = OLinear(VARIATES, STEPS, STEPS, Q_in=Q, Q_out=Q).eval()
    light, x = fold(model), torch.randn(batch, STEPS, VARIATES)
    peers = {
        "the definition, with its 16 copies": (lambda: with_copies(model, x), 2.0 if batch > 1 else None),
        "OLinear.forward": (lambda: model(x), None),
    }
    with torch.inference_mode():
        for peer, (theirs, bar) in peers.items():
            error = float((light(x) - theirs()).abs().max())
            yield compare(
                f"folded forecast, published size, batch {batch}",
                lambda: light(x),
                peer,
                theirs,
                bar=bar,
                note=f"largest difference {error:.0e}",
            )


def with_copies(model: OLinear, x: Tensor) -> Tensor:
    """The forward pass with every copy written out, as section 2 of the method gives it."""
    assert model.phi is not None
    z, statistics = model.revin.normalise(x)
    copies = (z.mT.unsqueeze(2) * model.phi[:, None]) @ model.Q_in.mT + model.delta1[:, None]  # pyright: ignore
    h = model.encoder(copies.flatten(2))
    for block in model.blocks:
        h = block(h)
    return model.revin.denormalise(model.decode(model.norm(h)).mT, statistics)
