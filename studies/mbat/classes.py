"""Records of known classes, by all methods of the comparison, over three splits into folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linmap.data import find
from linmap.data.records import read_records
from linmap.experiment import Check, Experiment, Table, fingerprint, mean_std
from linmap.recipes.mbat.apply import PATIENTS
from linmap.recipes.mbat.compare import (
    EXACT,
    HASHED,
    KNN,
    LOGISTIC,
    SOFT,
    TFIDF,
    Labelled,
    arms,
    checks,
    diabetic,
    labelled,
    parts,
)
from studies.study import Findings, Job

DIM, FOLDS, TOLERANCE = 2048, 5, 0.02
REFERENCE = {
    "fhir_patients": {SOFT: (0.948, 0.960), EXACT: (0.931, 0.951), HASHED: (0.937, 0.953), TFIDF: (0.854, 0.947)},
    "fhir_resources": {SOFT: (0.990, 1.0), EXACT: (0.972, 1.0), HASHED: (0.987, 1.0), TFIDF: (0.968, 1.0)},
    "countries": {SOFT: (0.721, 0.733), EXACT: (0.667, 0.759), HASHED: (0.584, 0.685), TFIDF: (0.830, 0.846)},
}
"""Balanced accuracies measured before on the same data and first folds (kNN-5, logistic regression)."""
RESOURCES = 500  # of the file, from the first on
NOT_SHIPPED = "It is not shipped with linmap."


def patients(job: Job) -> Findings:
    """The embedded ones: diabetes or prediabetes against neither."""
    return _classified(job, "fhir_patients", PATIENTS, labelled(PATIENTS, FOLDS, diabetic))


def resources(job: Job) -> Findings:
    """FHIR resources by their kind."""
    path = find("json/fhir_resources.jsonl", NOT_SHIPPED)
    return _classified(job, "fhir_resources", path, _first(labelled(path, FOLDS), RESOURCES))


def countries(job: Job) -> Findings:
    """Countries by their region; the Antarctic has too few."""
    path = find("json/countries.jsonl", NOT_SHIPPED)
    kept = [record for record in read_records(path) if record.label != "Antarctic"]
    records = Labelled([record.document for record in kept], [str(record.label) for record in kept])
    findings = _classified(job, "countries", path, records)
    findings.sentences.append(
        "The options of soft keys and weights by rarity were found on the folds of these records, and cost accuracy on "
        "patients; which of the two a set of records needs, inner folds of its own labels tell."
    )
    return findings


def _first(records: Labelled, number: int) -> Labelled:
    return Labelled(records.documents[:number], records.labels[:number])


def _classified(job: Job, name: str, path: Path, records: Labelled) -> Findings:
    if job.tiny:
        step = len(records.labels) // 24
        records = Labelled(records.documents[::step], records.labels[::step])
    dim, folds = (128, 2) if job.tiny else (DIM, FOLDS)
    settings = {"data": fingerprint(path), "dim": dim, "folds": folds, "records": len(records.labels)}
    experiment = Experiment(f"mbat {name}", job.out / "runs", settings, job.resume)
    runs = experiment.run(arms(dim, choose=not job.tiny), parts(records, folds), list(job.seeds))
    reference, rows = REFERENCE[name], list[list[Any]]()
    for arm in runs.arms:
        first = {
            metric: _mean([run.values[metric] for run in runs.of(arm.name) if run.seed == job.seeds[0]])
            for metric in (KNN, LOGISTIC)
        }
        expected = reference.get(arm.name)
        rows.append(
            [
                arm.name,
                *(mean_std(runs.values(arm.name, metric)) for metric in (KNN, LOGISTIC)),
                " / ".join(f"{value:.3f}" for value in first.values()),
                " / ".join(f"{value:.3f}" for value in expected) if expected else "—",
            ]
        )
    table = Table(
        f"{name}: balanced accuracy",
        ["method", KNN, LOGISTIC, "first split", "measured before"],
        rows,
        f"mean ± std over {folds} folds of {len(job.seeds)} splits",
    )
    findings = Findings(f"{records.said()}; {folds}-fold stratified cross-validation, D = {dim}", [table])
    findings.checks = [_reproduced(name, rows), *checks(name, runs)]
    return findings


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _reproduced(name: str, rows: list[list[Any]]) -> Check:
    """The reference was measured with the first split."""
    found = {row[0]: [float(value) for value in row[3].split(" / ")] for row in rows}
    differences = {
        f"{arm}, {metric}": value - expected
        for arm, pair in REFERENCE[name].items()
        for metric, value, expected in zip((KNN, LOGISTIC), found[arm], pair, strict=True)
    }
    worst = max(differences, key=lambda key: abs(differences[key]))
    return Check(
        f"{name}: every figure of the reference table is reproduced within {TOLERANCE}",
        abs(differences[worst]) <= TOLERANCE,
        f"largest difference {differences[worst]:+.3f} ({worst})",
        "something differs from the setting of the reference: data, version or code",
    )
