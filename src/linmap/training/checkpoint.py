"""Checkpoints: a folder of safetensors and JSON that appears whole or not at all, and the tensors that go into it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from linmap.errors import ArgumentError, ArtifactError
from linmap.training.randomness import Source

FORMAT = 2
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on as if it had never stopped."""

    state: dict[str, Any]
    """Configuration, position, history, early stopping, and the optimiser's numbers that are not tensors."""
    model: Tensors
    optimizer: Tensors
    """By "parameter name/state name"."""
    random: Tensors
    """States of the random number generators, one row a process."""
    best: Tensors = field(default_factory=dict)
    """The weights of the best validation so far; empty without validation."""


def at(out: Path, number: int) -> Path:
    """The folder of a run's n-th checkpoint."""
    return out / f"checkpoint-{number:06d}"


def number(path: Path) -> int:
    """The n of a checkpoint's folder."""
    return int(path.name.removeprefix("checkpoint-"))


def latest(out: Path) -> Path | None:
    """The newest whole checkpoint in a run's folder."""
    paths = [path for path in out.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return max(paths, key=number, default=None)


def write(out: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint beside the last one under a temporary name, sync it, rename it, then remove the last one."""
    previous = latest(out)
    path, partial = at(out, 1 + number(previous) if previous else 1), out / ".checkpoint.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("model", "optimizer", "random", "best"):
        save_file(_unshared(getattr(checkpoint, name)), partial / f"{name}.safetensors")
    text = json.dumps({"format": FORMAT} | checkpoint.state, indent=2, ensure_ascii=False, allow_nan=False)
    (partial / "state.json").write_text(text + "\n", encoding="utf-8")
    for file in (*partial.iterdir(), partial):
        _sync(file)
    os.rename(partial, path)
    _sync(out)
    for old in out.glob("checkpoint-*"):
        if old != path:
            shutil.rmtree(old)
    return path


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    ArtifactError
        If it is damaged, or of a format that this linmap does not know.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if (written := state.pop("format")) != FORMAT:
            which = "a newer" if written > FORMAT else "an older"
            raise ArtifactError(f"{path} was written by {which} linmap; resume it with that one.")
        names = ("model", "optimizer", "random", "best")
        # copies in memory of their own: the files go when the next checkpoint is written
        tensors = {name: load_file(path / f"{name}.safetensors") for name in names}
        return Checkpoint(state, **{name: {k: t.clone() for k, t in tensors[name].items()} for name in names})
    except (OSError, json.JSONDecodeError, KeyError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); train again without resume.") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _unshared(tensors: Tensors) -> Tensors:
    """safetensors wants contiguous tensors of their own; tied weights are written once for each name."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    return result


# -- sharded tensors (FSDP2) -----------------------------------------------------------------------------------------


def gathered(tensors: Tensors, keep: bool) -> Tensors:
    """Copies in CPU memory, whole where FSDP2 has sharded them; a collective operation.

    Processes with `keep` False take part, and keep only what is not sharded.
    """
    result = {}
    for name, tensor in tensors.items():
        whole = tensor.detach()
        if sharded := isinstance(whole, DTensor):
            whole = whole.full_tensor()
        if keep or not sharded:
            result[name] = whole.to("cpu", copy=True)
    return result


def placed(whole: Tensor | None, like: Tensor) -> Tensor:
    """A whole tensor on the device and in the sharding of `like`; the main process's counts where it is sharded."""
    if not isinstance(like, DTensor):
        assert whole is not None
        return whole.to(like.device)
    full = torch.empty(like.shape, dtype=like.dtype) if whole is None else whole
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)


def load_weights(model: torch.nn.Module, targets: Tensors, weights: Tensors) -> None:
    """Copy whole weights into `targets`, those of the model, sharded or not; a collective operation."""
    # what is not sharded goes in as the modules want it: some have an extra state, or more room than when it was saved
    whole = {name: weights[name] for name, target in targets.items() if not isinstance(target, DTensor)}
    model.load_state_dict(whole, strict=False)
    with torch.no_grad():
        for name, target in targets.items():
            if name not in whole:
                target.copy_(placed(weights.get(name), target))


# -- optimiser state -------------------------------------------------------------------------------------------------


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: list[str], keep: bool
) -> tuple[Tensors, dict[str, float | None]]:
    """The optimiser's state by "parameter name/state name": its tensors, whole, and its other numbers."""
    flat = {
        f"{names[index]}/{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    tensors = {key: value for key, value in flat.items() if isinstance(value, Tensor)}
    return gathered(tensors, keep), {key: value for key, value in flat.items() if key not in tensors}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: Tensors, numbers: dict[str, float | None]
) -> None:
    """Undo `optimizer_state`; the parameter groups stay as the configuration made them."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for key, value in (tensors | numbers).items():
        name, entry = key.rsplit("/", 1)
        parameter = parameters[index[name]]
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value = placed(value, parameter)
            if not isinstance(value, DTensor):  # fused kernels read state and parameter in one order of memory
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(index[name], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# -- random number generators ----------------------------------------------------------------------------------------


def random_state(device: torch.device, source: Source | None = None) -> Tensors:
    """The states of Python's, NumPy's and PyTorch's global generators, or that of a private source in their place."""
    if source is not None:
        return {"private": source.on(device).get_state()}
    _, python, python_gauss = random.getstate()
    legacy = cast("dict[str, Any]", np.random.get_state(legacy=False))  # noqa: NPY002
    state = {
        "python": torch.tensor(python),
        "numpy": torch.tensor([*legacy["state"]["key"].tolist(), legacy["state"]["pos"], legacy["has_gauss"]]),
        # a half-used pair of normal draws
        "gauss": torch.tensor([np.nan if python_gauss is None else python_gauss, legacy["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Tensors, device: torch.device, source: Source | None = None) -> None:
    """Undo `random_state`.

    Raises
    ------
    ValueError
        If the states are of a private source, and there is none now.
    """
    if source is not None:
        older = "cuda" if device.type == "cuda" else "torch"  # what a run drew from before it had a source
        source.on(device).set_state(state["private" if "private" in state else older].clone())
        return
    if "private" in state:
        raise ArgumentError("the run was started with seed_globally=False; resume with that, or start anew.")
    python_gauss, numpy_gauss = state["gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), None if np.isnan(python_gauss) else python_gauss))
    *key, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), position, has_gauss, numpy_gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"].clone())  # a view with a storage offset crashes PyTorch 2.13
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].clone(), device)
