"""`linmap compare bt2`: an old gallery searched with a new model's queries, beside the other ways to upgrade."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from linmap.errors import UsageError
from linmap.experiment.drawing import with_pictures
from linmap.experiment.result import Check, Metric, Picture, Result, Row, Table
from linmap.pictures import BASELINE, SERIES, SYSTEM, figure, save_svg
from linmap.recipes.bt2.image_tables import series_checks, series_table, setting_checks, setting_table
from linmap.recipes.bt2.images import SETTINGS, image_scores, series_scores
from linmap.recipes.bt2.texts import (
    AUTO,
    FULL,
    GALLERY,
    MRR,
    NDCG,
    OLD,
    PROCRUSTES,
    RAW,
    RECALL,
    REFERENCE,
    TRUNCATED,
    Texts,
    banking,
    compare_texts,
    cranfield,
)
from linmap.recipes.job import CompareJob
from linmap.retrieve.bt2 import BackfillCurve, EmbeddingUpgrade, verdict

METRICS = [Metric(name, "higher", digits=3) for name in (NDCG, RECALL, MRR)]
LOADERS = {
    "banking77": banking,
    "cranfield-wl256": lambda: cranfield("wl256"),
    "cranfield-tl64": lambda: cranfield("tl64"),
}
DIP = 0.005  # of nDCG@10, that the curve of the backfill may fall
TOLERANCE = 0.02
CURVES = (
    "nDCG@10 of new queries against the share of the gallery that has new vectors. The gallery is mixed on the "
    "way; the ends are the old gallery and the new one."
)
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
    adapters: bool = False
    """Also train residual networks from new vectors to old ones."""
    image_seeds: int = 0
    """Seeds of the paper's settings with trained networks, on digits; 0 leaves them out."""
    image_epochs: int = 60
    """Passes over the images."""


PRESETS = {
    "quick": Comparison(),
    "full": Comparison(("cranfield-wl256", "cranfield-tl64", "banking77"), calibration=700, trained=(0, 32),
                       adapters=True, image_seeds=3),
}  # fmt: skip


def compare(settings: Comparison, job: CompareJob) -> Result:
    """New queries on the old gallery, by BT² and by simpler maps, between no upgrade and embedding all again."""
    _check(settings, job)
    console = Console(stderr=True)
    draws = [job.seed + i for i in range(settings.draws)]
    found: dict[str, tuple[Texts, list[Row], dict[str, list[BackfillCurve]], list[EmbeddingUpgrade]]] = {}
    for name in settings.datasets:
        console.print(f"bt2: upgrading {name}", style="dim")
        texts = LOADERS[name]()
        found[name] = (texts, *compare_texts(texts, settings.calibration, draws, settings.trained, settings.adapters))
    image_tables, image_checks = _images(settings, job)
    texts, rows, curves, upgrades = found[settings.datasets[0]]
    said = verdict(_mean(rows, OLD), _mean(rows, AUTO), _mean(rows, FULL))
    tables = [_text_table(found[name][0], found[name][1]) for name in settings.datasets[1:]]
    checks = [check for name in settings.datasets for check in _text_checks(name, *found[name][1:3])]
    result = Result(
        system="bt2",
        task=f"{texts.name}: {len(texts.queries_new)} queries, {len(texts.gallery_new)} texts, maps fitted to {texts.calibration(settings.calibration)} pairs without labels, {settings.draws} draws of the pairs",  # noqa: E501
        metrics=METRICS,
        rows=rows,
        shows=f"{said} Chosen by held-out pairs: {upgrades[0].report_['chosen']} ({upgrades[0].report_['reason']}).",
        limits=_limits(rows, bool(image_tables)),
        checks=[*checks, *image_checks],
        tables=[*tables, *image_tables],
        preset=job.preset,
        seeds=draws,
        settings=asdict(settings),
    )  # fmt: skip

    def backfill(path: Path) -> Picture:
        draw_curves(path, curves, rows)
        return Picture(path.name, "Embedding the gallery again, a part at a time", CURVES)

    return with_pictures(result, [(job.out / "backfill.svg", backfill)])


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


def _images(settings: Comparison, job: CompareJob) -> tuple[list[Table], list[Check]]:
    tables, checks = [], []
    seeds = [job.seed + i for i in range(settings.image_seeds)]
    if seeds:
        for name, networks in SETTINGS.items():
            scores = [image_scores(*networks, seed, settings.image_epochs) for seed in seeds]
            tables.append(setting_table(name, scores))
            checks += setting_checks(name, scores)
        series = [series_scores(seed, settings.image_epochs) for seed in seeds]
        tables.append(series_table(series))
        checks += series_checks(series)
    return tables, checks


def _limits(rows: list[Row], images: bool) -> str:
    rewritten, auto = _mean(rows, GALLERY), _mean(rows, AUTO)
    said = "Two static or small text encoders and a few hundred texts; the pairs are texts, while queries may be worded differently. Whether centring helps is seen in the pairs, not in the queries."  # noqa: E501
    if rewritten > auto:
        said += f" Who may rewrite every stored vector finds more by a ridge map from old to new vectors ({rewritten:.3f}, BT² {auto:.3f}), without the texts but not without touching the gallery."  # noqa: E501
    return said + (" The images are 8 x 8 digits, where all methods come near each other." if images else "")


def _text_checks(dataset: str, rows: list[Row], curves: dict[str, list[BackfillCurve]]) -> list[Check]:
    auto, closed = _row(rows, AUTO).values[NDCG], _row(rows, PROCRUSTES).values[NDCG]
    old, new, raw, cut = (_mean(rows, name) for name in (OLD, FULL, RAW, TRUNCATED))
    lost = {order: _largest_loss(found) for order, found in curves.items()}
    return [
        Check(f"{dataset}: auto is at or above Procrustes in every draw",
              all(a >= p - 1e-9 for a, p in zip(auto, closed, strict=True)),
              ", ".join(f"{a:.3f} / {p:.3f}" for a, p in zip(auto, closed, strict=True)),
              "the choice by held-out pairs picks badly; take method='procrustes'"),
        Check(f"{dataset}: new queries on the old gallery are no worse than old ones", float(np.mean(auto)) >= old,
              f"{np.mean(auto):.3f} against {old:.3f}",
              "keep the old model until the gallery is recomputed"),
        Check(f"{dataset}: after the whole backfill the new model's quality is intact", abs(new - raw) < 1e-5,
              f"{new:.5f} against {raw:.5f}",
              "the upgrade damages the new model's own space"),
        Check(f"{dataset}: no partial backfill is worse than a smaller one (0.005, mean of the draws)",
              max(lost.values()) <= DIP, ", ".join(f"{order}: {loss:.3f}" for order, loss in lost.items()),
              "stopping a backfill half way can cost quality"),
        Check(f"{dataset}: without a map, new queries find nothing in the old gallery", cut < NAIVE, f"{cut:.3f}",
              "the two spaces agree already, and no map is needed"),
        *_reference_checks(dataset, rows),
    ]  # fmt: skip


def _reference_checks(dataset: str, rows: list[Row]) -> list[Check]:
    differences = {
        f"{name}, {metric}": _row(rows, name).mean(metric) - expected
        for name, pair in REFERENCE.get(dataset, {}).items()
        for metric, expected in zip((NDCG, RECALL), pair, strict=True)
    }
    if not differences:
        return []
    worst = max(differences, key=lambda name: abs(differences[name]))
    said = f"{dataset}: every figure of the reference table is reproduced within {TOLERANCE}"
    return [
        Check(
            said,
            abs(differences[worst]) <= TOLERANCE,
            f"largest difference {differences[worst]:+.3f} ({worst})",
            "something differs from the setting of the reference: data, version or code",
        )
    ]


def _largest_loss(curves: list[BackfillCurve]) -> float:
    values = np.mean([curve.values for curve in curves], 0)
    return float((np.maximum.accumulate(values) - values).max())


def _text_table(texts: Texts, rows: list[Row]) -> Table:
    cells: list[list[str | float | int]] = [
        [row.name, *(f"{row.mean(m.name):.3f} ± {row.std(m.name) or 0:.3f}" for m in METRICS)] for row in rows
    ]
    return Table(texts.name, ["method", *(metric.name for metric in METRICS)], cells, "mean ± std over the draws")


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
