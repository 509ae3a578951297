"""Saved runs: a generator with projectors, its directions and what they change, in a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor, nn

from linmap import artifacts
from linmap.data.generators import MODEL_FILE
from linmap.data.schema import Count, made, typed
from linmap.errors import ArgumentError, ArtifactError
from linmap.interpret.householder_projector.attributes import Profile
from linmap.interpret.householder_projector.directions import DirectionSet
from linmap.interpret.householder_projector.generators import (
    ARCHITECTURES,
    Generator,
    as_generator,
    built,
    fill,
    slots_of,
)
from linmap.interpret.householder_projector.layers import project_layers
from linmap.interpret.householder_projector.projector import Reflectors

SYSTEM = "householder_projector"
WEIGHTS, DIRECTIONS = "generator.", "directions."
"""Before the names of the tensors in model.safetensors."""


class Saved(TypedDict):
    """What a folder says of a run."""

    generator: dict[str, Any]
    layers: dict[str, int]
    of: list[str]
    profiles: list[dict[str, Any]]
    rank: Count
    n_reflectors: Reflectors


@dataclass(frozen=True, eq=False)
class Run:
    """What a folder holds."""

    generator: Generator
    directions: DirectionSet
    profiles: tuple[Profile, ...]
    """Of each direction."""
    config: Mapping[str, Any]
    """What else was written about it."""


def save_run(
    folder: Path | str,
    generator: Generator,
    directions: DirectionSet,
    profiles: Sequence[Profile],
    *,
    seed: int = 0,
    imported: str | None = None,
    layers: Mapping[str, int],
    **config: Any,
) -> None:
    """Write a generator whose `layers` are projected, with its directions.

    Parameters
    ----------
    folder
        Receives config.json and model.safetensors.
    generator, directions, profiles
        Of the run.
    seed
        Of the run.
    imported
        Where the generator is a module of the user's, the import path of the function that builds it.
    layers
        The slot of every projected layer by name.
    **config
        `rank` and `n_reflectors`, and what else shall stand in config.json.

    Raises
    ------
    ValueError
        If the generator is neither of a named architecture nor imported.
    """
    name = next((name for name, kind in ARCHITECTURES.items() if type(generator) is kind), None)
    if name is None and imported is None:
        raise ArgumentError(f"{type(generator).__name__} is no named architecture; say imported='package.module:name'.")
    module = cast(nn.Module, generator)
    built_of = {"imported": imported} if name is None else {"architecture": name} | cast(Any, generator).settings
    whole = {
        "generator": built_of,
        "layers": dict(layers),
        "of": list(directions.layers),
        "profiles": [_written(profile) for profile in profiles],
    } | config
    tensors = {WEIGHTS + key: tensor for key, tensor in module.state_dict().items()}
    tensors |= {DIRECTIONS + key: tensor for key, tensor in directions.tensors().items()}
    artifacts.save(folder, SYSTEM, whole, tensors, seed)


def load_run(folder: Path | str, importer: Callable[[str], nn.Module] | None = None) -> Run:
    """A saved run, its generator in evaluation mode.

    Parameters
    ----------
    folder
        Written by `save_run`.
    importer
        Builds the generator of an import path, for runs of modules of the user's; they are refused without.

    Raises
    ------
    ArtifactError
        If the folder holds no readable run of this system.
    """
    config, tensors = artifacts.load(folder, SYSTEM)
    with artifacts.reading(folder):
        saved = typed(Saved, config, "config")
        generator = _built(saved["generator"], Path(folder), importer)
        module = cast(nn.Module, generator)
        slots = slots_of(generator, list(saved["layers"]))
        if slots != saved["layers"]:
            raise ArgumentError(f"layers are {saved['layers']}, and those of the generator {slots}")
        for name in slots:
            _stand_in(module.get_submodule(name))
        project_layers(module, list(slots), saved["rank"], gain=1.0, n_reflectors=saved["n_reflectors"])
        fill(module, _part(tensors, WEIGHTS), Path(folder) / MODEL_FILE, saved["generator"])
        module.eval().requires_grad_(False)
        directions = DirectionSet.of(_part(tensors, DIRECTIONS), saved["of"])
        profiles = tuple(_read(profile) for profile in saved["profiles"])
        _check(directions, profiles, slots)
    return Run(generator, directions, profiles, config)


def _check(directions: DirectionSet, profiles: Sequence[Profile], slots: Mapping[str, int]) -> None:
    """Refuse directions that are not of the layers that are projected, or not all of one number."""
    k = len(directions)
    for name, tensor in directions.tensors().items():
        if tensor.ndim != (2 if name == "vectors" else 1) or len(tensor) != k or not bool(tensor.isfinite().all()):
            raise ArgumentError(f"{name} of the directions have the shape {tuple(tensor.shape)}, or are not finite")
    if not len(profiles) == len(directions.layers) == k:
        raise ArgumentError(f"there are {k} directions of {len(directions.layers)} layers, {len(profiles)} profiles")
    if [slots.get(name) for name in directions.layers] != list(directions.slots):
        raise ArgumentError("the slots of the directions are not those of their layers")


class Imported(TypedDict):
    """A generator that code of the user's builds."""

    imported: str


def _built(how: Mapping[str, Any], folder: Path, importer: Callable[[str], nn.Module] | None) -> Generator:
    if "imported" not in how:
        return cast(Generator, built(how, folder / "config.json"))
    if importer is None:
        raise ArtifactError(f"{folder} is of the generator {how['imported']}, which is code of yours; give importer.")
    return as_generator(importer(typed(Imported, how, "generator")["imported"]))


@torch.no_grad()
def _stand_in(layer: Any) -> None:
    """Give a plain layer a weight of full rank and no bias: memory that nobody set is replaced before it is read.

    Both are projected and then replaced by the saved ones.
    """
    layer.weight.copy_(torch.eye(*layer.weight.flatten(1).shape).reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.zero_()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _written(profile: Profile) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(profile).items()
    }


def _read(profile: Mapping[str, Any]) -> Profile:
    values: dict[str, Any] = {key: math.nan if value is None else value for key, value in profile.items()}
    return made(Profile, values, "profiles")


def recalibrate_(generator: nn.Module, codes: Tensor, batch: int = 64) -> None:
    """Take the running statistics of batch normalisation anew, over the images of `codes`; nothing else changes.

    A projected layer changes the scale of what the next normalisation sees; its statistics were those of the plain
    layer. Without batch normalisation this does nothing.

    Raises
    ------
    ValueError
        If there are fewer than two codes.
    """
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if len(codes) < 2:
        raise ArgumentError(f"codes must hold 2 rows at least, got {len(codes)}.")
    before = [(norm.momentum, norm.training) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the batches
            norm.train()
        with torch.no_grad():
            for part in codes.tensor_split(max(1, len(codes) // batch)):
                generator(part)
    finally:
        for norm, (momentum, training) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(training)
