"""A small model, and training it, for the tests of this folder."""

from functools import partial

import torch
from torch import nn

from adapt.cases import with_adapter
from linmap.adapt import RankAllocator, TriAdaptLoraConfig
from typed import of_class


class Net(nn.Module):
    """A few layers of different widths, one after the other."""

    def __init__(self, widths=(6, 8, 7, 9, 5), names=None):
        super().__init__()
        n = len(widths) - 1
        self.names = names or [f"layer{i}" for i in range(n)]
        for i in sorted(range(n), key=lambda i: self.names[i]) if names is None else range(n):
            setattr(self, self.names[i], nn.Linear(widths[i], widths[i + 1]))

    def forward(self, x):
        for name in self.names:
            x = torch.tanh(getattr(self, name)(x))
        return x


configured = partial(TriAdaptLoraConfig, target_modules=r".*layer\d", reference_rank=3, incre_rank_num=1, total_step=12)


def adapted(dtype=torch.float64, seed=0, net=Net, **options):
    """A PEFT model with its allocator."""
    torch.manual_seed(seed)
    config = configured(**options)
    model = with_adapter(net().to(dtype), config)
    return model, RankAllocator(model, config)


def config_of(model, adapter_name="default"):
    """The configuration of an adapter, in which its ranks are kept."""
    return of_class(TriAdaptLoraConfig, model.peft_config[adapter_name])


def trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def batch(step, dtype=torch.float64, n_in=6, n_out=5):
    generator = torch.Generator().manual_seed(1000 + step)
    return (torch.randn(16, size, generator=generator).to(dtype) for size in (n_in, n_out))


def train(model, allocator, optimizer, steps, pass_optimizer=True):
    """One step at a time, each on data of its own."""
    for step in steps:
        x, y = batch(step, next(model.parameters()).dtype)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        allocator.step(step, *([optimizer] if pass_optimizer else []))


def dense(adapter):
    """dW of an adapter, from its parameters by the definition."""
    map, R = adapter.map, adapter.rank
    C = map.lower[:R, :R].tril() + map.upper[:R, :R].triu()
    s = adapter.alpha / (R + 1e-5) if adapter.scaling == "rank" else adapter.alpha / adapter.reference_rank
    return s * map.B[:, :R] @ C @ map.A[:R]


def randomise(adapter, seed=0):
    """Give all pieces in use values of their own."""
    generator = torch.Generator().manual_seed(seed)
    R = adapter.rank
    with torch.no_grad():
        for name, (rows, columns) in {"A": (R, None), "B": (None, R), "lower": (R, R), "upper": (R, R)}.items():
            part = getattr(adapter.map, name)[:rows, :columns]
            part.copy_(torch.randn(part.shape, generator=generator))
            if name == "lower":
                part.tril_()
            if name == "upper":
                part.triu_()
