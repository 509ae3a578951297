"""What a calibration leaves on the way: one file a finished block, from which an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from linmap.artifacts import atomic_path
from linmap.compress.flatquant.blockwise import BlockReport, TrainedBlock
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.errors import ArgumentError

FREE = (
    "online_scales", "weights", "group_size", "blocks", "distil_steps", "distil_length", "distil_lr", "distil_clip_lr",
    "distil_weight_lr", "readers", "left_out",
)  # fmt: skip  # settings that the transforms of a block do not depend on


STARTED = time.time()


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Delete what a killed process left half written: all of these names from before this process began.

    What the other processes of this run are writing is younger.
    """
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime >= STARTED:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


class WorkFolder:
    """Finished blocks on disk; None as `folder`: nothing is kept.

    A file holds the trained parameters of a block, and a fingerprint of the settings, the calibration tokens and the
    weights that they were trained with.

    Raises
    ------
    ValueError
        If `resume` is asked for without a folder.
    """

    def __init__(
        self, folder: Path | str | None, config: FlatQuantConfig, ids: Tensor | None, embedding: Tensor, resume: bool
    ) -> None:
        if resume and folder is None:
            raise ArgumentError("resume=True needs work=, the folder of the calibration to go on with.")
        self.folder = None if folder is None else Path(folder)
        self.resume = resume
        if self.folder is not None:
            remove_leftovers(self.folder, ".block_*.partial.safetensors")
        if self.folder is not None and not resume:
            for path in self.folder.glob("block_*.safetensors"):
                path.unlink(missing_ok=True)
        settings = {name: value for name, value in sorted(config.to_dict().items()) if name not in FREE}
        self.run = hashlib.sha256(json.dumps(settings).encode())
        for tensor in ([] if ids is None else [ids]) + [embedding]:
            if self.folder is not None:
                self.run.update(_bytes(tensor))

    def path(self, number: int) -> Path | None:
        return None if self.folder is None else self.folder / f"block_{number:05d}.safetensors"

    def distillation(self, windows: Tensor, config: FlatQuantConfig) -> Path | None:
        """Folder of the distillation with these settings on these windows."""
        if self.folder is None:
            return None
        digest = self.run.copy()
        digest.update(json.dumps({name: getattr(config, name) for name in FREE if name.startswith("distil")}).encode())
        digest.update(_bytes(windows))
        return self.folder / f"distillation_{digest.hexdigest()[:12]}"

    def fingerprint(self, block: nn.Module) -> str:
        digest = self.run.copy()
        for name, tensor in block.state_dict().items():
            digest.update(name.encode())
            digest.update(_bytes(tensor))
        return digest.hexdigest()

    def finished(self, number: int, block: nn.Module) -> TrainedBlock | None:
        """The block as an earlier run left it, or None.

        Raises
        ------
        ValueError
            If the file was written with other settings, tokens or weights, or cannot be read.
        """
        path = self.path(number)
        if not self.resume or path is None or not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata: dict[str, Any] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ArgumentError(f"{path} is damaged ({error}); delete it, and its block is calibrated again.") from None
        if metadata.get("fingerprint") != self.fingerprint(block):
            raise ArgumentError(
                f"{path} was calibrated with another model, text or config; give the same ones, another work folder, "
                "or resume=False to start anew."
            )
        return TrainedBlock(tensors, BlockReport(**json.loads(metadata["report"])))

    def keep(self, number: int, block: nn.Module, trained: TrainedBlock) -> None:
        path = self.path(number)
        if path is None:
            return
        report = {"losses": trained.report.losses, "stopped": trained.report.stopped}
        metadata = {"fingerprint": self.fingerprint(block), "report": json.dumps(report)}
        with atomic_path(path) as partial:
            save_file({name: t.contiguous() for name, t in trained.tensors.items()}, partial, metadata)


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
