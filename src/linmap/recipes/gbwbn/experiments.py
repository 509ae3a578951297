"""What `compare gbwbn` measures: the normalisations on real motion and EEG, and on data of a given condition."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from linmap.data.covariances import Covariances
from linmap.data.epochs import TEST, TRAIN, VALIDATION, Epochs
from linmap.errors import DivergenceError
from linmap.signals.gbwbn import SPDNet, SPDNetClassifier

NONE, AIM, LEM = "no normalisation", "affine-invariant (spd_learn)", "log-Euclidean (spd_learn)"
TRAIN_ACTORS, VALIDATION_ACTOR, TEST_ACTORS = ("bd", "bk"), "dg", ("mm", "tr")


def gbwbn(theta: float, learned: bool = True, mean_iter: int = 1) -> str:
    """The name of a setting in tables."""
    return f"GBWBN θ = {theta:g}" + ("" if learned else ", M fixed") + (f", {mean_iter} steps" if mean_iter > 1 else "")


def methods(thetas: Sequence[float], fixed: bool, mean_iters: Sequence[int] = (1,)) -> dict[str, dict[str, Any]]:
    """Arguments of `SPDNetClassifier` by the name in tables: first the baselines, then the settings of GBWBN."""
    found: dict[str, dict[str, Any]] = {NONE: {"norm": None}, AIM: {"norm": "aim"}, LEM: {"norm": "lem"}}
    for theta in thetas:
        for learned in (True, False) if fixed else (True,):
            for steps in mean_iters:
                found[gbwbn(theta, learned, steps)] = {"norm": "gbw", "theta": theta, "learn_metric": learned,
                                                       "mean_iter": steps}  # fmt: skip
    return found


@dataclass
class Score:
    """One training run."""

    accuracy: float
    """On the test samples; NaN where training failed."""
    validation: float = float("nan")
    """Accuracy on the validation samples, NaN where there are none."""
    losses: list[float] = field(default_factory=list)
    """Training loss by epoch."""
    seconds: float = 0.0
    residual: float = float("nan")
    """`mean_residual` of the last training batch."""
    folded: int = 0
    failure: str = ""
    truth: list[Any] = field(default_factory=list)
    predicted: list[Any] = field(default_factory=list)


def trained(
    options: dict[str, Any], train: Any, validation: Any | None, test: Any, seed: int, epochs: int, **more: Any
) -> Score:
    """Train on `train`, keep the epoch that is best on `validation`, measure on `test`."""
    classifier = SPDNetClassifier(epochs=epochs, random_state=seed, **(options | more))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            held_out = None if validation is None else (validation.X, validation.y)
            classifier.fit(train.X, train.y, validation=held_out)
            predicted = classifier.predict(test.X)
        except (DivergenceError, ValueError, RuntimeError) as error:
            return Score(float("nan"), failure=f"{type(error).__name__}: {error}"[:200])
        score = Score(float((predicted == test.y).mean()), seconds=time.perf_counter() - start)
        if validation is not None:
            score.validation = float((classifier.predict(validation.X) == validation.y).mean())
    assert classifier.history_ is not None
    score.losses = [record.loss for record in classifier.history_.epochs]
    score.truth, score.predicted = list(test.y), list(predicted)
    layer = classifier.model_.norms[0]
    if options.get("norm") == "gbw":
        score.residual, score.folded = layer.mean_residual, layer.n_folded  # pyright: ignore
    return score


# -- human motion ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    train: Any
    validation: Any | None
    test: Any


def by_actor(data: Covariances, choose: bool = True) -> Split:
    """Three actors to train by, of whom one chooses the epoch if `choose`; two others to test by."""
    assert data.domain is not None
    train = TRAIN_ACTORS if choose else (*TRAIN_ACTORS, VALIDATION_ACTOR)
    held = data.take(data.domain == VALIDATION_ACTOR) if choose else None
    return Split(data.take(np.isin(data.domain, train)), held, data.take(np.isin(data.domain, TEST_ACTORS)))


def few_shots(split: Split, clips: int, seed: int) -> Split:
    """With `clips` drawn clips of each action to train by."""
    rng, y = np.random.default_rng(seed), split.train.labels()
    rows = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:clips] for c in np.unique(y)])
    return Split(split.train.take(rows), split.validation, split.test)


# -- EEG ---------------------------------------------------------------------------------------------------------------


def by_session(epochs: Epochs) -> Split:
    """MAMEM's official split: sessions 1 to 3 to train by, 4 to choose the epoch by, 5 to test by."""
    assert epochs.session is not None
    centred = Epochs(epochs.X - epochs.X.mean(-1, keepdims=True), epochs.y, epochs.sfreq, epochs.ch_names,
                     epochs.session, epochs.group, epochs.name)  # fmt: skip
    return Split(centred.take(np.isin(epochs.session, TRAIN)), centred.take(epochs.session == VALIDATION),
                 centred.take(epochs.session == TEST))  # fmt: skip


# -- condition ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Steps:
    """What fifty steps on synthetic matrices did."""

    gradient: float
    """Norm of the gradient towards the input at the first step, times the norm of the input, per matrix."""
    loss: float
    """Training loss after the last step; NaN if a loss, a gradient or a weight was not finite."""


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


def fifty_steps(options: dict[str, Any], condition: float, dtype: torch.dtype, seed: int, steps: int = 50) -> Steps:
    """Train an SPDNet of one layer for some steps on `synthetic` matrices."""
    X, y = (torch.from_numpy(part) for part in synthetic(condition, seed))
    X, norm = X.to(dtype), options["norm"]
    torch.manual_seed(seed)
    norm_options = {name: value for name, value in options.items() if name != "norm"}
    net = SPDNet((12, 8), 2, norm, floor=1e-12, norm_options=norm_options, dtype=dtype)
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
                return Steps(gradient, float("nan"))
            assert batch.grad is not None
            finite = all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
            if not (finite and bool(torch.isfinite(value)) and bool(torch.isfinite(batch.grad).all())):
                return Steps(gradient, float("nan"))
            if step == 0:
                size = batch.detach().norm(dim=(-2, -1)) * batch.grad.norm(dim=(-2, -1))
                gradient = float(size.mean()) * len(rows)
            optimizer.step()
            loss = float(value)
    return Steps(gradient, loss)
