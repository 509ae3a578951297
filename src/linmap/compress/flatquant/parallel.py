"""The blocks of a model calibrated: one by one, several at once, or divided among the processes of a launcher.

Each finished block can be kept in a file, from which an interrupted calibration goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from jaxtyping import Float
from joblib.externals.loky import get_reusable_executor
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from linmap.artifacts import atomic_path
from linmap.compress.architecture import block_paths
from linmap.compress.flatquant.blockwise import BlockReport, TrainedBlock, calibrated_block
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.teacher import FLOAT16, BlockArguments, as_float32, in_float32, teacher_outputs
from linmap.errors import ArgumentError
from linmap.processes import end_with_parent, sweep

LoadBlock = Callable[[int], nn.Module]
"""A block of the original model, by its number."""


def processes() -> PartialState:
    """The processes that `accelerate launch` or `torchrun` started; without these, one."""
    return PartialState(cpu=not torch.accelerator.is_available())


def trained_blocks(
    load: LoadBlock,
    inputs: Float[Tensor, "n length d"] | None,
    arguments: list[BlockArguments] | None,
    config: FlatQuantConfig,
    numbers: list[int],
    folder: WorkFolder,
    n_jobs: int = 1,
) -> dict[int, TrainedBlock]:
    """Calibrate the blocks `numbers` on the teacher's activations (section 6 of the method).

    Parameters
    ----------
    inputs, arguments
        Of the first block and of every block; None where the config needs no calibration.
    n_jobs
        Blocks at once in this process's workers.

    Returns
    -------
    blocks
        By their numbers, in every process.
    """
    state = processes()
    own = set(numbers[state.process_index :: state.num_processes])
    seeds = torch.randint(2**62, (numbers[-1] + 1,), generator=torch.Generator().manual_seed(config.seed)).tolist()
    found: dict[int, TrainedBlock] = {}

    def remaining() -> Iterator[tuple[int, nn.Module, tuple[Any, ...]]]:
        x = as_float32(inputs, FLOAT16)
        for number in range(numbers[-1] + 1):
            if x is None and number not in own:
                continue
            block = load(number)
            y, channels, into = None, None, {}
            if x is not None and arguments is not None:
                into = as_float32(arguments[number], FLOAT16)
                paths = block_paths(block, config.module_map) if number in numbers else None
                with named(number):
                    y, channels = teacher_outputs(in_float32(block, FLOAT16), paths, x, into, config.batch_size)
            if number in own:
                finished = folder.finished(number, block)
                if finished is None:
                    yield number, block, (config, seeds[number], channels, x, y, into)
                else:
                    found[number] = finished
            x = y

    for number, block, trained in in_parallel(remaining(), n_jobs, len(own)):
        folder.keep(number, block, trained)
        found[number] = trained
    return exchanged(found, numbers)


@contextmanager
def named(number: int) -> Iterator[None]:
    """Errors of the teacher's pass say in which block."""
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(f"block {number}: {error}") from error


Task = tuple[int, nn.Module, tuple[Any, ...]]


def in_parallel(tasks: Iterator[Task], n_jobs: int, total: int) -> Iterator[tuple[int, nn.Module, TrainedBlock]]:
    """The blocks as they get ready; at most n_jobs + 1 wait for a worker, for each holds its activations."""
    with progress_bar(total) as advance:
        if n_jobs == 1:
            for number, block, arguments in tasks:
                trained = calibrated_block(block, *arguments)
                advance(number, trained.report)
                yield number, block, trained
            return
        threads = max(1, torch.get_num_threads() // n_jobs)
        n_jobs = max(1, min(n_jobs, total))  # every worker of a pool is started at once
        executor = get_reusable_executor(n_jobs, initializer=begin_worker, initargs=(os.getpid(), threads))
        pending: dict[Future[TrainedBlock], tuple[int, nn.Module]] = {}
        try:
            exhausted = False
            while pending or not exhausted:
                while not exhausted and len(pending) <= n_jobs:
                    task = next(tasks, None)
                    if task is None:
                        exhausted = True
                        break
                    pending[executor.submit(calibrated_block, task[1], *task[2])] = task[:2]
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    number, block = pending.pop(future)
                    trained = future.result()
                    advance(number, trained.report)
                    yield number, block, trained
        finally:
            executor.shutdown(kill_workers=True)


def begin_worker(parent: int, threads: int) -> None:
    """What a worker does first."""
    end_with_parent(parent)
    torch.set_num_threads(threads)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int, BlockReport], None]]:
    """Shown on stderr if that is a terminal; blocks whose training broke off are warned of in any case."""
    console = Console(stderr=True)
    columns = TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = console.is_terminal and processes().is_main_process
    with Progress(*columns, TextColumn("{task.fields[state]}"), console=console, disable=not shown) as bar:
        task = bar.add_task("blocks", total=total, state="")

        def advance(number: int, report: BlockReport) -> None:
            loss = "" if report.last is None else f"  {report.first:.3g} -> {report.last:.3g}"
            bar.update(task, advance=1, state=f"block {number}{loss}")
            if report.stopped:
                warnings.warn(
                    f"block {number}: {report.stopped}; its best state until then was kept. Lower lr, or load the "
                    "model in float32.",
                    stacklevel=2,
                )

        yield advance


def exchanged(found: dict[int, TrainedBlock], numbers: list[int]) -> dict[int, TrainedBlock]:
    """The blocks of all processes, in every one, in the order of `numbers`."""
    state = processes()
    if state.num_processes == 1:
        return {number: found[number] for number in numbers}
    result: dict[int, TrainedBlock] = {}
    for place, number in enumerate(numbers):
        owner = place % state.num_processes
        mine = found.get(number)
        header = None
        if mine is not None:
            shapes = {name: list(t.shape) for name, t in mine.tensors.items()}
            header = json.dumps({"report": asdict(mine.report), "shapes": shapes}).encode()
        header = json.loads(bytes(_sent_bytes(header, owner).tolist()))
        tensors = {
            name: _sent(mine.tensors[name] if mine is not None else torch.empty(shape), owner)
            for name, shape in header["shapes"].items()
        }
        result[number] = TrainedBlock(tensors, BlockReport(**header["report"]))
    return result


def _sent_bytes(data: bytes | None, owner: int) -> Tensor:
    length = _sent(torch.tensor([0 if data is None else len(data)]), owner)
    empty = torch.zeros(int(length), dtype=torch.uint8)
    return _sent(empty if data is None else torch.frombuffer(bytearray(data), dtype=torch.uint8), owner)


def _sent(tensor: Tensor, owner: int) -> Tensor:
    """The owner's tensor, on the CPU."""
    on_device = tensor.to(processes().device).contiguous()
    return cast(Tensor, broadcast(on_device, from_process=owner)).cpu()


# -- what is kept on the way -------------------------------------------------------------------------------------------


FREE = (
    "online_scales", "weights", "group_size", "blocks", "distil_steps", "distil_length", "distil_lr", "distil_clip_lr",
    "distil_weight_lr", "readers", "left_out", "head_bits",
)  # fmt: skip  # settings that the transforms of a block do not depend on


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
            sweep(self.folder)
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
        if metadata.get("sum") not in (None, _sum(tensors, metadata["report"])):  # those of an older linmap have none
            raise ArgumentError(f"{path} is damaged; delete it, and its block is calibrated again.")
        return TrainedBlock(tensors, BlockReport(**json.loads(metadata["report"]), resumed=True))

    def keep(self, number: int, block: nn.Module, trained: TrainedBlock) -> None:
        path = self.path(number)
        if path is None:
            return
        report = {name: getattr(trained.report, name) for name in ("losses", "stopped", "seconds")}
        metadata = {"fingerprint": self.fingerprint(block), "report": json.dumps(report)}
        metadata["sum"] = _sum(trained.tensors, metadata["report"])
        with atomic_path(path) as partial:
            save_file({name: t.contiguous() for name, t in trained.tensors.items()}, partial, metadata)


def _sum(tensors: dict[str, Tensor], report: str) -> str:
    """A checksum of what is kept of a block."""
    digest = hashlib.sha256(report.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
