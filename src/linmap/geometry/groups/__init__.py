"""GL+(n), SL(n) and SO(2) in the coordinates of their polar decomposition, and samples by their Haar measures."""

from linmap.geometry.groups.polar import inverse_pair, polar, riemannian_exp
from linmap.geometry.groups.polar_groups import SO2, GLnPlus, PolarGroup, SLn
from linmap.geometry.groups.rotations import rotation, rotation_angle
from linmap.geometry.groups.samplers import HaarSampler, LogNormalSampler, Sampler
from linmap.geometry.groups.samples import GroupSamples

__all__ = [
    "SO2",
    "GLnPlus",
    "GroupSamples",
    "HaarSampler",
    "LogNormalSampler",
    "PolarGroup",
    "SLn",
    "Sampler",
    "inverse_pair",
    "polar",
    "riemannian_exp",
    "rotation",
    "rotation_angle",
]
