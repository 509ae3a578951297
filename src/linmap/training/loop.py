"""The training loop: the position in the data, the step, the end of an epoch, and what survives an interruption."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, broadcast, set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.artifacts import versions
from linmap.errors import DivergenceError
from linmap.training import checkpoint
from linmap.training.batches import Loss, epoch_order, reader, shards
from linmap.training.config import TrainingConfig, learning_rate, total_steps
from linmap.training.history import Ended, EpochRecord, TrainingHistory

Validate = Callable[[nn.Module], float | dict[str, float]]
Callback = Callable[[nn.Module, int], object]

log = logging.getLogger(__name__)

READ_EVERY = 16  # steps between readings of the loss where a reading waits for a GPU or for other processes
REFRESH_SECONDS = 0.1


def train(
    model: nn.Module,
    loss: Loss,
    data: Dataset,
    *,
    config: TrainingConfig,
    validate: Validate | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    description: str = "training",
    callbacks: Sequence[Callback] = (),
) -> TrainingHistory:
    """Train a model, in this process or under `accelerate launch` / `torchrun`.

    Seeds Python, NumPy and PyTorch with `config.seed`. Afterwards the model holds the weights of the best validation
    (the last ones without `validate`), is in evaluation mode, and is on the device that Accelerate chose.

    Parameters
    ----------
    model
        Its parameters that require a gradient are trained. Every process must build it alike.
    loss
        `loss(model, batch)`: the scalar mean loss of a batch. Call the model only as `model(...)`.
    data
        A map-style dataset. Tensors in memory are fastest as a `TensorDataset`, or in a dataset whose
        `__getitems__(indices)` returns the ready batch (anything but a list, which is taken for a list of samples).
    config
        The settings of the run.
    validate
        `validate(model)`: a number, lower is better, or a dictionary with that number as "loss". Called after each
        epoch in evaluation mode without gradients; with several processes, the main one's value counts.
    out
        Folder for `metrics.jsonl` and checkpoints (with several machines, on a disk that all share). A run that is
        already there is replaced when the first checkpoint of this one is whole.
    resume
        Go on from the checkpoint in `out`, or start if there is none. A finished run returns at once.
    description
        What the progress bar says; it is shown on stderr if that is a terminal.
    callbacks
        Each is called as `callback(model, steps_done)` after every optimiser step, while the gradients are there.
        What a callback remembers is not saved; keep it in a buffer of the model if a resume needs it.

    Returns
    -------
    TrainingHistory
        What each epoch did, and why training ended.

    Raises
    ------
    ValueError
        If the data are empty, the model has nothing to train, the batch cannot be split evenly over the processes,
        `loss` or `validate` return something else than they should, or a setting that matters differs from the
        checkpoint's.
    DivergenceError
        If the loss, a weight or the validation value is no longer finite; the last good checkpoint stays.
    KeyboardInterrupt
        After Ctrl-C, once the current step is done and a checkpoint is written; a second Ctrl-C does not wait.
    """
    if resume and out is None:
        raise ValueError("resume=True needs `out`, the folder of the run to go on with.")
    attributes = set(vars(model))
    run = _Run(model, loss, data, config, validate, None if out is None else Path(out), callbacks, resume)
    try:
        with _Interruption() as interruption, run.progress(description) as bar:
            run.interruption, run.bar = interruption, bar
            while run.ended is None:
                run.epoch()
            if interruption.requested:
                raise KeyboardInterrupt(f"training had just ended after {run.position.step} steps.")
        run.restore_best()
    finally:
        run.metrics.close()
        for name in set(vars(model)) - attributes:  # Accelerate's mixed precision replaces `forward`
            delattr(model, name)
        model.eval()
    return run.history()


@dataclass
class _Position:
    """The part of the state that is numbers."""

    step: int = 0
    epoch: int = 0
    """Epochs completed."""
    batch: int = 0
    """Batches of the current epoch done."""
    samples: int = 0
    """Samples since the last epoch record, and the sum of their losses."""
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_epoch: int | None = None
    best_value: float | None = None
    stale: int = 0
    """Validations since the best one."""
    epochs: list[dict[str, Any]] = field(default_factory=list)
    metrics_bytes: int = 0
    run: int = 0
    """Number of the run's first checkpoint: tells runs in the same folder apart."""


@dataclass(frozen=True)
class _Unread:
    """A step whose loss is still on the device."""

    step: int
    lr: float
    samples: int
    seconds: float
    loss: Tensor


class _Run:
    """One run: the prepared model and optimiser, and the position in the data."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Dataset,
        config: TrainingConfig,
        validate: Validate | None,
        out: Path | None,
        callbacks: Sequence[Callback],
        resume: bool,
    ) -> None:
        self.accelerator = _accelerator(config.precision)
        self.config = config = replace(config, precision=self.accelerator.mixed_precision)  # pyright: ignore
        processes = self.accelerator.num_processes
        if config.batch_size % (processes * config.accumulation):
            raise ValueError(
                f"batch_size = {config.batch_size} cannot be split evenly over {processes} processes x accumulation = "
                f"{config.accumulation}; make it a multiple of {processes * config.accumulation}."
            )
        self.read_batch = reader(data, self.accelerator.device)
        self.samples: int = len(data)  # pyright: ignore[reportArgumentType]
        self.batches = math.ceil(self.samples / config.batch_size)
        self.model, self.loss, self.validate, self.out, self.callbacks = model, loss, validate, out, callbacks
        self.main = self.accelerator.is_main_process
        self.position, self.best = _Position(), checkpoint.Tensors()
        self.unread: list[_Unread] = []
        self.read_every = 1 if processes == 1 and self.accelerator.device.type == "cpu" else READ_EVERY

        found = checkpoint.latest(out) if out is not None else None
        saved = checkpoint.read(found) if resume and found is not None else None
        if saved is not None:
            self._check(saved)
            self.position = _Position(**saved.state["position"])
            self.best = saved.best
            _load(model, saved.model)
        elif found is not None and self.main:
            log.warning("%s holds an earlier run; it is replaced when this one writes its first checkpoint.", out)
        self.metrics = _Metrics(out if self.main else None, self.position, fresh=saved is None, beside=found)

        set_seed(config.seed, device_specific=True)
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.optimizer = _optimizer(model, config)
        self.prepared, self.stepper = self.accelerator.prepare(model, self.optimizer)
        if saved is not None:
            self._restore(saved)
        self.start = time.perf_counter() - self.position.seconds
        self.order = torch.empty(0)
        self.lr = config.lr
        self.shown = 0.0
        self.bar: Progress
        self.interruption: _Interruption

    # -- one epoch, one step -------------------------------------------------------------------------------------------

    @property
    def ended(self) -> Ended | None:
        """The setting that ends the run here, if one does."""
        position, config = self.position, self.config
        if config.patience is not None and position.stale >= config.patience:
            return "patience"
        if position.epoch >= config.epochs:
            return "epochs"
        return "max_steps" if config.max_steps is not None and position.step >= config.max_steps else None

    def epoch(self) -> None:
        """The rest of the current epoch, up to its record and its checkpoint."""
        position, config = self.position, self.config
        order = epoch_order(self.samples, config.seed, position.epoch).split(config.batch_size)
        self.prepared.train()
        for batch in order[position.batch :]:
            self._step(batch)
            if position.batch < self.batches:
                if self.ended is not None:
                    break
                if self.interruption.agreed or (
                    config.checkpoint_every and position.step % config.checkpoint_every == 0
                ):
                    self._checkpoint()
                    self._stop_if_asked()
        self._end_epoch()
        self._checkpoint()
        self._stop_if_asked()

    def _step(self, batch: Tensor) -> None:
        """One optimiser step on a global batch."""
        position, config, accelerator = self.position, self.config, self.accelerator
        lr = learning_rate(config, position.step, position.epoch, self.batches)
        if lr != self.lr or position.batch == 0:
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr = lr
        self.optimizer.zero_grad()
        parts = list(shards(batch, config.accumulation, accelerator.num_processes, accelerator.process_index))
        total: Tensor | float = 0.0
        for number, (part, weight) in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else accelerator.no_sync(self.prepared):
                value = _scalar(self.loss(self.prepared, self.read_batch(part)))
                value = value if weight == 1 else value * weight
                accelerator.backward(value)
                total = total + value.detach()
        assert isinstance(total, Tensor)
        seconds = time.perf_counter() - self.start
        self.unread.append(_Unread(position.step + 1, lr, len(batch), seconds, total))
        if len(self.unread) >= self.read_every:
            self._read_losses()
        if config.clip_norm is not None:
            accelerator.clip_grad_norm_(self.prepared.parameters(), config.clip_norm)
        self.stepper.step()
        position.step += 1
        position.batch += 1
        for callback in self.callbacks:
            callback(self.model, position.step)
        if seconds - self.shown > REFRESH_SECONDS:
            self._show()

    def _read_losses(self) -> None:
        """Bring the losses of the last steps to the CPU, one mean over all processes, and with them a wish to stop."""
        if not self.unread:
            return
        if self.accelerator.num_processes == 1:
            losses = (
                torch.stack([item.loss for item in self.unread]).tolist()
                if len(self.unread) > 1
                else [self.unread[0].loss.item()]
            )
            self.interruption.agreed = self.interruption.requested
        else:
            stop = self.unread[0].loss.new_tensor(float(self.interruption.requested))
            both = self.accelerator.reduce(torch.stack([item.loss for item in self.unread] + [stop]), "mean")
            *losses, stop = both.tolist()  # pyright: ignore[reportAttributeAccessIssue]
            self.interruption.agreed = stop > 0
        unread, self.unread = self.unread, []
        for item, loss in zip(unread, losses, strict=True):
            if not math.isfinite(loss):
                raise self._diverged(f"the loss of step {item.step} is {loss} (learning rate {item.lr:.3g})")
            self.position.samples += item.samples
            self.position.loss_sum += loss * item.samples
            self.metrics.write(
                step=item.step, epoch=self.position.epoch + 1, lr=item.lr, loss=loss, seconds=round(item.seconds, 4)
            )

    def _diverged(self, what: str) -> DivergenceError:
        kept = "" if self.out is None else f" The last good checkpoint stays in {self.out}."
        remedy = "precision='bf16'" if self.config.precision == "fp16" else "inputs on a scale near 1"
        return DivergenceError(
            f"training diverged: {what}. Try a lower lr, clip_norm=1.0, warmup_steps, or {remedy}.{kept}"
        )

    def _end_epoch(self) -> None:
        """Validate, keep the best weights, write the record; after `max_steps` of an epoch as after a whole one."""
        position = self.position
        self._read_losses()
        whole = position.batch == self.batches
        value, metrics = self._validated()
        if value is not None and (position.best_value is None or value < position.best_value):
            position.best_epoch, position.best_value, position.stale = position.epoch + 1, value, 0
            self.best = checkpoint.gathered(_weights(self.model), keep=self.main)
        elif value is not None:
            position.stale += 1
        position.seconds = time.perf_counter() - self.start
        record = EpochRecord(
            position.epoch + 1, position.step, self.lr, position.loss_sum / position.samples, value, metrics,
            round(position.seconds, 4),
        )  # fmt: skip
        position.epochs.append(asdict(record))
        self.metrics.write(**asdict(record))
        position.samples, position.loss_sum = 0, 0.0
        if whole:
            position.epoch, position.batch = position.epoch + 1, 0
        self._show()

    def _validated(self) -> tuple[float | None, dict[str, float | None]]:
        """The validation value, and what else `validate` measured; the main process's numbers everywhere."""
        if self.validate is None:
            return None, {}
        self.model.eval()
        with torch.no_grad():
            result = self.validate(self.model)
        self.model.train()
        found = dict(result) if isinstance(result, dict) else {"loss": result}
        if "loss" not in found:
            raise ValueError(
                f'validate must return a number or a dictionary with the key "loss"; got keys {list(found)}.'
            )
        numbers = torch.tensor([float(value) for value in found.values()], dtype=torch.float64)
        values = dict(zip(found, broadcast(numbers.to(self.accelerator.device)).tolist(), strict=True))
        loss = values.pop("loss")
        if not math.isfinite(loss):
            raise self._diverged(f"the validation value after step {self.position.step} is {loss}")
        return loss, {name: value if math.isfinite(value) else None for name, value in values.items()}

    def restore_best(self) -> None:
        if self.position.best_epoch is not None:
            checkpoint.load_weights(self.model, self.best)

    def history(self) -> TrainingHistory:
        position = self.position
        return TrainingHistory(
            [EpochRecord(**record) for record in position.epochs], position.best_epoch, position.best_value,
            position.step, position.seconds, self.ended or "epochs",
        )  # pyright: ignore  # fmt: skip

    # -- what survives an interruption ---------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Write the whole state; every process takes part, the main one writes."""
        self._read_losses()
        if self.out is None:
            return
        position, main = self.position, self.main
        weights = _weights(self.model)
        for name in self.names:
            if not bool(torch.isfinite(weights[name]).all()):
                raise self._diverged(f"the weight {name} is not finite after step {position.step}")
        model = checkpoint.gathered(weights, keep=main)
        optimizer, numbers = checkpoint.optimizer_state(self.optimizer, self.names, keep=main)
        random = {
            name: self.accelerator.gather(state[None].to(self.accelerator.device)).cpu()  # pyright: ignore
            for name, state in checkpoint.random_state(self.accelerator.device).items()
        }
        if main:
            position.seconds = time.perf_counter() - self.start
            self.metrics.sync(position)
            scaler = self.accelerator.scaler
            state = {
                "config": asdict(self.config), "data_samples": self.samples, "position": asdict(position),
                "optimizer": numbers, "scaler": None if scaler is None else scaler.state_dict(), "versions": versions(),
            }  # fmt: skip
            path = checkpoint.write(self.out, checkpoint.Checkpoint(state, model, optimizer, random, self.best))
            self.metrics.commit(path)

    def _stop_if_asked(self) -> None:
        if self.interruption.agreed:
            where = (
                "nothing was saved, for it has no `out`"
                if self.out is None
                else f"go on with resume=True, out={str(self.out)!r}"
            )
            raise KeyboardInterrupt(f"training stopped after step {self.position.step}; {where}.")

    def _check(self, saved: checkpoint.Checkpoint) -> None:
        """Settings that matter must be the checkpoint's; the length matters where the schedule depends on it."""
        free = {"checkpoint_every", "patience"}
        if self.config.schedule != "linear":
            free.add("max_steps")
            if self.config.schedule != "cosine":
                free.add("epochs")
        now = asdict(self.config) | {"len(data)": self.samples}
        before = saved.state["config"] | {"len(data)": saved.state["data_samples"]}
        for name in now.keys() - free:
            new, old = (list(value) if isinstance(value, tuple) else value for value in (now[name], before[name]))
            if new != old:
                raise ValueError(
                    f"the run in {self.out} was started with {name} = {old}, now it is {new}; "
                    f"resume with {old}, or start anew without resume."
                )

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        checkpoint.load_optimizer_state(self.optimizer, self.names, saved.optimizer, saved.state["optimizer"])
        if self.accelerator.scaler is not None and saved.state["scaler"]:
            self.accelerator.scaler.load_state_dict(saved.state["scaler"])
        device, process = self.accelerator.device, self.accelerator.process_index
        saved_processes = len(saved.random["torch"])
        if saved_processes == self.accelerator.num_processes:
            checkpoint.set_random_state({name: state[process] for name, state in saved.random.items()}, device)
        elif self.main:
            log.warning(
                "%s was saved by %d processes and goes on with %d: random draws such as dropout are not those of the "
                "uninterrupted run.", self.out, saved_processes, self.accelerator.num_processes,
            )  # fmt: skip

    # -- progress ------------------------------------------------------------------------------------------------------

    def progress(self, description: str) -> Progress:
        console = Console(stderr=True)
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"), console=console, disable=not (self.main and console.is_terminal),
        )  # fmt: skip
        total = total_steps(self.config, self.batches)
        bar.add_task(description, total=total, completed=self.position.step, state="")
        return bar

    def _show(self) -> None:
        position = self.position
        self.shown = time.perf_counter() - self.start
        self.metrics.flush()
        mean = f"loss {position.loss_sum / position.samples:.4g}" if position.samples else ""
        best = f"best {position.best_value:.4g}" if position.best_value is not None else ""
        epoch, epochs = min(position.epoch + 1, self.config.epochs), self.config.epochs
        state = f"epoch {epoch}/{epochs}  lr {self.lr:.2g}  {mean}  {best}"
        self.bar.update(self.bar.task_ids[0], completed=position.step, state=state)


class _Metrics:
    """`metrics.jsonl`, one JSON object a line; lines after the last checkpoint are dropped on resume.

    A fresh run in a folder that holds another writes beside it until its first checkpoint has taken the other's place.
    """

    def __init__(self, out: Path | None, position: _Position, fresh: bool, beside: Path | None) -> None:
        self.file = None
        if out is None:
            return
        out.mkdir(parents=True, exist_ok=True)
        if fresh:
            position.run = int(beside.name.split("-")[1]) + 1 if beside else 1
        self.path, self.pending = out / "metrics.jsonl", out / f".metrics.{position.run}.jsonl"
        if not fresh and self.pending.exists():  # killed between the first checkpoint and the renaming
            os.replace(self.pending, self.path)
        self.file = open(self.pending if fresh and beside else self.path, "w" if fresh else "a", encoding="utf-8")
        if not fresh and self.file.tell() > position.metrics_bytes:
            self.file.truncate(position.metrics_bytes)

    def write(self, **values: Any) -> None:
        if self.file is not None:
            self.file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()

    def sync(self, position: _Position) -> None:
        if self.file is not None:
            self.flush()
            os.fsync(self.file.fileno())
            position.metrics_bytes = self.file.tell()

    def commit(self, path: Path) -> None:
        if self.file is not None and self.pending.exists():
            os.replace(self.pending, self.path)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class _Interruption:
    """Turns the first Ctrl-C into a wish to stop after the current step; a second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False  # in this process
        self.agreed = False  # in all of them

    def __enter__(self) -> Self:
        self.handles = threading.current_thread() is threading.main_thread()
        if self.handles:
            self.previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handles:
            signal.signal(signal.SIGINT, self.previous)

    def _request(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self.previous)


def _accelerator(precision: str) -> Accelerator:
    """An accelerator of this precision; Accelerate shares its state in a process, which an earlier run may have set."""
    wanted = precision if precision != "no" else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if AcceleratorState._shared_state.get("_mixed_precision", wanted) != wanted:
        AcceleratorState._reset_state()
    # the loop weighs the parts of a batch itself, for they need not be equal
    plugin = GradientAccumulationPlugin(num_steps=1)
    try:
        return Accelerator(mixed_precision=wanted, gradient_accumulation_plugin=plugin)
    except ValueError as error:
        if "mixed precision" not in str(error):
            raise
        raise ValueError(
            f"precision = {precision!r} does not work on this machine ({error}); use 'no' or 'bf16'."
        ) from error


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter that requires a gradient: there is nothing to train.")
    fused = all(parameter.is_floating_point() for parameter in parameters)  # the fused kernels know no complex numbers
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": fused or None}
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=config.momentum, **options)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, betas=config.betas, **options)


def _weights(model: nn.Module) -> checkpoint.Tensors:
    weights = model.state_dict()
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"the model's state {name} is a {type(value).__name__}; only tensors can be saved.")
    return weights


def _load(model: nn.Module, weights: checkpoint.Tensors) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the model is not the one that the checkpoint was written with: {error}") from error


def _scalar(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"loss(model, batch) must return a scalar tensor that depends on the model's parameters, got {what}; "
            "return the mean over the batch."
        )
    return value
