"""Generation with FlatQuant on a CPU, beside float32, bfloat16 and llama.cpp: prefill, decoding, memory, roofline.

Through `generate` of Transformers, with a clock at each token; the models take turns in one process, and llama.cpp's
own `llama-bench` runs after them (`LINMAP_LLAMA_CPP`, `LINMAP_LLAMA_GGUF`, `LINMAP_LLAMA_GGUF_1B`; skipped without).
"float32" and "bfloat16" are the unquantised models; +8 is `head_bits=8`; what is not quantised is in bfloat16, as
`linmap fit flatquant` writes it. "1B": a Llama of 16 blocks of 2048 channels, 8192 inside, 32 heads, 8 of keys and a
vocabulary of 32,000, with random weights. A step gives a token to each sequence of the batch. Memory is the peak
resident set of a process that loads the model and generates behind 512 tokens, libraries included.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.generation import (
    Load,
    Times,
    bandwidth,
    bytes_of_a_token,
    in_turns,
    llama_cpp,
    llama_peak,
    llama_times,
    one_billion,
    peak_of,
    smollm2,
    with_head,
)
from benchmarks.measure import Measurement
from linmap.compress.flatquant.kernels import active_kernels

SMALL = ("float32", "bfloat16", "W4A4KV4", "W4A4KV4+8", "W4A8KV4", "W4A8KV4+8", "W4A16", "W4A16+8", "W4A8")
LARGE = ("float32", "bfloat16", "W4A4KV4", "W4A4KV4+8", "W4A8KV4+8", "W4A16+8")
MEASURED = ("float32", "bfloat16", "W4A4KV4", "W4A4KV4+8")  # by their memory
LOADS = (Load(1, 16, 32), Load(1, 512, 24), Load(8, 64, 24))
LARGE_LOADS = (Load(1, 16, 12), Load(1, 512, 6), Load(8, 64, 6))
DECODING = {"SmolLM2-135M": 1.5, "1B": 2.5}  # bars of W4A4KV4 against float32
PREFILL = {"SmolLM2-135M": 1.7, "1B": None}
LLAMA = 0.8
BFLOAT16 = 1.0


def run() -> list[Measurement]:
    small, small_models = section("SmolLM2-135M", SMALL, LOADS, 4, small_model)
    memory = of_memory(small_models)
    small_models.clear()
    gc.collect()
    large, _ = section("1B", LARGE, LARGE_LOADS, 2, lambda kind, _: one_billion(kind))
    return [*small, *memory, *large]


def small_model(kind: str, made: dict[str, Any]) -> Any:
    """The 8-bit head goes onto the model that is there without it."""
    bits = kind.removesuffix("+8")
    return with_head(made[bits], bits) if kind.endswith("+8") else smollm2(kind)


def section(
    name: str, kinds: tuple[str, ...], loads: tuple[Load, ...], repeats: int, make: Callable[[str, dict[str, Any]], Any]
) -> tuple[list[Measurement], dict[str, Any]]:
    """All rows of a model, and its forms."""
    models: dict[str, Any] = {}
    for kind in kinds:
        models[kind] = make(kind, models)
    times = in_turns(models, list(loads), repeats)
    rows = [row for load in loads for row in of_load(name, kinds, load, times)]
    return [*rows, *of_llama(name, loads, times), *roofline(name, models, loads[0], times)], models


def of_load(name: str, kinds: tuple[str, ...], load: Load, times: dict[tuple[str, Load], Times]) -> list[Measurement]:
    """Prefill and decoding of each form against float32, with its ratio to bfloat16 beside."""
    plain, half = times["float32", load], times["bfloat16", load]
    rows = []
    for kind in kinds[1:]:
        ours, barred = times[kind, load], kind.startswith("W4A4KV4")
        if load.prompt * load.batch >= 512:
            note = f"{half.prefill / ours.prefill:.2f}x bfloat16's speed" if kind != "bfloat16" else ""
            bar = PREFILL[name] if barred else None
            rows.append(
                Measurement(
                    f"{name} {kind}, prefill of {load}", ours.prefill, "float32", plain.prefill, bar, note=note,
                    items=load.batch * load.prompt, unit="tokens",
                )
            )  # fmt: skip
        note = f"{half.step / ours.step:.2f}x bfloat16's speed" if kind != "bfloat16" else ""
        if barred and name == "SmolLM2-135M":
            note += f" (bar: {BFLOAT16:g}x, {'met' if half.step >= BFLOAT16 * ours.step else '**missed**'})"
        rows.append(
            Measurement(
                f"{name} {kind}, decoding behind {load}", ours.step, "float32", plain.step,
                DECODING[name] if barred else None, note=note, items=load.batch, unit="tokens",
            )
        )  # fmt: skip
    return rows


def of_llama(name: str, loads: tuple[Load, ...], times: dict[tuple[str, Load], Times]) -> list[Measurement]:
    """W4A4KV4 with an 8-bit head against llama.cpp's Q4_0, whose table has 8 bits too."""
    found, kind = llama_cpp(name), "W4A4KV4+8"
    if isinstance(found, str):
        what = f"{name} {kind}, decoding behind {loads[0]}"
        return [Measurement(what, times[kind, loads[0]].step, f"llama.cpp ({found})")]
    rows = []
    for load in loads:
        if load.batch > 1:
            continue  # llama-bench has one sequence
        ours, what = times[kind, load], f"{name} {kind}, {{}} {load}"
        prefill, step = llama_times(*found, load)
        bar = LLAMA if name == "SmolLM2-135M" else None
        if load.prompt >= 512:
            rows.append(
                Measurement(what.format("prefill of"), ours.prefill, "llama.cpp Q4_0", prefill, items=load.prompt,
                            unit="tokens")
            )  # fmt: skip
        rows.append(
            Measurement(what.format("decoding behind"), ours.step, "llama.cpp Q4_0", step, bar, items=1,
                        unit="tokens")
        )  # fmt: skip
    return rows


def roofline(name: str, models: dict[str, Any], load: Load, times: dict[tuple[str, Load], Times]) -> list[Measurement]:
    """The time of reading once what a token needs, at the bandwidth of this run."""
    rate = bandwidth()
    rows = []
    for kind, model in models.items():
        size, step = bytes_of_a_token(model), times[kind, load].step
        what = f"{name} {kind}, reading the {size / 1e6:.0f} MB of a token at {rate / 1e9:.1f} GB/s"
        note = f"decoding takes {step / (size / rate):.1f} times as long"
        if kind.startswith("W"):
            note += f" (kernels: {active_kernels()})"
        rows.append(Measurement(what, size / rate, note=note))
    return rows


def of_memory(models: dict[str, Any]) -> list[Measurement]:
    """Peak resident memory and seconds, each in a process of its own."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for kind in MEASURED:
            folder = Path(place) / kind
            models[kind].save_pretrained(folder)
            peak, libraries, seconds = peak_of(folder, "float32" if kind == "float32" else "bfloat16")
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            note = f"libraries alone: {libraries / 2**20:.0f} MiB; on disk: {size / 1e6:.0f} MB"
            what = f"SmolLM2-135M {kind}, loading and 8 tokens behind 512, in a process"
            rows.append(Measurement(what, seconds, memory=peak, note=note))
    found = llama_cpp("SmolLM2-135M")
    if isinstance(found, tuple):
        note = f"on disk: {found[1].stat().st_size / 1e6:.0f} MB"
        peak, seconds = llama_peak(*found)
        rows.append(Measurement("SmolLM2-135M, llama.cpp Q4_0, the same", seconds, memory=peak, note=note))
    return rows
