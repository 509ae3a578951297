"""A small regression with every source of randomness in it; run as a script, it trains in its own process.

`python problem.py OUT JSON`: JSON holds the fields of TrainingConfig and, under "script", what to do besides.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType, PartialState
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from linmap.training import TrainingConfig, TrainingHistory, checkpoint, mean_loss, train
from two_processes import end


def make_data(samples: int = 53) -> TensorDataset:
    """Float64, so that the order of sums over processes costs no accuracy."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 5, generator=generator, dtype=torch.float64)
    return TensorDataset(x, x.sin().sum(1, keepdim=True))


def make_model(dropout: float = 0.3, normalised: bool = False) -> nn.Sequential:
    torch.manual_seed(2)
    norm = nn.BatchNorm1d(8) if dropout or normalised else nn.Identity()
    return nn.Sequential(nn.Linear(5, 8), norm, nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, 1)).double()


def squared_error(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    x, y = batch
    return (model(x) - y).square().mean()


def noisy_squared_error(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Draws from all three global generators."""
    noise = 0.01 * np.random.normal() + 0.01 * random.gauss(0, 1)  # noqa: NPY002
    return squared_error(model, (batch[0] + noise, batch[1]))


def validation(model: nn.Module) -> dict[str, float]:
    return {"loss": mean_loss(model, squared_error, make_data(20)), "twice": 2.0}


def run(
    out: Path | None, *, resume: bool = False, callbacks: tuple = (), **config: Any
) -> tuple[nn.Sequential, TrainingHistory]:
    model = make_model()
    settings = TrainingConfig(**({"epochs": 3, "batch_size": 8, "lr": 0.01, "checkpoint_every": 4} | config))
    history = train(
        model,
        noisy_squared_error,
        make_data(),
        config=settings,
        validate=validation,
        out=out,
        resume=resume,
        callbacks=callbacks,
    )
    return model, history


def newest(out: Path) -> Path:
    """The checkpoint of a run, which must have one."""
    found = checkpoint.latest(out)
    assert found is not None
    return found


def main(out: Path, config: dict) -> None:
    script = config.pop("script", {})
    if "kill_at" in script:

        def kill(model: nn.Module, step: int) -> None:
            if step == script["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)

        run(out / "whole", **config)
        run(out / "killed", callbacks=(kill,), **config)
    elif "cases" in script:
        compute_cases(out, script["cases"])
        end()
    else:
        run(out, resume=script.get("resume", False), **config)


def compute_cases(out: Path, cases: list[dict]) -> None:
    """Train each case without randomness in `out`/its name."""
    if os.environ.get("ACCELERATE_USE_FSDP"):
        # Accelerate shards only on the devices of a list that lacks the CPU; PyTorch itself does it there with gloo
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    for case in cases:
        train_case(out / case["name"], **{key: value for key, value in case.items() if key != "name"})


def train_case(
    out: Path,
    *,
    samples: int = 53,
    normalised: bool = False,
    idle: bool = False,
    resume: bool = False,
    interrupt: tuple[int, int] | None = None,
    **config: Any,
) -> tuple[nn.Module, TrainingHistory] | None:
    """`interrupt` is the process and the step that get Ctrl-C; why a run stopped is written beside its folder."""

    def press_control_c(model: nn.Module, step: int) -> None:
        if interrupt is not None and (PartialState().process_index, step) == tuple(interrupt):
            signal.raise_signal(signal.SIGINT)

    model = make_model(dropout=0.0, normalised=normalised)
    if idle:
        model.register_parameter("idle", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    settings = TrainingConfig(**({"epochs": 3, "batch_size": 8, "lr": 0.01} | config))
    try:
        return model, train(
            model,
            squared_error,
            make_data(samples),
            config=settings,
            out=out,
            resume=resume,
            validate=lambda model: mean_loss(model, squared_error, make_data(20)),
            callbacks=(press_control_c,),
        )
    except (KeyboardInterrupt, ValueError) as stopped:
        out.with_name(f"{out.name} {PartialState().process_index}.txt").write_text(str(stopped))
        return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
