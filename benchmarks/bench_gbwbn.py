"""GBWBN: forward and backward of batch normalisations of positive definite matrices, training, float64.

Peers: the authors' way, written down from its description (each function of a matrix by a decomposition of its own,
matrix by matrix in Python; centred vectors scaled by way of the manifold), and the batch norms of spd_learn.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from spd_learn.modules import SPDBatchNormLie, SPDBatchNormMeanVar
from torch import Tensor, nn
from torch.autograd import Function

from benchmarks.measure import Measurement, medians
from linmap.signals.gbwbn import GBWBatchNorm

SIZES = ((30, 12), (30, 30))


def run() -> list[Measurement]:
    warnings.simplefilter("ignore")
    return [row for count, n in SIZES for row in of_size(count, n)]


def of_size(count: int, n: int) -> list[Measurement]:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(count, n, 2 * n, generator=generator, dtype=torch.float64)
    X, R = A @ A.mT / n, torch.randn(count, n, n, generator=generator, dtype=torch.float64)
    what = f"forward + backward, {count} x {n} x {n}"
    rows = []
    for theta in (1.0, 0.5):
        peers = {
            "the authors' way": (step(OneByOne(n, theta), X, R), 4.0 if n == 30 else None),
            "spd_learn, affine-invariant (mean and variance)": (
                step(SPDBatchNormMeanVar(n, dtype=torch.float64), X, R),
                1.0 if theta == 1 else None,
            ),
            "spd_learn, log-Euclidean": (step(SPDBatchNormLie(n, "LEM", dtype=torch.float64), X, R), None),
        }
        ours, *theirs = medians(
            step(GBWBatchNorm(n, theta), X, R), *(s for s, _ in peers.values()), repeats=9, warm_up=1
        )
        rows += [
            Measurement(f"GBWBatchNorm, θ = {theta:g}, {what}", ours, name, seconds, bar=bar)
            for seconds, (name, (_, bar)) in zip(theirs, peers.items(), strict=True)
        ]
    return rows


def step(layer: nn.Module, X: Tensor, R: Tensor) -> Callable[[], None]:
    x = X.clone().requires_grad_()

    def once() -> None:
        x.grad = None
        layer.zero_grad()
        (layer(x) * R).sum().backward()

    return once


# -- the authors' way --------------------------------------------------------------------------------------------------


class Map(Function):
    """f of each matrix, by an SVD of its own; differences of equal eigenvalues are set to zero in the gradient."""

    @staticmethod
    def forward(ctx, X, f, derivative):
        parts = [torch.linalg.svd(x) for x in X]
        U, a = torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])
        ctx.save_for_backward(U, a)
        ctx.f, ctx.derivative = f, derivative
        return U @ torch.stack([f(row).diag() for row in a]) @ U.mT

    @staticmethod
    def backward(ctx, R):
        U, a = ctx.saved_tensors
        values = ctx.f(a)
        K = (values.unsqueeze(-1) - values.unsqueeze(-2)) / (a.unsqueeze(-1) - a.unsqueeze(-2))
        K = torch.nan_to_num(K, 0.0, 0.0, 0.0) + torch.stack([row.diag() for row in ctx.derivative(a)])
        return U @ (K * (U.mT @ R @ U)) @ U.mT, None, None


def root(X: Tensor) -> Tensor:
    return Map.apply(X, torch.sqrt, lambda a: 0.5 / a.sqrt())


def inverse_root(X: Tensor) -> Tensor:
    return Map.apply(X, torch.rsqrt, lambda a: -0.5 * a**-1.5)


def power(X: Tensor, p: float) -> Tensor:
    return Map.apply(X, lambda a: a**p, lambda a: p * a ** (p - 1))


class OneByOne(nn.Module):
    """The layer step by step: every root anew, the scaled vectors by way of the manifold."""

    def __init__(self, n: int, theta: float) -> None:
        super().__init__()
        identity = torch.eye(n, dtype=torch.float64)
        self.theta = theta
        self.M, self.W = nn.Parameter(identity.clone()), nn.Parameter(identity + 1e-7 * torch.arange(1, n + 1).diag())
        self.s = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.running = identity.clone()

    def forward(self, X: Tensor) -> Tensor:
        identity = torch.eye(X.shape[-1], dtype=X.dtype)
        Y = power(X, self.theta)
        Y = inverse_root(self.M[None]) @ Y @ inverse_root(self.M[None])
        G = inverse_root(self.M[None]) @ power(self.W[None], self.theta) @ inverse_root(self.M[None])
        with torch.no_grad():
            A = Y.mean(0, keepdim=True)
            H = root(root(A) @ Y @ root(A)).mean(0, keepdim=True)
            B = inverse_root(A) @ power(H, 2.0) @ inverse_root(A)
            trace = (Y + identity - 2 * root(Y)).diagonal(dim1=-2, dim2=-1).sum(-1)
            variance = trace.mean() / self.theta**2
            cross = root(self.running[None]) @ root(root(self.running[None]) @ B @ root(self.running[None]))
            cross = (cross @ inverse_root(self.running[None]))[0]
            self.running = 0.81 * self.running + 0.01 * B[0] + 0.09 * (cross + cross.mT)
        C = root(B) @ root(root(B) @ Y @ root(B)) @ inverse_root(B)
        V = _multiplied(B, C + C.mT - 2 * B, lambda x: (2 / x).sqrt())
        centred = identity + V + V @ V / 4
        V = self.s * (variance + 1e-5).rsqrt() * 2 * (root(centred) - identity)
        scaled = identity + V + V @ V / 4
        E = _multiplied(G, 2 * (root(scaled) - identity), lambda x: (x / 2).sqrt())
        L = _multiplied(G, E, torch.reciprocal)
        Z = G + E + L @ G @ L
        return power(root(self.M[None]) @ Z @ root(self.M[None]), 1 / self.theta)


def _multiplied(B: Tensor, V: Tensor, k: Callable[[Tensor], Tensor]) -> Tensor:
    U, b, _ = torch.linalg.svd(B)
    return U @ (k(b.unsqueeze(-1) + b.unsqueeze(-2)) * (U.mT @ V @ U)) @ U.mT
