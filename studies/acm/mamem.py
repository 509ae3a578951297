"""MAMEM's SSVEP data, subject by subject, in a band and as they are: the grid, MDOP and the network."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from linmap.data.epochs import MAMEM_SUBJECTS, Epochs, mamem
from linmap.experiment import Arm, Check, Experiment, Metric, Outcome, Picture, Runs, Trial, draw_all
from linmap.experiment.charts import draw_gains
from linmap.recipes.acm.compare import (
    ACCURACY,
    ACM,
    ACM_MDM,
    GAINS,
    NETWORK,
    PLAIN,
    PLAIN_MDM,
    answered,
    arms,
    parts_of,
    table_by_part,
)
from linmap.recipes.acm.flags import Compare
from linmap.signals.acm import ACMClassifier
from studies.study import Findings, Job, table_of

MDOP = "ACM by MDOP, tangent space + SVM"
BANDS: dict[str, tuple[float, float] | None] = {"4-35 Hz": (4.0, 35.0), "unfiltered": None}
BAR, PLAIN_BAR, GAIN = 0.33, 0.27, 0.10  # of the unfiltered accuracy over all subjects; of the filtered gain


def eleven_subjects(job: Job) -> Findings:
    """Trained on sessions 1 to 3, chosen on session 4, tested on session 5."""
    if job.tiny:
        subjects, settings, drawn = (0, 2), Compare(orders=(1, 2), lags=(4,), network_epochs=1), 2
    else:
        subjects, drawn = MAMEM_SUBJECTS, 20
        settings = Compare(orders=(1, 2, 3, 4, 6), lags=(1, 2, 4, 6, 8), network_epochs=100)
    loaded = [mamem(subject) for subject in subjects]
    found = Findings(
        f"MAMEM SSVEP II, {len(subjects)} subjects, epochs of 8 channels x 125 samples, 5 frequencies: "
        "trained on sessions 1 to 3, chosen on session 4, tested on session 5; values are subjects"
    )
    methods = [*arms(settings), Arm(MDOP, "ablation", partial(_by_mdop, drawn), {"epochs": drawn})]
    by_band: dict[str, Runs] = {}
    for name, band in BANDS.items():
        parts = parts_of([_cut(e if band is None else e.filtered(*band), job.tiny) for e in loaded], job.seeds[0])
        experiment = Experiment(f"acm {name}", job.out / name, {"band": band}, job.resume)
        runs = by_band[name] = experiment.run(methods, parts, job.seeds[:1])
        found.tables.append(table_by_part(f"By subject: {name}", runs))
        found.checks += [_above(name, runs, ACM, PLAIN), _above(name, runs, ACM_MDM, PLAIN_MDM)]
        found.sentences.append(_sentence(name, runs))
    rows = [
        table_of(name, runs.rows([ACCURACY]), [Metric(ACCURACY.name, "higher", digits=3)])
        for name, runs in by_band.items()
    ]
    found.tables[:0] = rows
    found.checks += _bars(by_band["4-35 Hz"], by_band["unfiltered"])
    drawings = [(job.out / f"subjects, {name}.svg", partial(_gains, name, runs)) for name, runs in by_band.items()]
    found.pictures, notes = draw_all(drawings)
    found.sentences += notes
    return found


def _by_mdop(epochs: int, trial: Trial) -> Outcome:
    fold = trial.data
    fitted = ACMClassifier("mdop", n_epochs=epochs, random_state=trial.seed).fit(fold.train.X, fold.train.labels())
    return answered(fold.test, fitted.predict(fold.test.X), order=fitted.order_, lag=fitted.lag_)


def _cut(epochs: Epochs, tiny: bool) -> Epochs:
    """Two trials of each session."""
    return epochs.take(np.arange(len(epochs)) % 100 < 40) if tiny else epochs


def _above(band: str, runs: Runs, system: str, baseline: str) -> Check:
    ours, theirs = (runs.mean(name, ACCURACY.name) for name in (system, baseline))
    return Check(
        f"{band}: {system} is above {baseline}",
        ours > theirs,
        f"{ours:.3f} against {theirs:.3f}",
        "lags do not help on this band; take plain covariances",
        runs.differ(system, baseline, ACCURACY.name),
    )


def _bars(filtered: Runs, unfiltered: Runs) -> list[Check]:
    """The reference figures of this data set."""
    svm, plain = (unfiltered.mean(name, ACCURACY.name) for name in (ACM, PLAIN))
    gain = filtered.mean(ACM, ACCURACY.name) - filtered.mean(PLAIN, ACCURACY.name)
    return [
        Check(f"unfiltered: mean accuracy of at least {BAR} (order 1: {PLAIN_BAR})", svm >= BAR,
              f"{svm:.3f}, order 1 {plain:.3f}", "the published accuracy is not reproduced"),
        Check(f"4-35 Hz: at least {100 * GAIN:.0f} points over order 1", gain >= GAIN, f"{100 * gain:+.1f} points",
              "the gain of lags in a narrow band is smaller than published"),
    ]  # fmt: skip


def _sentence(band: str, runs: Runs) -> str:
    gap = runs.difference(ACM, PLAIN, ACCURACY.name)
    mean = {arm.name: f"{runs.mean(arm.name, ACCURACY.name):.3f}" for arm in runs.arms}
    return (
        f"{band}: tangent space + SVM {mean[PLAIN]} -> {mean[ACM]} with order and lag chosen (better for "
        f"{gap.wins} of {gap.n} subjects), MDM {mean[PLAIN_MDM]} -> {mean[ACM_MDM]}, by MDOP {mean[MDOP]}; the "
        f"network reaches {mean[NETWORK]}."
    )


def _gains(band: str, runs: Runs, path: Path) -> Picture:
    plain, chosen = (runs.values(name, ACCURACY.name) for name in (PLAIN, ACM))
    colours = runs.styles[PLAIN]["color"], runs.styles[ACM]["color"]
    draw_gains(path, runs.parts, plain, chosen, GAINS, "test accuracy", colours)
    return Picture(
        path.name,
        f"Order 1 and the chosen order and lag, {band}",
        "Test accuracy of tangent space + SVM, subject by subject.",
    )
