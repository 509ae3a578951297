"""Learngene Pool: one large transformer is distilled into few small ones, whose blocks make models of many sizes.

Shi, Xia, Yang, Chen, Kou, Geng, "Building Variable-Sized Models via Learngene Pool", AAAI 2024 (arXiv 2312.05743), on
the stitches of Pan, Cai, Zhuang, "Stitchable Neural Networks", CVPR 2023.

Read in this order. What is put together: `members`, and `enumeration`, which models there are. Step 1: `ancestry`, what
the large model gives, `inheritance`, a start from its blocks, `losses` and `distillation`. Steps 2 to 5: `pool`, with
`stitches` and how they start (`starting`), `sampling` and `tuning`, `cost`, `choice`; `paths`, what a model of the pool
runs, `descendant`, the model without the pool, `exchange`, `storage`. All steps in one: `pipeline`.
"""

from linmap.compress.learngene_pool.ancestry import Features, RecordedTeacher, record, record_teacher
from linmap.compress.learngene_pool.cost import Cost, descendant_cost
from linmap.compress.learngene_pool.descendant import Descendant
from linmap.compress.learngene_pool.distillation import distill
from linmap.compress.learngene_pool.enumeration import Config, enumerate_configs, paired_windows, unpaired_pairs
from linmap.compress.learngene_pool.inheritance import teacher_blocks
from linmap.compress.learngene_pool.losses import (
    DistillationLoss,
    Transforms,
    distillation_loss,
    kd_loss,
    supervision_points,
)
from linmap.compress.learngene_pool.members import Member, as_member
from linmap.compress.learngene_pool.pipeline import auxiliaries, fit_head, make_pool
from linmap.compress.learngene_pool.pool import LearngenePool
from linmap.compress.learngene_pool.sampling import draw
from linmap.compress.learngene_pool.stitches import (
    NormalEquations,
    StitchLayer,
    lstsq_stitch,
    pinv_stitch,
    transform_stitch,
)
from linmap.compress.vision_transformer import VisionTransformer

__all__ = [
    "Config",
    "Cost",
    "Descendant",
    "DistillationLoss",
    "Features",
    "LearngenePool",
    "Member",
    "NormalEquations",
    "RecordedTeacher",
    "StitchLayer",
    "Transforms",
    "VisionTransformer",
    "as_member",
    "auxiliaries",
    "descendant_cost",
    "distill",
    "distillation_loss",
    "draw",
    "enumerate_configs",
    "fit_head",
    "kd_loss",
    "lstsq_stitch",
    "make_pool",
    "paired_windows",
    "pinv_stitch",
    "record",
    "record_teacher",
    "supervision_points",
    "teacher_blocks",
    "transform_stitch",
    "unpaired_pairs",
]
