"""Structured maps, forward + backward, against the same product by other libraries; memory of one forward."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from benchmarks.measure import Measurement, compare, compare_with_fastest, optional, peak_memory
from linmap import maps

geotorch, householder_library, operators = map(optional, ("geotorch", "torch_householder", "linear_operator.operators"))
BATCH = 256
Apply = Callable[[Tensor], Tensor]


def run() -> list[Measurement]:
    torch.manual_seed(0)
    return [
        *householder(512),
        few_reflections(4096, 32),
        *(skew(name, n) for name in ("cayley", "matrix_exp") for n in (64, 256, 512)),
        *kronecker(64, 64, batch=512),
        signed_hadamard(16384),
        import_of_maps(),
    ]


def import_of_maps(repeats: int = 5) -> Measurement:
    """Seconds that `import linmap.maps` takes where PyTorch is imported, in processes of their own."""
    program = "import time, torch; t = time.perf_counter(); import linmap.maps; print(time.perf_counter() - t)"
    words = [sys.executable, "-c", program]
    seconds = [float(subprocess.run(words, capture_output=True, check=True).stdout) for _ in range(repeats)]
    return Measurement(
        "import linmap.maps, after torch", statistics.median(seconds), unit="imports", least_rate=1 / 0.3
    )


def householder(n: int) -> Iterable[Measurement]:
    """The same n reflections everywhere: lower-triangular vectors, as LAPACK takes them."""
    map = maps.Householder(n)
    V = (torch.randn(n, n).tril(-1) + torch.eye(n)).requires_grad_()
    with torch.no_grad():
        map.vectors.copy_(V.mT)

    def product_of_torch(x: Tensor) -> Tensor:
        v = V.tril(-1)
        return x @ torch.linalg.householder_product(v, 2 / (1 + v.square().sum(0))).mT

    def torch_householder(x: Tensor) -> Tensor:
        return x @ householder_library.torch_householder_orgqr(V).mT

    x = torch.randn(BATCH, n)
    ours = both_ways(map, x, map.parameters())
    what = f"Householder({n}), all reflections, batch {BATCH}"
    memory = forward_memory(map, x)
    agree(map, product_of_torch, x)
    yield compare(
        what,
        ours,
        "torch.linalg.householder_product",
        both_ways(product_of_torch, x, [V]),
        bar=5,
        memory=memory,
        note=f"the vectors alone take {mebibytes(n * n)}",
    )
    if householder_library is None:
        yield compare(what, ours, "torch-householder", None, bar=1)
    else:
        agree(map, torch_householder, x)
        yield compare(what, ours, "torch-householder", both_ways(torch_householder, x, [V]), bar=1)
    yield compare_with_fastest(
        what, ours, {f"geotorch ({triv})": geotorch_so(n, triv, x) for triv in ("expm", "cayley")}, bar=1
    )


def few_reflections(n: int, k: int) -> Measurement:
    map, dense = maps.Householder(n, k), nn.Linear(n, n, bias=False)
    x = torch.randn(BATCH, n)
    return compare(
        f"Householder({n}, {k}), batch {BATCH}",
        both_ways(map, x, map.parameters()),
        "dense product",
        both_ways(dense, x, dense.parameters()),
        memory=forward_memory(map, x),
        note=f"M would take {mebibytes(n * n)}",
        repeats=7,
    )


def geotorch_so(n: int, triv: str, x: Tensor) -> Callable[[], None] | None:
    if geotorch is None:
        return None
    layer = nn.Linear(n, n, bias=False)
    geotorch.orthogonal(layer, "weight", triv=triv)
    return both_ways(layer, x, layer.parameters())


def skew(name: str, n: int) -> Measurement:
    """The same skew-symmetric matrix everywhere."""
    structure = {"cayley": maps.Cayley, "matrix_exp": maps.Exponential}[name]
    map = structure(n)
    x = torch.randn(BATCH, n)
    peers = {}
    for trivialised in (False, True):
        layer: Any = nn.Linear(n, n, bias=False)
        orthogonal(layer, "weight", name, use_trivialization=trivialised)
        with torch.no_grad():
            layer.parametrizations.weight.original.copy_(map.skew_matrix().tril(-1))
        if not trivialised:
            agree(map, layer, x)
        peers[f"parametrizations.orthogonal({name}, use_trivialization={trivialised})"] = both_ways(
            layer, x, layer.parameters()
        )
    return compare_with_fastest(
        f"{structure.__name__}({n}), batch {BATCH}",
        both_ways(map, x, map.parameters()),
        peers,
        bar=1,
        memory=forward_memory(map, x),
        note=f"computes in float64; A alone takes {mebibytes(n * n)} in float32",
    )


def kronecker(n_1: int, n_2: int, batch: int) -> Iterable[Measurement]:
    n = n_1 * n_2
    map, dense = maps.Kronecker(n_1, n_2), nn.Linear(n, n, bias=False)
    x = torch.randn(batch, n)
    what = f"Kronecker({n_1}, {n_2}) on {batch} x {n}"
    ours = both_ways(map, x, map.parameters())
    yield compare(
        what,
        ours,
        "dense product",
        both_ways(dense, x, dense.parameters()),
        bar=20,
        memory=forward_memory(map, x),
        note=f"M would take {mebibytes(n * n)}",
        repeats=9,
    )
    A, B = map.parameters()
    built = both_ways(lambda x: x @ torch.kron(A, B).mT, x, map.parameters())
    yield compare(what, ours, "torch.kron, then the dense product", built, repeats=9)

    def linear_operator(x: Tensor) -> Tensor:
        dense = operators.DenseLinearOperator
        return (operators.KroneckerProductLinearOperator(dense(A), dense(B)) @ x.mT).mT

    installed = operators is not None
    if installed:
        agree(map, linear_operator, x)
    theirs = both_ways(linear_operator, x, map.parameters()) if installed else None
    yield compare(what, ours, "linear_operator", theirs, bar=1)


def signed_hadamard(n: int) -> Measurement:
    map, Q = maps.SignedHadamard(n), torch.randn(n, n)
    x = torch.randn(BATCH, n)
    return compare(
        f"SignedHadamard({n}), batch {BATCH}",
        both_ways(map, x, []),
        "dense product",
        both_ways(lambda x: x @ Q.mT, x, []),
        bar=20,
        memory=forward_memory(map, x),
        note=f"M would take {mebibytes(n * n)}",
        repeats=5,
        warm_up=1,
    )


def both_ways(apply: Apply, x: Tensor, parameters: Iterable[Tensor]) -> Callable[[], None]:
    """A forward and a backward, to the input and to the parameters."""
    x, parameters = x.clone().requires_grad_(), list(parameters)
    grad = torch.randn(x.shape)

    def step() -> None:
        torch.autograd.grad(apply(x), [x, *parameters], grad)

    return step


def forward_memory(map: maps.LinearMap, x: Tensor) -> int:
    with torch.no_grad():
        return peak_memory(lambda: map(x))


def agree(ours: Apply, theirs: Apply, x: Tensor) -> None:
    """The two compute the same thing; otherwise comparing their times means nothing."""
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-3)


def mebibytes(entries: int) -> str:
    return f"{4 * entries / 2**20:.4g} MiB"
