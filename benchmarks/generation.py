"""What `bench_flatquant_generate` times and how: models, one generation with a clock at each token, llama.cpp."""

from __future__ import annotations

import copy
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.measure import THREADS
from linmap.compress.flatquant.calibration import calibrate
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.head import quantise_head
from linmap.compress.flatquant.linear import QuantizedLinear
from linmap.compress.flatquant.pretrained import finish, in_format, install
from linmap.compress.flatquant.transforms import OnlineTransform
from linmap.data.models import load_pretrained, model_folder

BITS: dict[str, dict[str, int]] = {
    "W4A4KV4": {"w_bits": 4, "a_bits": 4, "k_bits": 4, "v_bits": 4},
    "W4A16": {"w_bits": 4, "a_bits": 16},
    "W4A8": {"w_bits": 4, "a_bits": 8},
    "W4A8KV4": {"w_bits": 4, "a_bits": 8, "k_bits": 4, "v_bits": 4},
}
ONE_BILLION = LlamaConfig(
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
)
LLAMA_FOLDER = "LINMAP_LLAMA_CPP"
LLAMA_MODELS = {"SmolLM2-135M": "LINMAP_LLAMA_GGUF", "1B": "LINMAP_LLAMA_GGUF_1B"}


# -- models ------------------------------------------------------------------------------------------------------------


def options(bits: str) -> dict[str, Any]:
    """Settings that need no text: matrices and clipping as they start, which take the time of trained ones."""
    return {**BITS[bits], "scale": False, "epochs": 0}


def smollm2(kind: str) -> Any:
    """SmolLM2-135M-Instruct in a number format or as `linmap fit flatquant` writes it; "W4A4KV4+8": an 8-bit head."""
    if kind in ("float32", "bfloat16"):
        return endless(load_pretrained(model_folder("smollm2-135m"), "language", kind))
    bits, head = kind.removesuffix("+8"), 8 if kind.endswith("+8") else 16
    model: Any = load_pretrained(model_folder("smollm2-135m"), "language", "float32")
    return endless(in_format(calibrate(model, None, FlatQuantConfig(**options(bits), head_bits=head)), torch.bfloat16))


def one_billion(kind: str) -> Any:
    """The shape of a Llama of a billion parameters; weights or codes are random."""
    torch.manual_seed(0)
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model: Any = LlamaForCausalLM(copy.deepcopy(ONE_BILLION))
        if kind not in ("float32", "bfloat16"):
            config = FlatQuantConfig(**options(kind.removesuffix("+8")), head_bits=8 if kind.endswith("+8") else 16)
            finish(install(model, config), config)
    finally:
        torch.set_default_dtype(default)
    small = copy.deepcopy(ONE_BILLION)
    small.num_hidden_layers, small.vocab_size = 0, 8
    rotary = LlamaForCausalLM(small)
    model.to_empty(device="cpu")
    model.model.rotary_emb = rotary.model.rotary_emb
    model.tie_weights()
    fill(model)
    return endless(model)


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Random numbers of the size that keeps activations as they are, random codes, and matrices that turn nothing."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        part: Any = model.get_submodule(name.rpartition(".")[0])
        last = name.rpartition(".")[2]
        if "rotary" in name:
            continue
        if isinstance(part, OnlineTransform) or "_matrix" in last:
            nn.init.eye_(tensor) if tensor.ndim == 2 else nn.init.ones_(tensor)
        elif isinstance(part, QuantizedLinear) and last == "weight":
            tensor.copy_(torch.randint(0, 256, tensor.shape, dtype=torch.uint8).view(tensor.dtype))
        elif last == "weight_scale":
            tensor.fill_(part.in_features**-0.5 / (128 if part.bits.weight == 8 else 8))
        elif last.endswith(("_max", "_min")):
            tensor.fill_(4.0)
        elif tensor.ndim == 2:
            tensor.normal_(std=tensor.shape[1] ** -0.5)
        else:
            tensor.fill_(1.0)


def endless(model: Any) -> Any:
    """For generations of the length that is asked for, and otherwise as `from_pretrained` gives a model: PyTorch copies
    a frozen weight for each sequence where its input is strided, as that of the head is."""
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model.eval()


def with_head(model: Any, bits: str) -> Any:
    """A copy with its head in 8 bits."""
    other = copy.deepcopy(model)
    config = FlatQuantConfig(**options(bits), head_bits=8)
    quantise_head(other, config)
    return endless(finish(other, config))


def bytes_of_a_token(model: Any) -> int:
    """What decoding a token has to read: all tensors but an embedding that no head shares, and no cache."""
    head = model.get_output_embeddings()
    alone = model.get_input_embeddings() if hasattr(head, "weight_scale") or not model.config.tie_word_embeddings else 0
    own = {tensor.data_ptr(): tensor.nbytes for tensor in [*model.parameters(), *model.buffers()]}
    skipped = {} if alone == 0 else {tensor.data_ptr(): 0 for tensor in alone.parameters()}
    return sum((own | skipped).values())


# -- clocks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """A prompt, and the tokens that are generated behind it."""

    batch: int
    prompt: int
    new: int

    def __str__(self) -> str:
        return f"{self.prompt} tokens" if self.batch == 1 else f"{self.batch} x {self.prompt} tokens"


@dataclass
class Times:
    """Seconds to the first token, and of each further step."""

    first: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    @property
    def prefill(self) -> float:
        return statistics.median(self.first)

    @property
    def step(self) -> float:
        return statistics.median(self.steps)


class Clock(StoppingCriteria):
    """Notes when each token is there, and stops nothing."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        self.at.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def generate(model: Any, load: Load, times: Times | None = None) -> None:
    """Generate once through Transformers' own loop, with a clock."""
    ids = torch.randint(
        0, model.config.vocab_size, (load.batch, load.prompt), generator=torch.Generator().manual_seed(0)
    )
    clock, start = Clock(), time.perf_counter()
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=load.new,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    if times is not None:
        times.first.append(clock.at[0] - start)
        times.steps += [b - a for a, b in zip(clock.at, clock.at[1:], strict=False)]


def in_turns(models: dict[str, Any], loads: list[Load], repeats: int) -> dict[tuple[str, Load], Times]:
    """Every model takes its turn at each prompt, `repeats` times, after a short generation that warms it up."""
    torch.set_num_threads(THREADS)
    for model in models.values():
        generate(model, Load(1, 8, 3))
    found = {(name, load): Times() for name in models for load in loads}
    for _ in range(repeats):
        for load in loads:
            for name, model in models.items():
                generate(model, load, found[name, load])
    return found


def bandwidth() -> float:
    """Bytes a second that all threads read of a tensor much larger than any cache (a sum, the best of some)."""
    torch.set_num_threads(THREADS)
    x = torch.ones(2**27)  # 512 MiB
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        x.sum()
        seconds.append(time.perf_counter() - start)
    return x.nbytes / min(seconds)


# -- llama.cpp ---------------------------------------------------------------------------------------------------------


def llama_cpp(name: str) -> tuple[Path, Path] | str:
    """Its `llama-bench` and a Q4_0 model; or why there is none."""
    folder, model = os.environ.get(LLAMA_FOLDER), os.environ.get(LLAMA_MODELS[name])
    if not folder or not model:
        return f"skipped; {LLAMA_FOLDER} names a folder with llama-bench, {LLAMA_MODELS[name]} a model"
    program = Path(folder) / "llama-bench"
    missing = next((path for path in (program, Path(model)) if not path.exists()), None)
    return (program, Path(model)) if missing is None else f"skipped; there is no {missing}"


def llama_times(program: Path, model: Path, load: Load) -> tuple[float, float]:
    """Seconds of the prompt, and of a step behind it, by its own benchmark; each with the faster of its attentions."""

    def speed(*flags: object) -> float:
        command = [program, "-m", model, "-t", THREADS, "-r", 5, "-o", "json", *flags]
        return max(json.loads(output([*command, "-fa", flash]))[0]["avg_ts"] for flash in (0, 1))

    prompt = speed("-p", load.prompt, "-n", 0)
    return load.prompt / prompt, 1 / speed("-p", 0, "-n", load.new, "-d", load.prompt)


def output(command: list[Any]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


# -- memory ------------------------------------------------------------------------------------------------------------

PROGRAM = """
import re, resource, sys, time
from pathlib import Path
import linmap, torch
import transformers.models.llama.modeling_llama, linmap.compress.flatquant.pretrained
from transformers import AutoModelForCausalLM
def peak():
    if sys.platform == "linux":  # getrusage counts what the parent held when it started this process
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, start = peak(), time.perf_counter()
torch.set_num_threads(2)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=sys.argv[2]).eval()
model.generation_config.eos_token_id = None
ids = torch.arange(512)[None]
model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0)
print(before, peak(), time.perf_counter() - start)
"""
CHILD = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def peak_of(folder: Path, dtype: str) -> tuple[int, int, float]:
    """Peak resident bytes of a process that loads a model and generates, of one that has loaded the libraries, and the
    seconds between."""
    before, peak, seconds = output([sys.executable, "-c", PROGRAM, folder, dtype]).split()
    return int(peak), int(before), float(seconds)


def llama_peak(program: Path, model: Path) -> tuple[int, float]:
    """Peak resident bytes and seconds of llama-bench, at the same prompt."""
    command = [program, "-m", model, "-t", THREADS, "-r", 1, "-p", 512, "-n", 8, "--no-warmup"]
    start = time.perf_counter()
    return int(output([sys.executable, "-c", CHILD, *command])), time.perf_counter() - start
