"""`linmap compare acm`: augmented covariances whose order and lag were chosen on validation epochs, plain covariances,
and a convolutional network, subject by subject or fold by fold."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.door import files_inside
from linmap.data.epochs import EMBEDDED_SUBJECTS, Epochs, load_epochs, mamem
from linmap.data.folds import Fold, folds
from linmap.errors import DataError
from linmap.experiment import conclude, fingerprint
from linmap.experiment.charts import draw_confusions, draw_gains
from linmap.experiment.drawing import Drawing
from linmap.experiment.engine import Arm, Experiment, Outcome, Part, Runs, Trial
from linmap.experiment.result import Check, Metric, Picture, Result, Table
from linmap.recipes.acm.flags import Compare
from linmap.recipes.job import CompareJob
from linmap.signals.acm import ACMClassifier, class_patterns
from linmap.signals.acm.classifier import KERNELS, Head
from linmap.signals.acm.pictures import draw_order_lag, draw_patterns
from linmap.signals.acm.shallow import ShallowNetClassifier

ACM, ACM_MDM = "ACM, tangent space + SVM", "ACM, MDM"
PLAIN, PLAIN_MDM = "covariance, tangent space + SVM", "covariance, MDM"
NETWORK = "ShallowFBCSPNet, rewritten"
ACCURACY = Metric("accuracy", "higher", digits=3)
GAINS = ("order 1", "chosen order and lag")
ENDINGS = (".npz", ".fif", ".fif.gz")


def compare(settings: Compare, job: CompareJob) -> Result:
    """Every method on every subject or fold; the validation epochs alone choose."""
    loaded = _recordings(job.data)
    parts = parts_of([e if settings.band is None else e.filtered(*settings.band) for e in loaded], job.seed)
    key = {"band": settings.band, "estimator": settings.estimator, "data": fingerprint(job.data)}
    runs = Experiment("acm", job.out / "runs", key, job.resume).run(arms(settings), parts, [job.seed])
    rows = runs.rows([ACCURACY])
    over, overlap = ("subjects", 0.0) if len(loaded) > 1 else ("folds", statistics.fmean(p.data.overlap for p in parts))
    return conclude(
        "acm", rows, [ACCURACY], settings, over=over, overlap=overlap, task=_task(loaded, parts),
        shows=_shows(runs, over), limits="Order, lag and kernel are chosen on one part of the epochs, so the choice is "
        "noisy.", checks=[_check(runs, *pair, overlap) for pair in ((ACM, PLAIN), (ACM_MDM, PLAIN_MDM))],
        tables=[table_by_part(f"By {over[:-1]}", runs)], seeds=[job.seed], drawings=_drawings(runs, parts, job.out),
    )  # fmt: skip


# -- data ------------------------------------------------------------------------------------------------------------


def _recordings(path: Path | None) -> list[Epochs]:
    """The embedded subjects of MAMEM, a file, or all files of a folder."""
    if path is None:
        return [mamem(subject) for subject in EMBEDDED_SUBJECTS]
    files = files_inside(path, ENDINGS) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: the folder holds no file of epochs ({', '.join(ENDINGS)}).")
    return [load_epochs(file) for file in files]


def parts_of(recordings: Sequence[Epochs], seed: int) -> list[Part]:
    """Of several recordings one fold each, the last, which tests the last session where there are three or more; of a
    single one all folds."""
    if len(recordings) == 1:
        return [Part(fold.name, fold) for fold in folds(recordings[0], seed)]
    return [Part(epochs.name, folds(epochs, seed)[-1]) for epochs in recordings]


# -- methods ---------------------------------------------------------------------------------------------------------


def arms(settings: Compare) -> list[Arm]:
    """The system with both of its classifiers, the same on plain covariances, and the network."""
    grid = {"orders": settings.orders, "lags": settings.lags}

    def arm(name: str, head: Head, system: bool, note: str) -> Arm:
        orders = settings.orders if system else (1,)
        return Arm(name, "system" if system else "baseline", partial(_searched, settings, head, orders),
                   grid if system else {}, note=note, seeded=False)  # fmt: skip

    found = [
        arm(ACM, "tgsp+svm", True, "order, lag and kernel by the validation epochs"),
        arm(ACM_MDM, "mdm", True, "order and lag by the validation epochs"),
        arm(PLAIN, "tgsp+svm", False, "kernel by the validation epochs"),
        arm(PLAIN_MDM, "mdm", False, ""),
    ]
    if settings.network_epochs:
        found.append(Arm(NETWORK, "baseline", partial(_network, settings.network_epochs),
                         {"epochs": settings.network_epochs},
                         note="stopped by the validation epochs; braindecode itself needs torchaudio"))  # fmt: skip
    return found


def answered(test: Epochs, answers: np.ndarray, parameters: int | None = None, **details: Any) -> Outcome:
    """The accuracy of a method, with its answers."""
    right = float((answers == test.labels()).mean())
    return Outcome({ACCURACY.name: right}, parameters, {"answers": answers, **details})


def _searched(settings: Compare, head: Head, orders: Sequence[int], trial: Trial) -> Outcome:
    """Chosen by the validation part, trained on the training part, asked about the test part."""
    fold: Fold[Epochs] = trial.data
    n = len(fold.train)
    X = np.concatenate([fold.train.X, fold.validation.X])
    y = np.concatenate([fold.train.labels(), fold.validation.labels()])
    options = settings.options(classifier=head, orders=orders, random_state=trial.seed)
    svm: dict[str, Any] = {"C": 1.0, "kernel": KERNELS} if head == "tgsp+svm" else {}
    split = [(np.arange(n), np.arange(n, len(X)))]
    chosen = ACMClassifier(**options, **svm, inner_cv=split).fit(X, y)
    if svm:
        svm["kernel"] = chosen.classifier_.kernel
    final = ACMClassifier(**options | {"method": (chosen.order_, chosen.lag_)}, **svm).fit(X[:n], y[:n])
    scores = getattr(chosen, "cv_results_", None)
    searched = scores and {name: scores[name] for name in ("param_order", "param_lag", "mean_test_score")}
    return answered(fold.test, final.predict(fold.test.X), order=chosen.order_, lag=chosen.lag_, searched=searched)


def _network(epochs: int, trial: Trial) -> Outcome:
    fold: Fold[Epochs] = trial.data
    network, held = ShallowNetClassifier(epochs, trial.seed), fold.validation
    network.fit(fold.train.X, fold.train.labels(), (held.X, held.labels()), trial.folder)
    return answered(fold.test, network.predict(fold.test.X), sum(p.numel() for p in network.model_.parameters()))


# -- what was found --------------------------------------------------------------------------------------------------


def table_by_part(title: str, runs: Runs) -> Table:
    """Accuracy of each subject or fold, and the orders and lags that were chosen for it."""
    names = [arm.name for arm in runs.arms]
    chosen = [name for name in names if name not in (PLAIN, PLAIN_MDM, NETWORK)]
    cells: list[list[str | float | int]] = []
    for part in runs.parts:
        run = {name: runs.of(name, part)[0] for name in names}
        cells.append([
            part, *(round(run[name].values[ACCURACY.name], 3) for name in names),
            *(f"({run[name].details['order']}, {run[name].details['lag']})" for name in chosen),
        ])  # fmt: skip
    return Table(title, ["part", *names, *(f"(order, lag), {name}" for name in chosen)], cells, "lags in samples")


def _task(loaded: Sequence[Epochs], parts: Sequence[Part]) -> str:
    first, n_classes = loaded[0], len(np.unique(loaded[0].labels()))
    shape = f"epochs of {first.X.shape[1]} channels x {first.X.shape[2]} samples, {n_classes} classes"
    if len(loaded) == 1:
        return (
            f"{first.name}, {len(first)} {shape}: {len(parts)} folds, one part to test, one to choose, the rest "
            "to train; values are folds"
        )
    return (
        f"{len(loaded)} subjects ({first.name}, ...), {shape}: the last part of each (its last session, where "
        "there are three or more) tests, the one before chooses, the rest train; values are subjects"
    )


def _shows(runs: Runs, over: str) -> str:
    gap = runs.difference(ACM, PLAIN, ACCURACY.name)
    mean = {arm.name: f"{runs.mean(arm.name, ACCURACY.name):.3f}" for arm in runs.arms}
    network = f"; the network reaches {mean[NETWORK]}" if NETWORK in mean else ""
    return (
        f"Tangent space + SVM: {mean[PLAIN]} -> {mean[ACM]} with order and lag chosen (better for {gap.wins} of "
        f"{gap.n} {over}); MDM: {mean[PLAIN_MDM]} -> {mean[ACM_MDM]}{network}."
    )


def _check(runs: Runs, system: str, baseline: str, overlap: float) -> Check:
    ours, theirs = (runs.mean(name, ACCURACY.name) for name in (system, baseline))
    return Check(f"{system} is above {baseline}", ours > theirs, f"{ours:.3f} against {theirs:.3f}",
                 "lags do not help on these epochs; take plain covariances",
                 runs.differ(system, baseline, ACCURACY.name, overlap=overlap))  # fmt: skip


def _drawings(runs: Runs, parts: Sequence[Part], out: Path) -> list[Drawing]:
    """Of the subjects, the confusions, the search, and what tells the classes of the first part apart."""
    svm = runs.of(ACM)

    def gains(path: Path) -> Picture:
        plain, chosen = (runs.values(name, ACCURACY.name) for name in (PLAIN, ACM))
        colours = runs.styles[PLAIN]["color"], runs.styles[ACM]["color"]
        draw_gains(path, runs.parts, plain, chosen, GAINS, "test accuracy", colours)
        return Picture(
            path.name,
            "Order 1 and the chosen order and lag",
            "Test accuracy of tangent space + SVM with plain covariances and with the order and lag that the "
            "validation epochs chose.",
        )

    def confusions(path: Path) -> Picture:
        true = np.concatenate([part.data.test.labels() for part in parts])
        shown = {
            title: (true, np.concatenate([run.details["answers"] for run in runs.of(name)]))
            for title, name in (("order 1", PLAIN), ("chosen order and lag", ACM))
        }
        draw_confusions(path, shown, np.unique(true))
        return Picture(
            path.name,
            "What test epochs were taken for",
            "Rows: the class of an epoch; columns: the answer, in per cent of the class, all parts together. Left: "
            "plain covariances; right: augmented ones.",
        )

    def search(path: Path) -> Picture:
        scores = np.mean([run.details["searched"]["mean_test_score"] for run in svm], 0)
        draw_order_lag(path, svm[0].details["searched"] | {"mean_test_score": scores}, "Validation accuracy, mean")
        return Picture(
            path.name,
            "Validation accuracy over order and lag",
            "Tangent space + SVM with the better kernel. At order 1 the lag is without effect. The frame marks the "
            "best mean; each part chooses for itself.",
        )

    def patterns(path: Path) -> Picture:
        train, (order, lag) = parts[0].data.train, (svm[0].details[name] for name in ("order", "lag"))
        matrices = ACMClassifier((order, lag), "mdm").fit(train.X, train.labels()).transform(train.X)
        draw_patterns(
            path, class_patterns(matrices, train.labels(), len(train.ch_names)), np.unique(train.labels()), train, lag
        )
        return Picture(
            path.name,
            f"What distinguishes the classes: {parts[0].name}",
            "Change of each channel's autocovariance against the mean of all epochs, by delay; the first column is "
            "power, the others are what a plain covariance does not hold.",
        )

    return [(out / "subjects.svg", gains), (out / "confusion.svg", confusions), (out / "order_lag.svg", search),
            (out / "patterns.svg", patterns)]  # fmt: skip
