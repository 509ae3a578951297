"""Quantised models in Transformers: `save_pretrained`, and `from_pretrained` of what it saved.

`linmap.compress.registration` makes Transformers ask for `FlatQuantizer` when the config of a saved model names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.base import HfQuantizer

from linmap.compress.architecture import decoder_blocks
from linmap.compress.flatquant.attention import CacheTransform
from linmap.compress.flatquant.block import quantised_block
from linmap.compress.flatquant.config import FlatQuantConfig, ProvenConfig
from linmap.compress.flatquant.decoding import decodable
from linmap.compress.flatquant.head import TiedHead, install_head
from linmap.compress.flatquant.large_pages import use_large_pages
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.llama import is_decoder
from linmap.compress.flatquant.transforms import OnlineTransform
from linmap.errors import ArgumentError

OF_QUANTISATION = (QuantizedLinear, OnlineTransform, CacheTransform)
Decoder = TypeVar("Decoder", bound=PreTrainedModel)


def is_quantised(model: nn.Module) -> bool:
    """Whether a model has blocks of FlatQuant."""
    return any(isinstance(module, QuantizedLinear) for module in model.modules())


def install(model: Decoder, config: FlatQuantConfig) -> Decoder:
    """Replace the decoder blocks, and the head where it has eight bits, by quantised ones, whose tensors wait to be
    loaded; on any device, also meta.

    Raises
    ------
    TypeError
        If the model's blocks are not recognised.
    ValueError
        If `config.blocks` names blocks that are not there.
    RuntimeError
        If the model is quantised already.
    """
    if is_quantised(model):
        raise RuntimeError(f"this {type(model).__name__} is quantised already; start from the original model.")
    _, blocks = decoder_blocks(model, config.module_map)
    for i in quantised_numbers(len(blocks), config):
        blocks[i] = quantised_block(blocks[i], config)
    install_head(model, config)
    return model


def quantised_numbers(n_blocks: int, config: FlatQuantConfig) -> list[int]:
    """The numbers of the blocks that are quantised.

    Raises
    ------
    ValueError
        If one is not among the model's.
    """
    chosen = list(range(n_blocks)) if config.blocks is None else config.blocks
    wrong = [i for i in chosen if not 0 <= i < n_blocks]
    if wrong:
        raise ArgumentError(f"blocks has {wrong}; this model's blocks are 0 to {n_blocks - 1}.")
    return chosen


def finish(model: Decoder, config: FlatQuantConfig) -> Decoder:
    """Mark a model as quantised, so that `save_pretrained` writes `config` and `from_pretrained` reads it."""
    quantizer = FlatQuantizer(config, pre_quantized=True)
    marks = {"hf_quantizer": quantizer, "is_quantized": True, "quantization_method": config.quant_method}
    for name, value in marks.items():
        setattr(model, name, value)
    quantizer.postprocess_model(model)
    return model


# -- the number format of what is not quantised ------------------------------------------------------------------------


def kept_names(module: nn.Module) -> set[str]:
    """Tensors that stay in their format whatever the model's: scales, zero points, matrices and clipping."""
    names: set[str] = set()
    for prefix, part in module.named_modules():
        own = {name for name, _ in part.named_buffers()} if isinstance(part, (OnlineTransform, CacheTransform)) else ()
        if isinstance(part, QuantizedLinear):
            own = {"weight_scale", "weight_zero", "input_max", "input_min"}
        names |= {f"{prefix}.{name}" if prefix else name for name in own}
    return names


@torch.no_grad()
def in_format(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A quantised model with all that is not quantised in another number format, in place.

    Parameters
    ----------
    dtype
        torch.float32, torch.bfloat16 or torch.float16; what `from_pretrained` will compute in after `save_pretrained`.
    """
    kept = kept_names(model)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        saved = isinstance(tensor, nn.Parameter) or isinstance(
            model.get_submodule(name.rpartition(".")[0]), (QuantizedLinear, TiedHead)
        )
        if saved and name not in kept and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    model.config.dtype = dtype
    return model


class FlatQuantizer(HfQuantizer):
    """What Transformers calls before and after it loads the tensors of a quantised model."""

    requires_calibration = True

    def is_serializable(self, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        config = cast(ProvenConfig, self.quantization_config)
        path, _ = decoder_blocks(model, config.module_map)
        install(model, config)
        kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        adjust = model._adjust_missing_and_unexpected_keys  # the last step that sees what was loaded

        def adjust_and_check(loading_info: Any) -> None:
            adjust(loading_info)
            problems, loading_info.mismatched_keys = differences(loading_info), set()
            check(model, path, problems)
            check_kinds(model, kinds)

        model._adjust_missing_and_unexpected_keys = adjust_and_check
        return model

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        vars(model).pop("_adjust_missing_and_unexpected_keys", None)
        for decoder in filter(is_decoder, [*model.modules()]):
            decodable(decoder, "decoder")
        use_large_pages(part for part in model.modules() if isinstance(part, OF_QUANTISATION))
        return model


def check_kinds(model: nn.Module, kinds: Mapping[str, torch.dtype]) -> None:
    """Refuse codes that are no integers of their size, and weights that are integers.

    Raises
    ------
    ValueError
        With the name of the first such tensor.
    """
    for name, tensor in model.state_dict().items():
        expected = kinds.get(name, tensor.dtype)
        if tensor.dtype != expected and not (tensor.is_floating_point() and expected.is_floating_point):
            raise ArgumentError(f"{name} is of {tensor.dtype} in the file, expected {expected}.")


def differences(loading_info: Any) -> list[str]:
    """What is missing, unexpected or of another shape, a phrase each, in the order of the names."""
    named = [(name, f"{name} is missing") for name in loading_info.missing_keys]
    named += [(name, f"{name} is unexpected") for name in loading_info.unexpected_keys]
    named += [
        (name, f"{name} has shape {tuple(found)} in the file and {tuple(expected)} in this model")
        for name, found, expected in loading_info.mismatched_keys
    ]
    return [phrase for _, phrase in sorted(named)]


def check(model: PreTrainedModel, blocks: str, problems: list[str]) -> None:
    """Refuse the tensors of another model: all names and shapes must be this model's.

    A model of another class than the saved one (a classifier, the decoder without its head) may differ outside its
    blocks.

    Raises
    ------
    ValueError
        If a tensor is missing, unexpected, or of another shape.
    """
    same_class = type(model).__name__ in (model.config.architectures or [])
    wrong = [problem for problem in problems if same_class or f"{blocks}." in problem]
    if wrong:
        raise ArgumentError(
            f"these files are not those of a {type(model).__name__} of this config and quantization_config: "
            f"{'; '.join(wrong[:2])}{f'; and {len(wrong) - 2} more' if len(wrong) > 2 else ''}."
        )
