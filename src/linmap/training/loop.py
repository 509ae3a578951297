"""The training loop: the position in the data, the step, the end of an epoch, and what survives an interruption."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from accelerate.utils import broadcast, set_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.artifacts import plain, versions
from linmap.data.schema import check_fields
from linmap.errors import ArgumentError, DivergenceError, Stopped
from linmap.locks import sole
from linmap.training import checkpoint, parts, randomness
from linmap.training.batches import Loss, batch_sizes, epoch_order, reader, samples_of, shards
from linmap.training.config import TrainingConfig, check_resumable, learning_rate, total_steps
from linmap.training.fingerprint import data_fingerprint
from linmap.training.history import Ended, EpochRecord, Position, TrainingHistory
from linmap.training.interruption import Interruption
from linmap.training.metrics import MetricsLog
from linmap.training.normalisation import check_shared, normalisations, over_all_processes
from linmap.training.preparation import (
    ParameterGroups,
    frozen_fingerprint,
    group_settings,
    have_joined,
    is_finite,
    load_initial,
    make_accelerator,
    make_optimizer,
    parameter_names,
    weights_of,
)
from linmap.training.sharding import Sharding, check_shardable

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
    parameter_groups: ParameterGroups | None = None,
    seed_globally: bool = True,
    settings: Mapping[str, Any] = MappingProxyType({}),
    source: Any = None,
    sharded: bool = False,
) -> TrainingHistory:
    """Train a model, in this process or under `accelerate launch` / `torchrun`.

    Afterwards the model holds the weights of the best validation (the last ones without `validate`), is in evaluation
    mode, and is on the device that Accelerate chose. After a divergence or Ctrl-C it holds the last ones; after another
    error under FSDP2 those of the last validation, or of the start, for an error in one process is not known to others.

    Parameters
    ----------
    model
        Its parameters that require a gradient are trained. Every process must build it alike. Checkpoints hold these
        parameters and the buffers; frozen parameters are only compared by a checksum.
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
        Go on from the checkpoint in `out`, or start if there is none. A finished run returns at once. Other data than
        those of the checkpoint are refused, by a fingerprint of what they hold
        (`linmap.training.fingerprint.data_fingerprint`; a data set of your own may have a method `fingerprinted()`);
        a checkpoint that an older version wrote has none, and a warning says that they are not compared.
    description
        What the progress bar says; it is shown on stderr if that is a terminal.
    callbacks
        Each is called as `callback(model, steps_done)` after every optimiser step, while the gradients are there. One
        with a method `attach(optimizer)` is given the optimiser before the first step. What it remembers between steps
        is saved with the checkpoints if it has `state_dict()` (of what JSON has) and `load_state_dict(state)`.
    parameter_groups
        `parameter_groups(model)`: the optimiser's groups, each a dictionary of "params" and, where they differ from
        the configuration's, "lr" and "weight_decay"; the schedule acts on every group alike.
    seed_globally
        Seed the global generators of Python, NumPy and PyTorch with `config.seed`, and keep their states in the
        checkpoints, so that whatever `loss` draws is drawn again in a resumed run. False leaves them alone: the model's
        `linmap.training.randomness.Dropout` draws from a generator of the run, seeded and kept alike.
    settings
        What else the run depends on and its weights do not tell, such as parameters of `loss`, by the name that a
        message gives it. A resume with others is refused.
    source
        What `data` were made from, as arrays, numbers, text, and lists of these, and stands for them in the
        fingerprint: where they are computed in a way that another machine does not repeat in every bit.
    sharded
        Under FSDP2, leave the model in parts, for `validate` and afterwards, as one must that no process can hold.
        Otherwise each process keeps room for the whole model, which it is there. After an error, too, it is in parts,
        and not to be used further.

    Returns
    -------
    TrainingHistory
        What each epoch did, and why training ended.

    Raises
    ------
    ValueError
        If the data are empty, the model has nothing to train, the batch cannot be split evenly over the processes,
        `loss` or `validate` return something else than they should, or the data or a setting that matters differ
        from the checkpoint's.
    DivergenceError
        If the loss, a weight or the validation value is no longer finite; the last good checkpoint stays.
    TypeError
        If `seed_globally` is False and the model has a dropout that draws from the global generator.
    KeyboardInterrupt
        After Ctrl-C, once the current step is done and a checkpoint is written; a second Ctrl-C does not wait.
    """
    if resume and out is None:
        raise ArgumentError("resume=True needs `out`, the folder of the run to go on with.")
    if config.patience is not None and validate is None:
        raise ArgumentError(f"patience={config.patience} needs `validate`: without it there is no value to wait for.")
    where = None if out is None else Path(out)
    with sole(where):
        before = vars(model).copy()
        run = _Run(model, loss, data, config, validate, where, callbacks, parameter_groups, resume, seed_globally,
                   settings, source, sharded)  # fmt: skip
        try:
            randomness.lend(model, run.source)
            shared = over_all_processes(model, run.processes)
            with shared, Interruption() as interruption, run.progress(description) as bar:
                run.interruption, run.bar = interruption, bar
                while run.ended is None:
                    run.epoch()
                run.restore_best()
                run.agreed = True
                run.put_together()
                run.accelerator.wait_for_everyone()  # the main process has written the last checkpoint
                if interruption.requested:
                    raise Stopped(f"training had just ended after {run.position.step} steps")
        finally:
            run.put_together()
            run.metrics.close()
            randomness.lend(model, None)
            for name in {"forward", "_original_forward", "_is_accelerate_prepared"} & vars(
                model
            ).keys() - before.keys():
                delattr(model, name)  # what mixed precision put into the model
            model.eval()
    return run.position.history(run.ended)


class _Unread(NamedTuple):
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
        parameter_groups: ParameterGroups | None,
        resume: bool,
        seed_globally: bool,
        settings: Mapping[str, Any],
        source: Any,
        sharded: bool,
    ) -> None:
        self.accelerator = make_accelerator(config.precision)
        if self.accelerator.num_processes > 1:
            check_shared(model)
        if self.accelerator.is_fsdp2:
            check_shardable(model)
        self.config = replace(config, precision=cast("Any", self.accelerator.mixed_precision))
        self.model, self.loss, self.validate, self.out, self.callbacks = model, loss, validate, out, callbacks
        self.parameter_groups = parameter_groups
        own_seed = config.seed + self.accelerator.process_index
        self.source = None if seed_globally else randomness.Source(own_seed)
        self.main, self.processes = self.accelerator.is_main_process, self.accelerator.num_processes
        if config.batch_size % (self.processes * config.accumulation):
            raise ArgumentError(
                f"batch_size={config.batch_size} cannot be split evenly over {self.processes} processes x "
                f"accumulation={config.accumulation}; make it a multiple of {self.processes * config.accumulation}."
            )
        self.read_batch = reader(data, self.accelerator.device)
        self.samples = samples_of(data)
        self.settings = plain(settings)
        self.fingerprint = None if out is None else data_fingerprint(data, source)
        usual = config.batch_size // config.accumulation  # samples of a forward pass, in all processes
        self.least = 2 if usual > 1 and normalisations(model) else 1
        self.sizes = batch_sizes(self.samples, config.batch_size, never_one=self.least > 1)
        self.batches = len(self.sizes)
        self.unread: list[_Unread] = []
        self.read_every = 1 if self.processes == 1 and self.accelerator.device.type == "cpu" else READ_EVERY
        self.lr, self.shown, self.checked = config.lr, 0.0, False
        self.sharding = Sharding(model) if self.accelerator.is_fsdp2 and not sharded else None
        self.bar: Progress
        self.interruption: Interruption
        self.agreed = False
        try:
            self._prepare(self._open(resume))
        except BaseException:
            self.put_together()
            raise
        self.start = time.perf_counter() - self.position.seconds

    def _open(self, resume: bool) -> checkpoint.Checkpoint | None:
        """Find the place to start: that of the checkpoint, whose weights the model takes, or the beginning."""
        found = self._latest()
        self.frozen = frozen_fingerprint(self.model) if self.out is not None else 0
        saved = checkpoint.read(found) if resume and found is not None else None
        self.taken, self.kept = found, saved is not None
        if saved is None:
            self.position, self.best = Position(), checkpoint.Tensors()
            if found is not None and self.main:
                log.warning("%s holds an earlier run; the first checkpoint of this one will replace it.", self.out)
        else:
            with checkpoint.reading(found or Path()):
                self._take(saved)
        if self.out is not None and self.main:
            checkpoint.tidy(self.out)
        self.metrics = MetricsLog(self.out if self.main else None, self.position, fresh=saved is None, beside=found)
        return saved

    def _take(self, saved: checkpoint.Checkpoint) -> None:
        """Position and weights of a checkpoint, if it is of this run."""
        check_resumable(self.config, self.samples, saved.state, self.out, self.settings, self.fingerprint)
        if self.main and None in (saved.state.get("data"), self.fingerprint):
            log.warning(
                "%s: it cannot be told whether it was started with the same data, as %s.",
                self.out,
                _untold(saved.state),
            )
        self.position, self.best = Position(**saved.state["position"]), saved.best
        check_fields(self.position)
        if saved.state["frozen"] != self.frozen:
            raise ArgumentError(
                f"the frozen parameters of the model are not those that the run in {self.out} was started with; "
                "load the same pretrained weights, or start anew without resume."
            )
        load_initial(self.model, saved.model)

    def _latest(self) -> Path | None:
        """The newest checkpoint that the main process sees, in all processes."""
        if self.out is None:
            return None
        path = checkpoint.latest(self.out)
        if self.processes == 1:
            return path
        own = torch.tensor(checkpoint.number(path) if path else 0, device=self.accelerator.device)
        number = int(cast("Tensor", broadcast(own)))
        return checkpoint.at(self.out, number) if number else None

    def _prepare(self, saved: checkpoint.Checkpoint | None) -> None:
        """Seed, let Accelerate prepare model and optimiser, and go on where the checkpoint left off."""
        if self.source is None:
            set_seed(self.config.seed, device_specific=True)
        self.optimizer = make_optimizer(self.model, self.config, self.parameter_groups)
        self.names = parameter_names(self.model, self.optimizer)
        self.groups = group_settings(self.optimizer)
        try:
            self.prepared, scaled = self.accelerator.prepare(self.model, self.optimizer)
        finally:
            if self.sharding is not None:
                self.sharding.done()
        # Accelerate's wrapper searches the disk for an optional package at every step; only a loss scaler needs it
        self.stepper = self.optimizer if self.accelerator.scaler is None else scaled
        if saved is not None:
            with checkpoint.reading(self.taken or Path()):
                self._restore(saved)
        for callback in self.callbacks:
            if (attach := getattr(callback, "attach", None)) is not None:
                attach(self.optimizer)

    def _restore(self, saved: checkpoint.Checkpoint) -> None:
        """Give the optimiser, the callbacks and the generators their states."""
        if saved.state["groups"] != self.groups:
            raise ArgumentError(
                f"the run in {self.out} was started with the parameter groups {saved.state['groups']}, now they are "
                f"{self.groups}; use the same, or start anew without resume."
            )
        checkpoint.load_optimizer_state(self.optimizer, self.names, saved.optimizer, saved.state["optimizer"])
        if self.accelerator.scaler is not None and saved.state["scaler"]:
            self.accelerator.scaler.load_state_dict(saved.state["scaler"])
        for callback, state in zip(self.callbacks, saved.state["callbacks"], strict=False):
            if state is not None:
                cast("Any", callback).load_state_dict(state)
        before = len(next(iter(saved.random.values())))
        if before == self.processes:
            own = {name: state[self.accelerator.process_index] for name, state in saved.random.items()}
            checkpoint.set_random_state(own, self.accelerator.device, self.source)
        elif self.main:
            log.warning(
                f"{self.out} was saved by {before} processes and goes on with {self.processes}: random draws such as "
                "dropout are not those of the uninterrupted run."
            )

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
        order = epoch_order(self.samples, config.seed, position.epoch).split(self.sizes)
        self.prepared.train()
        for batch in order[position.batch :]:
            self._step(batch)
            if position.batch == self.batches or self.ended is not None:
                break
            due = config.checkpoint_every is not None and position.step % config.checkpoint_every == 0
            if due or self._asked_to_stop:
                self._checkpoint()
        self._end_epoch()
        self._checkpoint()

    def _step(self, batch: Tensor) -> None:
        """One optimiser step on a global batch."""
        position, config, accelerator = self.position, self.config, self.accelerator
        lr = learning_rate(config, position.step, position.epoch, self.batches)
        if lr != self.lr:
            self.lr = lr
            for group, own in zip(self.optimizer.param_groups, self.groups, strict=True):
                group["lr"] = lr * (own["lr"] / config.lr)
        self.optimizer.zero_grad()
        *first, last = shards(batch, config.accumulation, self.processes, accelerator.process_index, self.least)
        total: Tensor | float = 0.0
        for part in first:
            with accelerator.no_sync(self.prepared):
                total += self._backward(part)
        total = self._backward(last) + total if first else self._backward(last)
        if not self.checked and self.processes > 1:
            self._check_used()
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

    def _backward(self, part: parts.Part) -> Tensor:
        """Add the gradient of a part of the batch; its weighted loss."""
        with torch.enable_grad(), parts.computing(part if self.processes > 1 else None):  # whatever is around
            value = _scalar(self.loss(self.prepared, self.read_batch(part.own)))
            if part.weight != 1:
                value = value * part.weight
            scaler = self.accelerator.scaler
            (value if scaler is None else cast("Tensor", scaler.scale(value))).backward()
        return value.detach()

    def _check_used(self) -> None:
        """Refuse a model of which a part never gets a gradient, for which several processes would wait."""
        self.checked = True
        idle = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if idle:
            raise ArgumentError(
                f"{', '.join(idle[:3])}{' and others' * (len(idle) > 3)} had no part in the loss of the first step, "
                "and several processes wait for all gradients; freeze what is not trained (requires_grad_(False)), or "
                "train in one process."
            )

    def _read_losses(self) -> None:
        """Bring the losses of the last steps to the CPU, one mean over all processes, and with them a wish to stop."""
        if not self.unread:
            return
        if len(self.unread) == self.processes == 1:
            losses = [self.unread[0].loss.item()]
        else:
            stop = self.unread[0].loss.new_tensor(float(self.interruption.requested))
            both = self.accelerator.reduce(torch.stack([item.loss for item in self.unread] + [stop]), "mean")
            *losses, asked = cast("Tensor", both).tolist()
            self.interruption.agreed = asked > 0
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
        self.agreed = True
        kept = f" The last good checkpoint stays in {self.out}." if self.kept else ""
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
            self.best = checkpoint.gathered(weights_of(self.model), keep=self.main)
        elif value is not None:
            position.stale += 1
        position.seconds = time.perf_counter() - self.start
        epoch, loss, seconds = position.epoch + 1, position.loss_sum / position.samples, round(position.seconds, 4)
        record = EpochRecord(epoch, position.step, self.lr, loss, value, metrics, seconds)
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
        with torch.no_grad(), nullcontext() if self.sharding is None else self.sharding.undone():
            result = self.validate(self.model)
        found = dict(result) if isinstance(result, dict) else {"loss": result}
        if "loss" not in found:
            raise ArgumentError(
                f'validate must return a number or a dictionary with the key "loss"; got keys {list(found)}.'
            )
        values = {name: float(value) for name, value in found.items()}
        if self.processes > 1:
            numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
            values = dict(zip(values, cast("Tensor", broadcast(numbers)).tolist(), strict=True))
        loss = values.pop("loss")
        if not math.isfinite(loss):
            raise self._diverged(f"the validation value after step {self.position.step} is {loss}")
        return loss, {name: value if math.isfinite(value) else None for name, value in values.items()}

    def put_together(self) -> None:
        """Make a model whole that was sharded: as it is, where all processes come here at once; after an error that
        only this one may know of, as it last was whole, at the start or for the last validation."""
        if self.sharding is not None:
            self.sharding.undo() if self.agreed else self.sharding.forget()
            self.sharding = None

    def restore_best(self) -> None:
        if self.position.best_epoch is not None:
            checkpoint.load_weights(self.model, weights_of(self.model), self.best)

    # -- what survives an interruption ---------------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Write the whole state, and stop if Ctrl-C asked for it; every process takes part, the main one writes."""
        self._read_losses()
        if self.out is not None:
            self._write(self.out)
        if self._asked_to_stop:
            self.agreed = True
            where = "without `out`, nothing was saved" if self.out is None else f"resume=True goes on from {self.out}"
            raise Stopped(f"training stopped after step {self.position.step}", where, kept=self.out is not None)

    def _write(self, out: Path) -> None:
        position, main = self.position, self.main
        not_finite = [
            name for name, weight in self.model.named_parameters() if weight.requires_grad and not is_finite(weight)
        ]
        if self._anywhere(bool(not_finite)):
            names = ", ".join(not_finite[:3]) or "of another process"
            raise self._diverged(f"weights are no longer finite after step {position.step}: {names}")
        model = checkpoint.gathered(weights_of(self.model), keep=main)
        if have_joined(self.groups, self.optimizer):  # as an adapter has grown
            self.names = parameter_names(self.model, self.optimizer)
        optimizer, numbers = checkpoint.optimizer_state(self.optimizer, self.names, keep=main)
        random = {
            name: cast("Tensor", self.accelerator.gather(state[None].to(self.accelerator.device))).cpu()
            for name, state in checkpoint.random_state(self.accelerator.device, self.source).items()
        }
        if main:
            position.seconds = time.perf_counter() - self.start
            self.metrics.sync(position)
            scaler = self.accelerator.scaler
            state = {
                "config": asdict(self.config),
                "data_samples": self.samples,
                "data": self.fingerprint,
                "settings": self.settings,
                "position": asdict(position),
                "optimizer": numbers,
                "scaler": None if scaler is None else scaler.state_dict(),
                "versions": versions(),
                "frozen": self.frozen,
                "groups": self.groups,
                "callbacks": [c.state_dict() if hasattr(c, "state_dict") else None for c in self.callbacks],
            }
            checkpoint.write(out, checkpoint.Checkpoint(state, model, optimizer, random, self.best))
            self.metrics.commit()
        self.kept = True

    @property
    def _asked_to_stop(self) -> bool:
        """Ctrl-C in this process, or in one of several once they all know of it."""
        return self.interruption.requested if self.processes == 1 else self.interruption.agreed

    def _anywhere(self, condition: bool) -> bool:
        """Whether the condition holds in any process."""
        if self.processes == 1:
            return condition
        count = self.accelerator.reduce(torch.tensor(float(condition), device=self.accelerator.device))
        return float(cast("Tensor", count)) > 0

    # -- progress ------------------------------------------------------------------------------------------------------

    def progress(self, description: str) -> Progress:
        console = Console(stderr=True)
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # in a narrow terminal, the last to have room
        columns = (
            TextColumn("{task.description}"),
            BarColumn(12),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
        )
        state = TextColumn("{task.fields[state]}", table_column=rest)
        hidden = not (self.main and console.is_terminal)
        bar = Progress(*columns, state, console=console, expand=True, disable=hidden)
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
        state = "  ".join(part for part in (mean, best, f"epoch {epoch}/{epochs}", f"lr {self.lr:.2g}") if part)
        self.bar.update(self.bar.task_ids[0], completed=position.step, state=state)


def _scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"loss(model, batch) must return a scalar tensor that depends on the model's parameters, got {what}; "
            "return the mean over the batch."
        )
    return value


def _untold(saved: dict[str, Any]) -> str:
    """Why the data of a checkpoint are not compared."""
    if "data" not in saved:
        return "it is of an older linmap"
    return "samples of the data set change from reading to reading; a method fingerprinted() may say what it holds"
