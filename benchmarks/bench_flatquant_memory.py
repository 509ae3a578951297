"""The most memory that `linmap fit flatquant` holds: with `--stream`, one block at a time, and with the whole model.

Each in a process of its own, on models with random weights and blocks of 55 MB; "memory" is its peak resident set,
beyond that of a process that has loaded the same libraries.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.measure import Measurement

LAYERS = (6, 24)
HIDDEN = 1024
TEXT = "".join(f"Line {i} of a text that is long enough, {i * i} times.\n" for i in range(100))
FIT = "fit flatquant --model model --data text.txt --windows 4 --length 32 --epochs 1 --weights rtn"
PROGRAM = """
import re, resource, sys
from pathlib import Path
import transformers.models.llama.modeling_llama
import linmap.compress.flatquant, linmap.recipes.flatquant.fit
from linmap.cli import main
def peak():
    if sys.platform == "linux":  # getrusage counts what the parent held when it started this process
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
code = main(sys.argv[1:])
print("peak", peak() - before)
sys.exit(code)
"""


def run() -> list[Measurement]:
    return [of_layers(layers) for layers in LAYERS]


def of_layers(layers: int) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        megabytes = write_model(here, layers, HIDDEN) / 1e6
        streamed, seconds = fit(here, "--stream")
        whole, whole_seconds = fit(here)
    note = f"the whole model's way: {whole / 2**20:.0f} MiB, {whole / streamed:.1f} times as much"
    what = f"linmap fit flatquant --stream, {layers} blocks, {megabytes:.0f} MB in float32"
    return Measurement(what, seconds, "without --stream", whole_seconds, memory=streamed, note=note)


def write_model(here: Path, layers: int, hidden: int) -> int:
    """A model and a text in `here`; returns the bytes of its parameters."""
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(here / "model")
    vocabulary = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(here / "model")
    (here / "text.txt").write_text(TEXT)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def fit(here: Path, *options: str) -> tuple[int, float]:
    """Peak bytes and seconds of a fit in a process of its own."""
    out = "stream" if options else "whole"
    start = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, *FIT.split(), "--out", out, *options]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[3:])} ended with {done.returncode}: {done.stderr}")
    return int(done.stdout.split()[-1]), time.perf_counter() - start
