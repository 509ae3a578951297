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
from linmap.adapt.triadaptlora import (
    GrowthEvent,
    RankAllocator,
    TriAdaptCallback,
    TriAdaptConv2d,
    TriAdaptLinear,
    TriAdaptLoraConfig,
    TriAdaptLoraModel,
    triadapt_delta,
    triadapt_orthogonality,
)

__all__ = [
    "BoneConfig",
    "BoneConv2d",
    "BoneEmbedding",
    "BoneLinear",
    "BoneModel",
    "GrowthEvent",
    "RankAllocator",
    "SaltConfig",
    "SaltConv2d",
    "SaltLinear",
    "SaltModel",
    "TriAdaptCallback",
    "TriAdaptConv2d",
    "TriAdaptLinear",
    "TriAdaptLoraConfig",
    "TriAdaptLoraModel",
    "bone_delta",
    "bone_forward",
    "salt_core",
    "salt_regularization",
    "salt_spectrum",
    "salt_weight",
    "signed_svd",
    "triadapt_delta",
    "triadapt_orthogonality",
]
