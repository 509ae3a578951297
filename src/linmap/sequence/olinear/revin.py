"""Reversible instance normalisation (RevIN): every window in its own level and scale, and the forecast back in them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

EPSILON = 1e-5


def instance_statistics(
    x: Float[Tensor, "batch time variate"],
) -> tuple[Float[Tensor, "batch 1 variate"], Float[Tensor, "batch 1 variate"]]:
    """Mean and sqrt(variance + 1e-5) over time of each window and variate, without gradient."""
    variance, mean = torch.var_mean(x.detach(), dim=1, correction=0, keepdim=True)
    return mean, torch.sqrt(variance + EPSILON)


class RevIN(nn.Module):
    """z = (x - mean) / std * gain + shift, and its inverse; the statistics travel with the caller, not in the module.

    Source: Kim et al., Reversible instance normalization (ICLR 2022).

    Parameters
    ----------
    n_variates
        Length of `gain` (init 1) and `shift` (init 0).
    """

    def __init__(self, n_variates: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_variates))
        self.shift = nn.Parameter(torch.zeros(n_variates))

    def normalise(
        self, x: Float[Tensor, "batch time variate"]
    ) -> tuple[Float[Tensor, "batch time variate"], tuple[Tensor, Tensor]]:
        mean, std = instance_statistics(x)
        return (x - mean) / std * self.gain + self.shift, (mean, std)

    def denormalise(
        self, y: Float[Tensor, "batch horizon variate"], statistics: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "batch horizon variate"]:
        mean, std = statistics
        return (y - self.shift) / (self.gain + EPSILON**2) * std + mean
