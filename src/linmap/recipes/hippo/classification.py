"""State spaces and their baselines trained alike on a task: arms, rates, runs that survive an interruption."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linmap.artifacts import plain, write_json
from linmap.recipes.hippo.baselines import GRUClassifier, MiniRocket
from linmap.recipes.hippo.files import held_out
from linmap.recipes.hippo.settings import Comparison
from linmap.recipes.hippo.tasks import Task
from linmap.recipes.job import CompareJob
from linmap.sequence.s4 import S4Classifier

SYSTEM, SLOW, REAL, GRU, ROCKET = "S4D-Lin", "S4D-Lin, timescale far too long", "S4D-Real", "GRU", "MiniRocket"
FAR_TOO_LONG = (1e-5, 1e-4)
CHOOSING = 0.25  # of the training series, on which rates are chosen


@dataclass(frozen=True)
class Arm:
    """A way to classify series."""

    name: str
    kind: Literal["system", "baseline", "ablation"]
    build: Callable[..., Any]
    """`build(lr=, random_state=)`: an untrained estimator."""
    note: str
    trained: bool = True
    """By gradient descent, with a rate to choose."""


@dataclass(frozen=True)
class Run:
    """One training and its test."""

    accuracy: float
    seconds: float
    parameters: int | None
    rate: float
    losses: list[float] = field(default_factory=list)
    """Mean training loss of each epoch."""
    scores: list[float] = field(default_factory=list)
    """Accuracy on the validation series after each epoch, where there are any."""
    stream_gap: float | None = None


# -- the arms ----------------------------------------------------------------------------------------------------------


def arms_of(task: Task, settings: Comparison, headline: bool) -> Iterator[Arm]:
    """The system and its baseline on every task; what becomes of it without its parts on the headline task."""
    size = task.size
    epochs = settings.epochs or size.epochs
    options: dict[str, Any] = {
        "n_layers": size.layers, "d_model": size.d_model, "d_state": size.d_state, "dt": size.dt, "prenorm": False,
        "bidirectional": size.bidirectional, "epochs": epochs, "batch_size": size.batch_size,
    }  # fmt: skip
    yield Arm(SYSTEM, "system", partial(S4Classifier, init="lin", **options), "")
    if headline:
        for name in settings.inits:
            layer, init = ("s4", name.removeprefix("s4-")) if name.startswith("s4-") else ("s4d", name)
            title = f"{'S4' if layer == 's4' else 'S4D'}-{TITLES.get(init, init)}"
            yield Arm(title, "system", partial(S4Classifier, layer=layer, init=init, **options), "")
    yield Arm(GRU, "baseline", partial(GRUClassifier, **options), "equal width, a layer for two of S4D")
    if task.archive and settings.minirocket and MiniRocket.available():
        yield Arm(ROCKET, "baseline", MiniRocket, "of aeon, 10,000 kernels and a ridge classifier", trained=False)
    if headline:
        yield Arm(REAL, "ablation", partial(S4Classifier, init="real", **options), "frequencies begin at 0")
        late = options | {"dt": FAR_TOO_LONG}
        yield Arm(SLOW, "ablation", partial(S4Classifier, init="lin", **late), f"dt in {list(FAR_TOO_LONG)}")


TITLES = {"legs": "LegS", "fout": "FouT", "legt": "LegT", "inv": "Inv", "inv2": "Inv2", "quad": "Quad", "rand": "Rand"}


# -- runs --------------------------------------------------------------------------------------------------------------


class Trainings:
    """Runs by arm, task, seed and rate: each is made once, kept in a file, and read from there with --resume."""

    def __init__(self, settings: Comparison, job: CompareJob, say: Callable[[str], object]) -> None:
        self.settings, self.job, self.say = settings, job, say
        self.made: dict[str, Run] = {}

    def seeds(self, arm: Arm, task: Task, rate: float) -> list[Run]:
        """One run for each seed."""
        seeds = range(self.job.seed, self.job.seed + self.settings.seeds)
        return [self.run(arm, task, seed, rate) for seed in seeds]

    def best_rate(self, arm: Arm, task: Task) -> float:
        """The rate that is best on series that are neither trained on nor tested, with the first seed."""
        if not arm.trained or len(self.settings.rates) == 1:
            return self.settings.rates[0]
        found = {rate: self._choosing_score(arm, task, rate) for rate in self.settings.rates}
        return max(found, key=lambda rate: found[rate])

    def _choosing_score(self, arm: Arm, task: Task, rate: float) -> float:
        if task.validation is not None:
            return max(self.run(arm, task, self.job.seed, rate).scores)
        part, spared = held_out(task.train, CHOOSING, self.job.seed)
        assert spared is not None
        return self.run(arm, replace(task, train=part, test=spared), self.job.seed, rate, "choosing").accuracy

    def run(self, arm: Arm, task: Task, seed: int, rate: float, purpose: str = "runs") -> Run:
        """Train and test."""
        name = f"{task.name}-{arm.name}-{seed}-{rate:g}".replace(",", "").replace(" ", "-")
        path = self.job.out / purpose / f"{name}.json"
        key = json.loads(json.dumps(plain({
            "size": asdict(task.size), "epochs": self.settings.epochs, "data": self.job.data, "series": len(task.train),
        })))  # fmt: skip
        if str(path) in self.made:
            return self.made[str(path)]
        if self.job.resume and path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["key"] == key:
                self.made[str(path)] = Run(**saved["run"])
                return self.made[str(path)]
        done = self.made[str(path)] = self._train(arm, task, seed, rate, self.job.out / "training" / purpose / name)
        write_json(path, {"key": key, "run": asdict(done)})
        self.say(f"{task.name}, {arm.name}, seed {seed}, rate {rate:g}: accuracy {done.accuracy:.4f}")
        return done

    def _train(self, arm: Arm, task: Task, seed: int, rate: float, checkpoints: Path) -> Run:
        start, labels, test = time.perf_counter(), task.train.require_labels(), task.test
        if not arm.trained:
            rocket = arm.build(random_state=seed).fit(task.train.series, labels)
            seconds = time.perf_counter() - start
            return Run(rocket.score(test.series, test.require_labels()), seconds, None, rate)
        spared = task.validation
        held = None if spared is None else (spared.series, spared.require_labels())
        estimator: S4Classifier = arm.build(lr=rate, random_state=seed)
        estimator.fit(task.train.series, labels, validation=held, checkpoints=checkpoints, resume=self.job.resume)
        assert estimator.history_ is not None
        epochs, seconds = estimator.history_.epochs, estimator.history_.seconds
        return Run(
            float(estimator.score(test.series, test.require_labels())), seconds,
            sum(p.numel() for p in estimator.model_.parameters()), rate, [round(e.loss, 5) for e in epochs],
            [e.metrics["score"] or 0.0 for e in epochs] if held else [],
            stream_gap(estimator, test.series[0]) if arm.kind == "system" and not task.size.bidirectional else None,
        )  # fmt: skip


def stream_gap(estimator: S4Classifier, series: np.ndarray) -> float:
    """The largest difference between the probabilities from a stream's recurrence and from the convolution."""
    stream = estimator.stream()
    for sample in series:
        answer = stream.update(sample)
    return float(np.abs(answer - estimator.predict_proba([series])[0]).max())
