"""Bone as a PEFT method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from transformers.pytorch_utils import Conv1D

from linmap.adapt.bone.layer import BoneConv2d, BoneEmbedding, BoneLayer, BoneLinear
from linmap.adapt.bone.transform import Mode, check_sizes
from linmap.adapt.tuner import AdapterConfig, AdapterTuner
from linmap.errors import ArgumentError


@dataclass
class BoneConfig(AdapterConfig):
    """Configuration of Bone, block affine adapters, for `peft.get_peft_model`; further fields as of `AdapterConfig`.

    Parameters
    ----------
    r
        Size of the blocks. Trainable numbers a layer: r * out ("bat", "add"), r * in ("bat-row"), r * mini_r ("mini").
        "bat" and "bat-row" need r to divide both sizes of every weight.
    mode
        "bat": W_ab (I + D_a) + D_a, the block affine transformation of the paper, one D_a for each row of blocks.
        "bat-row": the same with one D_b for each column of blocks; it never touches the weight, so that it is as fast
        as LoRA and works on quantised layers. "add": W + D repeated, the later version, known as MiSS; also for
        embeddings. "mini": "add" with D itself made of mini_r columns repeated.
    mini_r
        Columns of D in mode "mini"; must divide the outputs of every weight.
    dropout
        Probability to drop an input of the adapter in training; modes "add" and "mini" only.
    init_weights
        True: D = 0, so that training starts at the pretrained model. False: a random D, for tests.
    """

    method: ClassVar[str] = "linmap_bone"

    r: int = 64
    mode: Mode = "bat"
    mini_r: int = 1
    dropout: float = 0.0
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self.r, self.mode, self.mini_r)
        if not 0 <= self.dropout < 1:
            raise ArgumentError(f"dropout={self.dropout!r} must be a probability below 1.")
        if self.dropout and self.mode in ("bat", "bat-row"):
            raise ArgumentError(
                f"dropout={self.dropout} has no meaning in mode {self.mode!r}, where the change depends on the weight; "
                "set it to 0, or use mode='add'."
            )

    def layer_options(self, path: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("r", "mode", "mini_r", "dropout", "init_weights")}


class BoneModel(AdapterTuner):
    """A model with Bone on the layers that a `BoneConfig` names."""

    prefix = "linmap_bone_"
    tuner_layer_cls = BoneLayer
    layer_classes: ClassVar = {
        nn.Linear: BoneLinear,
        Conv1D: BoneLinear,
        nn.Conv2d: BoneConv2d,
        nn.Embedding: BoneEmbedding,
    }
