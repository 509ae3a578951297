"""Small models of one kind of layer each, and the methods of the room that take it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapt.cases import METHODS as PLAIN
from adapt.cases import move, with_adapter
from linmap.adapt import SaltConfig, TriAdaptLoraConfig
from linmap.adapt.layer import AdapterLayer

METHODS: dict[str, Callable[..., PeftConfig]] = PLAIN | {
    "triadaptlora append": partial(TriAdaptLoraConfig, reference_rank=3, init_rank=2, growth="none", storage="append"),
    "salt basis": partial(SaltConfig, ratio=0.2, r=3, save_basis=True, also_train=()),
    "salt delta": partial(SaltConfig, ratio=0.2, r=3, save="delta", also_train=()),
}


class Model(nn.Module):
    """Two layers to adapt, "first" and "last" (or one), then a middle and a head."""

    def __init__(self, first: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.tanh(self.first(x)))
        return self.head(self.middle(y.movedim(-3, -1).mean((1, 2)) if y.ndim == 4 else y))


KINDS: dict[str, tuple[Callable[[], Model], tuple[int, ...]]] = {
    "Linear": (lambda: Model(nn.Linear(12, 20), nn.Linear(20, 8, bias=False)), (5, 12)),
    "Conv1D": (lambda: Model(Conv1D(20, 12), Conv1D(8, 20)), (5, 12)),
    "Conv2d": (lambda: Model(nn.Conv2d(4, 12, 3, padding=1, stride=2), nn.Conv2d(12, 8, 1)), (3, 4, 6, 6)),
    "Embedding": (lambda: Model(nn.Embedding(20, 12), nn.Linear(12, 8)), (5,)),
}
CASES = [
    (method, kind)
    for kind in KINDS
    for method in METHODS
    if (kind != "Embedding" or method == "bone add") and (kind == "Linear" or method in PLAIN)
]


def base(kind: str, dtype: torch.dtype = torch.float64) -> Model:
    torch.manual_seed(0)
    return KINDS[kind][0]().to(dtype).eval()


def inputs(kind: str, dtype: torch.dtype = torch.float64) -> Tensor:
    generator, shape = torch.Generator().manual_seed(3), KINDS[kind][1]
    if kind == "Embedding":
        return torch.randint(0, 20, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def config(method: str, kind: str, **fields: Any) -> PeftConfig:
    targets = ["first"] if kind == "Embedding" else ["first", "last"]
    return METHODS[method](**({"target_modules": targets} | fields))


def adapted(
    method: str, kind: str, *, trained: bool = True, dtype: torch.dtype = torch.float64, **fields: Any
) -> PeftModel:
    """The model of a kind with one adapter "default"; `trained` moves it away from its start."""
    torch.manual_seed(1)
    model = with_adapter(base(kind, dtype), config(method, kind, **fields))
    if trained:
        move(model)
    return model.eval()


def with_second(model: PeftModel, method: str, kind: str, **fields: Any) -> PeftModel:
    """The same model with a trained adapter "second" beside the others."""
    torch.manual_seed(2)
    model.add_adapter("second", config(method, kind, **fields))
    move(model, "second", seed=2)
    return model.eval()


def layers(model: nn.Module) -> list[AdapterLayer]:
    return [module for module in model.modules() if isinstance(module, AdapterLayer)]


def output(model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(x, **options)
