"""The flags of Bone."""

from __future__ import annotations

from typing import ClassVar

from linmap.recipes.derived import flags
from linmap.recipes.finetuning.flags import PEFT_FIELDS, FineTuning


@flags
class Fit(FineTuning):
    __doc__ = FineTuning.__doc__

    OF = "linmap.adapt.bone.config:BoneConfig"
    LEAVE = (*PEFT_FIELDS, "init_weights")
    OTHER: ClassVar = {}
