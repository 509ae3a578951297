"""What a forecaster would pick otherwise: repeating, DLinear, NLinear, RLinear. All map (B, T, N) to (B, P, N).

Sources: Zeng et al., Are transformers effective for time series forecasting? (AAAI 2023) for DLinear and NLinear;
Li et al., Revisiting long-term time series forecasting (2023) for RLinear.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from linmap.sequence.olinear.revin import RevIN

KERNEL = 25  # steps of DLinear's moving average


class RepeatLast(nn.Module):
    """Every step repeats the last value."""

    def __init__(self, pred_len: int) -> None:
        super().__init__()
        self.pred_len = pred_len

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        return x[:, -1:].expand(-1, self.pred_len, -1)


class RepeatSeason(nn.Module):
    """The last `season` steps again and again."""

    def __init__(self, season: int, pred_len: int) -> None:
        super().__init__()
        self.season, self.pred_len = season, pred_len

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        return x[:, torch.arange(self.pred_len, device=x.device) % self.season - self.season]


class NLinear(nn.Module):
    """One linear layer along time on x - x_T, plus x_T; shared by the variates."""

    def __init__(self, seq_len: int, pred_len: int) -> None:
        super().__init__()
        self.linear = nn.Linear(seq_len, pred_len)

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        last = x[:, -1:]
        return self.linear((x - last).mT).mT + last


class DLinear(nn.Module):
    """One linear layer on the moving average, one on the remainder; shared by the variates."""

    def __init__(self, seq_len: int, pred_len: int) -> None:
        super().__init__()
        self.trend = nn.Linear(seq_len, pred_len)
        self.seasonal = nn.Linear(seq_len, pred_len)

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        series = x.mT
        ends = ((KERNEL - 1) // 2, KERNEL // 2)
        trend = F.avg_pool1d(F.pad(series, ends, mode="replicate"), KERNEL, stride=1)
        return (self.trend(trend) + self.seasonal(series - trend)).mT


class RLinear(nn.Module):
    """One linear layer along time between RevIN and its inverse; shared by the variates."""

    def __init__(self, seq_len: int, pred_len: int, n_variates: int) -> None:
        super().__init__()
        self.revin = RevIN(n_variates)
        self.linear = nn.Linear(seq_len, pred_len)

    def forward(self, x: Float[Tensor, "batch time variate"]) -> Float[Tensor, "batch horizon variate"]:
        z, statistics = self.revin.normalise(x)
        return self.revin.denormalise(self.linear(z.mT).mT, statistics)
