"""Saved runs: a folder with `config.json` and `*.safetensors`, written atomically and never through pickle."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import linmap
from linmap.errors import ArtifactError

FORMAT = 1


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary name beside `path`; on success it is synced to disk and renamed, on failure nothing stays behind."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically; NaN and infinities are refused, for they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """What a result depends on."""
    return {"linmap": linmap.__version__, "torch": torch.__version__, "python": platform.python_version()}


def save(
    folder: Path | str, system: str, config: dict[str, Any], tensors: dict[str, torch.Tensor], seed: int = 0
) -> None:
    """Write a run of `system`: its settings to `config.json`, its arrays to `model.safetensors`.

    The configuration is written last, so a folder that has one is whole.
    """
    folder = Path(folder)
    with atomic_path(folder / "model.safetensors") as partial:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial)
    header = {"format": FORMAT, "system": system, "versions": versions(), "seed": seed}
    write_json(folder / "config.json", header | {"config": config})


def read_config(folder: Path | str) -> dict[str, Any]:
    """The whole of `config.json`: format, system, versions, seed and config.

    Raises
    ------
    ArtifactError
        If the folder holds no readable run, or one of a newer format.
    """
    path = Path(folder) / "config.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not a saved run: it has no config.json; `linmap fit` writes one.") from None
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path} is not JSON (line {error.lineno}: {error.msg}); fit the run again.") from None
    if not isinstance(header, dict) or "system" not in header or "format" not in header:
        raise ArtifactError(f"{path} was not written by linmap: it names no system and no format.")
    if header["format"] > FORMAT:
        raise ArtifactError(f"{path} has format {header['format']}, this linmap reads up to {FORMAT}; upgrade linmap.")
    return header


def load(folder: Path | str, system: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and the arrays of a run of `system`.

    Raises
    ------
    ArtifactError
        If the folder holds no readable run, or a run of another system.
    """
    header = read_config(folder)
    if header["system"] != system:
        raise ArtifactError(f"{folder} holds a run of {header['system']!r}, not of {system!r}.")
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise ArtifactError(f"{folder} is incomplete: it has no model.safetensors; fit the run again.")
    return header["config"], load_file(path)
