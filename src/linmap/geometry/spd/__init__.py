"""Symmetric positive definite matrices: functions of their eigenvalues, and the Bures-Wasserstein geometry."""

from linmap.geometry.spd.bures_wasserstein import (
    bw_dist2,
    bw_exp,
    bw_geodesic,
    bw_log,
    bw_mean,
    bw_transport_map,
    gbw_dist2,
)
from linmap.geometry.spd.lyapunov import (
    bw_transport,
    bw_transport_from_identity,
    bw_transport_to_identity,
    lyapunov,
)
from linmap.geometry.spd.spectral import (
    SymmetricEigen,
    sym_exp,
    sym_invsqrt,
    sym_log,
    sym_pow,
    sym_rectified_log,
    sym_rectify,
    sym_sqrt,
)

__all__ = [
    "SymmetricEigen",
    "bw_dist2",
    "bw_exp",
    "bw_geodesic",
    "bw_log",
    "bw_mean",
    "bw_transport",
    "bw_transport_from_identity",
    "bw_transport_map",
    "bw_transport_to_identity",
    "gbw_dist2",
    "lyapunov",
    "sym_exp",
    "sym_invsqrt",
    "sym_log",
    "sym_pow",
    "sym_rectified_log",
    "sym_rectify",
    "sym_sqrt",
]
