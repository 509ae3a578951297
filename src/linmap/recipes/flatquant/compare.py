"""`linmap compare flatquant`: perplexity of a model quantised in several ways, on text that nothing was chosen on."""

from __future__ import annotations

import hashlib
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from linmap.compress.architecture import decoder_blocks
from linmap.compress.flatquant.baselines import BASELINES, rotated
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.measures import model_tensors, sizes, window_losses
from linmap.data import find
from linmap.data.built import weight_files
from linmap.data.models import load_pretrained, load_tokenizer, on_accelerator
from linmap.data.text import read_text
from linmap.errors import DataError
from linmap.experiment import (
    Arm,
    Check,
    Experiment,
    Metric,
    Outcome,
    Part,
    Result,
    Row,
    Runs,
    Table,
    Trial,
    fingerprint,
)
from linmap.experiment.drawing import with_pictures
from linmap.experiment.figures import mean_std, ranking
from linmap.experiment.verdict import capitalized, verdict
from linmap.recipes.flatquant.fit import original_folder, tokens_of
from linmap.recipes.flatquant.flags import Compare
from linmap.recipes.flatquant.pictures import draw_perplexities
from linmap.recipes.job import CompareJob

ORIGINAL = "not quantised"
NOVELS = "text/austen_{}.txt.gz"
FREE = ("bits", "methods", "n_jobs")
"""Flags that a finished run does not depend on."""


def compare(settings: Compare, job: CompareJob) -> Result:
    """Compare FlatQuant with other ways to few bits, by perplexity.

    --data is a text: its first half is for calibration, the rest for the test.
    """
    task = Task(settings, texts(job.data))
    experiment, work = experiment_of(task, job.out / "runs", job.resume)
    runs = experiment.run(arms(task, settings.methods, work), parts(settings.bits), [job.seed])
    rows, metrics = rows_of(runs), metrics_of(runs)
    result = Result(
        system="flatquant",
        task=described(task),
        metrics=metrics,
        rows=rows,
        shows=shows(runs),
        limits=limits(task),
        checks=checks(runs),
        tables=[costs(runs)],
        verdict=verdicts(runs, rows),
        seeds=[job.seed],
        settings=asdict(settings),
    )
    picture = job.out / "perplexity.svg"
    return with_pictures(result, [(picture, partial(draw_perplexities, runs))])


# -- a model and two texts ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """One to calibrate on, another to test on, and what they are."""

    calibration: str
    test: str
    names: tuple[str, str]


def texts(data: Path | None) -> Texts:
    """The two halves of a file, cut at the end of a line, or of a word where the line is too long for that; two novels
    of the package without one."""
    if data is None:
        calibration, test = (read_text(find(NOVELS.format(part), "Reinstall linmap.")) for part in ("calib", "test"))
        return Texts(calibration, test, ("Northanger Abbey", "Persuasion"))
    text = read_text(data)
    middle = len(text) // 2
    ends = (text.find(mark, middle) + 1 for mark in ("\n", " "))
    cut = next((end for end in ends if 0 < end <= middle + len(text) // 4), middle)
    return Texts(text[:cut], text[cut:], (f"the first half of {data.name}", "the second half"))


class Task:
    """A model, and a text to calibrate on and another to test on.

    `more` are options of `FlatQuantConfig` that are no flags.
    """

    def __init__(self, settings: Compare, given: Texts, **more: Any) -> None:
        self.settings, self.folder, self.given, self.more = settings, original_folder(settings.model), given, more
        FlatQuantConfig(**settings.options(**more))  # its own checks
        tokenizer = load_tokenizer(self.folder)
        windows = settings.windows, settings.length, "--windows or --length"
        self.calibration = tokens_of(given.calibration, tokenizer, given.names[0], windows)
        tested = settings.test_windows, settings.test_length, "--test-windows or --test-length"
        self.test = tokens_of(given.test, tokenizer, given.names[1], tested)
        model = self.model()
        self.path, blocks = decoder_blocks(model)
        self.total_blocks, self.tensors = len(blocks), model_tensors(model)
        if settings.blocks not in (None, Compare.blocks) and settings.blocks > len(blocks):
            raise DataError(f"--blocks {settings.blocks}: the model has {len(blocks)}; lower it, or leave it out.")
        self.blocks = spread(min(settings.blocks or len(blocks), len(blocks)), len(blocks))

    def model(self) -> Any:
        """The original, in float32."""
        return on_accelerator(load_pretrained(self.folder, "language", "float32")).eval()

    def block(self, model: nn.Module, number: int) -> nn.Module:
        return model.get_submodule(f"{self.path}.{number}")

    def config(self, slug: str, bits: str, seed: int) -> FlatQuantConfig:
        """Of one of `BASELINES`."""
        options = self.settings.options(**self.more, seed=seed, blocks=self.blocks)
        return BASELINES[slug].config(bits, **options)

    def losses(self, model: nn.Module) -> list[float]:
        """Of each test window: nats a token."""
        return window_losses(model, self.test, self.settings.test_length, self.settings.test_windows)

    def key(self) -> dict[str, Any]:
        """What finished runs depend on."""
        flags = {field.name: getattr(self.settings, field.name) for field in fields(self.settings)}
        content = f"{self.given.calibration}\0{self.given.test}".encode()
        files = {
            "text": hashlib.sha256(content).hexdigest(),
            "weights": {path.name: fingerprint(path) for path in weight_files(self.folder)},
        }
        return {name: value for name, value in flags.items() if name not in FREE} | self.more | files


def spread(count: int, total: int) -> list[int]:
    """Numbers of `count` blocks of `total`, the middles of as many equal parts of the depth."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


# -- one run -----------------------------------------------------------------------------------------------------------


def experiment_of(task: Task, folder: Path, resume: bool) -> tuple[Experiment, Path]:
    """The runs in `folder`, and the place in it of the transforms that several of them share."""
    experiment = Experiment("flatquant", folder, task.key(), resume)
    work = experiment.files.path("calibration", experiment.settings).with_suffix("")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    return experiment, work


def arms(task: Task, methods: Sequence[str], work: Path) -> list[Arm]:
    """FlatQuant, the model as it is, and the other ways; `work` is as of `experiment_of`."""
    found = [Arm(ORIGINAL, "reference", partial(measured, task, None, work), seeded=False, note="in float32")]
    for slug, row in BASELINES.items():
        if slug in methods:
            run, seeded = partial(measured, task, slug, work), row.kind == "system"
            found.append(Arm(row.name, row.kind, run, row.options, seeded=seeded, note=row.note))
    return sorted(found, key=lambda arm: arm.kind != "system")


def parts(bits: Sequence[str]) -> list[Part]:
    """One for each number of bits."""
    return [Part(name, name) for name in bits]


def measured(task: Task, slug: str | None, work: Path, trial: Trial) -> Outcome:
    """Quantise the model in one of the ways, or (None) not at all, and predict the test text."""
    model, seconds = (task.model(), 0.0) if slug is None else quantised(task, slug, trial.data, trial.seed, work)
    losses, found = task.losses(model), sizes(task.tensors, model_tensors(model))
    details = {"losses": losses, "share": found.share, "megabytes": found.stored / 1e6}
    return Outcome({"perplexity": math.exp(statistics.fmean(losses))}, details=details, seconds=seconds)


def quantised(task: Task, slug: str, bits: str, seed: int, work: Path) -> tuple[Any, float]:
    """The model and the seconds of calibration and rounding; FlatQuant's transforms are kept for both roundings."""
    baseline, model, config = BASELINES[slug], task.model(), task.config(slug, bits, seed)
    work, kept = work / f"{bits}-{seed}", dict[str, Any]()
    if baseline.kind == "system":
        kept = {"work": work, "n_jobs": task.settings.n_jobs, "resume": True}
    start = time.perf_counter()
    if baseline.rotates:
        rotated(model, seed)
    calibrate(model, task.calibration, config, **kept)
    resumed = [block.seconds for block in model.flatquant.blocks.values() if block.resumed]
    return model, time.perf_counter() - start + sum(resumed)


# -- what was found ----------------------------------------------------------------------------------------------------


def metrics_of(runs: Runs) -> list[Metric]:
    """Perplexities, then the losses of the test windows that tell how sure a difference is."""
    return [Metric(f"perplexity {bits}", digits=2) for bits in runs.parts] + [loss_metric(bits) for bits in runs.parts]


def loss_metric(bits: str) -> Metric:
    return Metric(f"loss {bits}", unit="nats a token", digits=3)


def rows_of(runs: Runs) -> list[Row]:
    """A perplexity for each seed, and a loss for each test window, mean over the seeds."""
    rows = runs.rows({f"perplexity {bits}": ("perplexity", bits) for bits in runs.parts})
    for row in rows:
        row.values.update({loss_metric(bits).name: window_means(runs, row.name, bits) for bits in runs.parts})
    return rows


def window_means(runs: Runs, arm: str, bits: str) -> list[float]:
    losses = [run.details["losses"] for run in runs.of(arm, bits)]
    return [statistics.fmean(of_seeds) for of_seeds in zip(*losses, strict=True)]


def verdicts(runs: Runs, rows: Sequence[Row]) -> str:
    """Of every number of bits, over the test windows."""
    found = {bits: verdict(rows, loss_metric(bits), over="test windows") for bits in runs.parts}
    return " ".join(f"{bits}: {said}" if len(found) > 1 else said for bits, said in found.items() if said)


def means_of(runs: Runs, bits: str) -> dict[str, float]:
    """The perplexity of every way that was measured."""
    means = {slug: runs.mean(row.name, "perplexity", bits) for slug, row in BASELINES.items()}
    return {slug: mean for slug, mean in means.items() if not math.isnan(mean)}


def original_of(runs: Runs) -> float:
    return runs.mean(ORIGINAL, "perplexity")


def costs(runs: Runs) -> Table:
    """Ratio to the original, time and size of every method at every number of bits."""
    rows: list[list[str | float | int]] = []
    for bits in runs.parts:
        for slug in means_of(runs, bits):
            of_row = runs.of(name := BASELINES[slug].name, bits)
            values, details = runs.values(name, "perplexity", bits), of_row[0].details
            ratio, seconds = statistics.fmean(values) / original_of(runs), statistics.fmean(r.seconds for r in of_row)
            cells = f"{ratio:.2f}", f"{seconds:.1f}", f"{details['megabytes']:.1f}", f"{details['share']:.3f}"
            rows.append([bits, name, mean_std(values, 2), *cells])
    columns = ["bits", "method", "perplexity", "over the original", "seconds", "MB on disk", "linears over float16"]
    note = (
        "Seconds: calibration and rounding. MB on disk: all tensors of the model, of which embeddings, norms and "
        "blocks that are not quantised stay as they are; the last column is that of the quantised linear layers alone, "
        "scales and transforms included."
    )
    return Table("Ratios, times and sizes", columns, rows, note)


# -- what the numbers say ----------------------------------------------------------------------------------------------


def described(task: Task) -> str:
    settings, (calibration, test) = task.settings, task.given.names
    some = f"blocks {', '.join(map(str, task.blocks))} of {task.total_blocks}"
    blocks = some if len(task.blocks) < task.total_blocks else f"all {task.total_blocks} blocks"
    return (
        f"{settings.model}, {blocks} quantised; calibrated on {settings.windows} windows of {settings.length} tokens "
        f"of {calibration}, {settings.epochs} epochs; perplexity of the first {settings.test_windows} windows of "
        f"{settings.test_length} tokens of {test}"
    )


def checks(runs: Runs) -> list[Check]:
    """What the method promises at each number of bits."""
    found = []
    for bits in runs.parts:
        means = means_of(runs, bits)
        for slug in ("flatquant-distilled", "flatquant-gptq", "flatquant-rtn"):
            rivals = {o: mean for o, mean in means.items() if is_rival(o, slug)}
            if slug in means and rivals:
                best = ranking(rivals, "lower")[0]
                which = "every baseline that rounds to nearest" if slug == "flatquant-rtn" else "every baseline"
                statement = f"{bits}: {BASELINES[slug].name} is below {which}"
                figures = f"{means[slug]:.2f} against {rivals[best]:.2f} ({BASELINES[best].name})"
                figures = f"{figures}; unquantised {original_of(runs):.2f}"
                otherwise = "take that baseline at this number of bits"
                sure = runs.differ(BASELINES[slug].name, BASELINES[best].name, "perplexity", bits)
                found.append(Check(statement, means[slug] < rivals[best], figures, otherwise, sure))
        if {"flatquant-gptq", "c-hadamard-gptq"} <= means.keys():
            trained, start = means["flatquant-gptq"], means["c-hadamard-gptq"]
            statement = f"{bits}: training gains on its start, rounded in the same way"
            otherwise = "calibration is not worth its time; take its start"
            pair = BASELINES["flatquant-gptq"].name, BASELINES["c-hadamard-gptq"].name
            sure, figures = runs.differ(*pair, "perplexity", bits), f"{trained:.2f} against {start:.2f}"
            found.append(Check(statement, trained < start, figures, otherwise, sure))
    return found


def is_rival(other: str, slug: str) -> bool:
    """Whether a way of FlatQuant should beat another: one that rounds to nearest, all that do."""
    row, nearest = BASELINES[other], slug == "flatquant-rtn"
    return row.kind == "baseline" and not (nearest and row.options.get("weights") == "gptq")


def shows(runs: Runs) -> str:
    told = []
    for bits in runs.parts:
        means = means_of(runs, bits)
        ranked = ", ".join(f"{BASELINES[slug].name} {means[slug]:,.1f}" for slug in ranking(means, "lower"))
        told.append(f"{bits}: {ranked}.")
    return f"Perplexity, {original_of(runs):.1f} unquantised. " + " ".join(told)


def limits(task: Task) -> str:
    settings = task.settings
    predictions = settings.test_windows * (settings.test_length - 1)
    steps = settings.epochs * (settings.windows // settings.batch_size)
    told = [
        f"one model and {predictions:,} predictions of one text, whose windows the verdict counts",
        "one draw of the calibration windows, whose chance it does not see",
        f"{steps} steps a block; the paper takes 480, on windows of 2,048 tokens",
        "baselines are this library's own, with the same quantisers",
    ]
    if len(task.blocks) < task.total_blocks:
        few = f"only {len(task.blocks)} of {task.total_blocks} blocks are quantised"
        told.insert(0, f"{few}, so that a few percent between rows are chance")
    return capitalized("; ".join(told)) + "."
