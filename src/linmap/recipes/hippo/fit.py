"""`linmap fit hippo`: labelled series in files."""

from __future__ import annotations

from typing import Any

from linmap.artifacts import write_json
from linmap.data.sequences import LabelledSeries, load_series, named_series
from linmap.errors import UsageError
from linmap.recipes.hippo.flags import Fit
from linmap.recipes.job import FitJob
from linmap.sequence.s4 import S4Classifier, S4Regressor

FILE = "file.json"
"""In a run: how the files of the fit were read."""


def fit(settings: Fit, job: FitJob) -> dict[str, Any]:
    """Train a classifier or a regressor on labelled series and save it.

    --data: an .npz archive with X and y (and lengths), a folder of CSV files, one series each, with a subfolder for
    each class or a labels.csv, or a .ts file. Series may have different lengths.
    """
    train, test = _parts(settings, job)
    kind = _kind(settings, train)
    estimator = kind(**settings.options(), random_state=job.seed)
    estimator.fit(train.series, train.require_labels(), checkpoints=job.out / "training", resume=job.resume)
    estimator.save(job.out)
    if job.data is not None:
        write_json(job.out / FILE, {"drop": settings.drop, "channels": train.channel_names})
    assert estimator.history_ is not None
    summary = {
        "artifact": str(job.out),
        "task": "classification" if kind is S4Classifier else "regression",
        "series": len(train),
        "channels": train.channels,
        "lengths": f"{train.lengths.min()} to {train.lengths.max()}",
        "parameters": sum(p.numel() for p in estimator.model_.parameters()),
        "dt": [round(step, 6) for step in estimator.dt_],
        "training_loss": estimator.history_.epochs[-1].loss,
        "seconds": round(estimator.history_.seconds, 1),
    }
    if isinstance(estimator, S4Classifier):
        summary["classes"] = len(estimator.classes_)
    if test is not None:
        name = "held_out_accuracy" if kind is S4Classifier else "held_out_r2"
        summary |= {"held_out_series": len(test), name: round(estimator.score(test.series, test.require_labels()), 4)}
    return summary


def _kind(settings: Fit, data: LabelledSeries) -> type[S4Classifier] | type[S4Regressor]:
    labels = data.require_labels()
    if settings.task == "auto":
        return S4Regressor if data.fractional else S4Classifier
    if settings.task == "regression" and labels.dtype.kind not in "biuf":
        raise UsageError(f"--task regression needs numbers as labels; the first is '{labels[0]}'.")
    return S4Regressor if settings.task == "regression" else S4Classifier


def _parts(settings: Fit, job: FitJob) -> tuple[LabelledSeries, LabelledSeries | None]:
    """What is trained on, and what is only scored."""
    if job.data is None:
        return named_series(settings.dataset), named_series(settings.dataset, "test")
    return load_series(job.data, drop=settings.drop).hold_out(settings.held_out, job.seed)
