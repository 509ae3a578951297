"""The flags of quantising a language model, and of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from linmap.errors import ArgumentError
from linmap.recipes.derived import Derived, Other, flags

if TYPE_CHECKING:
    from linmap.compress.flatquant.config import FlatQuantConfig

CONFIG = "linmap.compress.flatquant.config:FlatQuantConfig"
NAMES = {"n_samples": "windows", "sequence_length": "length"}
PAPER = "the config has the paper's setting, for a GPU; the command suits a small model on two cores"
SHORT = {"n_samples": Other(32, PAPER), "sequence_length": Other(128, PAPER), "epochs": Other(4, PAPER)}
NO_FLAGS = (
    "quant_method", "w_symmetric", "a_symmetric", "q_symmetric", "k_symmetric", "v_symmetric", "transform", "scale",
    "clip", "factors", "warmup_steps", "blocks", "module_map", "seed",
)  # fmt: skip
BITS = ("w_bits", "a_bits", "q_bits", "k_bits", "v_bits", "head_bits")
DISTILLATION = ("distil_steps", "distil_length", "distil_lr", "distil_clip_lr", "distil_weight_lr")

Method = Literal[
    "flatquant-gptq", "flatquant-rtn", "c-hadamard-gptq", "c-hadamard", "hadamard-gptq", "hadamard", "random",
    "quarot-gptq", "quarot", "smoothquant", "gptq", "rtn",
]  # fmt: skip
Bits = Literal["W4A4", "W4A4KV4", "W4A16"]


@flags
class Fit(Derived):
    """Quantise a language model to few bits, calibrated on a text.

    --data is a .txt or .md file, perhaps with .gz behind: a few hundred kilobytes of what the model will read.
    """

    OF = CONFIG
    NAMES = NAMES
    LEAVE = NO_FLAGS
    OTHER = SHORT | {
        "weights": Other("gptq", "better on every model that was measured, and here there always is a text for it")
    }

    model: str = "smollm2-135m"
    """The model: a folder that Transformers loads, an id on the Hugging Face Hub, or smollm2-135m."""
    blocks: int | None = None
    """Quantise only this many decoder blocks, the first ones."""
    base_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format in which the model is loaded and calibrated; auto: in which it was saved."""
    rest_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of what is not quantised, in the folder and when it is used; auto: that in which the model was
    saved, but bfloat16 for float32, so that the folder is never larger than the model in float16."""
    stream: bool = False
    """Hold one block at a time, for a model that is larger than the memory."""
    n_jobs: int = 1
    """Blocks that are calibrated at once, each in a process of its own."""

    def __post_init__(self) -> None:
        check(self, "n_jobs", "blocks")
        if self.stream and self.base_dtype != "auto":
            raise ArgumentError(f"--stream reads the model as it was saved; leave --base-dtype {self.base_dtype} out.")
        if self.stream and self.distil_steps:
            raise ArgumentError("--stream holds one block at a time, and --distil-steps trains all of them; drop one.")
        if all(getattr(self, name) == 16 for name in BITS):
            raise ArgumentError(
                "all bits are 16, so that nothing would be quantised; lower --w-bits, --a-bits or others."
            )

    def config(self, seed: int) -> FlatQuantConfig:
        """What the library is asked for; a ValueError says what it does not know."""
        from linmap.compress.flatquant.config import FlatQuantConfig

        blocks = None if self.blocks is None else list(range(self.blocks))
        return FlatQuantConfig(**self.options(blocks=blocks, seed=seed))


@flags
class Compare(Derived):
    """Compare FlatQuant with other ways to few bits, by perplexity.

    --data is a text: its first half is for calibration, the rest for the test.
    """

    OF = CONFIG
    NAMES = NAMES
    LEAVE = (*NO_FLAGS, *BITS, *DISTILLATION, "weights", "group_size", "parametrization")
    OTHER = SHORT

    model: str = "smollm2-135m"
    """The model: a folder that Transformers loads, an id on the Hugging Face Hub, or smollm2-135m."""
    bits: tuple[Bits, ...] = ("W4A4KV4",)
    """Of weights, activations and the cache; several are compared one after the other."""
    methods: tuple[Method, ...] = (
        "flatquant-gptq", "flatquant-rtn", "c-hadamard-gptq", "hadamard-gptq", "quarot-gptq", "smoothquant", "gptq",
        "rtn",
    )  # fmt: skip
    """Rows of the table."""
    blocks: int | None = 4
    """Quantise only this many decoder blocks, spread evenly over the depth; None: all, as in a fitted model."""
    test_windows: int = 12
    """Pieces of the test text that are predicted."""
    test_length: int = 256
    """Tokens of each."""
    n_jobs: int = 1
    """Blocks that are calibrated at once, each in a process of its own."""

    def __post_init__(self) -> None:
        check(self, "n_jobs", "blocks", "test_windows")
        for name in ("bits", "methods"):
            if not getattr(self, name):
                raise ArgumentError(f"{name} is empty; name one or more.")
        if self.test_length < 2:
            raise ArgumentError(f"test_length={self.test_length} leaves nothing to predict; give 2 or more.")


def check(settings: Any, *counts: str) -> None:
    """What a `FlatQuantConfig` does not know: counts are 1 or more, learning rates positive."""
    for name in counts:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ArgumentError(f"{name}={value} must be 1 or more.")
    for name in ("lr", "clip_lr"):
        if not 0 < getattr(settings, name) < float("inf"):
            raise ArgumentError(f"{name}={getattr(settings, name)} must be positive.")
