"""The flags of quantising a model, and of the comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.data.pretrained import BUNDLED
from linmap.errors import ArgumentError

DISTILLATION = ("distil_steps", "distil_length", "distil_lr", "distil_clip_lr", "distil_weight_lr")


@dataclass(frozen=True)
class Calibration:
    """What both verbs say about the calibration."""

    windows: int = 32
    """Random pieces of the text that the transforms are trained on (the paper: 128)."""
    length: int = 128
    """Tokens of a window (the paper: 2048)."""
    epochs: int = 4
    """Passes over the windows for each block (the paper: 15)."""
    batch_size: int = 4
    """Windows of a step."""
    lr: float = 5e-3
    """Learning rate of matrices and scales."""
    clip_lr: float = 5e-2
    """Learning rate of the clipping."""
    alpha: float = 0.3
    """Where the scales of the channels start: max|W|^(1 - alpha) / max|x|^alpha."""
    clip_start: Literal["search", "wide"] = "search"
    """Where the clipping starts: search looks for what rounds best; wide is the paper's."""
    distil_steps: int = 0
    """Steps in which all blocks are then trained together, weights and all, to give the original's distribution of the
    next token; 200 take half an hour for 135 million parameters on two cores, and gain most; 0: not at all."""
    distil_length: int = 512
    """Tokens of the window of such a step."""
    distil_lr: float = 1e-3
    """Its learning rate of matrices, scales and norms."""
    distil_clip_lr: float = 1e-2
    """Its learning rate of the clipping."""
    distil_weight_lr: float = 3e-5
    """Its learning rate of the weights; 0: they stay."""
    compile: bool | None = None
    """Compile what the training does on a CPU; chosen by its length when left out. Needs a C++ compiler."""
    n_jobs: int = 1
    """Blocks that are calibrated at once, each in a process of its own."""

    def options(self, seed: int) -> dict[str, Any]:
        """The same in the names of `FlatQuantConfig`."""
        return {
            "n_samples": self.windows, "sequence_length": self.length, "epochs": self.epochs,
            "batch_size": self.batch_size, "lr": self.lr, "clip_lr": self.clip_lr, "alpha": self.alpha, "seed": seed,
            "clip_start": self.clip_start, "compile": self.compile,
            **{name: getattr(self, name) for name in DISTILLATION},
        }  # fmt: skip

    def check(self) -> None:
        """What a `FlatQuantConfig` does not know."""
        if self.n_jobs < 1:
            raise ArgumentError(f"n_jobs={self.n_jobs} must be 1 or more.")
        for name in ("lr", "clip_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ArgumentError(f"{name}={getattr(self, name)} must be positive.")


@dataclass(frozen=True)
class Settings(Calibration):
    """Quantise a language model to few bits, calibrated on a text.

    --data is a .txt or .md file, perhaps with .gz behind: a few hundred kilobytes of what the model will read.
    """

    model: str = "smollm2-135m"
    """The model: a folder that Transformers loads, an id on the Hugging Face Hub, or smollm2-135m."""
    w_bits: int = 4
    """Bits of the weights: 2 to 8, or 16 for none."""
    a_bits: int = 4
    """Bits of the inputs of linear layers: 2 to 8, or 16 for none."""
    q_bits: int = 16
    """Bits of the queries."""
    k_bits: int = 16
    """Bits of the keys in the cache; 4 is common with --v-bits 4."""
    v_bits: int = 16
    """Bits of the values in the cache."""
    weights: Literal["rtn", "gptq"] = "gptq"
    """rtn rounds each weight to its nearest code; gptq lets later weights make up for the error of earlier ones."""
    group_size: int | None = None
    """gptq: columns of a weight that share a scale; a whole row when left out."""
    parametrization: Literal["svd", "exponential", "inverse"] = "svd"
    """Of a trained matrix."""
    blocks: int | None = None
    """Quantise only this many decoder blocks, the first ones."""
    base_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format in which the model is loaded and calibrated; auto: in which it was saved."""
    rest_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of what is not quantised, in the folder and when it is used; auto: that in which the model was
    saved, but bfloat16 for float32, so that the folder is never larger than the model in float16."""
    stream: bool = False
    """Hold one block at a time, for a model that is larger than the memory."""

    def __post_init__(self) -> None:
        self.check()
        if self.blocks is not None and self.blocks < 1:
            raise ArgumentError(f"blocks={self.blocks} must be 1 or more.")
        if self.model in BUNDLED and self.model != "smollm2-135m":
            raise ArgumentError(f"--model {self.model} is no language model that generates; smollm2-135m is.")
        if self.stream and self.base_dtype != "auto":
            raise ArgumentError(f"--stream reads the model as it was saved; leave --base-dtype {self.base_dtype} out.")
        if self.stream and self.distil_steps:
            raise ArgumentError("--stream holds one block at a time, and --distil-steps trains all of them; drop one.")
        config = self.config(0)  # its own checks
        if not config.quantises_linears and not config.quantises_cache:
            raise ArgumentError(
                "all bits are 16, so that nothing would be quantised; lower --w-bits, --a-bits or others."
            )

    def config(self, seed: int) -> FlatQuantConfig:
        names = ("w_bits", "a_bits", "q_bits", "k_bits", "v_bits", "weights", "group_size", "parametrization")
        blocks = None if self.blocks is None else list(range(self.blocks))
        return FlatQuantConfig(**self.options(seed), **{n: getattr(self, n) for n in names}, blocks=blocks)
