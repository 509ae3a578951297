"""Fine-tune a pretrained model with few trainable parameters."""

from linmap.adapt.bone import BoneConfig, BoneConv2d, BoneEmbedding, BoneLinear, BoneModel, bone_delta, bone_forward
from linmap.adapt.salt import (
    SaltConfig,
    SaltConv2d,
    SaltLinear,
    SaltModel,
    salt_core,
    salt_regularization,
    salt_spectrum,
    salt_weight,
    signed_svd,
)

__all__ = [
    "BoneConfig",
    "BoneConv2d",
    "BoneEmbedding",
    "BoneLinear",
    "BoneModel",
    "SaltConfig",
    "SaltConv2d",
    "SaltLinear",
    "SaltModel",
    "bone_delta",
    "bone_forward",
    "salt_core",
    "salt_regularization",
    "salt_spectrum",
    "salt_weight",
    "signed_svd",
]
