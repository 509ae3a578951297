"""DINOv2-small as a whole, compressed at blocks 3, 6 and 9 and restored at the end: against itself, and against ToMe.

ToMe takes the same path through the model (`select="bipartite", assign="hard"`), at equal numbers of tokens; below half
of the tokens a layer it cannot follow, so that the second budget has the plain model alone as its peer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import Measurement, compare
from linmap.compress.token_transforming import TokenTransform, compress
from linmap.data.pretrained import bundled_model

STAGES = (3, 6, 9)
BARS = {0.65: 1.5, 0.35: 2.2}  # -39 and -58 % of the MACs
WITHIN = 0.95  # of ToMe's speed
TOME = TokenTransform(select="bipartite", assign="hard")


def run() -> list[Measurement]:
    from transformers import Dinov2Model

    torch.manual_seed(0)
    model = Dinov2Model.from_pretrained(bundled_model("dinov2-small"), local_files_only=True).eval()
    with torch.no_grad():
        return [row for side in (224, 518) for batch in (1, 8) for row in rows(model, side, batch)]


def rows(model: nn.Module, side: int, batch: int) -> Iterator[Measurement]:
    images = F.interpolate(torch.randn(batch, 3, 37, 37), size=(side, side), mode="bicubic")
    where = f"{side} x {side}, batch {batch}"
    for keep, bar in BARS.items():
        ours, seen = compressed(model, images, keep, TokenTransform())
        note = f"-{1 - seen:.1%} MACs"
        yield compare(f"keep {keep:g}, {where}", ours, "the plain model", lambda: model(images), bar=bar, note=note)
    ours, _ = compressed(model, images, 0.65, TokenTransform())
    theirs, _ = compressed(model, images, 0.65, TOME)
    yield compare(f"keep 0.65, {where}", ours, "ToMe", theirs, bar=WITHIN)


def compressed(
    model: nn.Module, images: Tensor, keep: float, transform: TokenTransform
) -> tuple[Callable[[], object], float]:
    """A pass of a copy that is compressed, and its share of the plain model's MACs."""
    fewer = copy.deepcopy(model)
    handle = compress(fewer, stages=(keep, STAGES), transform=transform, restore="end")
    n = 1 + (images.shape[-1] // 14) ** 2
    return lambda: fewer(images), handle.macs(n) / handle.size.macs(n)
