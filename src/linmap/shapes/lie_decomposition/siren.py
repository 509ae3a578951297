"""`Siren`: the network of sines that gives a kernel's values at continuous coordinates."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from linmap.errors import check_count
from linmap.geometry.groups.polar import check_positive


class Siren(nn.Module):
    """Layers sin(w0 (W x + b)), and a linear one.

    Parameters
    ----------
    in_features
        Number of coordinates.
    out_features
        Number of values.
    hidden
        Width of the layers of sines.
    depth
        Their number.
    w0
        Their frequency.
    fan
        Number of values that a convolution sums: the last weights are uniform within sqrt(6 / hidden) / sqrt(fan), so
        that the values have a variance of 1 / fan. None: 1.
    generator
        Source of the initial values; None: PyTorch's global one.

    Attributes
    ----------
    layers
        The depth + 1 linear layers.

    Raises
    ------
    ValueError
        If a size is not positive, or w0 or fan.
    TypeError
        If a size is no integer, or w0 or fan no number.

    References
    ----------
    Sitzmann et al., "Implicit Neural Representations with Periodic Activation Functions", NeurIPS 2020.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: int = 60,
        depth: int = 3,
        w0: float = 10.0,
        fan: float | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "out_features": out_features, "hidden": hidden, "depth": depth}
        for name, value in sizes.items():
            check_count(name, value)
        fan = 1.0 if fan is None else check_positive(fan, "fan")
        self.w0 = check_positive(w0, "w0")
        ends = [in_features, *[hidden] * depth, out_features]
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(ends))
        self._initialise(fan, generator)

    @torch.no_grad()
    def _initialise(self, fan: float, generator: Generator | None) -> None:
        first, *middle, last = cast("list[nn.Linear]", list(self.layers))
        inputs, hidden = first.in_features, last.in_features
        first.weight.uniform_(-1 / inputs, 1 / inputs, generator=generator)
        first.bias.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        for layer, bound in [(layer, (6 / hidden) ** 0.5 / self.w0) for layer in middle] + [
            (last, (6 / hidden) ** 0.5 / fan**0.5)
        ]:
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.zero_()

    def forward(self, x: Float[Tensor, "... in_features"]) -> Float[Tensor, "... out_features"]:
        for layer in self.layers[:-1]:
            x = torch.sin(self.w0 * layer(x))
        return self.layers[-1](x)

    def extra_repr(self) -> str:
        return f"w0={self.w0:g}"
