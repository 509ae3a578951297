"""Bone's additive modes as plain LoRA, for runtimes that know nothing else: W + B A with A = [I I ... I], B = D^T."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linmap.adapt.bone.config import BoneConfig
from linmap.adapt.bone.layer import AddAdapter, BoneAdapter, BoneLayer
from linmap.artifacts import atomic_path
from linmap.errors import ArgumentError
from linmap.maps.block_affine import tile
from linmap.ownership import make_folder


def to_lora(
    adapter: BoneAdapter | BoneLayer, adapter_name: str = "default"
) -> tuple[Float[Tensor, "r n_in"], Float[Tensor, "n_out r"]]:
    """(A, B) of the LoRA that equals an adapter in mode "add" or "mini", at scale 1: W' = W + B A.

    Parameters
    ----------
    adapter
        An adapter, or a layer of which `adapter_name` is taken.
    adapter_name
        Which adapter of the layer.

    Raises
    ------
    ValueError
        If the mode is "bat" or "bat-row": their change depends on W and is not of low rank.
    """
    if isinstance(adapter, BoneLayer):
        adapter = cast(BoneAdapter, adapter.adapters[adapter_name])
    if not isinstance(adapter, AddAdapter):
        raise ArgumentError(
            f"mode {adapter.mode!r} has no LoRA of rank r, for its change depends on the weight and has full rank; "
            "merge it (merge_and_unload) instead, which no quantised weight allows. Only 'add' and 'mini' can be "
            "converted."
        )
    n_in, n_out, D = adapter.map.in_features, adapter.map.out_features, adapter.D.detach()
    identity = torch.eye(D.shape[0], dtype=D.dtype, device=D.device)
    return tile(identity, n_in).contiguous(), tile(D, n_out).mT.contiguous()


def save_as_lora(model: PeftModel, folder: Path | str, adapter_name: str = "default") -> None:
    """Write an adapter in mode "add" or "mini" as a LoRA folder, which plain PEFT loads (`PeftModel.from_pretrained`).

    Modules trained beside the adapter (`modules_to_save`, biases) go along.

    Raises
    ------
    ValueError
        If the adapter is not Bone's, or its mode cannot be converted.
    """
    config = model.peft_config.get(adapter_name)
    if not isinstance(config, BoneConfig):
        kinds = {name: type(config).__name__ for name, config in model.peft_config.items()}
        raise ArgumentError(f"adapter_name={adapter_name!r} is no Bone adapter of this model, which has {kinds}.")
    tensors: dict[str, Tensor] = {
        key: value
        for key, value in get_peft_model_state_dict(model, adapter_name=adapter_name).items()
        if BoneLayer.adapters_name not in key
    }
    layers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, BoneLayer) and adapter_name in module.adapters
    }
    for path, layer in layers.items():
        tensors |= {f"{path}.{name}": value for name, value in _lora_tensors(layer, adapter_name).items()}
    folder = Path(folder)
    make_folder(folder)
    _lora_config(config, layers).save_pretrained(str(folder))
    with atomic_path(folder / "adapter_model.safetensors") as partial:
        save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, partial, {"format": "pt"})


def _lora_tensors(layer: BoneLayer, adapter_name: str) -> dict[str, Tensor]:
    """A and B in the shapes and under the names that PEFT gives them for this kind of layer."""
    A, B = to_lora(layer, adapter_name)
    base = layer.get_base_layer()
    if isinstance(base, nn.Embedding):
        return {"lora_embedding_A": A, "lora_embedding_B": B}
    if isinstance(base, nn.Conv2d):
        if base.groups != 1:
            raise ArgumentError(
                f"{layer.path}: PEFT's LoRA has no form for a Conv2d of {base.groups} groups; merge it instead."
            )
        A, B = A.view(-1, *base.weight.shape[1:]), B[:, :, None, None]
    return {"lora_A.weight": A, "lora_B.weight": B}


def _lora_config(config: BoneConfig, layers: dict[str, BoneLayer]) -> LoraConfig:
    shared = ("exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias")
    return LoraConfig(
        r=config.r,
        lora_alpha=config.r,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        task_type=config.task_type,
        inference_mode=True,
        **{name: getattr(config, name) for name in shared},
    )
