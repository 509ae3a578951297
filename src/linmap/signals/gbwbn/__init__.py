"""Batch normalisation of positive definite matrices under the Bures-Wasserstein geometry, and networks with it."""

from linmap.signals.gbwbn.classifier import SPDNetClassifier
from linmap.signals.gbwbn.fronts import AugmentedCovariance, ConvolutionalCovariance
from linmap.signals.gbwbn.layer import GBWBatchNorm
from linmap.signals.gbwbn.network import ReEig, ReLogEig, SPDNet
from linmap.signals.gbwbn.recalibration import recalibrate

__all__ = [
    "AugmentedCovariance",
    "ConvolutionalCovariance",
    "GBWBatchNorm",
    "ReEig",
    "ReLogEig",
    "SPDNet",
    "SPDNetClassifier",
    "recalibrate",
]
