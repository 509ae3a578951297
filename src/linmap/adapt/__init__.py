"""Fine-tune a pretrained model with few trainable parameters."""

from linmap.adapt.bone import BoneConfig, BoneConv2d, BoneEmbedding, BoneLinear, BoneModel, bone_delta, bone_forward

__all__ = ["BoneConfig", "BoneConv2d", "BoneEmbedding", "BoneLinear", "BoneModel", "bone_delta", "bone_forward"]
