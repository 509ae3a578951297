"""What distinguishes the classes, in terms of channels and delays."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Shaped

from linmap.signals.acm.tangent import mean_and_logarithms, one_thread, roots


def class_patterns(
    matrices: Float64[np.ndarray, "epochs size size"], y: Shaped[np.ndarray, " epochs"], n_channels: int
) -> Float64[np.ndarray, "classes channels order"]:
    """How the autocovariance of each channel at each delay differs between a class and the mean of all.

    The mean tangent vector of the class at the affine-invariant mean G of all epochs, brought back to channels as
    G^(1/2) W G^(1/2); of its first block column the diagonal of each block, relative to the channel's variance in G.
    Entry [k, i, d] is then about the change of E[x_i(t + d lag) x_i(t)] / E[x_i(t)^2]; d = 0 is the power.

    Parameters
    ----------
    matrices
        Augmented covariances.
    y
        Their classes, which come out in the order of `numpy.unique`.
    n_channels
        Rows of a block.
    """
    order = matrices.shape[-1] // n_channels
    with one_thread():
        mean, W = mean_and_logarithms(matrices)
        root, _ = roots(mean)
        variance = mean.diagonal()[:n_channels]
        patterns = []
        for label in np.unique(y):
            change = root @ W[y == label].mean(0) @ root
            column = change[:, :n_channels].reshape(order, n_channels, n_channels)
            patterns.append(np.einsum("dii->id", column) / variance[:, None])
    return np.stack(patterns)
