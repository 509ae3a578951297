"""From epochs of signals to covariance matrices, inside a network."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.geometry.delays import augmented_covariance


class AugmentedCovariance(nn.Module):
    """The covariance of delay-embedded epochs; order 1 is the sample covariance.

    Parameters
    ----------
    order, lag
        Delayed copies, and samples between them.
    eps
        Added to the diagonal.
    """

    def __init__(self, order: int = 1, lag: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.order, self.lag, self.eps = order, lag, eps

    def forward(self, X: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch n n"]:
        return augmented_covariance(X, self.order, self.lag, self.eps)

    def extra_repr(self) -> str:
        return f"order={self.order}, lag={self.lag}, eps={self.eps}"


class ConvolutionalCovariance(nn.Module):
    """Spatial filters, temporal filters, and the covariance of what comes out.

    With its defaults the front of the published network for MAMEM-SSVEP-II; with order > 1 the covariance is the
    augmented one, and the filters are trained through it.

    Parameters
    ----------
    n_channels
        Electrodes.
    spatial, temporal
        Filters across the electrodes, and filters in time after them; order * temporal is the size of the matrices.
    kernel
        Samples of a temporal filter.
    order, lag, eps
        Of `AugmentedCovariance`.
    """

    def __init__(
        self, n_channels: int, spatial: int = 125, temporal: int = 15, kernel: int = 36, order: int = 1, lag: int = 1,
        eps: float = 1e-5, dtype: torch.dtype = torch.float64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.filters = nn.Sequential(
            nn.Conv1d(n_channels, spatial, 1, dtype=dtype),
            nn.BatchNorm1d(spatial, dtype=dtype),
            nn.Conv1d(spatial, temporal, kernel, padding=kernel // 2, dtype=dtype),
            nn.BatchNorm1d(temporal, dtype=dtype),
        )
        self.covariance = AugmentedCovariance(order, lag, eps)

    def forward(self, X: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch n n"]:
        return self.covariance(self.filters(X))
