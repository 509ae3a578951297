"""Adapters that others saved: PEFT's "BONE" and "MISS" folders, RWKV-PEFT's `.bone` and `.disha` state dicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from linmap.adapt.bone.config import BoneConfig
from linmap.adapt.bone.layer import BoneLayer
from linmap.adapt.bone.transform import Mode
from linmap.data.door import load_json, understood
from linmap.errors import ArgumentError

PEFT_SUFFIXES = {"BONE": ".bone_block", "MISS": ".miss_block"}
RWKV_SUFFIXES = (".bone", ".disha")
SAME_FIELDS = (
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias"),
    *("base_model_name_or_path", "revision", "task_type", "inference_mode"),
)


def load_legacy(path: Path | str, mode: Mode | None = None) -> tuple[BoneConfig, dict[str, Tensor]]:
    """The configuration and the tensors, under our names, of an adapter saved by PEFT or RWKV-PEFT.

    Parameters
    ----------
    path
        A folder of PEFT with the type "BONE" or "MISS" in its adapter_config.json, or a .safetensors file with the keys
        of RWKV-PEFT (`blocks.0.att.key.bone`, `....disha`).
    mode
        Mode of an RWKV-PEFT file. None: "add" for matrices; for blocks, "bat-row" for `.disha`, and for `.bone`
        whichever of "bat" and "bat-row" the sizes of ffn.key and ffn.value show.

    Returns
    -------
    config, state
        For `peft.get_peft_model` and `peft.set_peft_model_state_dict`; `adopt_legacy` does both.

    Raises
    ------
    ValueError
        If the file is a pickle, is of another kind, or does not tell the mode.
    FileNotFoundError
        If there is nothing at the path.
    """
    path = Path(path)
    if path.is_dir():
        return _from_peft(path)
    if not path.exists():
        raise FileNotFoundError(f"path={str(path)!r} is neither a folder nor a file.")
    return _from_rwkv(path, _tensors(path), mode)


def adopt_legacy(
    model: nn.Module, path: Path | str, adapter_name: str = "default", mode: Mode | None = None
) -> PeftModel:
    """The model with a saved adapter of PEFT or RWKV-PEFT on it, as a Bone adapter; see `load_legacy`.

    Raises
    ------
    ValueError
        If what was saved does not fit the model.
    """
    config, state = load_legacy(path, mode)
    adapted = get_peft_model(model, config, adapter_name=adapter_name)
    own = get_peft_model_state_dict(adapted, adapter_name=adapter_name, save_embedding_layers=False)
    missing = sorted(own.keys() - state.keys())
    unexpected = [] if missing else set_peft_model_state_dict(adapted, state, adapter_name=adapter_name).unexpected_keys
    if missing or unexpected:
        raise ArgumentError(
            f"{path} does not fit the model: it lacks {missing[:3] or 'nothing'} and has no place for "
            f"{unexpected[:3] or 'nothing'}; give the model that it was trained on."
        )
    return adapted


def _from_peft(folder: Path) -> tuple[BoneConfig, dict[str, Tensor]]:
    config_file = folder / "adapter_config.json"
    if not config_file.exists():
        raise FileNotFoundError(f"path={str(folder)!r} holds no adapter_config.json, so it is no adapter of PEFT.")
    saved = load_json(config_file)
    if not isinstance(saved, dict):
        raise ArgumentError(f"{config_file} is no configuration of an adapter: it holds no object.")
    kind = saved.get("peft_type")
    if kind not in PEFT_SUFFIXES:
        raise ArgumentError(f"{config_file}: peft_type must be 'BONE' or 'MISS', got {kind!r}; PeftModel loads others.")
    if saved.get("bias", "none") not in ("none", "all"):
        raise ArgumentError(f"{config_file}: bias={saved['bias']!r} is not supported; 'none' and 'all' are.")
    if type(saved.get("r")) is not int:
        raise ArgumentError(f"{config_file}: r is {saved.get('r')!r}, expected a whole number.")
    modes: dict[Any, Mode] = {"bat": "bat", "mini": "mini"}
    mode = modes.get(saved.get("init_weights"), "add")
    config = BoneConfig(
        r=saved["r"],
        mode=mode,
        mini_r=saved.get("mini_r", 1),
        dropout=0.0 if mode == "bat" else saved.get("miss_dropout", 0.0),  # PEFT ignores it in "bat"
        **{name: saved[name] for name in SAME_FIELDS if name in saved},
    )
    tensors = _tensors(folder / "adapter_model.safetensors")
    return config, {_our_key(key, PEFT_SUFFIXES[kind], mode): tensor for key, tensor in tensors.items()}


def _from_rwkv(path: Path, tensors: dict[str, Tensor], mode: Mode | None) -> tuple[BoneConfig, dict[str, Tensor]]:
    suffix = next((suffix for suffix in RWKV_SUFFIXES if any(key.endswith(suffix) for key in tensors)), None)
    if suffix is None:
        raise ArgumentError(f"{path} has no keys that end in .bone or .disha, but {list(tensors)[:3]}.")
    blocks = {key.removesuffix(suffix): tensor for key, tensor in tensors.items() if key.endswith(suffix)}
    mode = mode or _mode_of(path, suffix, blocks)
    sizes = {tensor.shape[-1] if tensor.ndim == 3 else tensor.shape[0] for tensor in blocks.values()}
    if len(sizes) != 1:
        raise ArgumentError(f"{path} mixes the block sizes {sorted(sizes)}; split it into one file for each.")
    mini_r = next(iter(blocks.values())).shape[1] if mode == "mini" else 1
    config = BoneConfig(r=sizes.pop(), mode=mode, mini_r=mini_r, target_modules=sorted(blocks))
    return config, {f"base_model.model.{_our_key(key, suffix, mode)}": tensor for key, tensor in tensors.items()}


def _mode_of(path: Path, suffix: str, blocks: dict[str, Tensor]) -> Mode:
    """RWKV-PEFT grouped the blocks by row at first and by column later; files do not say which.

    ffn.key widens and ffn.value narrows, so that the one with more blocks tells.
    """
    dimensions = {tensor.ndim for tensor in blocks.values()}
    if dimensions == {2}:
        return "add"
    if dimensions != {3}:
        shapes = sorted({tuple(tensor.shape) for tensor in blocks.values()})
        raise ArgumentError(
            f"{path} mixes modes: it holds tensors of the shapes {shapes}; split it into one file a mode."
        )
    if suffix == ".disha":
        return "bat-row"
    key, value = (
        sum(len(tensor) for name, tensor in blocks.items() if name.endswith(end)) for end in ("ffn.key", "ffn.value")
    )
    if not key or not value or key == value:
        raise ArgumentError(
            f"{path}: its blocks may be one for each row (mode='bat') or for each column (mode='bat-row', RWKV-PEFT's "
            "later versions), and no ffn.key and ffn.value show which; pass the mode it was trained in."
        )
    return "bat" if key > value else "bat-row"


def _our_key(key: str, suffix: str, mode: Mode) -> str:
    parameter = "D" if mode in ("bat", "bat-row") else "map.D"
    return key.removesuffix(suffix) + f".{BoneLayer.adapters_name}.{parameter}" if key.endswith(suffix) else key


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; what else there may be is a pickle, and those can run code when read."""
    pickled = file if file.suffix in (".pth", ".pt", ".bin", ".ckpt") else file.with_suffix(".bin")
    if not file.exists() or pickled == file:
        if not pickled.exists():
            raise FileNotFoundError(f"{file} does not exist.")
        raise ArgumentError(
            f"{pickled} is a pickle, which linmap does not read, for it can run code. Convert it once: "
            f"safetensors.torch.save_file(torch.load({pickled.name!r}, weights_only=True), "
            f"{pickled.with_suffix('.safetensors').name!r})"
        )
    with understood(file, "a file of safetensors"):
        return load_file(file)
