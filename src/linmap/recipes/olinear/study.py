"""The further comparisons: all horizons, ILI, bases, mixings, and OLinear's parts in other forecasters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import stats
from torch import nn

from linmap.experiment.result import Check, Table
from linmap.recipes.job import CompareJob
from linmap.recipes.olinear.methods import (
    BASELINE_RATES,
    Method,
    Task,
    Trained,
    embedded,
    linear_baselines,
    olinear,
    prepare,
    repeat_last,
    run_all,
)
from linmap.recipes.olinear.plugins import itransformer, n_patches, patchtst
from linmap.recipes.olinear.published import (
    ETTH1,
    ILI_MEAN,
    ILI_TASKS,
    LARGER_HORIZON,
    TOLERANCE,
    ili_settings,
)
from linmap.recipes.olinear.settings import SMALL, Comparison, Host
from linmap.sequence.olinear import OrthoTrans, OrthoTransWrapper, replace_attention
from linmap.sequence.olinear.baselines import DLinear
from linmap.training import TrainingConfig

Runs = dict[str, list[Trained]]
SMALL_EPOCHS = {"ETTh1": 4, "ILI": 10}  # of the small model
PATCH = 16
STUDY = "study "  # before the names of methods whose training is not the main task's
WINDOWS = "36 to 24 (ILI) and 96 to 96 (ETTh1)"


@dataclass
class Findings:
    """What the further comparisons add to a result."""

    tables: list[Table] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


def study(settings: Comparison, job: CompareJob, main: Task, main_runs: Runs) -> Findings:
    """Every further comparison that the settings ask for."""
    found = Findings()
    if settings.horizons:
        compare_horizons(settings, job, main, main_runs, found)
    if settings.ili != "none" and job.data is None:
        compare_ili(settings, job, found)
    if settings.bases:
        compare_bases(settings, job, found)
    if settings.mixings:
        compare_mixings(settings, job, found)
    if settings.hosts:
        compare_hosts(settings, job, found)
    return found


# -- all horizons ------------------------------------------------------------------------------------------------------


def compare_horizons(settings: Comparison, job: CompareJob, main: Task, main_runs: Runs, found: Findings) -> None:
    """The main task's data at further horizons, beside the papers' rows where there are some."""
    runs = {settings.horizon: main_runs}
    published = main.name == "ETTh1" and job.data is None and settings.lookback == 96
    for horizon in settings.horizons:
        changes = LARGER_HORIZON.get(horizon, {}) if published else {}
        task = prepare(replace(settings, horizon=horizon, **changes), job)
        runs[horizon] = run_all([olinear(task), repeat_last(task), *linear_baselines(task)], task, job, settings.seeds)
    horizons = sorted(runs)
    rows: list[list[Any]] = [
        [name, *(f"{mse(runs[h][name]):.4f} / {mae(runs[h][name]):.4f}" for h in horizons)] for name in main_runs
    ]
    if published:
        rows += [
            [f"{name}, published", *(f"{table[h][0]:.3f} / {table[h][1]:.3f}" if h in table else "" for h in horizons)]
            for name, table in ETTH1.items()
        ]
    note = "Published rows: the papers' own figures, from the same 96 steps." if published else ""
    found.tables.append(Table(f"{main.name}, MSE / MAE by horizon", ["method", *map(str, horizons)], rows, note))
    if published and settings.d_model == 512:
        for horizon in horizons:
            check_published(horizon, runs[horizon], found)


def check_published(horizon: int, runs: Runs, found: Findings) -> None:
    ours, theirs = mse(runs["OLinear"]), ETTH1["OLinear"].get(horizon)
    if theirs is not None:
        found.checks.append(
            Check(
                f"ETTh1, {horizon} steps: MSE within {TOLERANCE} of the paper's",
                ours <= theirs[0] + TOLERANCE,
                f"{ours:.4f}; the paper: {theirs[0]:.3f}",
                "this implementation or its setting is not the published one",
            )
        )


# -- ILI ---------------------------------------------------------------------------------------------------------------


def compare_ili(settings: Comparison, job: CompareJob, found: Findings) -> None:
    """The tasks on weekly influenza-like illness, with the authors' settings."""
    whole = settings.ili == "all"
    results: dict[tuple[int, int], Runs] = {}
    for lookback, horizon in ILI_TASKS if whole else ILI_TASKS[:1]:
        task = embedded(settings, job, **ili_settings(lookback, horizon) | {"baseline_epochs": 12})
        methods = [olinear(task), repeat_last(task), *linear_baselines(task, BASELINE_RATES)]
        results[lookback, horizon] = run_all(methods, task, job, settings.seeds)
    names = list(next(iter(results.values())))
    columns = ["method", *(f"{lookback} to {horizon}" for lookback, horizon in results)]
    rows: list[list[Any]] = [
        [name, *(f"{spread(runs[name])} / {mae(runs[name]):.3f}" for runs in results.values())] for name in names
    ]
    if whole:
        columns.append("mean")
        for row, name in zip(rows, names, strict=True):
            means = [statistics.fmean(measure(runs[name]) for runs in results.values()) for measure in (mse, mae)]
            row.append(f"{means[0]:.3f} / {means[1]:.3f}")
        rows += [
            [f"{name}, published", *[""] * len(results), f"{error[0]:.3f} / {error[1]:.3f}"]
            for name, error in ILI_MEAN.items()
        ]
    found.tables.append(
        Table(
            "ILI, MSE / MAE: weeks of input to weeks of forecast",
            columns,
            rows,
            f"{counted(settings.seeds, 'seed')}. The linear baselines choose their learning rate by validation, "
            f"of {', '.join(f'{rate:g}' for rate in BASELINE_RATES)}.",
        )
    )
    ours, theirs = (mse(results[36, 24][name]) for name in ("OLinear", "DLinear"))
    found.checks.append(
        Check(
            "ILI, 24 weeks from 36: MSE at least 30 % below DLinear's",
            ours <= 0.7 * theirs,
            f"{ours:.3f} against {theirs:.3f}, {1 - ours / theirs:.0%} below",
            "the paper's gain on short weekly series is not reproduced",
        )
    )


# -- bases and mixings -------------------------------------------------------------------------------------------------


def study_tasks(settings: Comparison, job: CompareJob) -> list[Task]:
    """The user's file with the model of the main task, or embedded data with a small one."""
    if job.data is not None:
        return [prepare(settings, job)]
    ili = ili_settings(36, 24) | SMALL | {"epochs": SMALL_EPOCHS["ILI"], "lr": 5e-4}
    etth1 = {"dataset": "etth1", "lookback": 96, "horizon": 96, "epochs": SMALL_EPOCHS["ETTh1"], "lr": 5e-4} | SMALL
    changes = {"etth1": etth1, "ili": ili}
    return [embedded(settings, job, **changes[name]) for name in settings.study_data]


def compare_bases(settings: Comparison, job: CompareJob, found: Findings) -> None:
    """One model with every basis, several seeds, and whether the basis matters."""
    variants: dict[str, dict[str, Any]] = {
        "pearson": {"basis": "pearson"},
        "pearson, one for each series": {"basis": "pearson", "chan_indep": True},
    } | {name: {"basis": name} for name in settings.bases if name != "pearson"}
    runs = compare_variants("basis", variants, settings, job)
    found.tables.append(variants_table("Bases: MSE and MAE", "basis", variants, runs, settings.study_seeds))
    found.sentences += [whether_it_matters("basis", name, own) for name, own in runs.items()]


def compare_mixings(settings: Comparison, job: CompareJob, found: Findings) -> None:
    """One model with other ways to mix the series."""
    variants = {name: {"mixing": name} for name in ("normlin", *settings.mixings)}
    runs = compare_variants("mixing", variants, settings, job)
    found.tables.append(variants_table("Mixing of series: MSE and MAE", "mixing", variants, runs, settings.study_seeds))
    found.sentences += [whether_it_matters("mixing", name, own) for name, own in runs.items()]


def compare_variants(
    prefix: str, variants: dict[str, dict[str, Any]], settings: Comparison, job: CompareJob
) -> dict[str, Runs]:
    runs = {}
    for task in study_tasks(settings, job):
        methods = [
            olinear(task, f"{STUDY}{prefix} {name}", "ablation", **changes) for name, changes in variants.items()
        ]
        found = run_all(methods, task, job, settings.study_seeds)
        runs[task.name] = dict(zip(variants, found.values(), strict=True))
    return runs


def variants_table(title: str, column: str, variants: Sequence[str] | dict, runs: dict[str, Runs], seeds: int) -> Table:
    columns = [column, *(f"{name}, {metric}" for name in runs for metric in ("MSE", "MAE"))]
    rows: list[list[Any]] = [
        [name, *(cell for own in runs.values() for cell in (spread(own[name], 4), f"{mae(own[name]):.4f}"))]
        for name in variants
    ]
    return Table(
        title,
        columns,
        rows,
        f"Mean and standard deviation of {counted(seeds, 'seed')}; embedded data: {WINDOWS}, a small model.",
    )


def whether_it_matters(what: str, data: str, runs: Runs) -> str:
    """The spread between the choices beside the spread between seeds, and an analysis of variance."""
    errors = {name: [trained.errors.mse for trained in found] for name, found in runs.items()}
    means = {name: statistics.fmean(values) for name, values in errors.items()}
    best, worst = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    text = f"{data}: by {what}, MSE lies between {means[best]:.4f} ({best}) and {means[worst]:.4f} ({worst})"
    if min(map(len, errors.values())) < 2:
        return f"{text}, from one seed each, which tells nothing about the {what}"
    within = float(np.sqrt(np.mean([np.var(values, ddof=1) for values in errors.values()])))
    p = float(stats.f_oneway(*errors.values()).pvalue)
    verdict = f"so the {what} matters here" if p < 0.01 else f"so these runs do not show that the {what} matters"
    return (
        f"{text}; a seed moves it by {within:.4f} (one standard deviation; analysis of variance p = {p:.2g}), {verdict}"
    )


# -- OLinear's parts in other forecasters ------------------------------------------------------------------------------


def compare_hosts(settings: Comparison, job: CompareJob, found: Findings) -> None:
    """DLinear, iTransformer and PatchTST with and without OrthoTrans and NormLin."""
    columns, cells = ["forecaster"], {}
    for task in study_tasks(settings, job):
        methods = [method for host in settings.hosts for method in with_and_without(host, task)]
        runs = run_all(methods, task, job, settings.study_seeds)
        columns += [f"{task.name}, MSE", f"{task.name}, MAE"]
        for name, trained in runs.items():
            cells.setdefault(name.removeprefix(STUDY), []).extend([spread(trained, 4), f"{mae(trained):.4f}"])
    rows: list[list[Any]] = [[name, *values] for name, values in cells.items()]
    found.tables.append(
        Table(
            "OrthoTrans and NormLin inside other forecasters",
            columns,
            rows,
            f"Mean and standard deviation of {counted(settings.study_seeds, 'seed')}; squared error; "
            f"embedded data: {WINDOWS}. iTransformer and PatchTST are neuralforecast's; DLinear has no attention.",
        )
    )


def with_and_without(host: Host, task: Task) -> list[Method]:
    """A forecaster bare, with OrthoTrans around it, with NormLin in it, and with both."""
    T, P = task.settings.lookback, task.settings.horizon
    rows = task.series.values[: task.split.train]
    Q_in, Q_out = (OrthoTrans(length).fit(rows).Q_ for length in (T, P))
    training = TrainingConfig(
        epochs=8 if task.name == "ILI" else 6, lr=5e-3 if host == "DLinear" else 5e-4, schedule="halving",
        batch_size=16 if task.name == "ILI" else 32,
    )  # fmt: skip

    def build(seed: int, ortho: bool, normlin: bool) -> nn.Module:
        model, tokens = bare(host, task, seed, normalise=not ortho)
        model = replace_attention(model, tokens) if normlin else model
        return OrthoTransWrapper(model, Q_in, Q_out) if ortho else model

    def method(name: str, ortho: bool, normlin: bool) -> Method:
        note = "squared error"
        return Method(
            STUDY + name, "ablation", lambda seed: build(seed, ortho, normlin), training, nn.functional.mse_loss, note
        )

    plain = [method(host, False, False), method(f"{host} + OrthoTrans", True, False)]
    if host == "DLinear":
        return plain
    return [*plain, method(f"{host} + NormLin", False, True), method(f"{host} + OrthoTrans + NormLin", True, True)]


def bare(host: Host, task: Task, seed: int, normalise: bool) -> tuple[nn.Module, int]:
    """The forecaster and its number of tokens; its own normalisation is off where OrthoTrans brings one."""
    T, P, N = task.settings.lookback, task.settings.horizon, len(task.series.variates)
    if host == "DLinear":
        return DLinear(T, P), 0
    if host == "iTransformer":
        model = itransformer(T, P, N, d_model=128, d_ff=128, heads=8, seed=seed, normalise=normalise)
        return model, N
    patch = min(PATCH, T // 3)
    model = patchtst(T, P, d_model=32, d_ff=128, heads=4, patch=patch, seed=seed, normalise=normalise)
    return model, n_patches(T, patch)


# -- cells -------------------------------------------------------------------------------------------------------------


def mse(trained: list[Trained]) -> float:
    return statistics.fmean(one.errors.mse for one in trained)


def mae(trained: list[Trained]) -> float:
    return statistics.fmean(one.errors.mae for one in trained)


def spread(trained: list[Trained], digits: int = 3) -> str:
    """MSE, mean ± standard deviation over seeds."""
    values = [one.errors.mse for one in trained]
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
