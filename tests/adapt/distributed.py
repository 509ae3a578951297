"""Train every method on a small language model; run as a script by the processes of a launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate import DistributedType, PartialState
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from adapt.cases import METHODS, adapted, llama, tokens
from linmap.adapt import RankAllocator, TriAdaptLoraConfig
from linmap.training import TrainingConfig, train
from two_processes import end
from typed import of_class

GROWING = "triadaptlora growing"


def language_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    return model(input_ids=batch[0], labels=batch[0]).loss


def train_method(method: str, out: Path) -> dict[str, int] | None:
    """Eight steps; the ranks afterwards where they grow."""
    growing = method == GROWING
    fields = {"growth": "linear", "total_step": 8, "scaling": "rank", "grow_init": "paper"} if growing else {}
    model = adapted(llama(), "triadaptlora" if growing else method, **fields)
    allocator = RankAllocator(model, of_class(TriAdaptLoraConfig, model.peft_config["default"])) if growing else None
    config = TrainingConfig(epochs=2, batch_size=4, lr=1e-2, optimizer="adamw", weight_decay=0.1)
    data = TensorDataset(tokens(rows=16, length=9))
    train(model, language_loss, data, config=config, out=out, callbacks=[allocator] if allocator else [])
    return allocator.ranks() if allocator else None


def main(out: Path) -> None:
    if os.environ.get("ACCELERATE_USE_FSDP"):
        # Accelerate shards only on the devices of a list that lacks the CPU; PyTorch itself does it there with gloo
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    for method in (*METHODS, GROWING):
        train_method(method, out / method)
    end()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
