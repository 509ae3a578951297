"""A small ViT trained on MNIST, then compressed without training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from linmap.artifacts import write_tensors
from linmap.compress.token_transforming import Compressed, TokenTransform
from linmap.compress.token_transforming.evaluation.images import ACCURACY
from linmap.compress.token_transforming.evaluation.measuring import Task
from linmap.compress.token_transforming.evaluation.subject import Subject, plain_macs
from linmap.compress.token_transforming.evaluation.ways import PAIRS
from linmap.compress.vision_transformer import VisionTransformer
from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.experiment import Part, draw_all
from linmap.training import TrainingConfig, train
from studies.study import Findings, Job
from studies.token_transforming.common import ahead, all_ways, differences, drawn, kept, ran

BATCH = 500
POSITIONS = 0.5
"""Deviation that positions start with; chosen on 2,000 digits that are neither trained nor tested on."""
MEAN, DEVIATION = 0.1307, 0.3081
"""Of all pixels of MNIST, from 0 to 1."""
FILES = ("mnist/mnist_12k.npz", "mnist/mnist_3k.npz")


@dataclass(frozen=True)
class Budget:
    """Tokens that go in every block, or blocks that halve them."""

    r: int = 0
    halved: tuple[int, ...] = ()

    def options(self) -> dict[str, Any]:
        """For `compress`."""
        return {"r": self.r} if self.r else {"stages": (0.5, self.halved)}


BUDGETS = {"5 a block": Budget(5), "7 a block": Budget(7), "halved in blocks 1, 2, 3": Budget(halved=(1, 2, 3))}


class Shifted(Dataset):
    """Images moved by up to two pixels each time they are read, from PyTorch's global generator."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = torch.nn.functional.pad(images, (2, 2, 2, 2), value=float(images.min()))  # more background
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        moves = torch.randint(0, 5, (len(indices), 2)).tolist()
        moved = [self.images[i, :, y : y + 28, x : x + 28] for i, (y, x) in zip(indices, moves, strict=True)]
        return torch.stack(moved), self.labels[indices]


class Digits(Subject):
    """The trained network, asked for the class of every digit."""

    what = "digits"
    places = "the blocks of each budget"

    def __init__(self, model: VisionTransformer, images: Tensor, labels: Tensor) -> None:
        self.model: VisionTransformer = model
        self.images, self.labels = images, labels
        self.names, self.measures, self.depth = [str(i) for i in range(len(labels))], (ACCURACY,), len(model.blocks)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / BATCH)

    @torch.no_grad()
    def forward(self, batch: int) -> Tensor:
        return self.model(**self.example(batch))

    def features(self, batch: int, handle: Compressed | None = None) -> dict[str, Tensor]:
        return {"logits": self.forward(batch)}

    def example(self, batch: int) -> dict[str, Any]:
        return {"x": self.images[batch * BATCH : (batch + 1) * BATCH]}

    def budget(self, transform: TokenTransform, keep: Any, at: Sequence[int] | None) -> dict[str, Any]:
        return keep.options()

    def scores(self, before: dict[str, Tensor], after: dict[str, Tensor], batch: int) -> dict[str, list[float]]:
        labels = self.labels[batch * BATCH : (batch + 1) * BATCH]
        return {ACCURACY.name: (after["logits"].argmax(-1) == labels).double().tolist()}

    def macs(self, handle: Compressed | None) -> float:
        n = self.model.n_tokens
        return float(plain_macs(self.model, n) if handle is None else handle.macs(n))


def run(job: Job) -> Findings:
    """Ten epochs of 6,000 digits, then 2,000 others."""
    (train_images, train_labels), test = digits()
    epochs, rows, held = (1, 64, 40) if job.tiny else (10, 6000, 2000)
    rows = min(rows, len(train_labels))
    model = trained(train_images[:rows], train_labels[:rows], epochs, job.out)
    subject = Digits(model, test[0][:held], test[1][:held])
    ways = list(all_ways())[: 3 if job.tiny else None]
    task = Task(subject, ways, [1.0], repeats=0)
    parts = [Part(name, budget) for name, budget in BUDGETS.items()]
    runs = ran(job, task, {"epochs": epochs, "rows": rows}, parts)
    tables = [kept(task, runs), differences(task, runs, [ACCURACY.name])]
    setting = (
        f"A ViT of patches of 4 (50 tokens), width 64, 6 blocks, 4 heads, trained {epochs} epochs on {rows:,} digits "
        f"of MNIST; accuracy on {len(subject.names):,} others, nothing trained again. Pairs (of {' and '.join(PAIRS)} "
        "matching) halve the tokens as well."
    )
    pictures, notes = draw_all([(job.out / "curves.svg", partial(drawn, runs, ACCURACY, task.bound(runs)))])
    return Findings(setting, tables, ahead(runs, ACCURACY.name, "higher", 0.01, 0.495), notes, pictures)


def trained(images: Tensor, labels: Tensor, epochs: int, out: Path) -> VisionTransformer:
    """The network in eval mode; trained once, then read from the protocol's folder."""
    from safetensors.torch import load_file

    model = VisionTransformer(28, 4, 1, 10, 64, 6, 4, generator=torch.Generator().manual_seed(0))
    path = out / f"vit-{epochs}-{len(labels)}-positions.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()  # a deviation of .02, made for wide models, learns too slowly at width 64
    with torch.no_grad():
        model.pos_embed.normal_(0, POSITIONS, generator=torch.Generator().manual_seed(1))
    config = TrainingConfig(
        epochs=epochs, batch_size=64, lr=1e-3, optimizer="adamw", weight_decay=0.05, schedule="cosine",
        warmup_steps=math.ceil(len(labels) / 64),  # the first pass
    )  # fmt: skip
    loss = torch.nn.functional.cross_entropy
    train(model, lambda net, batch: loss(net(batch[0]), batch[1]), Shifted(images, labels), config=config)
    write_tensors(path, {name: tensor.contiguous() for name, tensor in model.state_dict().items()})
    return model.eval()


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images, normalised, and their classes; the larger file where it is there."""
    for name in FILES:
        try:
            path = find(name, "")
        except FileNotFoundError:
            continue
        arrays = read_npz(path, ("x_train", "y_train", "x_test", "y_test"))
        break
    else:
        raise FileNotFoundError(FILES[-1])

    def pair(part: str) -> tuple[Tensor, Tensor]:
        values = (arrays[f"x_{part}"].astype(np.float32)[:, None] / 255 - MEAN) / DEVIATION
        return torch.from_numpy(values), torch.from_numpy(arrays[f"y_{part}"].astype(np.int64))

    return pair("train"), pair("test")
