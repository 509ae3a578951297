"""Every way to build, apply and restore in one graph, without a break; run by `test_transform`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from linmap.compress.token_transforming import (
    TokenTransform,
    Transform,
    compose,
    evit,
    importance,
    kth_bipartite,
    mass_channel,
    mass_pool,
    pitome,
    proportional_attention,
    prune,
    tome,
)

WAYS: list[dict[str, Any]] = [
    {},
    {"assign": "hard"},
    {"assign": "prune"},
    {"select": "bipartite", "assign": "hard"},
    {"select": "energy", "topk": 2, "keep_self": True},
    {"select": "importance", "causal": True, "min_sim": 0.3},
    {"select": "random"},
]
x, a, mass = torch.randn(2, 32, 8), torch.rand(2, 32), torch.ones(2, 32)
q = torch.randn(2, 2, 32, 8)


def check(forward: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> None:
    torch.compiler.reset()
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(compiled(*inputs), forward(*inputs), strict=True):
        torch.testing.assert_close(ours, expected)


def whole(way: TokenTransform) -> Callable[..., tuple[Tensor, ...]]:
    def forward(x: Tensor, a: Tensor, mass: Tensor) -> tuple[Tensor, ...]:
        built = way.build(x, M=20, importance=a, mass=mass)
        y = built.apply(x)
        return y, built.restore(y, pruned="nearest" if way.drops else "error"), built.mass_out, built.P

    return forward


def functions(q: Tensor, x: Tensor, mass: Tensor) -> tuple[Tensor, ...]:
    a = importance(q, q, mass=mass)
    W, R = compose([Transform.identity(mass), evit(a[:, 1:], 0.5, fuse=True, mass=mass)])
    merged = [t.apply(x) for t in (tome(x, 5, class_token=True), kth_bipartite(x, 3), pitome(x, 0.8), prune(a, 9))]
    attended = proportional_attention(q, q, q, mass)
    return (
        a,
        importance(q, q, kind="received"),
        W,
        R,
        *merged,
        attended,
        *mass_channel(q, q, q, mass),
        mass_pool(x, mass),
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    for options in WAYS:
        check(whole(TokenTransform(**options)), x, a, mass)
    check(functions, q, x, mass)
