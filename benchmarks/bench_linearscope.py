"""linearscope on EfficientNet-lite0 at 224 x 224: the bar is a column within 1.5 forward passes (ratio >= 0.67)."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.measure import Measurement, compare
from linmap.data.images import embedded_image, square
from linmap.data.pretrained import efficientnet_lite0
from linmap.interpret.linearscope import LinearScope
from linmap.recipes.linearscope.loading import normalised

BATCH = 16
BAR = 1 / 1.5


@torch.no_grad()
def run() -> list[Measurement]:
    model, x = efficientnet_lite0().requires_grad_(False), normalised(square(embedded_image("chelsea"), 224))
    interp = LinearScope(model).at(x)

    def forwards() -> Tensor:
        return torch.cat([model(x) for _ in range(BATCH)])

    def forward_mode_columns() -> Tensor:
        impulse = torch.zeros_like(x)
        impulse.view(-1)[0] = 1
        return torch.func.jvp(model, (x,), (impulse,))[1]

    def reverse_mode_row() -> Tensor:
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(model(leaf)[0, 285], leaf)[0]

    def columns() -> Tensor:
        return interp.columns(range(BATCH), BATCH)

    def forward() -> Tensor:
        return model(x)

    def column() -> Tensor:
        return interp.columns([0])

    interp.row(285)  # builds the graph that all rows share
    return [
        compare(f"{BATCH} columns in one batch", columns, f"{BATCH} forwards", forwards, bar=BAR, repeats=7, warm_up=1),
        compare("one column", column, "one forward", forward, bar=BAR),
        compare("one column", column, "torch.func.jvp", forward_mode_columns),
        compare("one row", lambda: interp.row(285), "autograd: forward, backward", reverse_mode_row),
        compare("reading the map", lambda: LinearScope(model).at(x), "one forward", forward, repeats=5),
    ]
