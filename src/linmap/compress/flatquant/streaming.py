"""`calibrate_folder`: `calibrate` for models larger than memory, from a folder of safetensors to another.

The model is a skeleton without numbers; only what embeds the tokens is read at once. Each block is read when its turn
comes, and forgotten when the next one's does: once to be calibrated, once to be rounded and written.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from linmap.artifacts import atomic_path, write_json, write_text
from linmap.compress.architecture import decoder_blocks
from linmap.compress.flatquant.calibration import CalibrationReport, checked_config, train_blocks
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.head import head_tensors, vocabulary
from linmap.compress.flatquant.parallel import processes
from linmap.compress.flatquant.pretrained import kept_names
from linmap.data.door import inside, load_json, understood
from linmap.errors import ArgumentError, DataError
from linmap.ownership import real

INDEX = "model.safetensors.index.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".index.json")


def calibrate_folder(
    source: Path | str,
    target: Path | str,
    tokens: Any = None,
    config: FlatQuantConfig | None = None,
    *,
    text: str | Path | None = None,
    work: Path | str | None = None,
    n_jobs: int = 1,
    resume: bool = False,
    dtype: torch.dtype | None = None,
) -> CalibrationReport:
    """Quantise the model of a folder into another, one block in memory at a time; the result is `calibrate`'s.

    `AutoModelForCausalLM.from_pretrained(target)` loads it, after `import linmap`.

    Parameters
    ----------
    source
        Folder of a causal language model of Transformers, with safetensors.
    target
        Folder to write; its config.json comes last, so that a folder that has one is whole.
    tokens, config, text, work, n_jobs, resume
        As of `calibrate`. Each job holds a block of its own.
    dtype
        Number format of what is not quantised, in `target`; that of `source` if None.

    Raises
    ------
    FileNotFoundError
        If there are no safetensors in `source`.
    TypeError, ValueError, RuntimeError
        As `calibrate`; ValueError also if `source` lacks a tensor of the model, or is `target`.
    """
    source, target = Path(source), Path(target)
    if real(source) == real(target):
        raise ArgumentError(f"target is the source folder {source}; give another one.")
    shards = Shards(source)
    model = skeleton(source)
    config = checked_config(model, config, n_jobs)
    if config.distil_steps:
        raise ArgumentError(
            f"distil_steps={config.distil_steps} trains all blocks together, and streaming holds one at a time; load "
            "the model and use calibrate, or set distil_steps=0."
        )
    path, blocks = decoder_blocks(model, config.module_map)
    shards.fill_embedding(model, path)

    def load(number: int) -> nn.Module:
        return shards.filled(copy.deepcopy(blocks[number]), f"{path}.{number}.")

    trained = train_blocks(model, load, tokens, config, text, work, n_jobs, resume)
    write(target, source, model, shards, path, trained.rounded(trained.students()), trained.config, dtype)
    return trained.report()


def skeleton(source: Path) -> PreTrainedModel:
    """The model without its parameters, which lie on the meta device; buffers are real.

    Raises
    ------
    RuntimeError
        If the folder holds a quantised model.
    """
    model_config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    if getattr(model_config, "quantization_config", None) is not None:
        raise RuntimeError(f"the model in {source} is quantised already; start from the original model.")
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(model_config, dtype=model_config.dtype or torch.float32).eval()


class Shards:
    """The tensors of a model's folder, by name.

    Raises
    ------
    FileNotFoundError
        If the folder has no safetensors.
    """

    def __init__(self, folder: Path) -> None:
        if (folder / INDEX).exists():
            index = load_json(folder / INDEX)
            files = index.get("weight_map") if isinstance(index, dict) else None
            if not isinstance(files, dict):
                raise DataError(f"{folder / INDEX} says of no tensor in which file it is (weight_map).")
            self.files = {name: inside(folder, file) for name, file in files.items()}
            return
        single = folder / "model.safetensors"
        if not single.exists():
            raise FileNotFoundError(
                f"{folder} has neither model.safetensors nor {INDEX}; save the model with save_pretrained."
            )
        with understood(single, "a file of safetensors"), safe_open(single, framework="pt") as file:
            self.files = dict.fromkeys(file.keys(), single)

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read these tensors; ValueError if one is not there."""
        found: dict[str, Tensor] = {}
        by_file: dict[Path, list[str]] = {}
        for name in names:
            if name not in self.files:
                raise ArgumentError(f"the folder has no tensor {name}; its config.json describes another model.")
            by_file.setdefault(self.files[name], []).append(name)
        for path, there in by_file.items():
            with understood(path, "a file of safetensors"), safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in there}
        return found

    def filled(self, module: nn.Module, prefix: str) -> nn.Module:
        """The module with its numbers, in the dtypes that it has."""
        state = module.state_dict()
        read = self.tensors(prefix + name for name in state)
        module.load_state_dict({name: read[prefix + name].to(state[name].dtype) for name in state}, assign=True)
        return module.requires_grad_(False)

    def fill_embedding(self, model: nn.Module, path: str) -> None:
        """What stands beside the blocks in the decoder: embeddings and the last norm."""
        parent = path.rpartition(".")[0]
        for name, module in model.get_submodule(parent).named_children():
            if f"{parent}.{name}" != path:
                self.filled(module, f"{parent}.{name}.")


def write(
    target: Path,
    source: Path,
    model: PreTrainedModel,
    shards: Shards,
    path: str,
    blocks: Iterable[nn.Module],
    config: FlatQuantConfig,
    dtype: torch.dtype | None,
) -> None:
    """A shard for all that stands beside the blocks, one for every block, the index, and the config at last.

    Of several processes the main one writes.
    """
    writes = processes().is_main_process
    n_shards = len(cast(nn.ModuleList, model.get_submodule(path))) + 1
    weight_map: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(_shards(model, shards, path, blocks, config, dtype), 1):
        name = f"model-{number:05d}-of-{n_shards:05d}.safetensors"
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
        if writes:
            with atomic_path(target / name) as partial:
                partial.touch()
                mode = partial.stat().st_mode  # what the user's umask allows; safetensors lets only the owner read
                save_file(tensors, partial, {"format": "pt"})
                partial.chmod(mode)
    if writes:
        for file in source.iterdir():
            if file.is_file() and file.name != "config.json" and not file.name.endswith(WEIGHTS):
                shutil.copyfile(file, target / file.name)
        write_json(target / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        model.config.quantization_config = config
        model.config.dtype = dtype or model.config.dtype
        model.config.architectures = [type(model).__name__]
        write_text(target / "config.json", model.config.to_json_string())
    processes().wait_for_everyone()


def _shards(
    model: PreTrainedModel,
    shards: Shards,
    path: str,
    blocks: Iterable[nn.Module],
    config: FlatQuantConfig,
    dtype: torch.dtype | None,
) -> Iterator[dict[str, Tensor]]:
    tied = set(getattr(model, "all_tied_weights_keys", {}) or {})
    beside = {name: t for name, t in model.state_dict().items() if not name.startswith(f"{path}.") and name not in tied}
    read = shards.tensors(beside)
    found = vocabulary(model)
    table = None if config.head_bits == 16 else f"{found.embedding if found.tied else found.head}.weight"
    of_table = {} if table is None else head_tensors(table, read.pop(table).to(beside[table].dtype))
    yield {name: _stored(t.to(beside[name].dtype), dtype) for name, t in read.items()} | of_table
    for number, block in enumerate(blocks):
        kept = kept_names(block)
        yield {
            f"{path}.{number}.{name}": _stored(t.cpu(), None if name in kept else dtype)
            for name, t in block.state_dict().items()
        }


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous()
