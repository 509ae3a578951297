"""HDM05: 288 clips of 11 actions by five actors, as 93 x 93 covariances."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.covariances import Covariances, hdm05
from linmap.data.folds import Fold
from linmap.experiment import Arm, Check, Experiment, Outcome, Part, Picture, Runs, Table, Trial, draw_all
from linmap.experiment.charts import draw_confusions, draw_curves
from linmap.recipes.gbwbn.compare import ACCURACY, train_network, training_checks, training_table
from studies.gbwbn.methods import THETAS, arms, chosen, methods, summary
from studies.gbwbn.pictures import draw_conditioning
from studies.study import Findings, Job

TRAIN, VALIDATION, TEST = ("bd", "bk"), "dg", ("mm", "tr")
FLOOR = 0.85  # accuracy below which something is broken
EPS = (1e-3, 1e-5, 1e-7, 1e-9, 1e-11)
SETTING = "HDM05, {clips} clips of 11 actions, 93 x 93: actors bd, bk{train} train, {chosen}mm, tr test; SPDNet 93-30, Adam 2.5e-3, batches of 30, {epochs} epochs"  # noqa: E501


def split(data: Covariances, choose: bool = True) -> Fold[Covariances]:
    """Three actors to train by, of whom one chooses the epoch if `choose`; two others to test by."""
    assert data.domain is not None
    train = TRAIN if choose else (*TRAIN, VALIDATION)
    held = data.domain == VALIDATION if choose else np.zeros(len(data), bool)
    return Fold(
        "actors", data.take(np.isin(data.domain, train)), data.take(held), data.take(np.isin(data.domain, TEST))
    )


def by_actor(job: Job) -> Findings:
    """All settings of GBWBN, with a learned and a fixed metric."""
    data, epochs = hdm05(subset=job.tiny), 1 if job.tiny else 60
    named = methods((0.5,) if job.tiny else THETAS, fixed=not job.tiny)
    parts = [Part("actors", split(data))]
    runs = _experiment("actors", job, data, epochs).run(arms(named, {"epochs": epochs}), parts, job.seeds)
    best = chosen(runs)

    def losses(path: Path) -> Picture:
        ordered = sorted(named, key=lambda name: not name.startswith("GBWBN"))
        curves = {name: [run.details["losses"] for run in runs.of(name) if run.details["losses"]] for name in ordered}
        shown = {name: of for name, of in curves.items() if of}
        draw_curves(path, shown, "epoch", "training loss", log=True, styles=runs.styles)
        return Picture(
            path.name, "Training loss on HDM05", "Mean over the seeds; bands from the lowest to the highest."
        )

    def confusions(path: Path) -> Picture:
        true = np.concatenate([parts[0].data.test.labels() for _ in runs.of(best)])
        found = np.concatenate([run.details["answers"] for run in runs.of(best)])
        draw_confusions(path, {best: (true, found)}, np.unique(true))
        return Picture(path.name, f"Test actors, {best}", "Share of each action's clips, all seeds together.")

    pictures, notes = draw_all([(job.out / "loss.svg", losses), (job.out / "confusion.svg", confusions)])
    return Findings(
        _setting(data, epochs),
        [_table("HDM05 by actor", runs, "the epoch chosen on validation")],
        training_checks([run for name in named for run in runs.of(name)]),
        [f"{summary(runs, best)}.", *notes],
        pictures,
    )


def three_actors(job: Job) -> Findings:
    """What reports of this data set measure, and why powers near 1 lose: with ten steps towards the mean too."""
    data, epochs = hdm05(subset=job.tiny), 1 if job.tiny else 30
    thetas = (0.5,) if job.tiny else THETAS
    named = methods(thetas, fixed=not job.tiny) | methods(thetas, mean_iters=(10,))
    parts = [Part("three actors", split(data, choose=False))]
    runs = _experiment("three-actors", job, data, epochs).run(arms(named, {"epochs": epochs}), parts, job.seeds)
    lowest = min(runs.mean(name, ACCURACY.name) for name in named)
    check = Check(
        f"every method is above {FLOOR}",
        lowest >= FLOOR,
        f"lowest {lowest:.3f}",
        "the protocol or a method is broken, for simpler classifiers reach this",
    )
    return Findings(
        _setting(data, epochs, choose=False), [_table("Three training actors, nothing chosen", runs)], [check]
    )


def few_shots(job: Job) -> Findings:
    """Three clips of an action to train by, drawn with the seed."""
    data, epochs, clips = hdm05(subset=job.tiny), 1 if job.tiny else 60, 3

    def drawn(options: dict[str, Any], trial: Trial) -> Outcome:
        return train_network(options, replace(trial, data=few(trial.data, clips, trial.seed)))

    named = methods((0.5,) if job.tiny else THETAS)
    few_arms = [
        Arm(arm.name, arm.kind, partial(drawn, {"epochs": epochs} | named[arm.name]), arm.settings)
        for arm in arms(named, {})
    ]
    runs = _experiment("few-shots", job, data, epochs).run(few_arms, [Part("few clips", split(data))], job.seeds)
    return Findings(
        _setting(data, epochs) + f", {clips} clips of an action to train by",
        [_table("Few clips", runs, "the epoch chosen on validation")],
        sentences=[f"{summary(runs, chosen(runs))}."],
    )


def few(fold: Fold[Covariances], clips: int, seed: int) -> Fold[Covariances]:
    """With `clips` drawn clips of each action to train by."""
    rng, y = np.random.default_rng(seed), fold.train.labels()
    rows = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:clips] for c in np.unique(y)])
    return replace(fold, train=fold.train.take(rows))


def by_eps(job: Job) -> Findings:
    """Real matrices, regularised less and less; no floor protects the logarithm."""
    data, epochs, eps = hdm05(subset=job.tiny), 1 if job.tiny else 30, EPS[:1] if job.tiny else EPS
    named, types = methods((0.5, 1.0)), ("float32", "float64")
    fold = split(data)
    parts = [
        Part(f"{kind}, eps {value:g}", (fold, {"dtype": kind, "eps": value}), {"dtype": kind, "eps": value})
        for kind in types
        for value in eps
    ]

    def of_part(options: dict[str, Any], trial: Trial) -> Outcome:
        data, more = trial.data
        return train_network(options | more, replace(trial, data=data))

    options: dict[str, Any] = {"epochs": epochs, "floor": 1e-14}
    eps_arms = [
        Arm(arm.name, arm.kind, partial(of_part, options | named[arm.name]), arm.settings) for arm in arms(named, {})
    ]
    runs = _experiment("eps", job, data, epochs).run(eps_arms, parts, job.seeds)
    curves: dict[str, dict[str, np.ndarray]] = {}
    cells: list[list[str | float | int]] = []
    for kind in types:
        of_type = [part.name for part in parts if part.settings["dtype"] == kind]
        curves[kind] = {n: np.array([runs.values(n, ACCURACY.name, part) for part in of_type]) for n in named}
        cells += [[n, kind, *("failed" if np.isnan(row).all() else f"{np.nanmean(row):.3f}" for row in values),
                   int(np.isnan(values).sum())] for n, values in curves[kind].items()]  # fmt: skip

    def picture(path: Path) -> Picture:
        draw_conditioning(path, eps, curves, "eps on the diagonal (trace 1)", ("linear", "test accuracy"))
        return Picture(
            path.name,
            "Real matrices by condition",
            "Accuracy on the test actors by what is added to the diagonal; mean and spread over the seeds.",
        )

    pictures, notes = draw_all([(job.out / "eps.svg", picture)])
    columns = ["method", "type", *map("{:g}".format, eps), "failed runs"]
    table = Table("Test accuracy by eps, ReEig floor 1e-14", columns, cells)
    return Findings(_setting(data, epochs), [table], sentences=notes, pictures=pictures)


def _experiment(name: str, job: Job, data: Covariances, epochs: int) -> Experiment:
    return Experiment(f"gbwbn {name}", job.out / "runs", {"clips": len(data), "epochs": epochs}, job.resume)


def _setting(data: Covariances, epochs: int, choose: bool = True) -> str:
    train, held = ("", "dg chooses the epoch, ") if choose else (", dg", "")
    return SETTING.format(clips=len(data), train=train, chosen=held, epochs=epochs)


def _table(title: str, runs: Runs, note: str = "") -> Table:
    notes = "; ".join(filter(None, ["mean ± std over the seeds", note]))
    return training_table(title, {arm.name: runs.of(arm.name) for arm in runs.arms}, notes)
