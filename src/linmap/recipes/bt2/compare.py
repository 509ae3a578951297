"""`linmap compare bt2`: an old gallery searched with a new model's queries, beside the other ways to upgrade."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from linmap.errors import UsageError
from linmap.experiment import conclude, differ, fingerprint
from linmap.experiment.charts import draw_bars
from linmap.experiment.engine import Arm, Experiment, Outcome, Part, Runs, Trial
from linmap.experiment.result import Check, Kind, Metric, Result
from linmap.recipes.bt2.fit import BANKING, read_pairs, words_of_files
from linmap.recipes.bt2.flags import Compare
from linmap.recipes.job import CompareJob
from linmap.retrieve.bt2 import Gallery, procrustes
from linmap.retrieve.bt2 import verdict as worth
from linmap.retrieve.bt2.gallery import MRR, NDCG, RECALL, Fold
from linmap.retrieve.bt2.pairs import unit
from linmap.retrieve.bt2.ridge import fitted_ridge

METRICS = [Metric(name, "higher", digits=3) for name in (NDCG, RECALL, MRR)]
AUTO, FULL = "BT² auto, old gallery", "BT² auto, whole backfill"
OLD, RAW = "old queries, old gallery", "new queries, new gallery"
TRUNCATED, RIDGE = "new queries cut to length, old gallery", "ridge, old gallery"
PROCRUSTES, CENTRED = "orthogonal Procrustes, old gallery", "Procrustes, centred, old gallery"
GALLERY = "new queries, gallery rewritten by ridge"
NAIVE = 0.05  # of nDCG@10, that cutting the new vectors to length does not pass
WAYS = "nDCG@10, Recall@100 and MRR@10 of the same queries by each way, mean ± std over the folds; right is better."
Way = Callable[[Fold], tuple[np.ndarray, np.ndarray]]
"""Vectors for the queries of a fold, and for all items."""


def compare(settings: Compare, job: CompareJob) -> Result:
    """New queries on the old gallery, by BT² and by simpler maps, between no upgrade and embedding all again."""
    if settings.folds < 2 or settings.calibration < 30:
        raise UsageError("--folds must be at least 2 and --calibration at least 30.")
    data = job.data or (None if settings.new else BANKING)
    gallery = Gallery.of(read_pairs(settings.new, settings.old, job.data), str(data or settings.new))
    folds = gallery.folds(settings.folds, settings.calibration, job.seed)
    parts = [Part(f"fold {i + 1}", fold) for i, fold in enumerate(folds)]
    with words_of_files():
        runs = _experiment(settings, job, data).run(arms(gallery.judged), parts, [job.seed])
    rows, overlap = runs.rows(METRICS), 1 / (settings.folds - 1)
    chosen = runs.of(AUTO)[0].details
    bars = (job.out / "ways.svg", lambda path: draw_bars(path, rows, METRICS, "Ways to search an old gallery", WAYS))
    return conclude(
        "bt2", rows, METRICS, settings, over="folds", overlap=overlap,
        task=_task(gallery, folds, "banking77" if data is BANKING else Path(str(data or settings.new)).stem),
        shows=f"{_worth(runs, gallery)} Chosen by held-out pairs: {chosen['chosen']} ({chosen['reason']}).",
        limits=_limits(runs, gallery), checks=_checks(runs, gallery, overlap), seeds=[job.seed], drawings=[bars],
    )  # fmt: skip


def _experiment(settings: Compare, job: CompareJob, data: Path | None) -> Experiment:
    files = {"data": data, "new": settings.new, "old": settings.old}
    depends = {"folds": settings.folds, "calibration": settings.calibration}
    depends |= {name: fingerprint(path) for name, path in files.items()}
    return Experiment("bt2", job.out / "runs", depends, job.resume)


# -- the ways ----------------------------------------------------------------------------------------------------------


def arms(judged: bool) -> list[Arm]:
    """What one could do about an old gallery. Without judgements an item answers itself, so that its own vector by
    the same model finds it whatever the model: those ways show nothing, and are left out."""
    ways: list[tuple[str, Kind, Way, str]] = [
        (AUTO, "system", lambda fold: (fold.upgrade.transform_query(fold.new), fold.gallery.old), ""),
        (TRUNCATED, "baseline", lambda fold: (fold.new, fold.gallery.old), "no map"),
        (PROCRUSTES, "baseline", _procrustes, "one rotation"),
        (CENTRED, "ablation", _centred, "BT² with method='centred'"),
        (RIDGE, "baseline", _ridge, "any matrix"),
        (GALLERY, "reference", _rewritten, "every stored vector is rewritten, without its text"),
    ]
    if judged:
        ways += [
            (OLD, "baseline", lambda fold: (fold.gallery.queries_old[fold.queries], fold.gallery.old), "no upgrade"),
            (RAW, "reference", lambda fold: (fold.new, fold.gallery.new), "every item is embedded again"),
            (FULL, "reference", _backfilled, "every item is embedded again, and old vectors could stay beside"),
        ]
    return [Arm(name, kind, _Search(way), note=note) for name, kind, way, note in ways]


class _Search:
    """A way as a run of the experiment."""

    def __init__(self, way: Way) -> None:
        self.way = way

    def __call__(self, trial: Trial) -> Outcome:
        start = time.perf_counter()
        vectors = self.way(trial.data)
        seconds = time.perf_counter() - start
        fitted = trial.data.__dict__.get("upgrade")
        report = {} if fitted is None else {name: fitted.report_[name] for name in ("chosen", "reason")}
        return Outcome(trial.data.scores(*vectors), details=report, seconds=seconds)


def _procrustes(fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    return fold.new @ procrustes(fold.X, fold.Y)[0], fold.gallery.old


def _centred(fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    mean_X, mean_Y = fold.X.mean(0), fold.Y.mean(0)
    return (fold.new - mean_X) @ procrustes(fold.X - mean_X, fold.Y - mean_Y)[0] + mean_Y, fold.gallery.old


def _ridge(fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    return fitted_ridge(fold.X, fold.Y, intercept=False).predict(fold.new), fold.gallery.old


def _rewritten(fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    return fold.new, unit(fitted_ridge(fold.Y, fold.X, intercept=True).predict(fold.gallery.old))


def _backfilled(fold: Fold) -> tuple[np.ndarray, np.ndarray]:
    return fold.upgrade.transform(fold.new), fold.upgrade.transform(fold.gallery.new)


# -- what was found ----------------------------------------------------------------------------------------------------


def _task(gallery: Gallery, folds: list[Fold], name: str) -> str:
    answers = "the items of the same class" if gallery.label is not None else "the items that are judged relevant"
    answers = answers if gallery.judged else "its own old vector"
    return (
        f"{name}: {sum(len(fold.queries) for fold in folds)} queries in {len(folds)} folds, {len(gallery.new)} "
        f"items, maps fitted to {len(folds[0].X)} pairs; a query is to find {answers}"
    )


def _worth(runs: Runs, gallery: Gallery) -> str:
    found = runs.mean(AUTO, NDCG)
    if gallery.judged:
        return worth(runs.mean(OLD, NDCG), found, runs.mean(RAW, NDCG))
    return (
        f"Of items that no map has seen, {runs.mean(AUTO, RECALL):.0%} are among the 100 nearest old vectors of "
        f"their new one ({MRR} {runs.mean(AUTO, MRR):.3f})."
    )


def _limits(runs: Runs, gallery: Gallery) -> str:
    said = ["The pairs are items, while queries may be worded otherwise." if gallery.qrels is None else
            "Maps are fitted to items and used on queries, as in an index.",
            "Whether centring helps is seen in the pairs, not in the queries."]  # fmt: skip
    if not gallery.judged:
        said.append(
            "Nobody has judged which items answer a query: measured is whether an item finds its own old "
            "vector, not whether the new model's results are better than the old one's."
        )
    rewritten, auto = runs.mean(GALLERY, NDCG), runs.mean(AUTO, NDCG)
    if rewritten > auto:
        said.append(
            "Where every stored vector may be rewritten, a ridge map from old to new vectors finds more "
            f"({rewritten:.3f}, BT² {auto:.3f}), without the texts but not without touching the gallery."
        )
    return " ".join(said)


def _checks(runs: Runs, gallery: Gallery, overlap: float) -> list[Check]:
    auto, closed = runs.mean(AUTO, NDCG), runs.mean(PROCRUSTES, NDCG)
    gap = runs.difference(AUTO, PROCRUSTES, NDCG, overlap=overlap)
    old, new, raw, cut = (runs.mean(name, NDCG) for name in (OLD, FULL, RAW, TRUNCATED))
    checks = [
        Check("auto is not below Procrustes beyond chance", not gap.high < 0,
              f"{auto:.3f} against {closed:.3f}, difference {gap.text()}",
              "the choice by held-out pairs picks badly; take method='procrustes'"),
        Check("without a map, new queries find nothing in the old gallery", cut < NAIVE, f"{cut:.3f}",
              "the two spaces agree already, and no map is needed",
              differ(runs.values(TRUNCATED, NDCG), NAIVE, overlap)),
    ]  # fmt: skip
    if gallery.judged:
        checks += [
            Check("new queries on the old gallery are no worse than old ones", auto >= old,
                  f"{auto:.3f} against {old:.3f}",
                  "keep the old model until the gallery is recomputed", runs.differ(AUTO, OLD, NDCG, overlap=overlap)),
            Check("after the whole backfill the new model's quality is intact", abs(new - raw) < 1e-5,
                  f"{new:.5f} against {raw:.5f}",
                  "the upgrade damages the new model's own space"),
        ]  # fmt: skip
    return checks
