"""Bone: block affine adapters of linear layers."""

from linmap.adapt.bone.config import BoneConfig, BoneModel
from linmap.adapt.bone.layer import BoneConv2d, BoneEmbedding, BoneLinear
from linmap.adapt.bone.legacy import adopt_legacy, load_legacy
from linmap.adapt.bone.lora import save_as_lora, to_lora
from linmap.adapt.bone.transform import bone_delta, bone_forward
from linmap.adapt.tuner import register_with_peft

__all__ = [
    "BoneConfig",
    "BoneConv2d",
    "BoneEmbedding",
    "BoneLinear",
    "BoneModel",
    "adopt_legacy",
    "bone_delta",
    "bone_forward",
    "load_legacy",
    "save_as_lora",
    "to_lora",
]

register_with_peft(BoneConfig, BoneModel)
