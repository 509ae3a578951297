"""`linmap compare mbat`: classify labelled records by their vectors, beside hashing and TF-IDF."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from linmap.data.records import read_records
from linmap.errors import DataError, UsageError
from linmap.experiment import conclude, fingerprint, ranking, verdict
from linmap.experiment.charts import draw_bars
from linmap.experiment.engine import Arm, Experiment, Outcome, Part, Runs, Trial
from linmap.experiment.result import Check, Kind, Metric, Result, Row
from linmap.recipes.job import CompareJob
from linmap.recipes.mbat.apply import PATIENTS
from linmap.recipes.mbat.flags import Compare
from linmap.retrieve.mbat import JSONVectorizer
from linmap.retrieve.mbat.encoding import Encoder
from linmap.retrieve.mbat.options import Options

KNN, LOGISTIC = "kNN-5", "logistic regression"
METRICS = [Metric(KNN, "higher", digits=3), Metric(LOGISTIC, "higher", digits=3)]
DEFAULT, SOFT, EXACT = "MBAT mixed (default)", "MBAT soft (words, levels)", "MBAT exact"
HASHED, TFIDF = "FeatureHasher path=value", "TF-IDF of the text, sublinear"
RARE, CHOSEN = "MBAT rarity, soft keys", "MBAT, chosen by inner folds"
RARITY: dict[str, Any] = {"arrays": "bag", "numbers": "quantile", "idf": 1, "key_presence": 0.5, "soft_keys": 0.5}
BARS = "Balanced accuracy of two classifiers on each method's vectors, mean ± std over the folds; right is better."
Features = Callable[[list[Any], list[Any], np.ndarray], tuple[Any, Any]]
"""(training documents, test documents, training labels) -> features of both."""


@dataclass(frozen=True)
class Labelled:
    """Documents with their classes."""

    documents: list[Any]
    labels: list[str]

    def said(self) -> str:
        """How many there are of each class."""
        counts = ", ".join(f"{label} {count}" for label, count in Counter(self.labels).most_common(6))
        return f"{len(self.documents)} JSON records ({counts})"


def compare(settings: Compare, job: CompareJob) -> Result:
    """kNN and logistic regression on the vectors of every method."""
    if settings.folds < 2 or settings.seeds < 1:
        raise UsageError("--folds must be at least 2 and --seeds at least 1.")
    data = job.data or PATIENTS
    records = labelled(data, settings.folds, str if job.data else diabetic)
    seeds = [job.seed + i for i in range(settings.seeds)]
    depends = {"dim": settings.dim, "folds": settings.folds, "data": fingerprint(data)}
    experiment = Experiment("mbat", job.out / "runs", depends, job.resume)
    runs = experiment.run(arms(settings.dim, settings.choose), parts(records, settings.folds), seeds)
    rows, overlap = runs.rows(METRICS), 1 / (settings.folds - 1)
    title, chance = "Classifying records by their vectors", 1 / len(set(records.labels))
    return conclude(
        "mbat", rows, METRICS, settings, over="folds", overlap=overlap, verdict=_verdict(rows, overlap),
        task=f"{data.stem}: {records.said()}; {settings.folds}-fold stratified cross-validation, balanced accuracy, "
        f"every method with up to {settings.dim} features and the same two classifiers",
        shows=_shows(runs), checks=checks(data.stem, runs, overlap), seeds=seeds,
        limits="Small labelled sets: the differences between the methods are of the size of one to a few records."
        + (" One split into folds." if settings.seeds == 1 else ""),
        drawings=[(job.out / "accuracy.svg", lambda path: draw_bars(path, rows, METRICS, title, BARS, least=chance))],
    )  # fmt: skip


def diabetic(label: str) -> str:
    """The embedded patients' classes: too few have diabetes to be told from prediabetes."""
    return label if label == "none" else "diabetic"


def labelled(path: Path, folds: int, name: Callable[[str], str] = str) -> Labelled:
    """The records of a file with their classes, each called by `name`.

    Raises
    ------
    DataError
        If a record has no class, there is only one, or one has fewer records than folds.
    """
    records = list(read_records(path))
    if len({str(record.label) for record in records}) < 2 or any(record.label is None for record in records):
        raise DataError(
            f'{path}: a comparison needs records {{"id": ..., "label": ..., "doc": ...}} of two classes or more.'
        )
    labels = [name(str(record.label)) for record in records]
    rarest, count = Counter(labels).most_common()[-1]
    if count < folds:
        raise DataError(f"the class {rarest!r} has {count} records, fewer than the {folds} folds; lower --folds.")
    return Labelled([record.document for record in records], labels)


# -- methods -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation, which the seed of a run shuffles."""

    records: Labelled
    folds: int
    number: int

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train and to test on."""
        y = np.array(self.records.labels)
        splits = StratifiedKFold(self.folds, shuffle=True, random_state=seed).split(y, y)
        return list(splits)[self.number]


def parts(records: Labelled, folds: int) -> list[Part]:
    """The folds that all methods share."""
    return [Part(f"fold {i + 1}", Fold(records, folds, i)) for i in range(folds)]


def arms(dim: int, choose: bool) -> list[Arm]:
    """MBAT and what turns records into vectors without it."""
    methods: list[tuple[str, Kind, Features, str]] = [
        (DEFAULT, "system", _mbat(dim), "the defaults of JSONVectorizer"),
        (SOFT, "ablation", _mbat(dim, strings="words", number_exact=0.0), "strings='words', number_exact=0"),
        (EXACT, "ablation", _mbat(dim, strings="exact", numbers="exact"), "nothing soft: shares whole leaves only"),
        ("MBAT both, quantile", "ablation", _mbat(dim, arrays="both", numbers="quantile"),
         "arrays='both', numbers='quantile' fitted in each fold"),
        (RARE, "ablation", _mbat(dim, **RARITY),
         f"{', '.join(f'{name}={value!r}' for name, value in RARITY.items())}, fitted in each fold"),
        *([(CHOSEN, "ablation", _chosen(dim), "the defaults or the row above, by 5 folds of the training records")]
          if choose else []),
        (HASHED, "baseline", _hashed(dim), "scikit-learn"),
        (TFIDF, "baseline", _tfidf(dim, sublinear_tf=True), "scikit-learn, fitted in each fold"),
        ("TF-IDF of the text", "baseline", _tfidf(dim), "the same with plain term frequencies"),
    ]  # fmt: skip
    return [Arm(name, kind, _Classified(features), note=note) for name, kind, features, note in methods]


class _Classified:
    """A method as a run of the experiment: two classifiers on its features."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def __call__(self, trial: Trial) -> Outcome:
        fold: Fold = trial.data
        documents, y = fold.records.documents, np.array(fold.records.labels)
        train, test = fold.split(trial.seed)
        X_train, X_test = self.features([documents[i] for i in train], [documents[i] for i in test], y[train])
        classifiers = {KNN: _neighbours(), LOGISTIC: LogisticRegression(C=10, class_weight="balanced", max_iter=2000)}
        predicted = {name: each.fit(X_train, y[train]).predict(X_test) for name, each in classifiers.items()}
        return Outcome({name: float(balanced_accuracy_score(y[test], found)) for name, found in predicted.items()})


def _neighbours() -> KNeighborsClassifier:
    return KNeighborsClassifier(5, metric="cosine")


def _fitted(
    make: Callable[[], Any], read: Callable[[Any], Any] = lambda document: document, **options: Any
) -> Features:
    """A vectorizer fitted to the training documents, as `read` gives them."""

    def features(train: list[Any], test: list[Any], y: np.ndarray) -> tuple[Any, Any]:
        known, asked = list(map(read, train)), list(map(read, test))
        vectorizer = make().fit(known, **options)
        return vectorizer.transform(known, **options), vectorizer.transform(asked, **options)

    return features


def _mbat(dim: int, **options: Any) -> Features:
    return _fitted(lambda: JSONVectorizer(dim, **options), parse=False)


def _chosen(dim: int) -> Features:
    """The defaults or RARITY, by the kNN accuracy in folds of the training records."""

    def features(train: list[Any], test: list[Any], y: np.ndarray) -> tuple[Any, Any]:
        pipeline = Pipeline([("vectors", JSONVectorizer(dim)), ("classifier", _neighbours())])
        candidates = [{f"vectors__{name}": [value] for name, value in options.items()} for options in ({}, RARITY)]
        search = GridSearchCV(pipeline, candidates, scoring="balanced_accuracy", cv=5).fit(train, y)
        vectorizer = search.best_estimator_["vectors"]
        return vectorizer.transform(train), vectorizer.transform(test)

    return features


def _hashed(dim: int) -> Features:
    return _fitted(lambda: FeatureHasher(dim, input_type="string"), _path_values)


def _tfidf(dim: int, **options: Any) -> Features:
    return _fitted(lambda: TfidfVectorizer(max_features=dim, **options), _text)


def _path_values(document: Any) -> list[str]:
    return [f"{place}={json.dumps(value)}" for place, value in Encoder(Options()).walk(document)]


def _text(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


# -- what was found ----------------------------------------------------------------------------------------------------


def checks(name: str, runs: Runs, overlap: float = 0.0) -> list[Check]:
    """What the method claims of records like these."""
    soft, exact, hashed = (runs.mean(arm, KNN) for arm in (SOFT, EXACT, HASHED))
    return [
        Check(f"{name}: soft is above exact for kNN", soft > exact, f"{soft:.3f} against {exact:.3f}",
              "near values are no help on these records; take exact codes",
              runs.differ(SOFT, EXACT, KNN, overlap=overlap)),
        Check(f"{name}: soft is at least as good as hashing for kNN", soft >= hashed,
              f"{soft:.3f} against {hashed:.3f}", "feature hashing is simpler and no worse on these records",
              runs.differ(SOFT, HASHED, KNN, overlap=overlap)),
    ]  # fmt: skip


def _shows(runs: Runs) -> str:
    """The system and the best baseline, by each classifier."""
    sentences = []
    for metric in (KNN, LOGISTIC):
        means = {arm.name: runs.mean(arm.name, metric) for arm in runs.arms if arm.kind == "baseline"}
        best = ranking(means, "higher")[0]
        ours, theirs = runs.mean(DEFAULT, metric), means[best]
        sentences.append(f"With {metric}, {DEFAULT} reaches {ours:.3f}; the best of the others, {best}, {theirs:.3f}.")
    return " ".join(sentences)


def _verdict(rows: Sequence[Row], overlap: float) -> str:
    """For each classifier, since one may be at home with vectors that the other is not."""
    return " ".join(f"With {metric.name}: {verdict(rows, metric, 'folds', overlap)}" for metric in METRICS)
