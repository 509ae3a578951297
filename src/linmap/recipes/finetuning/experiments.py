"""Training one arm of a comparison on a task, measured.

An arm is a way to make a model trainable; a task is data, a loss and what is measured.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.errors import ArgumentError, DivergenceError
from linmap.experiment.result import Metric
from linmap.maps import TriangularPair
from linmap.recipes.finetuning.fitting import parameter_groups
from linmap.training import TrainingConfig, train

WARM_STEPS = 3  # left out of the time of a step
ADAM_COPIES = 4  # a trained weight, its gradient and its two moments


class Steering(NamedTuple):
    """What acts on a model between the steps, and the rank of every layer where ranks grow."""

    callback: Callable[[nn.Module, int], object]
    ranks: Callable[[], dict[str, int]] | None = None


@dataclass(frozen=True)
class Arm:
    """One method of a comparison."""

    name: str
    kind: Literal["system", "baseline", "ablation"]
    adapt: Callable[[nn.Module, int], nn.Module]
    """(model, steps) -> the model with what is to be trained requiring a gradient."""
    note: str = ""
    lr_scale: float = 1.0
    """Of the learning rates that all arms share: full tuning needs smaller ones. 0 if the task's own rate is all."""
    steer: Callable[[nn.Module, int, int], Steering] | None = None
    """(model, steps, seed) -> what acts between the steps."""
    penalty: Callable[[nn.Module], Tensor] | None = None
    """What the method adds to the loss in training; not part of the losses that are reported."""

    def grid(self, lrs: Sequence[float]) -> tuple[float, ...]:
        """The learning rates to choose from."""
        return tuple(float(f"{lr * self.lr_scale:.6g}") for lr in lrs) if self.lr_scale else (0.0,)


class Task:
    """Data, a model and a loss, on which arms are compared."""

    slug: str
    name: str
    metrics: list[Metric]
    """What a run is judged by; the first one is a loss."""
    steps: int
    pilot_steps: int
    """Steps of the runs by which a learning rate is picked."""
    checkpoints: tuple[int, ...]
    """Steps after which a full run is validated, the last one included."""
    shown_steps: tuple[int, ...]
    """Steps whose loss a table shows."""
    window: int
    """Steps over which a training loss is averaged before it is shown."""
    head_lr: float = 1.0
    """Learning rate of a classification head."""

    def settings(self) -> dict[str, Any]:
        """What a finished run depends on, beside its arm, rate, seed and steps."""
        raise NotImplementedError

    def model(self, seed: int) -> nn.Module:
        """The pretrained model, before an arm makes something of it trainable."""
        raise NotImplementedError

    def batches(self, seed: int) -> BatchesByLength:
        """The training batches, ready for the model."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        raise NotImplementedError

    def validation_loss(self, model: nn.Module) -> float:
        raise NotImplementedError

    def scores(self, model: nn.Module) -> dict[str, float]:
        """What the trained model reaches on test data; never looked at to choose anything."""
        return {}

    # -- for the report ------------------------------------------------------------------------------------------------

    def loss_at(self, run: Run, step: int) -> float:
        """The loss that arms are compared by, after a step."""
        raise NotImplementedError

    def values(self, run: Run) -> dict[str, float]:
        """A run's value of every metric."""
        raise NotImplementedError

    def described(self) -> str:
        """Model, data and budget."""
        raise NotImplementedError

    def caveats(self, runs: Sequence[Run]) -> list[str]:
        """What not to conclude."""
        raise NotImplementedError


@dataclass(frozen=True)
class Run:
    """One training, measured."""

    arm: str
    lr: float
    seed: int
    steps: int
    losses: list[float] = field(default_factory=list)
    """Of every step's batch."""
    validation: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss); the last one is NaN where the training diverged."""
    scores: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    """Trained ones that the finished model uses."""
    step_seconds: float = 0.0
    """Median time of a step, validation not counted."""
    memory: int = 0
    """Bytes of what is trained with its gradients and moments, and of what the first batch keeps for backward."""
    ranks: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """(step, rank of every layer), whenever they changed."""

    @property
    def final(self) -> float:
        """The last validation loss; NaN if the training diverged."""
        return self.validation[-1][1]


def check_flags(settings: Any) -> None:
    """Every number of a comparison is positive, and no list is empty.

    Raises
    ------
    ValueError
        Naming the flag.
    """
    for name, value in vars(settings).items():
        if value == ():
            raise ArgumentError(f"{name} is empty; give one value or more.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not (number > 0 and math.isfinite(number)):
                raise ArgumentError(f"{name} must be positive, got {number}.")


# -- one run ----------------------------------------------------------------------------------------------------------


class Recorder:
    """A task's loss, with its value, its time and its memory noted; as a callback, the validation at fixed steps."""

    def __init__(self, task: Task, arm: Arm, checkpoints: Sequence[int], steering: Steering | None) -> None:
        self.task, self.arm, self.checkpoints, self.steering = task, arm, set(checkpoints), steering
        self.losses: list[float] = []
        self.times: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.ranks: list[tuple[int, dict[str, int]]] = []
        self.kept = 0
        self.note_ranks(0)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.start = time.perf_counter()
        if self.losses:
            loss = self.task.loss(model, batch)
        else:
            kept = KeptForBackward(model)
            with kept:
                loss = self.task.loss(model, batch)
            self.kept = kept.total
        self.losses.append(float(loss.detach()))
        return loss if self.arm.penalty is None else loss + self.arm.penalty(model)

    def __call__(self, model: nn.Module, step: int) -> None:
        self.times.append(time.perf_counter() - self.start)
        self.note_ranks(step)
        if step in self.checkpoints:
            self.validation.append((step, validated(self.task, model)))

    def note_ranks(self, step: int) -> None:
        if self.steering and self.steering.ranks:
            ranks = dict(self.steering.ranks())
            if not self.ranks or self.ranks[-1][1] != ranks:
                self.ranks.append((step, ranks))


class KeptForBackward(torch.autograd.graph.saved_tensors_hooks):
    """Sums the bytes of the storages that a forward pass keeps for its backward pass, the model's own not counted."""

    def __init__(self, model: nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        self.seen, self.total = {tensor.untyped_storage().data_ptr() for tensor in own}, 0
        super().__init__(self.pack, lambda tensor: tensor)

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:  # what is kept stays alive, so an address stands for one storage
            self.seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


@torch.no_grad()
def validated(task: Task, model: nn.Module) -> float:
    training = model.training
    model.eval()
    try:
        return task.validation_loss(model)
    finally:
        model.train(training)


def execute(task: Task, arm: Arm, lr: float, seed: int, steps: int) -> Run:
    """Train one arm and measure it."""
    torch.manual_seed(seed)
    model = arm.adapt(task.model(seed), steps)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        return Run(arm.name, lr, seed, 0, validation=[(0, validated(task, model))], scores=measured(task, model))
    torch.manual_seed(seed)
    steering = arm.steer(model, steps, seed) if arm.steer else None
    recorder = Recorder(task, arm, [step for step in task.checkpoints if step < steps] + [steps], steering)
    data = task.batches(seed)
    config = TrainingConfig(
        epochs=math.ceil(steps / len(data)), max_steps=steps, batch_size=1, lr=lr or 1.0, optimizer="adamw",
        schedule="linear", warmup_steps=steps // 10, seed=seed,
    )  # fmt: skip
    scores: dict[str, float] = {}
    try:
        train(
            model, recorder.loss, data, config=config, description=f"{arm.name}, seed {seed}",
            callbacks=[steering.callback, recorder] if steering else [recorder],
            parameter_groups=partial(parameter_groups, head_lr=task.head_lr),
        )  # fmt: skip
        scores = measured(task, model)
    except DivergenceError:
        recorder.validation.append((steps, math.nan))
    return Run(
        arm.name, lr, seed, steps, recorder.losses, recorder.validation, scores,
        parameters=used_parameters(model, trained),
        step_seconds=statistics.median(recorder.times[WARM_STEPS:] or recorder.times or [0.0]),
        memory=recorder.kept + ADAM_COPIES * sum(weight.numel() * weight.element_size() for weight in trained),
        ranks=recorder.ranks,
    )  # fmt: skip


@torch.no_grad()
def measured(task: Task, model: nn.Module) -> dict[str, float]:
    model.eval()
    return task.scores(model)


def used_parameters(model: nn.Module, trained: list[nn.Parameter]) -> int:
    """Trained parameters, less the room that growing adapters keep and have not used."""
    total = sum(parameter.numel() for parameter in trained)
    for module in model.modules():
        if isinstance(module, TriangularPair):
            R = module.rank
            used = R * (module.in_features + module.out_features) + R * (R + 1)
            total += used - sum(parameter.numel() for parameter in module.parameters())
    return total


# -- batches ---------------------------------------------------------------------------------------------------------


class BatchesByLength(Dataset):
    """Batches of samples of about the same length, so that little is padded; which ones meet is drawn with a seed.

    Parameters
    ----------
    data
        Its `__getitems__(indices)` is a batch that is ready.
    lengths
        Of its samples.
    batch_size
        Samples of a batch; those that are left over make a smaller one.
    seed
        Of the draw.
    """

    POOL = 8  # batches that are sorted together

    def __init__(self, data: Any, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
        pools = [sorted(pool.tolist(), key=lambda i: lengths[i]) for pool in order.split(batch_size * self.POOL)]
        self.data = data
        self.batches = [pool[i : i + batch_size] for pool in pools for i in range(0, len(pool), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.data.__getitems__(self.batches[index])

    def __getitems__(self, indices: list[int]) -> Any:
        (index,) = indices
        return self[index]
