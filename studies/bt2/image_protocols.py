"""What the training on images shows: tables, and what must hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Runs, Table, differ, mean_std
from studies.bt2.images import EXTRA, MEASURES, SERIES, SETTINGS, TRAIN, cell, image_scores, series_scores
from studies.study import Findings, Job

EPOCHS = 60
METHODS = "all methods"  # the only arm: a run trains them all, from the same two models
SAID = {
    "more classes": "the old network has seen the digits 0-4, the new ones all ten",
    "bigger backbone": "the new networks have 16 times the channels of the old one",
    "another modality": "the old network sees the 16 ink sums of rows and columns, the new ones the image",
}
BCT, BT2 = "BCT", "BT²"
NAIVE = f"{BCT} + {EXTRA} naive dimensions"


def settings(job: Job) -> Findings:
    """The three settings of the paper: queries and galleries of every method."""
    findings = Findings(_budget(job))
    for name, networks in SETTINGS.items():
        runs = _runs(job, name, lambda seed, epochs, networks=networks: image_scores(*networks, seed, epochs))
        findings.tables.append(setting_table(name, runs))
        findings.checks += setting_checks(name, runs)
        if job.tiny:
            break
    return findings


def series(job: Job) -> Findings:
    """Four models, each larger and trained on more digits; the vectors of each are the old ones of the next."""
    findings = Findings(_budget(job))
    runs = _runs(job, "series", series_scores)
    findings.tables.append(series_table(runs))
    findings.checks += series_checks(runs)
    return findings


def _budget(job: Job) -> str:
    return (
        f"8 x 8 digits of scikit-learn, {TRAIN} to train, the others searched among themselves; "
        f"{1 if job.tiny else EPOCHS} passes for every method, {len(job.seeds)} seeds"
    )


def _runs(job: Job, name: str, measure: Callable[[int, int], dict[str, float]]) -> Runs:
    """A run trains every method with one seed."""
    epochs = 1 if job.tiny else EPOCHS
    experiment = Experiment(f"bt2 {name}", job.out / "runs", {"setting": name, "epochs": epochs}, job.resume)
    arm = Arm(METHODS, "system", lambda trial: Outcome(measure(trial.seed, epochs)))
    return experiment.run([arm], [Part("", None)], list(job.seeds))


def setting_table(setting: str, runs: Runs) -> Table:
    """A row for each method."""
    old, new = SETTINGS[setting]
    names = dict.fromkeys(measure.rpartition(", ")[0] for measure in runs.of(METHODS)[0].values)
    rows: list[list[str | float | int]] = [
        [name, *(mean_std(runs.values(METHODS, f"{name}, {measure}")) for measure in MEASURES)] for name in names
    ]
    return Table(
        f"Digits, {setting} ({old.features} to {new.features} dimensions; query/gallery): {SAID[setting]}",
        ["setting", *MEASURES],
        rows,
        "mean ± std over the seeds; the same schedule for all methods; the whole backfill is "
        f"{BT2}/{BT2}, or independent/independent where nothing need be compatible",
    )


def setting_checks(setting: str, runs: Runs) -> list[Check]:
    """What the paper claims of a setting."""

    def mAP(name: str) -> float:
        return runs.mean(METHODS, f"{name}, mAP")

    def above(ours: str, theirs: str, by: float = 0.0) -> bool:
        found, others = (np.array(runs.values(METHODS, f"{name}, mAP")) for name in (ours, theirs))
        return differ(found, others + by)

    said, gap = f"digits, {setting}", mAP(f"{BT2}/old") - mAP(f"{BCT}/old")
    return [
        Check(
            f"{said}: independent training is not comparable with the old gallery (mAP at most 0.3)",
            mAP("independent/old") <= 0.3,
            f"{mAP('independent/old'):.3f}",
            "there would be nothing to solve: independent models would already agree",
            differ(runs.values(METHODS, "independent/old, mAP"), 0.3),
        ),
        Check(
            f"{said}: BT²/old is above old/old by 0.05 mAP",
            mAP(f"{BT2}/old") >= mAP("old/old") + 0.05,
            f"{mAP(f'{BT2}/old'):.3f} against {mAP('old/old'):.3f}",
            "new queries gain nothing on an old gallery; recompute it instead",
            above(f"{BT2}/old", "old/old", 0.05),
        ),
        Check(
            f"{said}: no less compatible than BCT (0.02), BT²/BT² is above BCT/BCT in mAP",
            gap >= -0.02 and mAP(f"{BT2}/{BT2}") > mAP(f"{BCT}/{BCT}"),
            f"old gallery {mAP(f'{BT2}/old'):.3f} and {mAP(f'{BCT}/old'):.3f}, own {mAP(f'{BT2}/{BT2}'):.3f} and "
            f"{mAP(f'{BCT}/{BCT}'):.3f}; {NAIVE} {mAP(f'{NAIVE}/{NAIVE}'):.3f}",
            "the simpler compatible training is the better choice",
            above(f"{BT2}/old", f"{BCT}/old", -0.02) and above(f"{BT2}/{BT2}", f"{BCT}/{BCT}"),
        ),
    ]


def series_table(runs: Runs) -> Table:
    """A row for each method and step."""
    steps = range(len(SERIES))
    rows: list[list[str | float | int]] = [
        [
            f"{name}, queries of step {q + 1}",
            *(mean_std(runs.values(METHODS, cell(name, q, g))) if g <= q else "" for g in steps),
        ]
        for name in ("independent", BCT, BT2)
        for q in steps
    ]
    said = ", ".join(f"{network.classes} digits by {network.width} channels" for network in SERIES)
    return Table(
        f"Digits, a series of upgrades: {said}; mAP on the galleries of all steps",
        ["queries", *(f"gallery of step {g + 1}" for g in steps)],
        rows,
        f"mean ± std over the seeds; BT² grows from 8 dimensions by {EXTRA} a step",
    )


def series_checks(runs: Runs) -> list[Check]:
    """What a chain of upgrades must keep."""

    def found(name: str, query: int, gallery: int) -> list[float]:
        return runs.values(METHODS, cell(name, query, gallery))

    last = len(SERIES) - 1
    first = [runs.mean(METHODS, cell(BT2, q, 0)) for q in range(1, last + 1)]
    own, ours = (runs.mean(METHODS, cell(BT2, step, step)) for step in (0, last))
    theirs = runs.mean(METHODS, cell(BCT, last, last))
    return [
        Check(
            "digits, series: every later step of BT² finds more in the first gallery than the first model does",
            min(first) > own,
            ", ".join(f"{value:.3f}" for value in first) + f" against {own:.3f}",
            "a chain of upgrades loses what the first step gained",
            all(differ(found(BT2, q, 0), found(BT2, 0, 0)) for q in range(1, last + 1)),
        ),
        Check(
            "digits, series: the last step of BT² is above BCT's in its own gallery",
            ours > theirs,
            f"{ours:.3f} against {theirs:.3f}",
            "after several upgrades the simpler training is ahead",
            differ(found(BT2, last, last), found(BCT, last, last)),
        ),
    ]
