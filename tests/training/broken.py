"""Training that ends by an error, in one of several processes under FSDP2: is the model whole afterwards?

`python broken.py OUT` writes the model and the error of each case.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from linmap.training import TrainingConfig, mean_loss, train
from training.problem import make_data, make_model, squared_error

STEP, EPOCHS = 5, 3
CONFIG: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 8, "lr": 0.01}


class OddError(Exception):
    """None of those that the loop knows."""


def model_of() -> nn.Sequential:
    return make_model(dropout=0.0)


def failing_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    failing_loss.calls += 1
    if failing_loss.calls == STEP:
        raise OddError("of the loss")
    return squared_error(model, batch)


failing_loss.calls = 0


def in_callback(model: nn.Module, step: int) -> None:
    if step == STEP:
        raise OddError("of the callback")


def in_second_validation() -> Callable[[nn.Module], float]:
    calls = []

    def validate(model: nn.Module) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise OddError("of the validation")
        return mean_loss(model, squared_error, make_data(20))

    return validate


def control_c(model: nn.Module, step: int) -> None:
    if (PartialState().process_index, step) == (1, STEP):
        signal.raise_signal(signal.SIGINT)


def twice_control_c(model: nn.Module, step: int) -> None:
    if step == STEP:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    first, *others = model.parameters()
    return [{"params": [first], "lr": 0.1}, {"params": others}]


CASES: dict[str, dict[str, Any]] = {
    "loss": {"loss": failing_loss},
    "callback": {"callbacks": (in_callback,)},
    "validation": {"validate": in_second_validation()},
    "control c": {"callbacks": (control_c,)},
    "twice control c": {"callbacks": (twice_control_c,)},
    "diverged": {"lr": 1e200, "optimizer": "sgd"},
    "other groups": {"resume": True, "parameter_groups": two_groups},
}


def broken(out: Path, name: str, *, loss: Any = squared_error, **options: Any) -> str:
    """The error of a case, whose model is written; then the model is trained in one go."""
    model, data = model_of(), make_data()
    before = [(type(module), set(vars(module))) for module in model.modules()]
    config = TrainingConfig(**CONFIG | {key: options.pop(key) for key in ("lr", "optimizer") if key in options})
    if "resume" in options:
        train(model_of(), squared_error, data, config=config, out=out / name)
    try:
        train(model, loss, data, config=config, out=out / name, **options)
    except (Exception, KeyboardInterrupt) as error:
        said = f"{type(error).__name__}: {error}"
    assert [(type(module), set(vars(module))) for module in model.modules()] == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    keep(model, out / f"{name} broken")
    if name not in ("diverged", "one"):
        train(model, squared_error, data, config=config)
        keep(model, out / f"{name} again")
    return said


def keep(model: nn.Module, path: Path) -> None:
    rank = os.environ.get("RANK", "0")
    save_file({name: value.clone() for name, value in model.state_dict().items()}, f"{path} {rank}.safetensors")


def in_one(model: nn.Module, step: int) -> None:
    if (PartialState().process_index, step) == (1, STEP):
        raise OddError("of one process")


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    PartialState(cpu=True)
    # Accelerate shards only on the devices of a list that lacks the CPU; PyTorch itself does it there with gloo
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    rank = os.environ["RANK"]
    for name, case in CASES.items():
        (out / f"{name} {rank}.txt").write_text(broken(out, name, **case))
    torch.distributed.barrier()
    (out / f"one {rank}.txt").write_text(broken(out, "one", callbacks=(in_one,)))
    os._exit(0)  # which ends the waiting of the other


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
