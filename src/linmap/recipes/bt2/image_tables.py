"""What the training on images has shown: tables, and what must hold."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from linmap.experiment.result import Check, Table
from linmap.recipes.bt2.images import EXTRA, SERIES, SETTINGS
from linmap.retrieve.bt2 import RetrievalScores

Scores = dict[str, RetrievalScores]
SAID = {
    "more classes": "the old network has seen the digits 0-4, the new ones all ten",
    "bigger backbone": "the new networks have 16 times the channels of the old one",
    "another modality": "the old network sees the 16 ink sums of rows and columns, the new ones the image",
}
BCT, BT2 = "BCT", "BT²"
NAIVE = f"{BCT} + {EXTRA} naive dimensions"


def setting_table(setting: str, seeds: list[Scores]) -> Table:
    old, new = SETTINGS[setting]
    rows: list[list[str | float | int]] = []
    for name in seeds[0]:
        figures = np.array([[found[name].cmc[1], found[name].cmc[5], found[name].mAP] for found in seeds])
        rows.append([name, *map(_shown, figures.T)])
    return Table(f"Digits, {setting} ({old.features} to {new.features} dimensions; query/gallery): {SAID[setting]}",
                 ["setting", "CMC top-1", "CMC top-5", "mAP"], rows,
                 f"{len(seeds)} seeds, mean ± std; the same schedule for all methods; the whole backfill is "
                 f"{BT2}/{BT2}, or independent/independent where nothing need be compatible")  # fmt: skip


def setting_checks(setting: str, seeds: list[Scores]) -> list[Check]:
    mAP = {name: float(np.mean([found[name].mAP for found in seeds])) for name in seeds[0]}
    said, gap = f"digits, {setting}", mAP[f"{BT2}/old"] - mAP[f"{BCT}/old"]
    return [
        Check(f"{said}: independent training is not comparable with the old gallery (mAP at most 0.3)",
              mAP["independent/old"] <= 0.3, f"{mAP['independent/old']:.3f}",
              "there would be nothing to solve: independent models would already agree"),
        Check(f"{said}: BT²/old is above old/old by 0.05 mAP", mAP[f"{BT2}/old"] >= mAP["old/old"] + 0.05,
              f"{mAP[f'{BT2}/old']:.3f} against {mAP['old/old']:.3f}",
              "new queries gain nothing on an old gallery; recompute it instead"),
        Check(f"{said}: no less compatible than BCT (0.02), BT²/BT² is above BCT/BCT in mAP",
              gap >= -0.02 and mAP[f"{BT2}/{BT2}"] > mAP[f"{BCT}/{BCT}"],
              f"old gallery {mAP[f'{BT2}/old']:.3f} and {mAP[f'{BCT}/old']:.3f}, own {mAP[f'{BT2}/{BT2}']:.3f} and "
              f"{mAP[f'{BCT}/{BCT}']:.3f}; {NAIVE} {mAP[f'{NAIVE}/{NAIVE}']:.3f}",
              "the simpler compatible training is the better choice"),
    ]  # fmt: skip


def series_table(seeds: list[dict[str, Float[np.ndarray, "steps steps"]]]) -> Table:
    steps = range(len(SERIES))
    rows: list[list[str | float | int]] = []
    for name in seeds[0]:
        figures = np.array([found[name] for found in seeds])
        for q in steps:
            rows.append([f"{name}, queries of step {q + 1}", *(_shown(figures[:, q, g]) for g in steps[: q + 1]),
                         *([""] * (len(SERIES) - q - 1))])  # fmt: skip
    said = ", ".join(f"{network.classes} digits by {network.width} channels" for network in SERIES)
    return Table(f"Digits, a series of upgrades: {said}; mAP on the galleries of all steps",
                 ["queries", *(f"gallery of step {g + 1}" for g in steps)], rows,
                 f"{len(seeds)} seeds, mean ± std; BT² grows from 8 dimensions by {EXTRA} a step")  # fmt: skip


def series_checks(seeds: list[dict[str, Float[np.ndarray, "steps steps"]]]) -> list[Check]:
    mean = {name: np.mean([found[name] for found in seeds], 0) for name in seeds[0]}
    first, own = mean[BT2][1:, 0], mean[BT2][0, 0]
    return [
        Check("digits, series: every later step of BT² finds more in the first gallery than the first model does",
              bool((first > own).all()), ", ".join(f"{value:.3f}" for value in first) + f" against {own:.3f}",
              "a chain of upgrades loses what the first step gained"),
        Check("digits, series: the last step of BT² is above BCT's in its own gallery",
              bool(mean[BT2][-1, -1] > mean[BCT][-1, -1]), f"{mean[BT2][-1, -1]:.3f} against {mean[BCT][-1, -1]:.3f}",
              "after several upgrades the simpler training is ahead"),
    ]  # fmt: skip


def _shown(values: Float[np.ndarray, " seeds"]) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f}"
