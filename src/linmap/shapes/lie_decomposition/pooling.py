"""Pooling of features (batch, channels, N, height, width)."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from linmap.errors import ArgumentError, check_count
from linmap.shapes.lie_decomposition.checks import check_choice, check_rank

Mode = Literal["max", "mean"]
Over = Literal["all", "group"]


class LiePool2d(nn.Module):
    """Maximum or mean over squares of pixels, for each sample.

    Parameters
    ----------
    kernel_size
        Side of the squares, which do not overlap; what is left at the borders is dropped.
    mode
        "max" or "mean".

    Raises
    ------
    ValueError
        If kernel_size < 1 or mode is another.
    """

    def __init__(self, kernel_size: int = 2, mode: Mode = "max") -> None:
        super().__init__()
        self.kernel_size, self.mode = check_count("kernel_size", kernel_size), check_choice("mode", mode, Mode)

    def forward(self, x: Float[Tensor, "batch channels N height width"]) -> Float[Tensor, "batch channels N h w"]:
        check_rank(x)
        if min(x.shape[-2:]) < self.kernel_size:
            raise ArgumentError(
                f"x has images of {x.shape[-2]} x {x.shape[-1]}, smaller than kernel_size={self.kernel_size}."
            )
        pool = F.max_pool2d if self.mode == "max" else F.avg_pool2d
        return pool(x.flatten(1, 2), self.kernel_size).unflatten(1, x.shape[1:3])

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, mode={self.mode!r}"


class LieGlobalPool(nn.Module):
    """Maximum or mean over samples and pixels, which makes invariants, or over samples alone.

    Parameters
    ----------
    mode
        "max" or "mean".
    over
        "all": (batch, channels); "group": (batch, channels, height, width).

    Raises
    ------
    ValueError
        If mode or over are others.
    """

    def __init__(self, mode: Mode = "max", over: Over = "all") -> None:
        super().__init__()
        self.mode, self.over = check_choice("mode", mode, Mode), check_choice("over", over, Over)

    def forward(self, x: Float[Tensor, "batch channels N height width"]) -> Float[Tensor, "batch channels *pixels"]:
        check_rank(x)
        axes = (2, 3, 4) if self.over == "all" else (2,)
        return x.amax(axes) if self.mode == "max" else x.mean(axes)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, over={self.over!r}"
