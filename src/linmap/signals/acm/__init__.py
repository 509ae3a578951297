"""Augmented covariance for EEG: delay embedding before the covariance, Riemannian classifiers after it.

The method of Carrara and Papadopoulo (arXiv 2302.04508). `AugmentedCovariance` is the transformer, `ACMClassifier` the
whole method with the choice of order and lag, `augmented_covariance` the same in PyTorch with gradients.
"""

from linmap.geometry.delays import augmented_covariance
from linmap.signals.acm.autoregression import (
    Autoregression,
    block_toeplitz,
    information_criteria,
    lagged_covariances,
    yule_walker,
)
from linmap.signals.acm.classifier import ACMClassifier
from linmap.signals.acm.mdop import beta_statistic, mdop
from linmap.signals.acm.patterns import class_patterns
from linmap.signals.acm.selection import OrderLag, select_order_lag
from linmap.signals.acm.svm import TangentSpaceSVM
from linmap.signals.acm.transform import AugmentedCovariance, DelayEmbedding

__all__ = [
    "ACMClassifier",
    "AugmentedCovariance",
    "Autoregression",
    "DelayEmbedding",
    "OrderLag",
    "TangentSpaceSVM",
    "augmented_covariance",
    "beta_statistic",
    "block_toeplitz",
    "class_patterns",
    "information_criteria",
    "lagged_covariances",
    "mdop",
    "select_order_lag",
    "yule_walker",
]
