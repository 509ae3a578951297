"""`linmap compare acm`: plain covariances, augmented ones whose order and lag were chosen on a validation session, and
a convolutional network, subject by subject."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from sklearn.model_selection import StratifiedGroupKFold

from linmap.artifacts import plain, write_json
from linmap.data.epochs import EMBEDDED_SUBJECTS, MAMEM_SUBJECTS, TEST, VALIDATION, Epochs, load_epochs, mamem
from linmap.errors import DataError
from linmap.experiment.result import Check, Metric, Picture, Result, Row, Table
from linmap.pictures import illustrated
from linmap.recipes.acm.network import n_parameters, network_answers
from linmap.recipes.acm.physionet import physionet_table
from linmap.recipes.acm.pictures import draw_gains, draw_order_lag, draw_patterns
from linmap.recipes.confusion import draw_confusions
from linmap.recipes.drawn import drawn
from linmap.recipes.job import CompareJob
from linmap.signals.acm import ACMClassifier, class_patterns
from linmap.signals.acm.classifier import Head

ACM, ACM_MDM, MDOP = "ACM, tangent space + SVM", "ACM, MDM", "ACM by MDOP, tangent space + SVM"
PLAIN, PLAIN_MDM = "covariance, tangent space + SVM", "covariance, MDM"
NETWORK = "ShallowFBCSPNet, rewritten"
FILTERED, UNFILTERED = "accuracy, 4-35 Hz", "accuracy, unfiltered"
BANDS: dict[str, tuple[float, float] | None] = {FILTERED: (4.0, 35.0), UNFILTERED: None}
BAR, PLAIN_BAR, GAIN = 0.33, 0.27, 0.10  # of the unfiltered accuracy over all subjects; of the filtered gain
KINDS: dict[str, Literal["system", "baseline", "ablation"]] = {
    ACM: "system", ACM_MDM: "system", PLAIN: "baseline", PLAIN_MDM: "baseline", NETWORK: "baseline", MDOP: "ablation",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Flags of `linmap compare acm`."""

    subjects: tuple[int, ...] = EMBEDDED_SUBJECTS
    """Of MAMEM, 0 to 10; 0, 2, 5 and 8 are embedded."""
    orders: tuple[int, ...] = (1, 2, 4)
    """Candidates of the search."""
    lags: tuple[int, ...] = (2, 4, 8)
    """Candidates of the search, in samples."""
    mdop_epochs: int = 20
    """Training epochs that MDOP looks at."""
    network_epochs: int = 30
    """Passes of the network over the training epochs; 0 leaves it out."""
    physionet: bool = False
    """Add PhysioNet's subject S001 (in LINMAP_DATA)."""
    n_jobs: int = 1
    """Threads of the search."""


PRESETS = {
    "quick": Comparison(),
    "full": Comparison(MAMEM_SUBJECTS, (1, 2, 3, 4, 6), (1, 2, 4, 6, 8), network_epochs=100, physionet=True),
}


@dataclass(frozen=True)
class Parts:
    """Epochs of one subject: train, choose, test."""

    train: Epochs
    validation: Epochs
    test: Epochs


def compare(settings: Comparison, job: CompareJob) -> Result:
    """Every method on every subject, filtered and not; the validation part alone chooses."""
    console = Console(stderr=True)
    subjects = list(settings.subjects) if job.data is None else [0]
    loaded = {s: mamem(s) if job.data is None else load_epochs(job.data) for s in subjects}
    filterable = all(e.sfreq is not None and e.sfreq > 70 for e in loaded.values())
    bands = {name: band for name, band in BANDS.items() if band is None or filterable}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in bands}
    for name, band in bands.items():
        for s in subjects:
            with console.status(f"acm: {loaded[s].name}, {name.partition(', ')[2]}"):
                epochs = loaded[s] if band is None else loaded[s].filtered(*band)
                found[name].append(_measured(settings, job, epochs, name, s))
    tables = [_subject_table(name, found[name], loaded) for name in found]
    if settings.physionet and job.data is None:
        with console.status("acm: PhysioNet S001"):
            tables.append(physionet_table(job.seed))
    rows = _rows(found)
    return Result(
        system="acm",
        task=_task(job, loaded),
        metrics=[Metric(name, "higher", digits=3) for name in found],
        rows=rows,
        shows=_shows(found),
        limits="Order, lag and kernel are chosen on one session of 100 epochs, so the choice is noisy; epochs of one second were filtered one by one, as the continuous recordings are not in the file. One data set of flicker responses; the paper's are of motor imagery.",  # noqa: E501
        checks=_checks(found, subjects, job),
        tables=tables,
        pictures=_pictures(job, loaded, found),
        preset=job.preset,
        seeds=[job.seed],
        settings=asdict(settings),
    )


# -- one subject -----------------------------------------------------------------------------------------------------


def split(epochs: Epochs, seed: int) -> Parts:
    """The last session to test, the one before to choose; with fewer than three, a fifth of the groups each."""
    sessions = [] if epochs.session is None else sorted(set(epochs.session.tolist()))
    if len(sessions) >= 3:
        test, validation = epochs.session == sessions[-1], epochs.session == sessions[-2]
    else:
        groups = np.arange(len(epochs)) if epochs.group is None else epochs.group
        try:
            folds = list(
                StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(epochs.X, epochs.labels(), groups)
            )
        except ValueError as error:
            raise DataError(f"{epochs.name}: the epochs cannot be split into five parts ({error}).") from None
        test, validation = (np.isin(np.arange(len(epochs)), folds[i][1]) for i in range(2))
    return Parts(epochs.take(~(test | validation)), epochs.take(validation), epochs.take(test))


def _measured(settings: Comparison, job: CompareJob, epochs: Epochs, band: str, subject: int) -> dict[str, Any]:
    """The answers and figures of all methods; kept in a file, so that an interrupted comparison goes on."""
    path = job.out / "subjects" / f"{'filtered' if band == FILTERED else 'unfiltered'}-{subject}.json"
    key = plain({"settings": asdict(settings) | {"subjects": None}, "seed": job.seed, "epochs": epochs.name})
    if job.resume and path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["found"]
    found = plain(_methods(settings, job, split(epochs, job.seed), path.with_suffix("")))
    write_json(path, {"key": key, "found": found})
    return found


def _methods(settings: Comparison, job: CompareJob, parts: Parts, folder: Path) -> dict[str, Any]:
    true, found = parts.test.labels(), {}
    heads: dict[str, tuple[Head, tuple[int, ...]]] = {
        PLAIN: ("tgsp+svm", (1,)), ACM: ("tgsp+svm", settings.orders),
        PLAIN_MDM: ("mdm", (1,)), ACM_MDM: ("mdm", settings.orders),
    }  # fmt: skip
    for name, (head, orders) in heads.items():
        start = time.perf_counter()
        found[name] = _searched(settings, job, parts, head, orders)
        found[name]["seconds"] = time.perf_counter() - start
    start = time.perf_counter()
    by_mdop = ACMClassifier("mdop", n_epochs=settings.mdop_epochs, random_state=job.seed)
    answers = by_mdop.fit(parts.train.X, parts.train.labels()).predict(parts.test.X)
    found[MDOP] = {"answers": answers, "order": by_mdop.order_, "lag": by_mdop.lag_}
    found[MDOP]["seconds"] = time.perf_counter() - start
    if settings.network_epochs:
        start = time.perf_counter()
        found[NETWORK] = {"answers": network_answers(parts.train, parts.validation, parts.test, settings.network_epochs,
                                                     job.seed, folder, job.resume)}  # fmt: skip
        found[NETWORK]["seconds"] = time.perf_counter() - start
    for one in found.values():
        one["accuracy"] = float((one["answers"] == true).mean())
    parameters = n_parameters(parts.train.X.shape[1], parts.train.X.shape[2], len(np.unique(parts.train.labels())))
    return {"true": true, "methods": found, "parameters": parameters}


def _searched(settings: Comparison, job: CompareJob, parts: Parts, head: Head, orders: Sequence[int]) -> dict[str, Any]:
    """Chosen by the validation part, trained on the training part, asked about the test part."""
    n = len(parts.train)
    X = np.concatenate([parts.train.X, parts.validation.X])
    y = np.concatenate([parts.train.labels(), parts.validation.labels()])
    svm: dict[str, Any] = {"C": 1.0, "kernel": ("linear", "rbf")} if head == "tgsp+svm" else {}
    chosen = ACMClassifier("grid", head, orders, settings.lags, n_jobs=settings.n_jobs, random_state=job.seed,
                           inner_cv=[(np.arange(n), np.arange(n, len(X)))], **svm).fit(X, y)  # fmt: skip
    if svm:
        svm = {"C": 1.0, "kernel": chosen.classifier_.kernel}
    final = ACMClassifier((chosen.order_, chosen.lag_), head, **svm).fit(X[:n], y[:n])
    searched = {name: chosen.cv_results_[name] for name in ("param_order", "param_lag", "mean_test_score")} \
        if hasattr(chosen, "cv_results_") else None  # fmt: skip
    return {"answers": final.predict(parts.test.X), "order": chosen.order_, "lag": chosen.lag_, "searched": searched}


# -- what was found --------------------------------------------------------------------------------------------------


def _accuracies(found: list[dict[str, Any]], method: str) -> list[float]:
    return [subject["methods"][method]["accuracy"] for subject in found]


def _mean(found: list[dict[str, Any]], method: str) -> float:
    return float(np.mean(_accuracies(found, method)))


def _rows(found: dict[str, list[dict[str, Any]]]) -> list[Row]:
    first = next(iter(found.values()))
    notes = {ACM: "order, lag and kernel by the validation session", ACM_MDM: "order and lag by the validation session",
             PLAIN: "kernel by the validation session", PLAIN_MDM: "", NETWORK: "stopped by the validation session; braindecode itself needs torchaudio",  # noqa: E501
             MDOP: "order and lag without labels; rbf"}  # fmt: skip
    rows = []
    for name, kind in KINDS.items():
        if name in first[0]["methods"]:
            seconds = [subject["methods"][name]["seconds"] for band in found.values() for subject in band]
            rows.append(Row(name, kind, {band: _accuracies(subjects, name) for band, subjects in found.items()},
                            parameters=first[0]["parameters"] if name == NETWORK else None,
                            seconds=float(np.mean(seconds)), note=notes[name]))  # fmt: skip
    return rows


def _subject_table(band: str, found: list[dict[str, Any]], loaded: dict[int, Epochs]) -> Table:
    cells: list[list[str | float | int]] = []
    for epochs, subject in zip(loaded.values(), found, strict=True):
        methods = subject["methods"]
        cells.append([
            epochs.name,
            *(round(methods[name]["accuracy"], 3) for name in (PLAIN, ACM, PLAIN_MDM, ACM_MDM)),
            *(f"({methods[name]['order']}, {methods[name]['lag']})" for name in (ACM, ACM_MDM, MDOP)),
        ])  # fmt: skip
    columns = [
        "subject",
        PLAIN,
        ACM,
        PLAIN_MDM,
        ACM_MDM,
        "(order, lag), SVM",
        "(order, lag), MDM",
        "(order, lag), MDOP",
    ]
    return Table(f"By subject: {band}", columns, cells, "lags in samples")


def _task(job: CompareJob, loaded: dict[int, Epochs]) -> str:
    first = next(iter(loaded.values()))
    size = f"{first.X.shape[1]} channels x {first.X.shape[2]} samples"
    shape = f"epochs of {size}, {len(np.unique(first.labels()))} classes"
    if job.data is None:
        return f"MAMEM SSVEP II, {len(loaded)} subjects, {shape}: trained on sessions 1 to {VALIDATION}, chosen on session {VALIDATION + 1}, tested on session {TEST + 1}; values are subjects"  # noqa: E501
    return f"{first.name}, {len(first)} {shape}; three parts to train, choose and test"


def _shows(found: dict[str, list[dict[str, Any]]]) -> str:
    parts = []
    for band, subjects in found.items():
        plain_svm, svm = np.array(_accuracies(subjects, PLAIN)), np.array(_accuracies(subjects, ACM))
        network = f"; the network reaches {_mean(subjects, NETWORK):.3f}" if NETWORK in subjects[0]["methods"] else ""
        parts.append(f"{band}: tangent space + SVM {plain_svm.mean():.3f} -> {svm.mean():.3f} with order and lag "
                     f"chosen (better for {int((svm > plain_svm).sum())} of {len(svm)} subjects), MDM "
                     f"{_mean(subjects, PLAIN_MDM):.3f} -> {_mean(subjects, ACM_MDM):.3f}{network}")  # fmt: skip
    return ". ".join(parts) + "."


def _checks(found: dict[str, list[dict[str, Any]]], subjects: list[int], job: CompareJob) -> list[Check]:
    checks = [
        Check(f"{band}: {system} is above {baseline}", _mean(figures, system) > _mean(figures, baseline),
              f"{_mean(figures, system):.3f} against {_mean(figures, baseline):.3f}",
              "lags do not help on this band; take plain covariances")
        for band, figures in found.items() for system, baseline in ((ACM, PLAIN), (ACM_MDM, PLAIN_MDM))
    ]  # fmt: skip
    if job.data is None and tuple(subjects) == MAMEM_SUBJECTS:
        svm = _mean(found[UNFILTERED], ACM)
        checks.append(Check(f"all 11 subjects, unfiltered: mean accuracy of at least {BAR} (order 1: {PLAIN_BAR})",
                            svm >= BAR, f"{svm:.3f}, order 1 {_mean(found[UNFILTERED], PLAIN):.3f}",
                            "the published accuracy is not reproduced"))  # fmt: skip
    if job.data is None:
        gain = _mean(found[FILTERED], ACM) - _mean(found[FILTERED], PLAIN)
        checks.append(Check(f"filtered: at least {100 * GAIN:.0f} points over order 1", gain >= GAIN,
                            f"{100 * gain:+.1f} points over {len(subjects)} subjects",
                            "the gain of lags in a narrow band is smaller than published"))  # fmt: skip
    return checks


def _pictures(job: CompareJob, loaded: dict[int, Epochs], found: dict[str, list[dict[str, Any]]]) -> list[Picture]:
    band, subjects = next(iter(found.items()))
    true = np.concatenate([subject["true"] for subject in subjects])
    classes = np.unique(true)
    answers = {name: (true, np.concatenate([subject["methods"][name]["answers"] for subject in subjects]))
               for name in (PLAIN, ACM)}  # fmt: skip
    said: dict[str, Any] = {}
    with illustrated(said, job.out / "confusion.svg") as path:
        draw_confusions(path, {"order 1": answers[PLAIN], "chosen order and lag": answers[ACM]}, classes)
    gains = {name: (np.array(_accuracies(figures, PLAIN)), np.array(_accuracies(figures, ACM)))
             for name, figures in found.items()}  # fmt: skip
    with illustrated(said, job.out / "subjects.svg") as path:
        draw_gains(path, gains, list(loaded))
    searched = dict(subjects[0]["methods"][ACM]["searched"])
    searched["mean_test_score"] = np.mean([s["methods"][ACM]["searched"]["mean_test_score"] for s in subjects], 0)
    with illustrated(said, job.out / "order_lag.svg") as path:
        draw_order_lag(path, searched, "Validation accuracy, mean of the subjects")
    s, filters = next(iter(loaded)), BANDS[band]
    epochs = loaded[s] if filters is None else loaded[s].filtered(*filters)
    order, lag = (subjects[0]["methods"][ACM][name] for name in ("order", "lag"))
    train = split(epochs, job.seed).train
    with illustrated(said, job.out / "patterns.svg") as path:
        matrices = ACMClassifier((order, lag), "mdm").fit(train.X, train.labels()).transform(train.X)
        patterns = class_patterns(matrices, train.labels(), len(epochs.ch_names))
        draw_patterns(path, patterns, np.unique(train.labels()), train, lag)
    return drawn(job.out, _pictured(band.partition(", ")[2], epochs.name), said)


def _pictured(band: str, name: str) -> list[Picture]:
    return [
        Picture("subjects.svg", "Order 1 and the chosen order and lag, subject by subject", "Test accuracy of tangent space + SVM with plain covariances and with the order and lag that the validation epochs chose."),  # noqa: E501
        Picture("confusion.svg", f"What test epochs were taken for ({band})", "Rows: the class of an epoch; columns: the answer, in per cent of the class, pooled over subjects. Left: plain covariances; right: augmented ones."),  # noqa: E501
        Picture("order_lag.svg", f"Validation accuracy over order and lag ({band})", "Tangent space + SVM with the better kernel. At order 1 the lag is without effect. The frame marks the best mean; each subject chooses for itself."),  # noqa: E501
        Picture("patterns.svg", f"What distinguishes the classes: {name} ({band})", "Change of each channel's autocovariance against the mean of all epochs, by delay; the first column is power, the others are what a plain covariance does not hold."),  # noqa: E501
    ]  # fmt: skip
