"""Lie group decompositions: convolutions over SL(2), GL+(2) and SO(2) with affine feature maps."""

from linmap.geometry.groups import (
    SO2,
    GLnPlus,
    GroupSamples,
    HaarSampler,
    LogNormalSampler,
    PolarGroup,
    Sampler,
    SLn,
    inverse_pair,
    polar,
    riemannian_exp,
    rotation,
    rotation_angle,
)
from linmap.shapes.lie_decomposition.classifier import LieClassifier
from linmap.shapes.lie_decomposition.convolutions import LieConv2d
from linmap.shapes.lie_decomposition.coordinates import kernel_grid
from linmap.shapes.lie_decomposition.images import equivariance_error, invariance_error, transform_image
from linmap.shapes.lie_decomposition.lifting import LieLift2d
from linmap.shapes.lie_decomposition.network import LieResNet
from linmap.shapes.lie_decomposition.official import load_official
from linmap.shapes.lie_decomposition.pooling import LieGlobalPool, LiePool2d
from linmap.shapes.lie_decomposition.projection import LieProject2d
from linmap.shapes.lie_decomposition.siren import Siren

__all__ = [
    "SO2",
    "GLnPlus",
    "GroupSamples",
    "HaarSampler",
    "LieClassifier",
    "LieConv2d",
    "LieGlobalPool",
    "LieLift2d",
    "LiePool2d",
    "LieProject2d",
    "LieResNet",
    "LogNormalSampler",
    "PolarGroup",
    "SLn",
    "Sampler",
    "Siren",
    "equivariance_error",
    "invariance_error",
    "inverse_pair",
    "kernel_grid",
    "load_official",
    "polar",
    "riemannian_exp",
    "rotation",
    "rotation_angle",
    "transform_image",
]
