"""One run of the comparison: a model quantised in one way, its perplexity, its errors block by block, its size."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linmap.artifacts import write_json
from linmap.compress.flatquant.architecture import decoder_blocks
from linmap.compress.flatquant.baselines import BASELINES, Baseline, RandomHadamard, rotated
from linmap.compress.flatquant.calibration import merge_model, student_model
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.perplexity import perplexity
from linmap.compress.flatquant.teacher import block_outputs, embedded
from linmap.data import find
from linmap.data.text import read_text
from linmap.data.tokens import plain_tokens
from linmap.errors import ArgumentError, DataError
from linmap.recipes.flatquant.fitting import original_folder
from linmap.recipes.flatquant.settings import Calibration
from linmap.recipes.flatquant.sizes import model_tensors, sizes
from linmap.recipes.language.models import load_pretrained, load_tokenizer, on_accelerator

Method = Literal[
    "flatquant-gptq", "flatquant-rtn", "flatquant-distilled", "c-hadamard-gptq", "c-hadamard", "hadamard-gptq",
    "hadamard", "random", "quarot-gptq", "quarot", "smoothquant", "gptq", "rtn",
]  # fmt: skip
Bits = Literal["W4A4", "W4A4KV4", "W4A16"]
TEXTS = {"austen": ("Northanger Abbey", "Persuasion"), "wikitext2": ("24 articles of WikiText-2", "36 others")}
FILES = {
    "austen": "text/austen_{}.txt.gz",
    "wikitext2": "text/wikitext2_raw_{}.txt",
}
ERROR_WINDOWS = 2  # of the test text, for the errors of blocks and positions


@dataclass(frozen=True)
class Comparison(Calibration):
    """Flags of `linmap compare flatquant`. --data: a text whose first half is for calibration, and the rest for the
    test."""

    model: str = "smollm2-135m"
    """The model: a folder that Transformers loads, an id on the Hugging Face Hub, or smollm2-135m."""
    text: Literal["austen", "wikitext2"] = "austen"
    """austen: two novels, in the package; wikitext2: in $LINMAP_DATA/text."""
    bits: tuple[Bits, ...] = ("W4A4KV4",)
    """Of weights, activations and the cache."""
    methods: tuple[Method, ...] = ("flatquant-gptq", "flatquant-rtn", "c-hadamard-gptq", "c-hadamard", "hadamard-gptq",
                                   "hadamard", "random", "quarot", "smoothquant", "rtn")  # fmt: skip
    """Rows of the table."""
    blocks: int | None = None
    """Quantise only this many decoder blocks, spread evenly over the depth; all when left out."""
    test_windows: int = 12
    """Pieces of the test text that are predicted."""
    test_length: int = 512
    """Tokens of each."""
    seeds: int = 1
    """Seeds of FlatQuant; each draws its own calibration windows."""

    def __post_init__(self) -> None:
        self.check()
        for name in ("blocks", "test_windows", "seeds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} must be 1 or more.")
        for name in ("bits", "methods"):
            if not getattr(self, name):
                raise ArgumentError(f"{name} is empty; name one or more.")
        if "flatquant-distilled" in self.methods and not self.distil_steps:
            raise ArgumentError("flatquant-distilled needs distil_steps=1 or more.")
        if self.test_length < 2:
            raise ArgumentError(f"test_length={self.test_length} leaves nothing to predict; give 2 or more.")
        FlatQuantConfig(**self.options(0))  # its own checks


@dataclass(frozen=True)
class Run:
    """What was measured of one way to quantise."""

    method: str
    setting: str
    seed: int
    perplexity: float
    seconds: float
    """Of calibration and rounding."""
    share: float
    """Of the quantised layers' float16 size."""
    megabytes: float
    alone: list[float]
    """By block: relative error of its outputs, given the inputs that it has in the original model."""
    accumulated: list[float]
    """The same, given what the quantised blocks before it return."""
    positions: list[float]
    """By position in a window: accumulated error behind the last quantised block."""


class Task:
    """A model, and a text to calibrate on and another to test on."""

    def __init__(self, settings: Comparison, data: Path | None = None) -> None:
        self.settings, self.folder = settings, original_folder(settings.model)
        tokenizer = load_tokenizer(self.folder)
        if data is None:
            how = "Put it there (the raw test split of WikiText-2, cut in two), or take --text austen."
            texts = [read_text(find(FILES[settings.text].format(part), how)) for part in ("calib", "test")]
            self.source, self.names = settings.text, TEXTS[settings.text]
        else:
            texts = halves(read_text(data))
            self.source, self.names = str(data), (f"first half of {data.name}", "the second half")
        self.calibration, self.test = (torch.tensor(plain_tokens(text, tokenizer)) for text in texts)
        for ids, count, length, flags in (
            (self.calibration, settings.windows, settings.length, "--windows or --length"),
            (self.test, settings.test_windows, settings.test_length, "--test-windows or --test-length"),
        ):
            if len(ids) < count * length:
                raise DataError(
                    f"a text has {len(ids)} tokens, and {count} windows of {length} need {count * length}; give more "
                    f"text, or lower {flags}."
                )
        self.original = self.model()
        self.path, blocks = decoder_blocks(self.original)
        self.total_blocks = len(blocks)
        if settings.blocks is not None and settings.blocks > len(blocks):
            raise DataError(f"--blocks {settings.blocks}: the model has {len(blocks)}; lower it, or leave it out.")
        self.blocks = spread(settings.blocks or len(blocks), len(blocks))

    def model(self) -> Any:
        return on_accelerator(load_pretrained(self.folder, "language", "float32")).eval()

    def block(self, model: nn.Module, number: int) -> nn.Module:
        return model.get_submodule(f"{self.path}.{number}")

    def config(self, baseline: Baseline, setting: str, seed: int) -> FlatQuantConfig:
        return baseline.config(setting, **self.settings.options(seed), blocks=self.blocks)

    def perplexity(self, model: nn.Module) -> float:
        return perplexity(model, self.test, self.settings.test_length, self.settings.test_windows)

    @cached_property
    def teacher(self) -> list[Tensor]:
        """What the original model has in front of each block and behind the last quantised one, on `error_windows`."""
        with torch.no_grad():
            x, arguments = embedded(self.original, self.error_windows(), self.path)
            states = [x]
            for number in range(self.blocks[-1] + 1):
                states.append(block_outputs(self.block(self.original, number), states[-1], arguments[number], 1))
        return states

    def error_windows(self) -> Tensor:
        count, length = min(ERROR_WINDOWS, self.settings.test_windows), self.settings.test_length
        return self.test[: count * length].view(count, length).to(self.original.device)

    def key(self) -> dict[str, Any]:
        """What finished runs depend on."""
        settings, free = self.settings, ("seeds", "bits", "methods", "n_jobs", "text")
        names = [name for name in settings.__dataclass_fields__ if name not in free]
        return {"text": self.source} | {name: getattr(settings, name) for name in names}


def spread(count: int, total: int) -> list[int]:
    """Numbers of `count` blocks of `total`, the middles of as many equal parts of the depth."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def halves(text: str) -> list[str]:
    """A text cut at the end of the line in which its middle lies."""
    cut = text.find("\n", len(text) // 2) + 1
    return [text[:cut], text[cut:]]


# -- one run -----------------------------------------------------------------------------------------------------------


def measured(task: Task, slug: str, setting: str, seed: int, work: Path) -> Run:
    """Quantise the model in one way and measure it; FlatQuant's transforms are kept in `work`, for both roundings."""
    baseline, model = BASELINES[slug], task.model()
    kept: dict[str, Any] = {}
    if baseline.kind == "system":
        kept = {"work": work, "n_jobs": task.settings.n_jobs, "resume": True}
    start = time.perf_counter()
    if baseline.rotates:
        rotated(model, seed)
    config = task.config(baseline, setting, seed)
    student_model(model, task.calibration, config, **kept)
    seconds = time.perf_counter() - start
    if kept:
        seconds = first_seconds(work, seconds, baseline.name if config.distil_steps else None)
    start = time.perf_counter()
    merge_model(model, task.calibration)
    seconds += time.perf_counter() - start
    found = sizes(model_tensors(task.original), model_tensors(model))
    return Run(
        slug, setting, seed, task.perplexity(model), seconds, found.share, found.stored / 1e6,
        *block_errors(task, model, seed if baseline.rotates else None),
    )  # fmt: skip


def first_seconds(work: Path, seconds: float, further: str | None) -> float:
    """How long the transforms in `work` took to train, whoever takes them from there later.

    `further` names a run that trains them on: its time counts on top, unless it trained the blocks itself.
    """
    path = work / "seconds.json"
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    name = further or "blocks"
    if name not in known:
        known[name] = seconds + (known.get("blocks", 0.0) if further else 0.0)
        write_json(path, known)
    return known[name]


@torch.no_grad()
def block_errors(task: Task, model: Any, rotation: int | None) -> tuple[list[float], list[float], list[float]]:
    """Relative squared errors on the first test windows: alone, accumulated, and by position (see `Run`).

    `rotation` is the seed of the rotation where the model's residual stream was rotated.
    """
    h, arguments = embedded(model, task.error_windows(), task.path)
    Q = None
    if rotation is not None:
        Q = RandomHadamard.draw(h.shape[-1], torch.Generator().manual_seed(rotation))
    alone, accumulated, tokens = [], [], h.new_zeros(h.shape[:-1])
    for number in range(task.blocks[-1] + 1):
        block = task.block(model, number)
        h = block_outputs(block, h, arguments[number], 1)
        if number not in task.blocks:
            continue
        x, y = (states if Q is None else Q(states).to(h.dtype) for states in task.teacher[number : number + 2])
        own = block_outputs(block, x, arguments[number], 1)
        tokens = relative_error(h, y)
        alone.append(float(relative_error(own, y).mean()))
        accumulated.append(float(tokens.mean()))
    return alone, accumulated, tokens.mean(0).tolist()


def relative_error(x: Float[Tensor, "n length d"], y: Float[Tensor, "n length d"]) -> Float[Tensor, "n length"]:
    """||x - y||^2 / ||y||^2 of each token."""
    return (x - y).square().sum(-1) / y.square().sum(-1)
