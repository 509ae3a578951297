"""Checkpoints: a folder of safetensors and JSON that appears whole or not at all, and the tensors that go into it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from linmap.errors import ArgumentError, ArtifactError, DataError
from linmap.ownership import make_folder, sync
from linmap.training.randomness import Source

FORMAT = 3
WITHOUT_SUMS = 2  # a format that is still read
NAMES = ("model", "optimizer", "random", "best")
SUMS = "SHA256SUMS"
PARTIAL = ".checkpoint.partial"
STATE = {
    "config": dict,
    "data_samples": int,
    "position": dict,
    "optimizer": dict,
    "versions": dict,
    "frozen": int,
    "groups": list,
    "callbacks": list,
}
"""What the state of a run holds at least, and what each is in JSON."""
Tensors = dict[str, Tensor]

log = logging.getLogger(__name__)


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
    path, partial = at(out, 1 + number(previous) if previous else 1), out / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    try:
        make_folder(partial)
        for name in NAMES:
            save_file(_unshared(getattr(checkpoint, name)), partial / f"{name}.safetensors")
        text = json.dumps({"format": FORMAT} | checkpoint.state, indent=2, ensure_ascii=False, allow_nan=False)
        (partial / "state.json").write_text(text + "\n", encoding="utf-8")
        (partial / SUMS).write_text("".join(_sums(partial)), encoding="utf-8")
        for file in (*partial.iterdir(), partial):
            sync(file)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # where the disk is full
    sync(out)
    tidy(out)
    return path


def tidy(out: Path) -> None:
    """Remove what a killed process left: a checkpoint half written, and those before the newest."""
    newest = latest(out)
    for path in (out / PARTIAL, *out.glob("checkpoint-*")):
        if path.name == PARTIAL or (newest and re.fullmatch(r"checkpoint-\d+", path.name) and path != newest):
            shutil.rmtree(path, ignore_errors=True)


def _sums(path: Path) -> list[str]:
    """Lines as `sha256sum` writes and checks them, one for each file of a checkpoint."""
    lines = []
    for name in ("state.json", *(f"{name}.safetensors" for name in NAMES)):
        with open(path / name, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return lines


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Every file is compared with its checksum. A checkpoint of an older linmap has none, and a warning says so.

    Raises
    ------
    ArtifactError
        If it is damaged, or of a format that this linmap does not know.
    """
    with reading(path):
        _check_sums(path)
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        _check_state(state, path)
        # copies in memory of their own: the files go when the next checkpoint is written
        tensors = {name: load_file(path / f"{name}.safetensors") for name in NAMES}
        if not tensors["random"] or len({len(states) for states in tensors["random"].values()}) > 1:
            raise ArtifactError(f"{path} is damaged: its random states; train again without resume.")
        return Checkpoint(state, **{name: {k: t.clone() for k, t in tensors[name].items()} for name in NAMES})


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong inside with what a checkpoint holds is an `ArtifactError` that names it."""
    try:
        yield
    except (ArgumentError, ArtifactError, DataError):
        raise
    except (OSError, SafetensorError, *DAMAGES) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(f"{path} cannot be read ({why}); train again without resume.") from error


DAMAGES = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, RecursionError, OverflowError)
"""What values of a wrong type or shape raise in the code that takes them."""


def _check_sums(path: Path) -> None:
    if not (path / SUMS).exists():
        return
    kept = (path / SUMS).read_text(encoding="utf-8").splitlines(keepends=True)
    wrong = [line.split()[1] for line, then in zip(_sums(path), kept, strict=False) if line != then]
    if wrong or len(kept) != len(NAMES) + 1:
        what = ", ".join(wrong) or SUMS
        raise ArtifactError(
            f"{path} is damaged: {what} {'is' if len(wrong) < 2 else 'are'} not what was written; train again without "
            "resume."
        )


def _check_state(state: Any, path: Path) -> None:
    """Take the format out of a state, and refuse another one, or values of other types than `STATE`."""
    written = state.pop("format")
    if type(written) is not int or written not in (FORMAT, WITHOUT_SUMS):
        which = "a newer" if type(written) is int and written > FORMAT else "an older"
        raise ArtifactError(f"{path} was written by {which} linmap; resume it with that one.")
    if not (path / SUMS).exists():
        if written == FORMAT:
            raise ArtifactError(f"{path} is damaged: {SUMS} is missing; train again without resume.")
        log.warning("%s is of an older linmap, which kept no checksums: damage would not be seen.", path)
    wrong = [name for name, kind in STATE.items() if name in state and type(state[name]) is not kind]
    if wrong:
        raise ArtifactError(f"{path} is damaged: {', '.join(wrong)} of its state.json; train again without resume.")


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
        if isinstance(value, Tensor) and value.ndim == parameter.ndim > 0 and value.shape != parameter.shape:
            raise ArtifactError(f"the optimiser's {key} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}.")
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
