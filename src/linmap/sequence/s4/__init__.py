"""S4 and S4D: state-space layers for long sequences (arXiv 2206.12037, 2111.00396, 2206.11893).

The layers are `S4D` and `S4`, a stack of them is `SequenceModel`, which `S4Classifier` and `S4Regressor` train on
series; the kernels are functions of their own.
"""

from linmap.sequence.s4.baselines import GRUClassifier
from linmap.sequence.s4.diagonal import S4D
from linmap.sequence.s4.estimators import S4Classifier, S4Regressor, load_estimator
from linmap.sequence.s4.kernels import cauchy_kernel, causal_convolution, dplr_kernel, krylov_kernel, vandermonde_kernel
from linmap.sequence.s4.low_rank import S4
from linmap.sequence.s4.model import SequenceModel
from linmap.sequence.s4.official import load_official

__all__ = [
    "S4",
    "S4D",
    "GRUClassifier",
    "S4Classifier",
    "S4Regressor",
    "SequenceModel",
    "cauchy_kernel",
    "causal_convolution",
    "dplr_kernel",
    "krylov_kernel",
    "load_estimator",
    "load_official",
    "vandermonde_kernel",
]
