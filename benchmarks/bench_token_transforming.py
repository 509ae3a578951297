"""Building and applying a transformation at DINOv2-small's sizes (width 384, 65 % of the patches kept), against ToMe.

The peers are written here from their definitions: ToMe's bipartite matching and weighted mean by gather and scatter, as
its authors do it, and the many-to-many method as formulas say it: a masked matrix of all similarities, W, and W X.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Measurement, compare
from linmap.compress.token_transforming import TokenTransform, informativeness

WIDTH, KEEP = 384, 0.65
SIZES = ((257, 1), (257, 8), (1370, 1), (1370, 8))  # tokens at 224 x 224 and 518 x 518, images


def run() -> list[Measurement]:
    torch.manual_seed(0)
    with torch.no_grad():
        return [row for n_tokens, batch in SIZES for row in rows(n_tokens, batch)]


def rows(n_tokens: int, batch: int) -> list[Measurement]:
    x = torch.randn(batch, n_tokens, WIDTH) + torch.randn(batch, 1, WIDTH)
    importance, mass = torch.rand(batch, n_tokens), torch.ones(batch, n_tokens)
    M = math.ceil(KEEP * (n_tokens - 1)) + 1
    bar = 1.0 if n_tokens > 1000 else None  # below, both are a few dozen small operations
    where = f"{n_tokens} tokens, batch {batch}"

    def ours(**options: str) -> Callable[[], Tensor]:
        way = TokenTransform(**options)  # type: ignore[arg-type]
        return lambda: way.build(x, M=M, importance=importance, mass=mass).apply(x)

    def peer() -> Tensor:
        return tome_by_scattering(x, n_tokens - M, mass)

    def by_formula() -> Tensor:
        return method_by_formula(x, importance, mass, M)

    torch.testing.assert_close(ours()(), by_formula(), rtol=1e-3, atol=1e-3)
    merged = ours(select="bipartite", assign="hard")()
    torch.testing.assert_close(merged.sort(dim=1).values, peer().sort(dim=1).values, rtol=1e-3, atol=1e-3)
    return [
        compare(f"ToMe, {where}", ours(select="bipartite", assign="hard"), "ToMe by gather and scatter", peer),
        compare(f"soft, {where}", ours(), "naive N x N form", by_formula, bar=bar),
        compare(f"soft, {where}", ours(), "ToMe by gather and scatter", peer),
        compare(f"hard, {where}", ours(assign="hard"), "ToMe by gather and scatter", peer),
        compare(
            f"informativeness, {where}",
            lambda: informativeness(x, importance, mass=mass),
            "masked N x N maximum",
            lambda: novelty_by_formula(F.normalize(x, dim=-1), importance, mass),
        ),
    ]


def tome_by_scattering(x: Tensor, r: int, mass: Tensor) -> Tensor:
    """Merged tokens, the class token protected."""
    metric = x / x.norm(dim=-1, keepdim=True)
    scores = metric[:, ::2] @ metric[:, 1::2].mT
    scores[:, 0] = -math.inf
    best, to = scores.max(-1)
    order = best.argsort(-1, descending=True).unsqueeze(-1)
    stay, leave = order[:, r:].sort(dim=1).values, order[:, :r]
    to = to.unsqueeze(-1).gather(1, leave)

    def merge(values: Tensor) -> Tensor:
        sources, others = values[:, ::2], values[:, 1::2]
        kept = sources.gather(1, stay.expand(-1, -1, values.shape[-1]))
        merging = sources.gather(1, leave.expand(-1, -1, values.shape[-1]))
        return torch.cat([kept, others.scatter_reduce(1, to.expand_as(merging), merging, "sum")], dim=1)

    return merge(x * mass.unsqueeze(-1)) / merge(mass.unsqueeze(-1))


def novelty_by_formula(unit: Tensor, importance: Tensor, mass: Tensor) -> Tensor:
    cosines = unit @ unit.mT
    above = importance.unsqueeze(-2) > importance.unsqueeze(-1)
    above[..., 0] = False
    c = mass * (1 - cosines.masked_fill(~above, -math.inf).amax(-1))
    return torch.cat([torch.full_like(c[:, :1], math.inf), c[:, 1:]], dim=1)


def method_by_formula(x: Tensor, importance: Tensor, mass: Tensor, M: int) -> Tensor:
    unit = F.normalize(x, dim=-1)
    centres = novelty_by_formula(unit, importance, mass).topk(M, dim=-1).indices.sort(dim=-1).values
    logits = unit.gather(1, centres.unsqueeze(-1).expand(-1, -1, x.shape[-1])) @ unit.mT / 0.02
    logits[:, 0] = -math.inf
    P = logits.softmax(1)
    P[:, :, 0] = 0
    P[:, 0, 0] = 1
    W = P * mass.unsqueeze(-2)
    return W / W.sum(-1, keepdim=True) @ x
