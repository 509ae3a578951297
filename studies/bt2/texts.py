"""Text retrieval with an old and a new embedding: all ways to treat an old gallery, over draws of the pairs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import numpy as np

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Runs, Trial, differ
from linmap.recipes.bt2.compare import (
    AUTO,
    CENTRED,
    FULL,
    GALLERY,
    METRICS,
    OLD,
    PROCRUSTES,
    RAW,
    RIDGE,
    TRUNCATED,
    arms,
)
from linmap.recipes.bt2.fit import BANKING
from linmap.retrieve.bt2 import EmbeddingUpgrade
from linmap.retrieve.bt2.frozen import Objective, trained
from linmap.retrieve.bt2.gallery import NDCG, RECALL, Fold, Gallery
from linmap.retrieve.bt2.pairs import unit
from studies.bt2.adapters import residual_adapter
from studies.study import Findings, Job, table_of

POOL, QUERIES = 700, 200
"""Of the embedded questions: the first may be pairs, the next are queries, the others the gallery."""
DRAWS, PAIRS = 5, 700
ADDED = (0, 32)
OBJECTIVES: dict[Objective, str] = {"cosine": "by cosine", "contrast": "by InfoNCE"}
COSINE_EPOCHS = 100  # of three steps
TOLERANCE, NAIVE = 0.02, 0.05
REFERENCE: dict[str, dict[str, tuple[float, float]]] = {
    "wl256": {OLD: (0.322, 0.677), RAW: (0.395, 0.776), PROCRUSTES: (0.329, 0.726)},
    "tl64": {
        OLD: (0.134, 0.391),
        RAW: (0.395, 0.776),
        TRUNCATED: (0.002, 0.069),
        PROCRUSTES: (0.193, 0.581),
        CENTRED: (0.178, 0.534),
        RIDGE: (0.107, 0.335),
        GALLERY: (0.201, 0.629),
    },
}
"""nDCG@10 and Recall@100 measured before, with one draw of 700 pairs."""


def cranfield(job: Job) -> Findings:
    """Aerodynamics abstracts and questions with judged relevance; the pairs are drawn from the gallery."""
    findings = Findings(
        "Cranfield: 1,400 abstracts, 225 questions, relevance of the codes 1 to 4; MiniLM (384) is the new model, "
        f"{PAIRS} pairs of a draw"
    )
    for old in ("wl256", "tl64"):
        gallery = cranfield_gallery(old)
        runs = _measured(job, f"cranfield {old}", draws(gallery, gallery.new, gallery.old, job))
        _add(findings, f"Cranfield, {old} to MiniLM", runs)
        findings.checks += _reference(f"Cranfield, {old}", runs, REFERENCE[old])
    return findings


def banking77(job: Job) -> Findings:
    """Questions of bank customers; one of the same intent is relevant."""
    gallery, X, Y = banking_gallery()
    findings = Findings(
        f"Banking77: {QUERIES} queries, {len(gallery.new)} texts, up to {PAIRS} pairs of {POOL}; "
        "SmolLM2 word vectors (128) to MiniLM (384)"
    )
    _add(findings, "Banking77", _measured(job, "banking77", draws(gallery, X, Y, job)))
    return findings


# -- data --------------------------------------------------------------------------------------------------------------


def cranfield_gallery(old: str) -> Gallery:
    """With the vectors of one of the old models, wl256 or tl64."""
    how = "It has no licence to be shipped with linmap."
    arrays = read_npz(find("bt2/cranfield_embeddings.npz", how))
    qrels: dict[int, dict[int, float]] = {}
    with open(find("retrieval/qrels.tsv", how), encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if 1 <= int(row["cleverdon_code"]) <= 4:
                qrels.setdefault(int(row["query_id"]) - 1, {})[int(row["doc_id"]) - 1] = 1.0
    names = ("minilm384_docs", f"{old}_docs", "minilm384_queries", f"{old}_queries")
    return Gallery(*(unit(arrays[name].astype(np.float64)) for name in names), qrels=qrels)


def banking_gallery() -> tuple[Gallery, np.ndarray, np.ndarray]:
    """And the new and old vectors that pairs are drawn from."""
    arrays = read_npz(BANKING, ("new", "old", "label"))
    new, old = (unit(arrays[name].astype(np.float64)) for name in ("new", "old"))
    queries, rest = slice(POOL, POOL + QUERIES), slice(POOL + QUERIES, None)
    label = arrays["label"]
    qrels = {
        i: dict.fromkeys(np.flatnonzero(label[rest] == intent).tolist(), 1.0) for i, intent in enumerate(label[queries])
    }
    return Gallery(new[rest], old[rest], new[queries], old[queries], qrels=qrels), new[:POOL], old[:POOL]


def draws(gallery: Gallery, X: np.ndarray, Y: np.ndarray, job: Job) -> list[Fold]:
    """All queries, with pairs that are drawn anew each time."""
    size = 60 if job.tiny else min(PAIRS, len(X) * 3 // 4)
    found = []
    for draw in range(1 if job.tiny else DRAWS):
        pairs = np.random.default_rng(draw).permutation(len(X))[:size]
        queries = np.arange(len(gallery.queries_new))[: 20 if job.tiny else None]
        found.append(Fold(gallery, queries, X[pairs], Y[pairs], draw))
    return found


# -- what is measured --------------------------------------------------------------------------------------------------


def _measured(job: Job, name: str, folds: list[Fold]) -> Runs:
    experiment = Experiment(f"bt2 {name}", job.out / "runs", {"data": name, "pairs": len(folds[0].X)}, job.resume)
    parts = [Part(f"draw {fold.seed}", fold) for fold in folds]
    return experiment.run([*arms(judged=True), *_trained(job.tiny)], parts, [0])


def _trained(tiny: bool) -> list[Arm]:
    """Maps and bases that are trained, whatever the held-out figures of the closed form."""

    def upgraded(n_extra: int, whole: bool) -> Any:
        def run(trial: Trial) -> Outcome:
            fold: Fold = trial.data
            upgrade = EmbeddingUpgrade(n_extra, "trained", random_state=fold.seed).fit(fold.X, fold.Y)
            if whole:
                return Outcome(fold.scores(upgrade.transform(fold.new), upgrade.transform(fold.gallery.new)))
            return Outcome(fold.scores(upgrade.transform_query(fold.new), fold.gallery.old))

        return run

    def adapted(objective: Objective) -> Any:
        def run(trial: Trial) -> Outcome:
            fold: Fold = trial.data
            queries = residual_adapter(fold.X, fold.Y, objective, fold.seed).queries(fold.new)
            return Outcome(fold.scores(queries, fold.gallery.old))

        return run

    def cosine_alone(trial: Trial) -> Outcome:
        fold: Fold = trial.data
        bases, _ = trained(fold.X, fold.Y, 0, 2.0, "cosine", fold.seed, epochs=COSINE_EPOCHS)
        return Outcome(fold.scores(bases.compatible(fold.new), fold.gallery.old))

    found = [
        Arm(f"BT² trained, {n} added, {where}", "ablation", upgraded(n, whole))
        for n in ADDED
        for where, whole in (("old gallery", False), ("whole backfill", True))
    ]
    found += [
        Arm(f"residual network, {said}, old gallery", "baseline", adapted(objective))
        for objective, said in OBJECTIVES.items()
    ]
    found.append(Arm("BT² trained for the cosine alone, old gallery", "ablation", cosine_alone))
    return found[:1] if tiny else found


def _add(findings: Findings, title: str, runs: Runs) -> None:
    findings.tables.append(table_of(title, runs.rows(METRICS), METRICS, "mean ± std over the draws"))
    auto, closed = runs.values(AUTO, NDCG), runs.values(PROCRUSTES, NDCG)
    old, new, raw, cut = (runs.mean(name, NDCG) for name in (OLD, FULL, RAW, TRUNCATED))
    findings.checks += [
        Check(
            f"{title}: auto is at or above Procrustes in every draw",
            all(a >= p - 1e-9 for a, p in zip(auto, closed, strict=True)),
            ", ".join(f"{a:.3f} / {p:.3f}" for a, p in zip(auto, closed, strict=True)),
            "the choice by held-out pairs picks badly",
        ),
        Check(
            f"{title}: new queries on the old gallery are no worse than old ones",
            float(np.mean(auto)) >= old,
            f"{np.mean(auto):.3f} against {old:.3f}",
            "the old model serves better until the gallery is recomputed",
            runs.differ(AUTO, OLD, NDCG),
        ),
        Check(
            f"{title}: after the whole backfill the new model's quality is intact",
            abs(new - raw) < 1e-5,
            f"{new:.5f} against {raw:.5f}",
            "the upgrade damages the new model's own space",
        ),
        Check(
            f"{title}: without a map, new queries find nothing in the old gallery",
            cut < NAIVE,
            f"{cut:.3f}",
            "the two spaces agree already, and no map is needed",
            differ(runs.values(TRUNCATED, NDCG), NAIVE),
        ),
    ]


def _reference(title: str, runs: Runs, reference: dict[str, tuple[float, float]]) -> Sequence[Check]:
    differences = {
        f"{name}, {measure}": runs.mean(name, measure) - expected
        for name, pair in reference.items()
        for measure, expected in zip((NDCG, RECALL), pair, strict=True)
    }
    worst = max(differences, key=lambda name: abs(differences[name]))
    return [
        Check(
            f"{title}: every figure of the reference table is reproduced within {TOLERANCE}",
            abs(differences[worst]) <= TOLERANCE,
            f"largest difference {differences[worst]:+.3f} ({worst})",
            "something differs from the setting of the reference: data, version or code",
        )
    ]
