"""The Frechet distance of two sets of features, and the diversity of one.

References
----------
Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017.
Stein et al., "Exposing Flaws of Generative Model Evaluation Metrics", NeurIPS 2023 (on features of DINOv2).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Real
from torch import Tensor

from linmap.errors import ArgumentError
from linmap.geometry.spd import bw_dist2


def frechet_distance(a: Real[Tensor, ...], b: Real[Tensor, ...]) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2)), in float64.

    The second part is the squared Bures-Wasserstein distance of the covariances (n - 1), which exists for singular ones
    too: there may be fewer samples than features. It is biased upwards at few samples, so compare sets of equal size,
    and beside the distance of two sets of the same source.

    Parameters
    ----------
    a, b
        Features in rows, (n, d) and (m, d).

    Raises
    ------
    ValueError
        If the sets do not have features of one length and two samples each, or hold values that are not finite.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ArgumentError(f"a and b must be (samples, features), got {tuple(a.shape)} and {tuple(b.shape)}.")
    if min(len(a), len(b)) < 2:
        raise ArgumentError(f"a and b must hold 2 samples at least, got {len(a)} and {len(b)}.")
    a, b = a.detach().double(), b.detach().double()
    for name, x in (("a", a), ("b", b)):
        if not bool(x.isfinite().all()):
            raise ArgumentError(f"{name} holds values that are not finite.")
    apart = (a.mean(0) - b.mean(0)).square().sum()
    return float(apart + bw_dist2(torch.atleast_2d(a.T.cov()), torch.atleast_2d(b.T.cov())))


def diversity(features: Float[Tensor, ...]) -> float:
    """The mean distance of two different samples.

    Parameters
    ----------
    features
        In rows, (n, d).

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ArgumentError(
            f"features must be (samples, features) with 2 samples at least, got {tuple(features.shape)}."
        )
    return float(torch.pdist(features.detach().double()).mean())
