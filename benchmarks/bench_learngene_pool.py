"""A step of pool tuning against the forward and backward passes of the drawn models alone, one after the other.

`LearngenePool.fit` draws a model, runs it, and steps AdamW on its parameters; the peer runs the same models, built
before, without optimiser, draws or checks. "ratio" is the peer's time over linmap's; the bar of 0.91 is an overhead of
10 %. Least squares over batches is set against one solve of all rows in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.measure import Measurement, compare, peak_memory
from linmap.compress.learngene_pool import LearngenePool, VisionTransformer, draw
from linmap.training import TrainingConfig

BAR = 0.91
POOLS = {
    "digits: 17 tokens, widths 32 and 96, 3 blocks": (28, 7, 1, (32, 96), 3, 48, 32),
    "98 x 98 images: 50 tokens, widths 96, 192 and 384, 3 blocks": (98, 14, 3, (96, 192, 384), 3, 8, 16),
}
"""Image size, patch size, channels, widths, depth, steps, and images of a step."""


def run() -> list[Measurement]:
    return [*(tuning(what, *sizes) for what, sizes in POOLS.items()), least_squares()]


def pool_of(size: int, patch: int, channels: int, widths: tuple[int, ...], depth: int) -> LearngenePool:
    generator = torch.Generator().manual_seed(0)
    heads = (2, 3, 6) if len(widths) == 3 else (2, 3)
    return LearngenePool(
        [
            VisionTransformer(size, patch, channels, 10, dim, depth, h, generator=generator)
            for dim, h in zip(widths, heads, strict=True)
        ]
    )


def tuning(
    what: str, size: int, patch: int, channels: int, widths: tuple[int, ...], depth: int, steps: int, batch: int
) -> Measurement:
    pool = pool_of(size, patch, channels, widths, depth)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps * batch, channels, size, size, generator=generator)
    y = torch.randint(10, (len(x),), generator=generator)
    data = TensorDataset(x, y)
    config = TrainingConfig(epochs=1, batch_size=batch, lr=1e-5, optimizer="adamw", weight_decay=0.05)
    drawn = [draw(step, len(pool.configs))[0] for step in range(steps)]
    models = {id: pool.build(id).train() for id in drawn}

    def alone() -> None:
        for id, images, classes in zip(drawn, x.split(batch), y.split(batch), strict=True):
            models[id].zero_grad()
            F.cross_entropy(models[id](images), classes).backward()

    return compare(
        f"{steps} steps, {what}", lambda: pool.fit(data, config=config), "the models alone", alone, bar=BAR,
        repeats=7, warm_up=1,
    )  # fmt: skip


def least_squares() -> Measurement:
    pool = pool_of(28, 7, 1, (32, 96), 3)
    x = torch.randn(1024, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def stitched(data: object) -> Callable[[], None]:
        return lambda: pool.init_stitches("lstsq", data=data)  # pyright: ignore[reportArgumentType]

    def batches(count: int) -> list[Tensor]:
        return list(x[: 64 * count].split(64))

    few, many = (peak_memory(stitched(batches(count))) for count in (2, 16))
    whole = peak_memory(stitched(x))
    note = f"peak memory: {many / few:.2f} of that at 2 batches, {many / whole:.2f} of one solve's"
    return compare(
        "stitches from 1024 images, 16 batches", stitched(batches(16)), "one solve", stitched(x), memory=many, note=note
    )
