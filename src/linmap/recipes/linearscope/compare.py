"""`linmap compare linearscope`: do the votes of the reading name the pixels that decide?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from linmap.data.images import embedded_image, image_files, read_image
from linmap.data.models import classifies, model_folder
from linmap.errors import UsageError
from linmap.experiment import Arm, Experiment, Outcome, Part, Runs, Trial, conclude, fingerprint, weights_digest
from linmap.experiment.result import Check, Metric, Picture, Result, Row, Table
from linmap.interpret.linearscope import class_probabilities, draw_votes, gradient_of_top, probability_left
from linmap.interpret.linearscope.deletion import logits
from linmap.pictures import MUTED, figure, save_svg
from linmap.recipes.job import CompareJob
from linmap.recipes.linearscope.compare_text import compare_text
from linmap.recipes.linearscope.flags import Compare
from linmap.recipes.linearscope.kinds import is_network, named, reads_text
from linmap.recipes.linearscope.loading import in_its_dtype, load_model, model_input, output_names, scope, taken
from linmap.recipes.linearscope.vision import load_vision, pixels_of, refuse_preparation

PHOTOS = ("chelsea", "coffee", "china", "flower")
METRIC = Metric("probability left", "lower", digits=3)
VOTES, PRODUCT, NORM, CHANCE = "votes", "gradient × input", "gradient norm", "random pixels"
SHOWN = 6
"""Images in the pictures."""


def compare(settings: Compare, job: CompareJob) -> Result:
    """The deletion test: what is left of the answer without the pixels or the tokens that a score names first.

    Of a classifier and images the top class, of a language model and prompts the likeliest next token.
    """
    settings = named(settings, job.data)
    if reads_text(settings, job.data):
        return compare_text(settings, job)
    return compare_images(settings, job)


def compare_images(settings: Compare, job: CompareJob) -> Result:
    """The deletion test on every image."""
    if not 0 < settings.deleted < 1:
        raise UsageError(f"--deleted {settings.deleted} must be a share between 0 and 1.")
    if settings.random_masks < 1:
        raise UsageError(f"--random-masks {settings.random_masks} must be 1 or more.")
    out, test = Path(job.out), deletion_of(settings)
    model = test.model
    parts = _images(job.data)
    classes = test.classes(parts[0].data)
    own = {"random_masks", *settings.options(), *settings.TEXTS}  # of single arms, or of other data
    shared = {name: value for name, value in asdict(settings).items() if name not in own}
    shared["weights"] = weights_digest(model)
    experiment = Experiment("linearscope", out / "runs", shared, job.resume)
    runs = experiment.run(test.arms(), parts, [job.seed])
    names = output_names(model, str(settings.model), classes)
    rows = _rows(runs)
    return conclude(
        "linearscope", rows, [METRIC], settings, over="images",
        task=f"{settings.model} on {len(parts)} image{'s' * (len(parts) > 1)}: probability of the top class after the "
        f"{settings.deleted:.0%} of the pixels with the highest scores are set to zero, by score.",
        shows=_shows(runs),
        limits="On a piecewise-linear network votes equal gradient × input, so they rank pixels no better than it; "
        "what the reading adds there is the residual, the columns, the singular pairs and exactness. Pixels at zero "
        "are an unusual input, and where the class falls whatever is deleted, the test says nothing. One classifier.",
        checks=_checks(runs), tables=_tables(runs, names), seeds=[job.seed],
        drawings=[(out / "votes.svg", lambda path: _draw_votes(test, parts, names, path)),
                  (out / "deletion.svg", lambda path: _draw_deletion(runs, names, path))],
    )  # fmt: skip


def _images(path: Path | None) -> list[Part]:
    """The user's image or all in his folder, each read once so that a bad one is named before any work; or ours."""
    if path is None:
        return [Part(photo, photo) for photo in PHOTOS]
    files = image_files(path)
    for file in files:
        read_image(file)
    names = [str(file.relative_to(path)) if path.is_dir() else file.name for file in files]
    return [Part(name, file, {"fingerprint": fingerprint(file)}) for name, file in zip(names, files, strict=True)]


# -- the test ------------------------------------------------------------------------------------------------------


def deletion_of(settings: Compare) -> Deletion:
    """The test of the network that is named.

    Raises
    ------
    UsageError
        If the folder of a transformer is no classifier's.
    """
    name = str(settings.model)
    if is_network(name):
        model, grey = load_model(name)
        return Deletion(model, settings, lambda image: model_input(settings, image, grey or settings.grey))
    refuse_preparation(settings)
    if not classifies(model_folder(name, "images")):
        raise UsageError(
            f"--model {name}: the comparison needs a classifier of images (...ForImageClassification); `linmap apply "
            "linearscope` reads any."
        )
    model, preparation = load_vision(name, settings.side)
    return Deletion(model, settings, lambda image: pixels_of(preparation, image))


class Deletion:
    """The deletion test of one classifier.

    Parameters
    ----------
    model
        In eval mode; its output is (1, classes), logits or probabilities.
    settings
        How it is read, and how much is deleted.
    prepare
        How an image becomes its input.
    """

    def __init__(self, model: nn.Module, settings: Compare, prepare: Callable[[np.ndarray], Tensor]) -> None:
        self.model, self.settings, self.prepare = model, settings, prepare

    def arms(self) -> list[Arm]:
        """The votes, what a user would take otherwise, and the level of chance."""
        reading, masks = self.settings.options(), {"masks": self.settings.random_masks}
        return [
            Arm(VOTES, "system", self._votes, reading, note="reads the network as y = F x + r"),
            Arm(PRODUCT, "baseline", self._by_gradient(lambda g, x: (g * x).sum(0)), note="one backward pass"),
            Arm(NORM, "baseline", self._by_gradient(lambda g, _: g.norm(dim=0)), note="saliency: one backward pass"),
            Arm(CHANCE, "reference", self._random, masks, note=f"chance: mean over {masks['masks']} random masks"),
        ]

    def input(self, image: Path | str) -> Tensor:
        """What the network gets of a file or of an embedded photograph."""
        pixels = read_image(image) if isinstance(image, Path) else embedded_image(image)
        return in_its_dtype(self.model, self.prepare(pixels))

    @torch.no_grad()
    def classes(self, image: Path | str) -> int:
        """How many classes there are; what is no classifier is refused."""
        y = logits(self.model(taken(self.model, self.input(image), self.settings)))
        if not isinstance(y, Tensor) or y.ndim != 2 or len(y) != 1 or y.shape[1] < 2:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise UsageError(
                f"--model {self.settings.model}: the comparison needs a classifier, with an output "
                f"(1, classes), and this one gives {got}; `linmap apply linearscope` reads any."
            )
        return y.shape[1]

    def left(self, x: Tensor, score: Tensor, target: int) -> float:
        """The probability of the target without the pixels that have the highest scores (height, width)."""
        return probability_left(self.model, x, score, target, self.settings.deleted)

    def _votes(self, trial: Trial) -> Outcome:
        x = self.input(trial.data)
        p = class_probabilities(self.model, x)
        target = int(p.argmax())
        interp = scope(self.model, self.settings).at(x)
        found = {"before": float(p[target]), "after": self.left(x, interp.votes(target).sum(0), target)}
        found |= {"logit": float(interp.output[0, target]), "residual": float(interp.residual[0, target])}
        return Outcome(found | {"exactness": interp.exactness()}, details={"target": target})

    def _by_gradient(self, score: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Trial], Outcome]:
        def run(trial: Trial) -> Outcome:
            x = self.input(trial.data)
            target, gradient = gradient_of_top(self.model, x)
            return Outcome({"after": self.left(x, score(gradient, x[0]), target)})

        return run

    def _random(self, trial: Trial) -> Outcome:
        x, generator = self.input(trial.data), torch.Generator().manual_seed(trial.seed)
        target = int(class_probabilities(self.model, x).argmax())
        scores = [torch.rand(x.shape[-2:], generator=generator) for _ in range(self.settings.random_masks)]
        return Outcome({"after": fmean(self.left(x, score, target) for score in scores)})


# -- what it shows -------------------------------------------------------------------------------------------------


def _rows(runs: Runs) -> list[Row]:
    before = Row("before deletion", "reference", {METRIC.name: runs.values(VOTES, "before")}, note="nothing deleted")
    return [*runs.rows({METRIC.name: ("after", None)}), before]


def _tables(runs: Runs, names: dict[int, str]) -> list[Table]:
    """What is left of the class and where its logit comes from, an image a line."""
    methods = [arm.name for arm in runs.arms]
    left: list[list[str | float | int]] = []
    logit: list[list[str | float | int]] = []
    for run in runs.of(VOTES):
        found, target = run.values, run.details["target"]
        image = [run.part, f"{target} {names.get(target, '')}".strip()]
        after = [round(runs.mean(method, "after", run.part), 3) for method in methods]
        left.append([*image, round(found["before"], 3), *after])
        y, r = found["logit"], found["residual"]
        share, error = f"{r / y:.0%}" if y else "—", f"{found['exactness']:.1e}"
        logit.append([*image, round(y, 2), round(r, 2), round(y - r, 2), share, error])
    columns = ["logit", "residual r", "votes", "r / logit", "max |Fx + r − y| / max |y|"]
    return [
        Table("Probability of the top class, by image", ["image", "class", "before", *methods], left),
        Table("Where the logit comes from", ["image", "class", *columns], logit),
    ]


def _checks(runs: Runs) -> list[Check]:
    error = max(runs.values(VOTES, "exactness"))
    ours, others = runs.mean(VOTES, "after"), {name: runs.mean(name, "after") for name in (NORM, CHANCE)}
    return [
        Check(
            "y = F x + r to 1e-5 at every image",
            error <= 1e-5,
            f"largest {error:.1e}",
            "the reading is not the network, and no other figure here holds",
        ),
        Check(
            "deleting by votes lowers the top class most, beside gradient norm and random pixels",
            ours < min(others.values()),
            f"votes {ours:.3f}; {', '.join(f'{name} {value:.3f}' for name, value in others.items())}",
            "a simpler attribution names the deciding pixels as well",
            all(runs.differ(VOTES, name, "after") for name in others),
        ),
    ]


def _shows(runs: Runs) -> str:
    logits, residuals = (runs.values(VOTES, name) for name in ("logit", "residual"))
    shares = [r / y if y else -1 for r, y in zip(residuals, logits, strict=True)]
    biases = (
        f"The biases decide {min(shares):.0%} to {max(shares):.0%} of the top logit, the pixels' votes the rest."
        if min(shares) >= 0 and max(shares) <= 1
        else f"Of a top logit of {fmean(logits):.2f} on average, the biases alone give {fmean(residuals):.2f}."
    )
    gap = max(abs(a - b) for a, b in zip(runs.values(VOTES, "after"), runs.values(PRODUCT, "after"), strict=True))
    same = " Votes and gradient × input delete the same pixels: the network is piecewise linear here."
    return (
        f"{biases} Deleting the pixels with the most votes takes the top class from {runs.mean(VOTES, 'before'):.3f} "
        f"to {runs.mean(VOTES, 'after'):.3f} on average, random pixels to {runs.mean(CHANCE, 'after'):.3f}."
        f"{same if gap < 1e-3 else ''}"
    )


def _draw_votes(test: Deletion, parts: list[Part], names: dict[int, str], path: Path) -> Picture:
    panels = []
    for part in parts[:SHOWN]:
        interp = scope(test.model, test.settings).at(x := test.input(part.data))
        target = int(interp.output.argmax())
        panels.append((f"{part.name}: {names.get(target, target)}", x, interp.votes(target)))
    draw_votes(panels, path)
    return Picture(path.name, "Pixel votes", "Each image, and below it what every pixel adds to the top class.")


def _draw_deletion(runs: Runs, names: dict[int, str], path: Path) -> Picture:
    shown = runs.of(VOTES)[:SHOWN]
    methods = {"before": [run.values["before"] for run in shown]}
    methods |= {arm.name: runs.values(arm.name, "after")[:SHOWN] for arm in runs.arms}
    images = [f"{run.part}\n{names.get(run.details['target'], run.details['target'])}" for run in shown]
    with figure(7.2, 3.2) as (fig, ax):
        for m, (method, values) in enumerate(methods.items()):
            places = np.arange(len(images)) + (m - (len(methods) - 1) / 2) * 0.16
            ax.bar(places, values, 0.15, label=method, color=runs.styles.get(method, {"color": MUTED})["color"])
        ax.set_xticks(range(len(images)), images)
        ax.set_ylabel("probability of the top class")
        ax.set_title("Deleting the pixels with the highest scores (lower: the score found what mattered)")
        ax.legend(ncols=3, fontsize=8)
        save_svg(fig, path)
    return Picture(path.name, "Deletion test", "Probability of the top class before and after deleting pixels.")
