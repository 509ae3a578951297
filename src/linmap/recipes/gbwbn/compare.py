"""`linmap compare gbwbn`: networks that differ in their normalisation alone, and a support vector machine in tangent
space, fold by fold."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.covariances import Covariances
from linmap.data.folds import Fold, folds
from linmap.errors import DataError, DivergenceError, UsageError
from linmap.experiment import Run, conclude, fingerprint, mean_std
from linmap.experiment.charts import draw_confusions, draw_curves
from linmap.experiment.drawing import Drawing
from linmap.experiment.engine import Arm, Choice, Experiment, Outcome, Part, Runs, Trial
from linmap.experiment.result import Check, Kind, Metric, Picture, Result, Table
from linmap.recipes.gbwbn.fit import Samples, front_of, given, load_samples
from linmap.recipes.gbwbn.flags import Compare, Front
from linmap.recipes.job import CompareJob
from linmap.signals.acm import AugmentedCovariance, TangentSpaceSVM
from linmap.signals.acm.classifier import KERNELS
from linmap.signals.gbwbn import GBWBatchNorm, SPDNetClassifier

GBWBN, NONE, SVM = "GBWBN", "no normalisation", "tangent space + SVM"
AIM, LEM = "affine-invariant (spd_learn)", "log-Euclidean (spd_learn)"
ACCURACY, CHOSEN = Metric("test accuracy", "higher", digits=3), Metric("validation accuracy", "neither", digits=3)
EPOCHS, STEPS, MOST = 25, 75, 100
BY_VALIDATION = Choice(CHOSEN.name, "higher", pilots=False)


def compare(settings: Compare, job: CompareJob) -> Result:
    """The same network, data, budget and seed with each normalisation; the power is chosen on validation."""
    if not settings.thetas or min(settings.thetas) <= 0:
        raise UsageError("--thetas must be positive numbers.")
    samples = load_samples(job.data, settings.front)
    front = front_of(samples, settings.front)
    parts = [Part(fold.name, fold) for fold in folds(samples, job.seed)]
    epochs = settings.epochs or epochs_for(min(len(part.data.train) for part in parts), settings.batch_size)
    options = settings.options(front=front, epochs=epochs)
    key = options | {"data": fingerprint(job.data)}
    experiment = Experiment("gbwbn", job.out / "runs", key, job.resume)
    runs = experiment.run(arms(options, settings.thetas), parts, [job.seed], BY_VALIDATION)
    by_power = powers(runs)
    networks = [*by_power.values(), *(runs.of(name) for name in (NONE, AIM, LEM))]
    trained = [run for of in networks for run in of if not run.details["failure"]]
    if not trained:
        raise DataError(f"{samples.name}: no network could be trained: {networks[0][0].details['failure']}")
    rows = runs.rows([ACCURACY, CHOSEN])
    overlap = statistics.fmean(part.data.overlap for part in parts)
    return conclude(
        "gbwbn", rows, [ACCURACY, CHOSEN], settings, over="folds", overlap=overlap,
        task=_task(samples, parts, options, trained[0].details["dims"]), shows=_shows(runs), limits=_limits(runs),
        checks=training_checks([run for of in networks for run in of]),
        tables=[training_table("Every power of the metric", by_power, "mean ± std over the folds")],
        seeds=[job.seed], drawings=_drawings(runs, parts, job.out),
    )  # fmt: skip


def epochs_for(samples: int, batch_size: int) -> int:
    """Passes over so many samples: `EPOCHS`, or what makes `STEPS` steps of training, up to `MOST`."""
    return min(max(EPOCHS, math.ceil(STEPS / math.ceil(samples / batch_size))), MOST)


# -- methods ---------------------------------------------------------------------------------------------------------


def arms(options: Mapping[str, Any], thetas: Sequence[float]) -> list[Arm]:
    """The system, the same network with other normalisations, and no network."""
    front: dict[str, Any] = {name: options[name] for name in ("front", "order", "lag", "eps")}
    return [
        network(GBWBN, "system", options, norm="gbw", rates=thetas, note="power by the validation part"),
        network(NONE, "baseline", options, norm=None),
        network(AIM, "baseline", options, norm="aim"),
        network(LEM, "baseline", options, norm="lem"),
        Arm(SVM, "baseline", partial(tangent_svm, **front), seeded=False, note="kernel by the validation part"),
    ]


def network(
    name: str, kind: Kind, options: Mapping[str, Any], rates: Sequence[float] = (), note: str = "", **own: Any
) -> Arm:
    """An arm that trains an `SPDNetClassifier` with these options; a rate is the power of its metric."""
    return Arm(name, kind, partial(train_network, dict(options) | own), own, rates, rate_name="power", note=note)


def train_network(options: Mapping[str, Any], trial: Trial) -> Outcome:
    """Train on the first part of a fold, keep the epoch that is best on the second (where there is one), measure."""
    fold: Fold[Samples] = trial.data
    power: dict[str, Any] = {} if trial.rate is None else {"theta": trial.rate}
    classifier = SPDNetClassifier(**dict(options) | power, random_state=trial.seed)
    held = (given(fold.validation), fold.validation.labels()) if len(fold.validation) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            classifier.fit(given(fold.train), fold.train.labels(), validation=held)
            answers = classifier.predict(given(fold.test))
            chosen = classifier.predict(held[0]) == held[1] if held else np.array([np.nan])
        except (DivergenceError, ValueError, RuntimeError) as error:
            failed = {"failure": f"{type(error).__name__}: {error}"[:200], "losses": [], "answers": []}
            return Outcome({ACCURACY.name: np.nan, CHOSEN.name: np.nan}, details=failed)
    assert classifier.history_ is not None
    layer, losses = classifier.model_.norms[0], [record.loss for record in classifier.history_.epochs]
    values = {ACCURACY.name: (answers == fold.test.labels()).mean(), CHOSEN.name: chosen.mean(),
              "last loss": losses[-1]}  # fmt: skip
    if isinstance(layer, GBWBatchNorm):
        values["mean residual"] = layer.mean_residual
    parameters = sum(p.numel() for p in classifier.model_.parameters() if p.requires_grad)
    return Outcome(
        values, parameters, {"failure": "", "losses": losses, "answers": answers, "dims": classifier.model_.dims}
    )


def tangent_svm(trial: Trial, front: Front, order: int, lag: int, eps: float) -> Outcome:
    """What one would take without a network: the tangent space at the mean, the kernel by the validation part."""
    fold: Fold[Samples] = trial.data
    size = 1.0 if front != "matrices" else float(np.trace(fold.train.X, axis1=1, axis2=2).mean()) or 1.0

    def matrices(part: Samples) -> np.ndarray:
        if isinstance(part, Covariances):
            return part.X / size + eps * np.eye(part.X.shape[-1])
        return AugmentedCovariance(order, lag).fit_transform(part.X)

    train, held, test = (matrices(part) for part in (fold.train, fold.validation, fold.test))
    machines = [TangentSpaceSVM(kernel=kernel).fit(train, fold.train.labels()) for kernel in KERNELS]
    right = [float((machine.predict(held) == fold.validation.labels()).mean()) for machine in machines]
    best = int(np.argmax(right))
    answers = machines[best].predict(test)
    return Outcome(
        {ACCURACY.name: float((answers == fold.test.labels()).mean()), CHOSEN.name: right[best]},
        details={"answers": answers, "kernel": KERNELS[best]},
    )


# -- what was found --------------------------------------------------------------------------------------------------


def powers(runs: Runs) -> dict[str, list[Run]]:
    """The runs of GBWBN by power; those of the only one where there was nothing to choose."""
    tried = [run for part in runs.parts for run in runs.tried.get((GBWBN, part), runs.of(GBWBN, part))]
    return {
        f"{GBWBN} θ = {rate:g}": [run for run in tried if run.rate == rate]
        for rate in sorted({run.rate for run in tried if run.rate is not None})
    }


def training_table(title: str, named: Mapping[str, Sequence[Run]], note: str = "") -> Table:
    """Accuracies, the loss at the end and the distance of the mean that was used from the Fréchet mean."""

    def mean(runs: Sequence[Run], measure: str, form: str) -> str:
        found = [run.values[measure] for run in runs if np.isfinite(run.values.get(measure, np.nan))]
        return format(statistics.fmean(found), form) if found else ""

    cells: list[list[str | float | int]] = [
        [name, mean_std([run.values[ACCURACY.name] for run in runs]), mean(runs, CHOSEN.name, ".3f"),
         mean(runs, "last loss", ".2g"), mean(runs, "mean residual", ".2f"),
         f"{statistics.fmean(run.seconds for run in runs):.0f} s"]
        for name, runs in named.items()
    ]  # fmt: skip
    return Table(title, ["method", "test", "validation", "last loss", "mean residual", "time"], cells, note)


def training_checks(runs: Sequence[Run]) -> list[Check]:
    """Whether all networks trained at all."""
    failures = [run.details["failure"] for run in runs if run.details["failure"]]
    falls = [losses[-1] / losses[0] for run in runs if (losses := run.details["losses"])]
    return [
        Check("every network trains without NaN", not failures, "; ".join(failures) or f"{len(runs)} runs",
              "a normalisation is numerically unsafe on matrices of this kind"),
        Check("every training loss falls", max(falls, default=np.inf) < 1,
              f"largest quotient of the last and the first {max(falls, default=np.nan):.2g}",
              "a network did not learn at all, and its accuracy is chance"),
    ]  # fmt: skip


def _task(samples: Samples, parts: Sequence[Part], options: Mapping[str, Any], dims: Sequence[int]) -> str:
    size = " x ".join(map(str, samples.X.shape[1:]))
    kind = "matrices" if isinstance(samples, Covariances) else "epochs"
    return (
        f"{samples.name}: {len(samples)} {kind} of {size}, {len(np.unique(samples.labels()))} classes; {len(parts)} "
        f"folds ({parts[0].name}, ...): one part tests, one chooses epoch and power, the rest train; SPDNet "
        f"{'-'.join(map(str, dims))}, Adam {options['lr']:g}, batches of {options['batch_size']}, {options['epochs']} "
        "epochs; values are folds"
    )


def _shows(runs: Runs) -> str:
    means = {name: f"{runs.mean(name, ACCURACY.name):.3f}" for name in (GBWBN, NONE, AIM, LEM, SVM)}
    first, *others = (f"{name} {value}" for name, value in means.items())
    chosen = ", ".join(f"{rate:g}" for rate in runs.rates(GBWBN))
    return f"{first} (powers chosen on validation: {chosen}), {', '.join(others)}."


def _limits(runs: Runs) -> str:
    edge = " The chosen power is the smallest or the largest of --thetas in some fold; a better one may lie beyond." \
        if GBWBN in runs.at_edge() else ""  # fmt: skip
    return (
        "One training a fold, of few passes: a network whose loss still falls may get better with more --epochs, and "
        f"another seed may give another order.{edge}"
    )


def _drawings(runs: Runs, parts: Sequence[Part], out: Path) -> list[Drawing]:
    def losses(path: Path) -> Picture:
        curves = {
            name: [run.details["losses"] for run in runs.of(name) if run.details["losses"]]
            for name in (GBWBN, NONE, AIM, LEM)
        }
        shown = {name: of for name, of in curves.items() if of}
        draw_curves(path, shown, "epoch", "training loss", log=True, styles=runs.styles)
        return Picture(path.name, "Training loss", "Mean over the folds; bands from the lowest to the highest.")

    def confusions(path: Path) -> Picture:
        done = [(part.data.test.labels(), runs.of(GBWBN, part.name)[0].details["answers"]) for part in parts]
        true, found = (np.concatenate(of) for of in zip(*(pair for pair in done if len(pair[1])), strict=True))
        draw_confusions(path, {GBWBN: (true, found)}, np.unique(true))
        return Picture(path.name, f"Test samples, {GBWBN}", "Share of each class, all folds together.")

    return [(out / "confusion.svg", confusions), (out / "loss.svg", losses)]
