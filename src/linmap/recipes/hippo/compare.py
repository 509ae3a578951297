"""`linmap compare hippo`: do state spaces classify these series better than a GRU or MiniRocket?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from linmap.data.sequences import LabelledSeries, load_series, whole_series
from linmap.errors import UsageError
from linmap.experiment import beats, capitalized, conclude, fingerprint
from linmap.experiment.charts import draw_curves
from linmap.experiment.engine import Arm, Choice, Experiment, Outcome, Part, Runs, Trial
from linmap.experiment.result import Check, Metric, Picture, Result
from linmap.recipes.hippo.flags import Compare
from linmap.recipes.job import CompareJob
from linmap.sequence.s4 import GRUClassifier, S4Classifier
from linmap.sequence.s4.baselines import MiniRocket, MostFrequent

ACCURACY = Metric("accuracy", "higher")
GRU, ROCKET, MAJORITY = "GRU", "MiniRocket", "the most frequent class"
STEPS, MANY = 360, 1000  # steps of a training, and from how many series on its batches are large
CHOOSING = 0.25  # of the training series, on which rates are chosen
STREAM_GAP = "stream gap"
TITLES = {"legs": "LegS", "fout": "FouT", "legt": "LegT"}
USUAL = {"s4d": "lin", "s4": "legs"}


def compare(settings: Compare, job: CompareJob) -> Result:
    """State spaces, a GRU and MiniRocket on series that each seed divides anew."""
    data, name = _read(settings, job)
    depends = {key: value for key, value in asdict(settings).items() if key not in ("seeds", "rates")}
    if job.data is not None and job.data.exists():
        depends["fingerprint"] = fingerprint(job.data)
    seeds = range(job.seed, job.seed + settings.seeds)
    arms = methods(settings, len(data), job.resume)
    experiment = Experiment("hippo", job.out / "runs", depends, job.resume)
    runs = experiment.run(arms, [Part(name, data)], seeds, Choice(ACCURACY.name, "higher"))
    rows = runs.rows([ACCURACY])
    task = f"{name} ({len(data):,} series of {_lengths(data)} samples)"
    overlap = settings.held_out / (1 - settings.held_out)
    return conclude(
        "hippo", rows, [ACCURACY], settings, overlap=overlap,
        task=f"classes of {task}; each of {len(seeds)} seeds holds {settings.held_out:.0%} out to test on",
        shows=f"{name}: {', '.join(f'{row.name} {row.mean(ACCURACY.name):.3f}' for row in rows)}.",
        limits=_limits(settings, len(data), name), checks=[*beats(rows, ACCURACY, overlap), *stream_checks(runs)],
        seeds=list(seeds), drawings=[(job.out / "training.svg", partial(draw_training, runs, name, task))],
    )  # fmt: skip


def _read(settings: Compare, job: CompareJob) -> tuple[LabelledSeries, str]:
    if job.data is None:
        return whole_series(settings.dataset), settings.dataset
    data = load_series(job.data, drop=settings.drop)
    if data.fractional:
        raise UsageError(f"{job.data}: compare hippo is about classes; `linmap fit hippo` also learns numbers.")
    return data, job.data.stem


# -- the methods -------------------------------------------------------------------------------------------------------


def methods(settings: Compare, series: int, resume: bool) -> list[Arm]:
    """The system as the flags say, a GRU trained alike, MiniRocket where it is installed, and the states of LegS."""
    options = settings.options() | budget(round(series * (1 - settings.held_out)))
    options |= {k: v for k in ("epochs", "batch_size") if (v := getattr(settings, k)) is not None}
    system = title(options["layer"], options["init"])

    def trained(name: str, kind: Any, build: Callable[..., Any], note: str = "", rate_of: str | None = None) -> Arm:
        run = partial(_divided, build, settings.held_out, resume)
        rates = () if rate_of else settings.rates
        return Arm(name, kind, run, {"training": options}, rates=rates, rate_of=rate_of, note=note)

    arms = [
        trained(system, "system", partial(S4Classifier, **options)),
        trained(GRU, "baseline", partial(GRUClassifier, **options), "equal width, a layer for two of the state spaces"),
    ]
    if MiniRocket.installed():
        run = partial(_divided, MiniRocket, settings.held_out, resume)
        arms.append(Arm(ROCKET, "baseline", run, note="of aeon: 10,000 kernels and a ridge classifier"))
    if system != title("s4d", "legs"):
        build = partial(S4Classifier, **options | {"layer": "s4d", "init": "legs"})
        arms.append(trained(title("s4d", "legs"), "ablation", build, "another start: --init legs", rate_of=system))
    run = partial(_divided, MostFrequent, settings.held_out, resume)
    return [*arms, Arm(MAJORITY, "reference", run, note="no look at the series")]


def title(layer: str, init: str | None) -> str:
    """Such as S4D-Lin."""
    init = init or USUAL[layer]
    return f"{layer.upper()}-{TITLES.get(init, init.capitalize())}"


def budget(series: int) -> dict[str, int]:
    """Batches and passes for so many training series: about `STEPS` steps."""
    batch_size = 16 if series < MANY else 50
    return {"batch_size": batch_size, "epochs": min(max(round(STEPS * batch_size / series), 8), 40)}


def _divided(build: Callable[..., Any], share: float, resume: bool, trial: Trial) -> Outcome:
    """Train on all but a share of the series, which the seed draws, and test on that; rates see the training alone."""
    train, test = trial.data.hold_out(share, trial.seed)
    if trial.choosing:
        train, test = train.hold_out(CHOOSING, trial.seed)
    if test is None:
        raise UsageError(f"{len(trial.data)} series are too few to compare on; bring more.")
    return classified(build, train, None, test, resume, trial)


def classified(
    build: Callable[..., Any],
    train: LabelledSeries,
    validation: LabelledSeries | None,
    test: LabelledSeries,
    resume: bool,
    trial: Trial,
) -> Outcome:
    """Train `build(random_state=)`, with `lr=` where the trial has a rate, and score it; on `validation`, where it is
    there, the epoch is chosen."""
    rate = {} if trial.rate is None else {"lr": trial.rate}
    estimator = build(random_state=trial.seed, **rate)
    labels, expected = train.require_labels(), test.require_labels()
    if not isinstance(estimator, S4Classifier):
        return Outcome({ACCURACY.name: estimator.fit(train.series, labels).score(test.series, expected)})
    held = None if validation is None else (validation.series, validation.require_labels())
    estimator.fit(train.series, labels, validation=held, checkpoints=trial.folder, resume=resume)
    assert estimator.history_ is not None
    epochs, values = estimator.history_.epochs, {ACCURACY.name: float(estimator.score(test.series, expected))}
    details: dict[str, Any] = {"losses": [round(epoch.loss, 5) for epoch in epochs]}
    if held is not None:
        details["scores"] = [epoch.metrics["score"] or 0.0 for epoch in epochs]
        values["validation accuracy"] = max(details["scores"])
    if not estimator.bidirectional and not isinstance(estimator, GRUClassifier):
        details[STREAM_GAP] = stream_gap(estimator, test.series[0])
    parameters = sum(p.numel() for p in estimator.model_.parameters())
    return Outcome(values, parameters, details, estimator.history_.seconds)


def stream_gap(estimator: S4Classifier, series: np.ndarray) -> float:
    """The largest difference between the probabilities from a stream's recurrence and from the convolution."""
    stream = estimator.stream()
    answer = [stream.update(sample) for sample in series][-1]
    return float(np.abs(answer - estimator.predict_proba([series])[0]).max())


# -- what it says ------------------------------------------------------------------------------------------------------


def stream_checks(runs: Runs) -> list[Check]:
    """Whether the trained models answer a stream as they answer the whole series; none where none can follow one."""
    gaps = [run.details[STREAM_GAP] for arm in runs.arms for run in runs.of(arm.name) if STREAM_GAP in run.details]
    if not gaps:
        return []
    figures = f"largest difference of a probability {max(gaps):.0e}"
    return [
        Check(
            "sample by sample, the trained models answer as at once (1e-3)",
            max(gaps) < 1e-3,
            figures,
            "an answer to a stream is not the one to the whole series",
        )
    ]


def _lengths(data: LabelledSeries) -> str:
    low, high = data.lengths.min(), data.lengths.max()
    return str(low) if low == high else f"{low} to {high}"


def _limits(settings: Compare, series: int, name: str) -> str:
    rates = ", ".join(f"{rate:g}" for rate in settings.rates)
    said = [
        "Small models trained briefly, at the rate "
        + (rates if len(settings.rates) == 1 else f"that is best on training series, of {rates}")
        + "; the training series of the seeds overlap, which the interval allows for."
    ]
    if series < 400:
        said.append(f"{name} has few series: differences of a few points are noise there.")
    if not MiniRocket.installed():
        said.append(f"{ROCKET} is left out, for numba is not installed (pip install 'linmap[sequence]').")
    return " ".join(said)


def draw_training(runs: Runs, part: str, task: str, path: Path) -> Picture:
    """Accuracy on the validation series (training loss where there are none) by epoch, and the test accuracy."""
    trained = {arm.name: own for arm in runs.arms if (own := runs.of(arm.name, part)) and "losses" in own[0].details}
    scored = all("scores" in run.details for own in trained.values() for run in own)
    shown = "scores" if scored else "losses"
    labels = {name: f"{name}: {runs.mean(name, ACCURACY.name, part):.3f}" for name in trained}
    curves = {labels[name]: [run.details[shown] for run in own] for name, own in trained.items()}
    what = "accuracy on validation series" if scored else "training loss"
    styles = {label: runs.styles[name] for name, label in labels.items()}
    draw_curves(path, curves, "epoch", what, task, "test accuracy", styles=styles)
    caption = (
        f"{capitalized(what)} after each epoch; bands from the lowest to the highest seed. In the legend, the "
        "accuracy on the test series."
    )
    return Picture(path.name, f"Learning {task}", caption)
