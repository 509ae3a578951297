"""Models whose blocks are students with random transforms, and the quantised models that they merge to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from compress.flatquant.models import MODULE_MAP, RenamedModel
from linmap.compress.architecture import decoder_blocks
from linmap.compress.flatquant.attention import CacheTransform
from linmap.compress.flatquant.block import StudentBlock
from linmap.compress.flatquant.calibration import merge_model
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.linear import CalibratedLinear, LinearBits, QuantizedLinear
from linmap.compress.flatquant.pretrained import Decoder


def config_for(model: PreTrainedModel, **kwargs: Any) -> ProvenConfig:
    return ProvenConfig(**kwargs, module_map=MODULE_MAP if isinstance(model, RenamedModel) else None)


def with_students(model: Decoder, config: FlatQuantConfig, seed: int = 0) -> Decoder:
    """A copy of the model with a student in each block: random well-conditioned P, c > 0 and clipping."""
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    _, blocks = decoder_blocks(model, config.module_map)
    for i, block in enumerate(blocks):
        student = StudentBlock(block, config, generator)
        with torch.no_grad():
            for name, p in student.trained().items():
                noise = 0.3 * torch.randn(p.shape, generator=generator)
                p.copy_(noise.exp() if name.endswith(("scale", "diagonal")) else p + noise)
        student.forget()
        blocks[i] = student
    return model.double() if model.dtype == torch.float64 else model


def merged(students: Decoder) -> Decoder:
    """The quantised model of a model with students, its weights rounded to the nearest codes."""
    return merge_model(copy.deepcopy(students))


def exact(model: Decoder) -> Decoder:
    """A copy of the model whose quantisers are off and whose transforms stay."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, CalibratedLinear | QuantizedLinear):
            module.bits = LinearBits(16, 16)
        elif isinstance(module, CacheTransform):
            module.bits = dict.fromkeys("qkv", 16)
    return model
