"""`linmap compare bt2`: an old gallery searched with a new model's queries, beside the other ways to upgrade."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from linmap.errors import UsageError
from linmap.pictures import BASELINE, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.bt2.images import EXTRA, image_scores
from linmap.recipes.bt2.texts import (
    AUTO,
    FULL,
    MRR,
    NDCG,
    OLD,
    PROCRUSTES,
    RAW,
    RECALL,
    TRUNCATED,
    Texts,
    banking,
    compare_texts,
    cranfield,
)
from linmap.recipes.job import CompareJob
from linmap.recipes.result import Check, Metric, Picture, Result, Row, Table
from linmap.retrieve.bt2 import BackfillCurve, EmbeddingUpgrade, RetrievalScores, verdict

METRICS = [Metric(name, "higher", digits=3) for name in (NDCG, RECALL, MRR)]
LOADERS = {
    "banking77": banking,
    "cranfield-wl256": lambda: cranfield("wl256"),
    "cranfield-tl64": lambda: cranfield("tl64"),
}
NAIVE = 0.05  # of nDCG@10, that cutting the new vectors to length does not pass


@dataclass(frozen=True)
class Comparison:
    """Flags of `linmap compare bt2`."""

    datasets: tuple[str, ...] = ("banking77",)
    """Of banking77 (embedded), cranfield-wl256 and cranfield-tl64 (in LINMAP_DATA); the first is the headline."""
    draws: int = 5
    """Random draws of the pairs that the maps are fitted to."""
    calibration: int = 500
    """Pairs of a draw."""
    trained: tuple[int, ...] = ()
    """Added dimensions of upgrades that are trained whatever their held-out figures."""
    image_seeds: int = 0
    """Seeds of the paper's setting with trained networks, on digits; 0 leaves it out."""
    image_epochs: int = 20
    """Passes over the images."""


PRESETS = {
    "quick": Comparison(),
    "full": Comparison(("cranfield-wl256", "cranfield-tl64", "banking77"), calibration=700, trained=(0, 32),
                       image_seeds=3),
}  # fmt: skip


def compare(settings: Comparison, job: CompareJob) -> Result:
    """New queries on the old gallery, by BT² and by simpler maps, between no upgrade and embedding all again."""
    _check(settings, job)
    console = Console(stderr=True)
    draws = [job.seed + i for i in range(settings.draws)]
    found: dict[str, tuple[Texts, list[Row], dict[str, list[BackfillCurve]], list[EmbeddingUpgrade]]] = {}
    for name in settings.datasets:
        with console.status(f"bt2: upgrading {name}"):
            texts = LOADERS[name]()
            found[name] = (texts, *compare_texts(texts, settings.calibration, draws, settings.trained))
    images: list[dict[str, RetrievalScores]] = []
    for i in range(settings.image_seeds):
        with console.status(f"bt2: training on images, seed {job.seed + i}"):
            images.append(image_scores(job.seed + i, settings.image_epochs))
    texts, rows, curves, upgrades = found[settings.datasets[0]]
    draw_curves(job.out / "backfill.svg", curves, rows)
    said = verdict(_mean(rows, OLD), _mean(rows, AUTO), _mean(rows, FULL))
    tables = [_text_table(found[name][0], found[name][1]) for name in settings.datasets[1:]]
    checks = [check for name in settings.datasets for check in _text_checks(name, found[name][1])]
    if images:
        tables.append(_image_table(images))
        checks += _image_checks(images)
    return Result(
        system="bt2",
        task=f"{texts.name}: {len(texts.queries_new)} queries, {len(texts.gallery_new)} texts, maps fitted to {min(settings.calibration, len(texts.pairs_new))} pairs without labels, {settings.draws} draws of the pairs",  # noqa: E501
        metrics=METRICS,
        rows=rows,
        shows=f"{said} Chosen by held-out pairs: {upgrades[0].report_['chosen']} ({upgrades[0].report_['reason']}).",
        limits="Two static or small text encoders and a few hundred texts; the pairs are texts, while queries may be worded differently. The mixed gallery is searched by the compatible coordinates alone, so a small backfill can lose before it gains." + (" The images are 8 x 8 digits, where all methods come near each other." if images else ""),  # noqa: E501
        checks=checks,
        tables=tables,
        pictures=[Picture("backfill.svg", "Embedding the gallery again, a part at a time", _caption(curves))],
        preset=job.preset,
        seeds=draws,
        settings=asdict(settings),
    )  # fmt: skip


def _check(settings: Comparison, job: CompareJob) -> None:
    if job.data is not None:
        raise UsageError(
            "compare bt2 needs relevance judgements and takes no --data; fit your own pairs with `fit bt2`."
        )
    unknown = [name for name in settings.datasets if name not in LOADERS]
    if unknown or not settings.datasets:
        raise UsageError(f"--datasets must be some of {', '.join(LOADERS)}, got {unknown or 'none'}.")
    if settings.draws < 1 or settings.calibration < 30:
        raise UsageError("--draws must be at least 1 and --calibration at least 30.")


# -- what was found --------------------------------------------------------------------------------------------------


def _row(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def _mean(rows: list[Row], name: str) -> float:
    return _row(rows, name).mean(NDCG)


def _text_checks(dataset: str, rows: list[Row]) -> list[Check]:
    auto, closed = _row(rows, AUTO).values[NDCG], _row(rows, PROCRUSTES).values[NDCG]
    old, new, raw, cut = (_mean(rows, name) for name in (OLD, FULL, RAW, TRUNCATED))
    return [
        Check(f"{dataset}: auto is at or above Procrustes in every draw",
              all(a >= p - 1e-9 for a, p in zip(auto, closed, strict=True)),
              ", ".join(f"{a:.3f} / {p:.3f}" for a, p in zip(auto, closed, strict=True))),
        Check(f"{dataset}: new queries on the old gallery are no worse than old ones", float(np.mean(auto)) >= old,
              f"{np.mean(auto):.3f} against {old:.3f}"),
        Check(f"{dataset}: after the whole backfill the new model's quality is intact", abs(new - raw) < 1e-5,
              f"{new:.5f} against {raw:.5f}"),
        Check(f"{dataset}: without a map, new queries find nothing in the old gallery", cut < NAIVE, f"{cut:.3f}"),
    ]  # fmt: skip


def _text_table(texts: Texts, rows: list[Row]) -> Table:
    cells: list[list[str | float | int]] = [
        [row.name, *(f"{row.mean(m.name):.3f} ± {row.std(m.name) or 0:.3f}" for m in METRICS)] for row in rows
    ]
    return Table(texts.name, ["method", *(metric.name for metric in METRICS)], cells, "mean ± std over the draws")


def _image_figures(images: list[dict[str, RetrievalScores]], name: str) -> np.ndarray:
    return np.array([[seed[name].cmc[1], seed[name].cmc[5], seed[name].mAP] for seed in images])


def _image_table(images: list[dict[str, RetrievalScores]]) -> Table:
    rows: list[list[str | float | int]] = []
    for name in images[0]:
        figures = _image_figures(images, name)
        rows.append(
            [name, *(f"{mean:.3f} ± {std:.3f}" for mean, std in zip(figures.mean(0), figures.std(0), strict=True))]
        )
    return Table("Digits: old network trained on 0-4 (8 dimensions), new ones on all ten (query/gallery)",
                 ["setting", "CMC top-1", "CMC top-5", "mAP"], rows,
                 f"{len(images)} seeds, mean ± std; the same schedule for all methods")  # fmt: skip


def _image_checks(images: list[dict[str, RetrievalScores]]) -> list[Check]:
    mAP = {name: float(_image_figures(images, name)[:, 2].mean()) for name in images[0]}
    bct, naive = "BCT", f"BCT + {EXTRA} naive dimensions"
    return [
        Check("digits: independent training is not comparable with the old gallery (mAP at most 0.3)",
              mAP["independent/old"] <= 0.3, f"{mAP['independent/old']:.3f}"),
        Check("digits: BT²/old is above old/old by 0.05 mAP", mAP["BT²/old"] >= mAP["old/old"] + 0.05,
              f"{mAP['BT²/old']:.3f} against {mAP['old/old']:.3f}"),
        Check("digits: at equal compatibility (0.02) BT²/BT² is above BCT/BCT in mAP",
              abs(mAP["BT²/old"] - mAP["BCT/old"]) <= 0.02 and mAP["BT²/BT²"] > mAP["BCT/BCT"],
              f"old gallery {mAP['BT²/old']:.3f} and {mAP[f'{bct}/old']:.3f}, own {mAP['BT²/BT²']:.3f} and "
              f"{mAP['BCT/BCT']:.3f}; {naive} {mAP[f'{naive}/{naive}']:.3f}"),
    ]  # fmt: skip


def _caption(curves: dict[str, list[BackfillCurve]]) -> str:
    means = {order: np.mean([curve.values for curve in found], 0) for order, found in curves.items()}
    halves = ", ".join(f"{order}: {values[len(values) // 2]:.3f}" for order, values in means.items())
    return f"nDCG@10 of new queries against the share of the gallery that has new vectors. Half-way, {halves}. The gallery is mixed on the way; the ends are the old gallery and the new one."  # noqa: E501


def draw_curves(path: Path, curves: dict[str, list[BackfillCurve]], rows: list[Row]) -> None:
    with figure(7.2, 3.6) as (fig, ax):
        for colour, (order, found) in zip((SERIES[1], SYSTEM), curves.items(), strict=True):
            values = np.array([curve.values for curve in found])
            mean, std, x = values.mean(0), values.std(0), found[0].fractions
            ax.plot(x, mean, "o-", color=colour, label=f"backfill, {order}")
            ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        ax.axhline(_mean(rows, OLD), color=BASELINE, linestyle="--", label="no upgrade: old queries, old gallery")
        ax.set(xlabel="share of the gallery embedded again", ylabel=NDCG, xlim=(0, 1), ylim=(0, None))
        ax.legend()
        save_svg(fig, path)
