"""Synthetic matrices of a given condition number: the gradient at the first step, and the loss after fifty."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Picture, Table, Trial, draw_all
from linmap.signals.gbwbn import SPDNet
from studies.gbwbn.methods import arms, methods
from studies.gbwbn.pictures import draw_conditioning
from studies.study import Findings, Job

CONDITIONS = (1e1, 1e3, 1e5, 1e7, 1e9)
TYPES = {"float32": torch.float32, "float64": torch.float64}


def by_condition(job: Job) -> Findings:
    """Every normalisation at every condition number, in both precisions."""
    conditions, steps, named = (
        (CONDITIONS[::4], 3, methods((0.5,))) if job.tiny else (CONDITIONS, 50, methods((0.5, 1.0)))
    )
    parts = [Part(f"{kind}, {c:.0e}", (c, kind), {"condition": c, "dtype": kind}) for kind in TYPES for c in conditions]

    def measured(options: dict[str, Any], trial: Trial) -> Outcome:
        condition, kind = trial.data
        return some_steps(options, condition, TYPES[kind], trial.seed, steps)

    stepped = [Arm(arm.name, arm.kind, partial(measured, named[arm.name]), arm.settings) for arm in arms(named, {})]
    runs = Experiment("gbwbn synthetic", job.out / "runs", {"steps": steps}, job.resume).run(stepped, parts, job.seeds)

    def values(name: str, measure: str, kind: str) -> np.ndarray:
        return np.array([runs.values(name, measure, part.name) for part in parts if part.settings["dtype"] == kind])

    gradients = {kind: {name: values(name, "gradient", kind) for name in named} for kind in TYPES}
    losses = {(name, kind): values(name, "loss", kind) for kind in TYPES for name in named}
    cells: list[list[str | float | int]] = [
        [
            name,
            kind,
            *("not finite" if np.isnan(row).all() else f"{np.nanmean(row):.3f}" for row in found),
            int(np.isnan(found).sum()),
        ]
        for (name, kind), found in losses.items()
    ]
    broken = {name: sum(int(np.isnan(losses[name, kind]).sum()) for kind in TYPES) for name in named}
    growth = {name: float(np.nanmean(g[-1]) / np.nanmean(g[0])) for name, g in gradients["float64"].items()}

    def picture(path: Path) -> Picture:
        draw_conditioning(path, conditions, gradients, "condition number", ("log", "relative gradient"))
        return Picture(
            path.name,
            "Synthetic matrices by condition",
            "Gradient towards the input at the first step, times the input's norm: what a relative error can do.",
        )

    pictures, notes = draw_all([(job.out / "condition.svg", picture)])
    return Findings(
        f"Two classes of 12 x 12 matrices that differ by a rotation; SPDNet 12-8, {steps} steps of Adam, batches of 30",
        [Table(f"Loss after {steps} steps by condition number",
               ["method", "type", *map("{:.0e}".format, conditions), "not finite"], cells)],
        [Check("GBWBN has no NaN or infinite gradient at any condition number",
               not any(count for name, count in broken.items() if name.startswith("GBWBN")),
               ", ".join(f"{n}: {c}" for n, c in broken.items()),
               "the layer is unsafe for ill-conditioned covariances")],
        ["The gradient towards the input (times the input's norm) grows from condition "
         f"{conditions[0]:.0e} to {conditions[-1]:.0e} by "
         + ", ".join(f"{value:.2g} ({name})" for name, value in growth.items()) + ".", *notes],
        pictures,
    )  # fmt: skip


def synthetic(condition: float, seed: int, count: int = 120, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of Wishart-like matrices of a given condition number.

    Eigenvalues are equally spaced in logarithm; the classes differ by a rotation of 0.6 radian in the plane of the
    third and fourth principal direction, under random rotations of about 0.15 radian in every plane.
    """
    rng = np.random.default_rng(seed)
    a = np.logspace(0, -np.log10(condition), n)
    y = np.arange(count) % 2
    base = np.linalg.qr(rng.standard_normal((n, n)))[0]
    skew = 0.15 * rng.standard_normal((count, n, n))
    skew = np.triu(skew, 1) - np.triu(skew, 1).swapaxes(1, 2)
    skew[:, 2, 3] += 0.6 * y
    skew[:, 3, 2] -= 0.6 * y
    U = torch.linalg.matrix_exp(torch.from_numpy(skew)).numpy() @ base
    return (U.swapaxes(1, 2) * a) @ U, y


def some_steps(options: dict[str, Any], condition: float, dtype: torch.dtype, seed: int, steps: int) -> Outcome:
    """Train an SPDNet of one layer for some steps on `synthetic` matrices.

    Returns
    -------
    Outcome
        With the norm of the gradient towards the input at the first step, times the norm of the input, per matrix, and
        the training loss after the last step, NaN if a loss or a gradient was not finite.
    """
    X, y = (torch.from_numpy(part) for part in synthetic(condition, seed))
    X, own = X.to(dtype), {name: value for name, value in options.items() if name != "norm"}
    torch.manual_seed(seed)
    net = SPDNet((12, 8), 2, options["norm"], floor=1e-12, norm_options=own, dtype=dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=2.5e-3)
    generator, gradient, loss = torch.Generator().manual_seed(seed), float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(steps):
            rows = torch.randperm(len(X), generator=generator)[:30]
            batch = X[rows].requires_grad_()
            optimizer.zero_grad()
            try:
                value = F.cross_entropy(net(batch), y[rows])
                value.backward()
            except (RuntimeError, ValueError):
                return Outcome({"gradient": gradient, "loss": float("nan")})
            assert batch.grad is not None
            found = [value, batch.grad, *(p.grad for p in net.parameters() if p.grad is not None)]
            if not all(bool(torch.isfinite(tensor).all()) for tensor in found):
                return Outcome({"gradient": gradient, "loss": float("nan")})
            if step == 0:
                size = batch.detach().norm(dim=(-2, -1)) * batch.grad.norm(dim=(-2, -1))
                gradient = float(size.mean()) * len(rows)
            optimizer.step()
            loss = float(value)
    return Outcome({"gradient": gradient, "loss": loss})
