"""`GBWBatchNorm`: the layer, its parameters on their manifold, its running statistics, its diagnostics."""

from __future__ import annotations

import warnings
from types import EllipsisType
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from linmap.errors import ArgumentError, ArgumentTypeError
from linmap.geometry.spd import bw_geodesic, sym_exp, sym_log
from linmap.geometry.spd.spectral import symmetric_part
from linmap.signals.gbwbn.checks import Check, check_batch, check_definite
from linmap.signals.gbwbn.manifolds import geoopt
from linmap.signals.gbwbn.normalization import (
    Batch,
    Centred,
    Matrix,
    Scalar,
    Variance,
    batch_mean,
    centre,
    frechet_variance,
    groups,
    return_from_image,
    to_image,
    uncentred_variance,
)
from linmap.signals.gbwbn.pickling import Pickled
from linmap.training import parts

Parametrization = Literal["manifold", "logm"]
RESIDUAL = 0.3  # of the mean transport map, from where one step is called a poor mean
SMALL = 0.1  # mean eigenvalue of a mean, below which eps goes with it
LOST = 1e-2  # condition number of the mean times the resolution of its type


class GBWBatchNorm(Pickled):
    r"""Batch normalisation of positive definite matrices under the generalised Bures-Wasserstein metric.

    In training, the Frechet mean of a batch becomes the learnable matrix `W` and its variance the learnable s^2; in
    evaluation, running statistics take the batch's place. `M` makes the metric itself learnable. Statistics are
    constants for the gradient unless `backprop_stats`.

    Parameters
    ----------
    n
        Size of the matrices.
    theta
        Power of the deformation: the metric of X^theta, divided by theta^2.
    learn_metric
        Whether M is trained; False leaves it at I, which is Bures-Wasserstein itself.
    eps
        Added to the variance. Where the mean of the batch has a mean eigenvalue below .1 (in the image space), it is as
        much smaller, so that data in a small unit are not swamped by it.
    momentum
        Weight of a batch in the running statistics; None averages all batches alike.
    mean_iter
        Steps towards the Frechet mean of a batch, one eigendecomposition of each matrix. One step is exact where the
        matrices commute; see `mean_residual`.
    mean_tol
        Relative change of the mean at which to take no further step.
    variance
        "centered": about the mean. "official" (or "uncentered"): about I, as the authors' code has it.
    backprop_stats
        Whether gradients flow through the mean and the variance of a batch.
    n_domains
        Number of domains (subjects, sessions) with statistics of their own; None for one set. `forward` then needs the
        domain of each matrix.
    parametrization
        "manifold": M and W are geoopt parameters, for geoopt's Riemannian optimisers; "logm": their logarithms are
        the parameters, for any optimiser.
    check
        "raise" or "warn" where a matrix is not symmetric.
    dtype, device
        float64 or float32, and where. It is computed in float64 either way: B^(1/2) Y B^(1/2) has the square of a
        condition number.

    Attributes
    ----------
    M, W, s
        Metric and bias (n, n), positive definite, initially I, and scale, initially 1. No weight decay on them.
    running_mean, running_var, num_batches_tracked
        Buffers: statistics in the image space of M and theta, (n, n), () and (); with domains (d, n, n), (d,), (d,).
    n_folded
        Of the last batch, how many matrices left the domain where Exp_W is injective: s is too large.
    n_clamped
        Of the last batch, how many eigenvalues were below the resolution of float64, and raised to it.
    mean_residual
        Of the last batch, |mean_i T_i - I| / sqrt(n) with the maps T_i from the mean used: 0 at the Frechet mean.
    condition
        Condition number of the mean used for the last batch.

    Raises
    ------
    ValueError
        If theta, eps, momentum, mean_iter, mean_tol, variance or n_domains is out of range.
    TypeError
        If dtype is neither float32 nor float64.

    References
    ----------
    arXiv 2504.00660. Deviations from its code: the variance is about the mean, gradients are true for every theta and
    at M = I, and centred vectors are scaled as they are instead of by way of the manifold, where they fold.
    """

    M: Tensor
    W: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self,
        n: int,
        theta: float = 1.0,
        learn_metric: bool = True,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        mean_iter: int = 1,
        variance: Variance = "centered",
        backprop_stats: bool = False,
        n_domains: int | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
        *,
        mean_tol: float = 0.0,
        parametrization: Parametrization = "manifold",
        check: Check = "raise",
    ) -> None:
        super().__init__()
        _check_options(n, theta, eps, momentum, mean_iter, mean_tol, variance, n_domains, dtype)
        self.n, self.theta, self.eps, self.momentum = n, float(theta), eps, momentum
        self.learn_metric, self.mean_iter, self.mean_tol = learn_metric, mean_iter, mean_tol
        self.variance, self.backprop_stats, self.n_domains = variance, backprop_stats, n_domains
        self.parametrization: Parametrization = parametrization
        self.check: Check = check
        identity = torch.eye(n, dtype=dtype, device=device)
        self._register("M", identity, parametrization, learn_metric)
        self._register("W", identity, parametrization, True)
        self.s = nn.Parameter(torch.ones((), dtype=dtype, device=device))
        of_domains = () if n_domains is None else (n_domains,)
        self.register_buffer("running_mean", identity.expand(*of_domains, n, n).clone())
        self.register_buffer("running_var", torch.ones(of_domains, dtype=dtype, device=device))
        self.register_buffer("num_batches_tracked", torch.zeros(of_domains, dtype=torch.long, device=device))
        self.n_folded = self.n_clamped = 0
        self.mean_residual, self.condition = 0.0, 1.0
        self._warned: set[str] = set()

    def _register(self, name: str, value: Matrix, parametrization: Parametrization, trained: bool) -> None:
        if parametrization == "manifold" and trained:
            kind: Any = geoopt.ManifoldParameter
            self.register_parameter(name, kind(value.clone(), manifold=geoopt.SymmetricPositiveDefinite()))
        else:
            self.register_parameter(name, nn.Parameter(value.clone(), requires_grad=trained))
            if trained:
                register_parametrization(self, name, LogMatrix())

    def reset_running_stats(self) -> None:
        """Back to mean I and variance 1, as if no batch had been seen."""
        self.running_mean.copy_(torch.eye(self.n).to(self.running_mean).expand_as(self.running_mean))
        self.running_var.fill_(1)
        self.num_batches_tracked.zero_()

    def forward(
        self, X: Float[Tensor, "batch *channels n n"], domains: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch *channels n n"]:
        """Normalise a batch.

        Parameters
        ----------
        X
            Symmetric positive definite matrices (N, n, n) or (N, channels, n, n); channels are pooled into the batch.
        domains
            The domain of each of the N, where the layer has domains. In training, each is normalised by its own part
            of the batch; one that has a single matrix there by its running statistics.

        Raises
        ------
        TypeError, ValueError
            If X or domains are not as described, or X is a single matrix in training.
        """
        check_batch(X, self.n, self.running_mean.dtype, self.check)
        domains = self._check_domains(X, domains)
        shape, dtype = X.shape, X.dtype
        X = symmetric_part(X.double()).reshape(-1, self.n, self.n)
        image = to_image(X, _plain(self.M), _plain(self.W), self.theta)
        resolution = torch.finfo(dtype).eps
        if image.values is not None:
            check_definite(image.values, X, resolution)
        L, seen = self._standardised(image.P, image.inverse, domains)
        check_definite(seen.values, X, resolution)
        out, folded = return_from_image(L, image, self.theta)
        self._observe(seen, seen.values if image.values is None else image.values, int(folded.sum()), resolution)
        return symmetric_part(out).reshape(shape).to(dtype)

    # -- statistics ----------------------------------------------------------------------------------------------------

    def _standardised(self, P: Batch, inverse: Matrix, domains: Tensor | None) -> tuple[Batch, Centred]:
        """Centred and scaled tangent vectors at the identity."""
        if domains is None:
            centred, spread = self._centred(P, inverse, ..., parts.total(len(P)))
            return self.s.double() * spread.rsqrt() * centred.V, centred
        scaled, rows, found = [], [], []
        for domain, of_domain, count in groups(domains):
            centred, spread = self._centred(P[of_domain], inverse, domain, count)
            scaled.append(spread.rsqrt() * centred.V)
            rows.append(of_domain)
            found.append(centred)
        back = torch.cat(rows).argsort()
        L = self.s.double() * torch.cat(scaled)[back]
        worst = [torch.stack([getattr(c, name) for c in found]).amax() for name in ("residual", "condition")]
        return L, Centred(L, worst[0], torch.cat([centred.values for centred in found])[back], worst[1])

    def _centred(self, P: Batch, inverse: Matrix, domain: int | EllipsisType, count: int) -> tuple[Centred, Scalar]:
        """Tangent vectors and variance plus eps, by the statistics of the batch in training; these move the running
        ones. `count` are the matrices of all processes, of which this one may have none."""
        if not self.training or (count == 1 and domain is not ...):
            B = self.running_mean[domain].double()
            return centre(P, inverse, B), self.running_var[domain].double() + self._regularisation(B)
        with torch.set_grad_enabled(self.backprop_stats and torch.is_grad_enabled()):
            B = batch_mean(P, inverse, self.mean_iter, self.mean_tol)
        centred = centre(P, inverse, B)
        with torch.set_grad_enabled(self.backprop_stats and torch.is_grad_enabled()):
            v2 = self._variance(centred.V, P, inverse)
        self._update(B.detach(), v2.detach(), domain)
        return centred, v2 + self._regularisation(B)

    def _regularisation(self, B: Matrix) -> Scalar:
        """eps, or less for a small mean."""
        return self.eps * (B.diagonal().mean() / SMALL).clamp(max=1)

    def _variance(self, V: Batch, P: Batch, inverse: Matrix) -> Scalar:
        if self.variance == "centered":
            return frechet_variance(V, self.theta)
        return uncentred_variance(P, inverse, self.theta)

    @torch.no_grad()
    def _update(self, B: Matrix, v2: Scalar, domain: int | EllipsisType) -> None:
        """Move the running mean along the geodesic, and the running variance."""
        self.num_batches_tracked[domain] += 1
        count = int(self.num_batches_tracked[domain])
        gamma = 1 / count if self.momentum is None else self.momentum
        mean = B if gamma == 1 else bw_geodesic(self.running_mean[domain].double(), B, gamma)
        self.running_mean[domain] = mean.to(self.running_mean.dtype)
        self.running_var[domain] = (1 - gamma) * self.running_var[domain] + gamma * v2.to(self.running_var.dtype)

    @torch.no_grad()
    def estimate(self, X: Tensor, domains: Tensor | None = None, mean_iter: int | None = None) -> None:
        """Replace the running statistics by those of matrices, in each of the domains that occur.

        Parameters
        ----------
        X, domains
            As of `forward`.
        mean_iter
            Steps towards the Frechet mean; by default those of the layer.
        """
        check_batch(X, self.n, self.running_mean.dtype, self.check)
        domains = self._check_domains(X, domains)
        X = symmetric_part(X.double()).reshape(-1, self.n, self.n)
        image = to_image(X, _plain(self.M), _plain(self.W), self.theta)
        for domain, rows, _ in [(..., slice(None), len(X))] if domains is None else groups(domains):
            P, inverse = image.P[rows], image.inverse
            B = batch_mean(P, inverse, mean_iter or self.mean_iter, self.mean_tol)
            v2 = self._variance(centre(P, inverse, B).V, P, inverse)
            self.running_mean[domain] = B.to(self.running_mean.dtype)
            self.running_var[domain] = v2.to(self.running_var.dtype)
            self.num_batches_tracked[domain] = 1

    def add_domains(self, count: int) -> None:
        """Append domains with mean I and variance 1; `estimate` gives them statistics."""
        if self.n_domains is None:
            raise ArgumentError("the layer has no domains (n_domains=None).")
        new = self.running_mean.new_ones(count)
        self.running_mean = torch.cat([self.running_mean, torch.diag_embed(new[:, None].expand(-1, self.n))])
        self.running_var = torch.cat([self.running_var, new])
        self.num_batches_tracked = torch.cat([self.num_batches_tracked, new.long() * 0])
        self.n_domains += count

    # -- diagnostics ---------------------------------------------------------------------------------------------------

    def _observe(self, seen: Centred, values: Float[Tensor, "batch n"], folded: int, resolution: float) -> None:
        """Keep what the last batch showed, and warn once of each thing that spoils the result."""
        eps, dtype = torch.finfo(values.dtype).eps, self.running_mean.dtype
        self.n_folded = folded
        self.n_clamped = int((values < eps * values.abs().amax(-1, keepdim=True)).sum())
        self.mean_residual, self.condition = float(seen.residual), float(seen.condition)
        count = len(values)
        if self.n_clamped:
            self._warn(
                "clamped",
                f"{self.n_clamped} eigenvalues of {count} matrices lie below the resolution of "
                "float64 and were raised to it; add eps * I, or use shrinkage.",
            )
        if self.condition * resolution > LOST:
            self._warn(
                "condition",
                f"the mean has condition number {self.condition:.1g}, too much for {dtype}; "
                "use float64, add eps * I, or reduce the dimension first.",
            )
        if self.training and self.mean_residual > RESIDUAL:
            self._warn(
                "residual",
                f"{self.mean_iter} step(s) leave the mean of a batch far from its Frechet mean "
                f"(mean_residual = {self.mean_residual:.2g}); raise mean_iter, or take theta < 1.",
            )
        if 2 * folded > count:
            self._warn(
                "folded",
                f"{folded} of {count} matrices left the domain where the exponential "
                "map is injective (n_folded): s is too large beside W; lower the learning rate.",
            )
        if not self.training and not bool(self.num_batches_tracked.any()):
            self._warn(
                "untrained",
                "evaluated before any training step: the running statistics are mean I and "
                "variance 1; train, or call recalibrate.",
            )

    def _warn(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(f"GBWBatchNorm: {message}", stacklevel=4)

    def _check_domains(self, X: Tensor, domains: Tensor | None) -> Tensor | None:
        count = X.shape[0] * (X.shape[1] if X.ndim == 4 else 1)
        if self.training and parts.total(count) == 1:
            raise ArgumentError("X is a single matrix, which has no variance; training needs two or more in a batch.")
        if (self.n_domains is None) != (domains is None):
            what = "needs the domain of each matrix" if domains is None else "has no domains (n_domains=None)"
            raise ArgumentError(f"the layer {what}; got domains = {domains}.")
        if domains is None or self.n_domains is None:
            return None
        if domains.shape != X.shape[:1] or domains.is_floating_point():
            raise ArgumentError(f"domains must be {X.shape[0]} integers, got {domains.dtype} {tuple(domains.shape)}.")
        if bool((domains < 0).any()) or bool((domains >= self.n_domains).any()):
            raise ArgumentError(f"domains must lie in 0 ... {self.n_domains - 1}, got {domains.unique().tolist()}.")
        return domains.repeat_interleave(count // X.shape[0])

    def extra_repr(self) -> str:
        shown = {"theta": 1.0, "learn_metric": True, "mean_iter": 1, "variance": "centered", "backprop_stats": False,
                 "n_domains": None, "parametrization": "manifold"}  # fmt: skip
        others = [f"{name}={getattr(self, name)!r}" for name, usual in shown.items() if getattr(self, name) != usual]
        return ", ".join([f"n={self.n}", *others])


class LogMatrix(nn.Module):
    """Positive definite matrices by their logarithms, for `torch.nn.utils.parametrize`."""

    def forward(self, A: Matrix) -> Matrix:
        return sym_exp(symmetric_part(A))

    def right_inverse(self, P: Matrix) -> Matrix:
        return sym_log(P)


def _plain(parameter: Tensor) -> Tensor:
    """In float64, without the class of manifold parameters, which every operation would hand on."""
    return symmetric_part(parameter.as_subclass(Tensor).double())


def _check_options(
    n: int,
    theta: float,
    eps: float,
    momentum: float | None,
    mean_iter: int,
    mean_tol: float,
    variance: str,
    n_domains: int | None,
    dtype: torch.dtype,
) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ArgumentTypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}.")
    conditions = (
        (n >= 1, f"n must be positive, got {n}"),
        (0 < theta < float("inf"), f"theta must be positive and finite, got {theta}"),
        (eps >= 0, f"eps must not be negative, got {eps}"),
        (momentum is None or 0 <= momentum <= 1, f"momentum must lie in [0, 1] or be None, got {momentum}"),
        (mean_iter >= 1, f"mean_iter must be at least 1, got {mean_iter}"),
        (mean_tol >= 0, f"mean_tol must not be negative, got {mean_tol}"),
        (
            variance in ("centered", "official", "uncentered"),
            f"variance must be centered or official, got {variance!r}",
        ),
        (n_domains is None or n_domains >= 1, f"n_domains must be positive or None, got {n_domains}"),
    )
    for holds, message in conditions:
        if not holds:
            raise ArgumentError(f"{message}.")
