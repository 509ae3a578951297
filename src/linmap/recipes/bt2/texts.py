"""Text retrieval with an old and a new embedding: the data, and what one could do about an old gallery."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field

import numpy as np
from sklearn.linear_model import Ridge

from linmap.data import find
from linmap.data.arrays import read_npz
from linmap.experiment.result import Row
from linmap.recipes.bt2.adapters import residual_adapter
from linmap.recipes.bt2.files import BANKING, CALIBRATION
from linmap.retrieve.bt2 import BackfillCurve, EmbeddingUpgrade, backfill_curve, nearest_rows, procrustes, text_scores
from linmap.retrieve.bt2.frozen import Objective, trained

NDCG, RECALL, MRR = "nDCG@10", "Recall@100", "MRR@10"
OLD, TRUNCATED, PROCRUSTES, CENTRED, RIDGE, GALLERY, AUTO, FULL, RAW = (
    "old queries, old gallery", "new queries cut to length, old gallery", "orthogonal Procrustes, old gallery",
    "Procrustes, centred, old gallery", "ridge, old gallery", "new queries, gallery rewritten by ridge",
    "BT² auto, old gallery", "BT² auto, whole backfill", "new queries, new gallery",
)  # fmt: skip
# nDCG@10 and Recall@100 measured before, with one draw of 700 pairs.
REFERENCE: dict[str, dict[str, tuple[float, float]]] = {
    "cranfield-wl256": {OLD: (0.322, 0.677), RAW: (0.395, 0.776), PROCRUSTES: (0.329, 0.726)},
    "cranfield-tl64": {OLD: (0.134, 0.391), RAW: (0.395, 0.776), TRUNCATED: (0.002, 0.069), PROCRUSTES: (0.193, 0.581),
                       CENTRED: (0.178, 0.534), RIDGE: (0.107, 0.335), GALLERY: (0.201, 0.629)},
}  # fmt: skip
QUERIES = 200  # of the embedded texts that are not for calibration; the others are the gallery
HOLD_OUT = 5  # every fifth pair chooses the strength of the ridge
COSINE_EPOCHS = 100  # of three steps
OBJECTIVES: dict[Objective, str] = {"cosine": "by cosine", "contrast": "by InfoNCE"}


@dataclass(frozen=True)
class Texts:
    """Vectors of the same texts by both models."""

    name: str
    queries_old: np.ndarray
    queries_new: np.ndarray
    gallery_old: np.ndarray
    gallery_new: np.ndarray
    pairs_old: np.ndarray
    pairs_new: np.ndarray
    """Of these, each draw takes some to fit the maps."""
    qrels: dict[int, dict[int, float]] = field(repr=False)
    """Relevant rows of the gallery for each row of the queries."""

    def calibration(self, wanted: int) -> int:
        """How many pairs a draw takes: not so many that all draws are alike."""
        return min(wanted, len(self.pairs_new) * 3 // 4)

    def scores(self, ranked: np.ndarray) -> dict[str, float]:
        found = text_scores(ranked, range(len(self.queries_new)), self.qrels)
        return {NDCG: found.ndcg_10, RECALL: found.recall_100, MRR: found.mrr_10}

    def search(self, queries: np.ndarray, gallery: np.ndarray) -> dict[str, float]:
        return self.scores(nearest_rows(queries, gallery))


def banking() -> Texts:
    """Questions of bank customers; a question of the same intent is relevant."""
    arrays = read_npz(BANKING, ("new", "old", "label"))
    new, old, label = _unit(arrays["new"]), _unit(arrays["old"]), arrays["label"]
    pairs, queries = slice(CALIBRATION), slice(CALIBRATION, CALIBRATION + QUERIES)
    gallery = slice(CALIBRATION + QUERIES, None)
    qrels = {
        i: {int(j): 1.0 for j in np.flatnonzero(label[gallery] == intent)} for i, intent in enumerate(label[queries])
    }
    return Texts("banking77: SmolLM2 word vectors (128) to MiniLM (384)", old[queries], new[queries], old[gallery],
                 new[gallery], old[pairs], new[pairs], qrels)  # fmt: skip


def cranfield(old: str) -> Texts:
    """Aerodynamics abstracts and questions with judged relevance; the pairs are drawn from the gallery."""
    how = "It has no licence to be shipped with linmap."
    arrays = read_npz(find("bt2/cranfield_embeddings.npz", how))
    qrels: dict[int, dict[int, float]] = {}
    with open(find("retrieval/qrels.tsv", how), encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if 1 <= int(row["cleverdon_code"]) <= 4:
                qrels.setdefault(int(row["query_id"]) - 1, {})[int(row["doc_id"]) - 1] = 1.0
    new_docs, old_docs = _unit(arrays["minilm384_docs"]), _unit(arrays[f"{old}_docs"])
    return Texts(f"Cranfield: {old} to MiniLM (384)", _unit(arrays[f"{old}_queries"]),
                 _unit(arrays["minilm384_queries"]), old_docs, new_docs, old_docs, new_docs, qrels)  # fmt: skip


def _unit(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def compare_texts(
    texts: Texts, calibration: int, draws: list[int], added: tuple[int, ...], adapters: bool
) -> tuple[list[Row], dict[str, list[BackfillCurve]], list[EmbeddingUpgrade]]:
    """A row for each way, with a value for each draw of the pairs; and the way from no backfill to a whole one."""
    values: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, list[float]] = {}
    curves: dict[str, list[BackfillCurve]] = {"random": [], "least similar first": []}
    upgrades = []
    for draw in draws:
        chosen = np.random.default_rng(draw).permutation(len(texts.pairs_new))[: texts.calibration(calibration)]
        X, Y = texts.pairs_new[chosen], texts.pairs_old[chosen]
        start = time.perf_counter()
        upgrades.append(upgrade := EmbeddingUpgrade(random_state=draw).fit(X, Y))
        seconds.setdefault(AUTO, []).append(time.perf_counter() - start)
        for name, figures in {**_plain(texts, X, Y), **_upgraded(texts, upgrade)}.items():
            _collect(values.setdefault(name, {}), figures)
        for name, queries in (_adapted(texts, X, Y, draw) if adapters else {}).items():
            _collect(values.setdefault(name, {}), texts.search(queries, texts.gallery_old))
        for n_extra in added:
            other = EmbeddingUpgrade(n_extra, "trained", random_state=draw).fit(X, Y)
            figures = texts.search(other.transform_query(texts.queries_new), texts.gallery_old)
            _collect(values.setdefault(f"BT² trained, {n_extra} added, old gallery", {}), figures)
            figures = texts.search(other.transform(texts.queries_new), other.transform(texts.gallery_new))
            _collect(values.setdefault(f"BT² trained, {n_extra} added, whole backfill", {}), figures)
        for order, found in curves.items():
            found.append(backfill_curve(
                upgrade, texts.queries_new, texts.gallery_new, texts.gallery_old,
                lambda ranked: texts.scores(ranked)[NDCG], order=order, random_state=draw,  # pyright: ignore
            ))  # fmt: skip
    kinds = {AUTO: "system"} | dict.fromkeys((OLD, FULL, RAW, GALLERY), "reference")
    notes = {GALLERY: "every stored vector is rewritten, without its text"}
    rows = [
        Row(name, kinds.get(name, "ablation" if name.startswith("BT²") else "baseline"), found,  # pyright: ignore
            seconds=float(np.mean(seconds[name])) if name in seconds else None, note=notes.get(name, ""))
        for name, found in values.items()
    ]  # fmt: skip
    return rows, curves, upgrades


def _collect(values: dict[str, list[float]], figures: dict[str, float]) -> None:
    for metric, value in figures.items():
        values.setdefault(metric, []).append(value)


def _upgraded(texts: Texts, upgrade: EmbeddingUpgrade) -> dict[str, dict[str, float]]:
    return {
        AUTO: texts.search(upgrade.transform_query(texts.queries_new), texts.gallery_old),
        FULL: texts.search(upgrade.transform(texts.queries_new), upgrade.transform(texts.gallery_new)),
    }


def _plain(texts: Texts, X: np.ndarray, Y: np.ndarray) -> dict[str, dict[str, float]]:
    """What needs no BT²: doing nothing, cutting, and the maps from new to old that people fit."""
    new, old = texts.queries_new, texts.gallery_old
    mean_X, mean_Y = X.mean(0), Y.mean(0)
    queries = {
        TRUNCATED: new,
        PROCRUSTES: new @ procrustes(X, Y)[0],
        CENTRED: (new - mean_X) @ procrustes(X - mean_X, Y - mean_Y)[0] + mean_Y,
        RIDGE: _ridge(X, Y, intercept=False).predict(new),
    }
    rewritten = _unit(_ridge(Y, X, intercept=True).predict(old))
    found = {OLD: texts.search(texts.queries_old, old), RAW: texts.search(new, texts.gallery_new),
             GALLERY: texts.search(new, rewritten)}  # fmt: skip
    return found | {name: texts.search(q, old) for name, q in queries.items()}


def _adapted(texts: Texts, X: np.ndarray, Y: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Queries through maps that are trained from scratch, and through bases that are trained for the cosine alone."""
    new = texts.queries_new
    found = {
        f"residual network, {said}, old gallery": residual_adapter(X, Y, objective, seed).queries(new)
        for objective, said in OBJECTIVES.items()
    }
    bases, _ = trained(X, Y, 0, 2.0, "cosine", seed, epochs=COSINE_EPOCHS)
    return found | {"BT² trained for the cosine alone, old gallery": bases.compatible(new)}


def _ridge(X: np.ndarray, Y: np.ndarray, intercept: bool) -> Ridge:
    """The strength is chosen by the cosine of held-out pairs; for queries an intercept only costs."""
    held = np.arange(len(X)) % HOLD_OUT == 0

    def cosine(alpha: float) -> float:
        predicted = _unit(Ridge(alpha, fit_intercept=intercept).fit(X[~held], Y[~held]).predict(X[held]))
        return float((predicted * Y[held]).sum(1).mean())

    return Ridge(max((0.01, 0.1, 1.0, 10.0), key=cosine), fit_intercept=intercept).fit(X, Y)
