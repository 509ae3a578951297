"""The quality of searches while a gallery is embedded again, a part at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Picture, Runs, Trial, differ, draw_all
from linmap.pictures import BASELINE, SERIES, SYSTEM, figure, save_svg
from linmap.retrieve.bt2 import backfill_curve, text_scores
from linmap.retrieve.bt2.backfill import Order
from linmap.retrieve.bt2.gallery import NDCG, Fold
from studies.bt2.texts import banking_gallery, cranfield_gallery, draws
from studies.study import Findings, Job

ORDERS: tuple[Order, ...] = ("random", "least similar first")
DIP = 0.005  # of nDCG@10, that the curve may fall
FRACTIONS = tuple(i / 10 for i in range(11))
CAPTION = (
    "nDCG@10 of new queries against the share of the gallery that has new vectors. The gallery is mixed on the "
    "way; the ends are the old gallery and the new one."
)


def backfill(job: Job) -> Findings:
    """On Banking77, and on Cranfield where its data are there."""
    findings = Findings(
        "new queries on galleries of which a share has new vectors, scores of both kinds calibrated; "
        "the draws of the pairs as in the tables above"
    )
    for name, folds in _data(job).items():
        runs = _measured(job, name, folds)
        lost = {order: _largest_loss(runs, order) for order in ORDERS}
        findings.checks.append(
            Check(
                f"{name}: no partial backfill is worse than a smaller one ({DIP}, mean of the draws)",
                max(lost.values()) <= DIP,
                ", ".join(f"{order}: {loss:.3f}" for order, loss in lost.items()),
                "stopping a backfill half way can cost quality",
                all(differ(_largest_losses(runs, order), DIP) for order in ORDERS),
            )
        )
        file = job.out / f"backfill-{name}.svg"
        pictures, notes = draw_all([(file, lambda path, name=name, runs=runs: _drawn(path, name, runs))])
        findings.pictures += pictures
        findings.sentences += notes
    return findings


def _data(job: Job) -> dict[str, list[Fold]]:
    gallery, X, Y = banking_gallery()
    found = {"banking77": draws(gallery, X, Y, job)}
    with suppress(FileNotFoundError):
        for old in ("wl256", "tl64"):
            gallery = cranfield_gallery(old)
            found[f"cranfield-{old}"] = draws(gallery, gallery.new, gallery.old, job)
    return found


def _measured(job: Job, name: str, folds: list[Fold]) -> Runs:
    fractions = (0.0, 0.5, 1.0) if job.tiny else FRACTIONS
    settings = {"data": name, "pairs": len(folds[0].X), "fractions": fractions}
    arms = [Arm("old queries", "baseline", _old), *(Arm(order, "system", _curve(order, fractions)) for order in ORDERS)]
    experiment = Experiment(f"bt2 backfill of {name}", job.out / "runs", settings, job.resume)
    return experiment.run(arms, [Part(f"draw {fold.seed}", fold) for fold in folds], [0])


def _old(trial: Trial) -> Outcome:
    fold: Fold = trial.data
    return Outcome({NDCG: fold.scores(fold.gallery.queries_old[fold.queries], fold.gallery.old)[NDCG]})


def _curve(order: Order, fractions: tuple[float, ...]) -> Callable[[Trial], Outcome]:
    def run(trial: Trial) -> Outcome:
        fold: Fold = trial.data
        names = fold.queries.tolist()
        answers = {query: fold.gallery.answers(query) for query in names}

        def ndcg(ranked: Any) -> float:
            return text_scores(ranked, names, answers).ndcg_10

        curve = backfill_curve(
            fold.upgrade, fold.new, fold.gallery.new, fold.gallery.old, ndcg, fractions, order, random_state=fold.seed
        )
        return Outcome({NDCG: curve.values[0]}, details={"fractions": curve.fractions, "values": curve.values})

    return run


def _values(runs: Runs, order: str) -> np.ndarray:
    """(draws, fractions)"""
    return np.array([run.details["values"] for run in runs.of(order)])


def _largest_loss(runs: Runs, order: str) -> float:
    return float(_below_before(_values(runs, order).mean(0)).max())


def _largest_losses(runs: Runs, order: str) -> np.ndarray:
    """Of each draw, at the share where the mean loses most."""
    values = _values(runs, order)
    return _below_before(values)[:, _below_before(values.mean(0)).argmax()]


def _below_before(values: np.ndarray) -> np.ndarray:
    """By how much each is below the largest before it."""
    return np.maximum.accumulate(values, axis=-1) - values


def _drawn(path: Path, name: str, runs: Runs) -> Picture:
    with figure(7.2, 3.6) as (fig, ax):
        for colour, order in zip((SERIES[1], SYSTEM), ORDERS, strict=True):
            values, x = _values(runs, order), runs.of(order)[0].details["fractions"]
            mean, std = values.mean(0), values.std(0)
            ax.plot(x, mean, "o-", color=colour, label=f"backfill, {order}")
            ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        old = runs.mean("old queries", NDCG)
        ax.axhline(old, color=BASELINE, linestyle="--", label="no upgrade: old queries, old gallery")
        ax.set(xlabel="share of the gallery embedded again", ylabel=NDCG, xlim=(0, 1), ylim=(0, None))
        ax.legend()
        save_svg(fig, path)
    return Picture(path.name, f"{name}: embedding the gallery again, a part at a time", CAPTION)
