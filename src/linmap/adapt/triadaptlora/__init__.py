"""TriAdaptLoRA: low-rank adapters with triangular factors, whose ranks grow in training where they are needed."""

from linmap.adapt.triadaptlora.allocator import GrowthEvent, RankAllocator
from linmap.adapt.triadaptlora.callback import TriAdaptCallback
from linmap.adapt.triadaptlora.config import TriAdaptLoraConfig, TriAdaptLoraModel
from linmap.adapt.triadaptlora.delta import triadapt_delta
from linmap.adapt.triadaptlora.layer import TriAdaptConv2d, TriAdaptLinear, triadapt_orthogonality
from linmap.adapt.tuner import register_with_peft

__all__ = [
    "GrowthEvent",
    "RankAllocator",
    "TriAdaptCallback",
    "TriAdaptConv2d",
    "TriAdaptLinear",
    "TriAdaptLoraConfig",
    "TriAdaptLoraModel",
    "triadapt_delta",
    "triadapt_orthogonality",
]

register_with_peft(TriAdaptLoraConfig, TriAdaptLoraModel)
