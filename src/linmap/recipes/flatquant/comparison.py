"""`linmap compare flatquant`: perplexity of one model, quantised in every way, on text that nothing was chosen on."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch
from rich.console import Console

from linmap.artifacts import plain, write_json
from linmap.compress.flatquant.baselines import BASELINES, torchao_schemes
from linmap.experiment.result import Check, Metric, Result, Row, Table
from linmap.recipes.flatquant.experiments import Comparison, Method, Run, Task, measured
from linmap.recipes.flatquant.flattening import CURVES, SITES, Curve, curves
from linmap.recipes.flatquant.pictures import draw_blocks, draw_flatness, draw_perplexities, draw_positions
from linmap.recipes.job import CompareJob

PRESETS = {
    "quick": Comparison(blocks=4, test_windows=4),
    "full": Comparison(
        text="wikitext2", bits=("W4A4", "W4A4KV4", "W4A16"), seeds=3,
        methods=tuple(get_args(Method)), distil_steps=150,
    ),
}  # fmt: skip
ORIGINAL = "not quantised"
PUBLISHED = {("W4A4KV4", "flatquant-rtn"): 89.5, ("W4A4KV4", "flatquant-gptq"): 71.8}
"""What the authors' code gives in the setting of the full preset (their W4A16 is rounded from another calibration).
One seed each; five seeds of the first have a mean of 93.3."""
Kept = TypeVar("Kept")


def compare(settings: Comparison, job: CompareJob) -> Result:
    """FlatQuant and its baselines on one model and one text."""
    task, files = Task(settings, job.data), Finished(job.out, job.resume)
    console = Console(stderr=True)
    original = files.kept("original", task.key(), lambda: task.perplexity(task.original))
    console.print(f"[dim]{ORIGINAL}: perplexity {original:.2f}[/dim]", highlight=False)
    runs: list[Run] = []
    for setting in settings.bits:
        for seed in range(job.seed, job.seed + settings.seeds):
            for slug in order(settings.methods, first=seed == job.seed):
                run = files.run(task, slug, setting, seed)
                line = f"{setting}, {BASELINES[slug].name}, seed {seed}: {run.perplexity:.2f} ({run.seconds:.0f} s)"
                console.print(f"[dim]{line}[/dim]", highlight=False, soft_wrap=True)
                runs.append(run)
    places: list[str] = [*settings.bits, *BASELINES]
    runs.sort(key=lambda run: (places.index(run.setting), places.index(run.method), run.seed))
    drawn = "W4A4KV4" if "W4A4KV4" in settings.bits else settings.bits[0]
    flat = files.curves(task, drawn, job.seed)
    return Result(
        system="flatquant",
        task=described(task),
        metrics=[Metric(f"perplexity {setting}", digits=2) for setting in settings.bits],
        rows=rows_of(runs, original, settings),
        shows=shows(runs, original),
        limits=limits(task),
        checks=checks(runs, original, published(settings, task.source)),
        tables=[costs(runs, original), flatness_table(flat), *torchao_table(task, original)],
        pictures=draw(runs, flat, original, drawn, task, job),
        preset=job.preset,
        seeds=list(range(job.seed, job.seed + settings.seeds)),
        settings=asdict(settings),
    )


def order(methods: Sequence[str], first: bool) -> list[str]:
    """Rows of one seed: all with the first seed, FlatQuant's with every one."""
    chosen = [slug for slug in BASELINES if slug in methods]
    return [slug for slug in chosen if first or BASELINES[slug].kind == "system"]


class Finished:
    """What a comparison has measured, a JSON file each; with `resume`, it is taken from there."""

    def __init__(self, out: Path, resume: bool) -> None:
        self.folder, self.resume = out / "runs", resume
        self.work = out / "calibration"
        if not resume:
            shutil.rmtree(self.work, ignore_errors=True)

    def kept(self, name: str, key: Mapping[str, Any], measure: Callable[[], Kept]) -> Kept:
        """The value in the file `name` if it was measured with these settings, else a new one."""
        path, key = self.folder / f"{name}.json", plain(key)
        if self.resume and path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["key"] == key:
                return saved["value"]
        value = measure()
        write_json(path, {"key": key, "value": plain(value)})
        return value

    def run(self, task: Task, slug: str, setting: str, seed: int) -> Run:
        work = self.work / f"{setting}-{seed}"
        found: dict[str, Any] = self.kept(
            f"{setting}-{slug}-{seed}", task.key(), lambda: asdict(measured(task, slug, setting, seed, work))
        )
        return Run(**found)

    def curves(self, task: Task, setting: str, seed: int) -> list[Curve]:
        work = self.work / f"{setting}-{seed}"
        found = self.kept(
            f"{setting}-flatness-{seed}", task.key(), lambda: [asdict(one) for one in curves(task, setting, seed, work)]
        )
        return [Curve(**one) for one in found]


# -- what was found ----------------------------------------------------------------------------------------------------


def perplexities(runs: Sequence[Run], setting: str, method: str) -> list[float]:
    """A value for each seed."""
    return [run.perplexity for run in runs if (run.setting, run.method) == (setting, method)]


def rows_of(runs: Sequence[Run], original: float, settings: Comparison) -> list[Row]:
    names = [f"perplexity {setting}" for setting in settings.bits]
    rows = [Row(ORIGINAL, "reference", {name: [original] for name in names}, note="the model as it is, in float32")]
    for slug in dict.fromkeys(run.method for run in runs):
        values = {f"perplexity {setting}": perplexities(runs, setting, slug) for setting in settings.bits}
        seconds = statistics.fmean(run.seconds for run in runs if run.method == slug)
        row = BASELINES[slug]
        rows.append(Row(row.name, row.kind, values, seconds=seconds, note=row.note))
    return sorted(rows, key=lambda row: row.kind != "system")


def costs(runs: Sequence[Run], original: float) -> Table:
    """Ratio to the original, time and size of every method at every number of bits."""
    rows: list[list[str | float | int]] = []
    for setting, slug in dict.fromkeys((run.setting, run.method) for run in runs):
        of_row = [run for run in runs if (run.setting, run.method) == (setting, slug)]
        values = [run.perplexity for run in of_row]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        rows.append([
            setting, BASELINES[slug].name, f"{statistics.fmean(values):.2f}{spread}",
            f"{statistics.fmean(values) / original:.2f}", f"{statistics.fmean(r.seconds for r in of_row):.1f}",
            f"{of_row[0].megabytes:.1f}", f"{of_row[0].share:.3f}",
        ])  # fmt: skip
    columns = ["bits", "method", "perplexity", "over the original", "seconds", "MB on disk", "linears over float16"]
    note = (
        "Mean ± standard deviation over the seeds. Seconds: calibration and rounding. MB on disk: all tensors of the "
        "model, of which embeddings, norms and blocks that are not quantised stay as they are; the last column is that "
        "of the quantised linear layers alone, scales and transforms included."
    )
    return Table("Ratios, times and sizes", columns, rows, note)


def flatness_table(found: Sequence[Curve]) -> Table:
    """Largest channel norm over the mean, averaged over the blocks."""
    rows: list[list[str | float | int]] = []
    for kind in ("activation", "weight"):
        for slug, name in CURVES.items():
            means = [
                statistics.fmean(c.peak for c in found if (c.kind, c.method, c.site) == (kind, slug, site))
                for site in SITES
            ]
            rows.append([kind, name, *(f"{mean:.2f}" for mean in means)])
    note = "Largest norm of a channel over the mean of all: 1 is flat. Mean over the quantised blocks; test text."
    return Table("Flatness by place", ["tensor", "transform", *SITES.values()], rows, note)


def torchao_table(task: Task, original: float) -> list[Table]:
    """What torchao's weight and activation quantisation gives on this machine's GPU."""
    schemes = torchao_schemes()
    if not schemes:
        return []
    from torchao.quantization import quantize_  # pyright: ignore[reportMissingImports]

    rows: list[list[str | float | int]] = []
    for name, scheme in schemes.items():
        model = task.model().to(torch.bfloat16)
        quantize_(torch.nn.ModuleList([task.block(model, number) for number in task.blocks]), scheme)
        found = task.perplexity(model)
        rows.append([name, f"{found:.2f}", f"{found / original:.2f}"])
    return [Table("torchao on this GPU", ["scheme", "perplexity", "over the original"], rows, "In bfloat16.")]


def draw(runs: list[Run], flat: list[Curve], original: float, drawn: str, task: Task, job: CompareJob) -> list[Any]:
    first = [run for run in runs if run.setting == drawn and run.seed == job.seed]
    block = task.blocks[len(task.blocks) // 2]
    return [
        draw_perplexities(runs, original, job.out),
        draw_flatness(flat, block, job.out),
        draw_blocks(first, task.blocks, job.out),
        draw_positions(first, job.out),
    ]


# -- what the numbers say ----------------------------------------------------------------------------------------------


def described(task: Task) -> str:
    settings, (calibration, test) = task.settings, task.names
    quantised = f"all {task.total_blocks} blocks"
    if len(task.blocks) < task.total_blocks:
        quantised = f"blocks {', '.join(map(str, task.blocks))} of {task.total_blocks}"
    return (
        f"{settings.model}, {quantised} quantised; calibrated on {settings.windows} windows of "
        f"{settings.length} tokens of {calibration}, {settings.epochs} epochs; perplexity of the first "
        f"{settings.test_windows} windows of {settings.test_length} tokens of {test}"
    )


def checks(runs: Sequence[Run], original: float, theirs: bool) -> list[Check]:
    """What the method promises at each number of bits, and the authors' figures if the setting is theirs."""
    found: list[Check] = []
    for setting in dict.fromkeys(run.setting for run in runs):
        means = {slug: statistics.fmean(v) for slug in BASELINES if (v := perplexities(runs, setting, slug))}
        others = {slug: mean for slug, mean in means.items() if BASELINES[slug].kind == "baseline"}
        for slug in ("flatquant-distilled", "flatquant-gptq", "flatquant-rtn"):
            rivals = [o for o in others if slug != "flatquant-rtn" or BASELINES[o].options.get("weights") != "gptq"]
            if slug in means and rivals:
                best = min(rivals, key=lambda o: others[o])
                which = "every baseline that rounds to nearest" if slug == "flatquant-rtn" else "every baseline"
                figures = f"{means[slug]:.2f} against {others[best]:.2f} ({BASELINES[best].name})"
                statement = f"{setting}: {BASELINES[slug].name} is below {which}"
                found.append(
                    Check(
                        statement,
                        means[slug] < others[best],
                        f"{figures}; unquantised {original:.2f}",
                        "take that baseline at this number of bits",
                    )
                )
            if theirs and slug in means and (setting, slug) in PUBLISHED:
                figure = PUBLISHED[setting, slug]
                statement = f"{setting}: {BASELINES[slug].name} is at most 3 % above the authors' code ({figure})"
                found.append(
                    Check(
                        statement,
                        means[slug] <= 1.03 * figure,
                        f"{means[slug]:.2f}",
                        "this implementation or its setting falls behind the authors'",
                    )
                )
        if {"flatquant-gptq", "c-hadamard-gptq"} <= means.keys():
            trained, start = means["flatquant-gptq"], means["c-hadamard-gptq"]
            statement = f"{setting}: training gains on its start, rounded in the same way"
            found.append(
                Check(
                    statement,
                    trained < start,
                    f"{trained:.2f} against {start:.2f}",
                    "calibration is not worth its time; take its start",
                )
            )
    return found


def published(settings: Comparison, source: str) -> bool:
    """Whether this is the setting of the full preset, in which the authors' code was measured."""
    names = ("model", "text", "blocks", "windows", "length", "epochs", "lr", "clip_lr", "alpha", "test_windows",
             "test_length")  # fmt: skip
    full = PRESETS["full"]
    return source == "wikitext2" and all(getattr(settings, name) == getattr(full, name) for name in names)


def shows(runs: Sequence[Run], original: float) -> str:
    parts = []
    for setting in dict.fromkeys(run.setting for run in runs):
        means = {slug: statistics.fmean(perplexities(runs, setting, slug)) for slug in BASELINES
                 if perplexities(runs, setting, slug)}  # fmt: skip
        ranked = sorted(means, key=lambda slug: means[slug])
        parts.append(f"{setting}: " + ", ".join(f"{BASELINES[slug].name} {means[slug]:,.1f}" for slug in ranked) + ".")
    return f"Perplexity, {original:.1f} unquantised. " + " ".join(parts)


def limits(task: Task) -> str:
    settings = task.settings
    predictions = settings.test_windows * (settings.test_length - 1)
    parts = [
        f"one small model and {predictions:,} predictions of one text",
        f"{settings.epochs * (settings.windows // settings.batch_size)} steps a block; the paper takes 480, on windows "
        "sixteen times as long",
        "baselines are this library's own, with the same quantisers and without a seed of their own",
    ]
    if len(task.blocks) < task.total_blocks:
        few = f"only {len(task.blocks)} of {task.total_blocks} blocks are quantised"
        parts.insert(0, f"{few}, so that a few percent between rows are chance")
    return "; ".join(parts).capitalize() + "."
