"""What a billion records, a 70B model and a hundred subjects cost: small measurements on one core, and what follows.

Each row times linmap on little, and its note says what the formulas of docs/guides/costs.md make of it. Where the
formula is more than a multiplication, a larger case is predicted from a smaller one and measured, and the note says how
far off the prediction was. All times are processor time, and hours those of one core like this one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import Measurement
from linmap.adapt import BoneConfig
from linmap.adapt.texts import attach
from linmap.compress.architecture import block_paths
from linmap.compress.flatquant.blockwise import backward, start_student
from linmap.compress.flatquant.config import FlatQuantConfig
from linmap.compress.flatquant.teacher import embedded, teacher_outputs
from linmap.data import EMBEDDED
from linmap.data.epochs import mamem
from linmap.data.vectors import open_store
from linmap.recipes.job import ApplyJob
from linmap.recipes.mbat import apply as mbat
from linmap.recipes.mbat.flags import Apply
from linmap.signals.acm import ACMClassifier
from linmap.signals.gbwbn import SPDNetClassifier

RECORDS, SUBJECTS, BLOCKS = 1e9, 100, 80
WIDE: dict[str, int] = {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64}
CALIBRATION = FlatQuantConfig(k_bits=4, v_bits=4)
TOKENS = CALIBRATION.n_samples * CALIBRATION.sequence_length
STEPS = TOKENS * CALIBRATION.epochs // (CALIBRATION.batch_size * CALIBRATION.sequence_length)
FINE_TUNING = 10e6  # tokens


def run() -> list[Measurement]:
    torch.set_num_threads(1)
    return [*records(), *stores(), *calibration(), *adapters(), *subjects()]


# -- a billion records -------------------------------------------------------------------------------------------------


def records(copies: tuple[int, int] = (12, 48)) -> list[Measurement]:
    encoded(copies[0])  # what a program does once
    seconds, count, size = encoded(copies[1])
    note = (
        f"10⁹: {hours(seconds / count * RECORDS)}, {size / count * RECORDS / 1e12:.1f} TB ({size / count:,.0f} B each)"
    )
    return [Measurement("linmap apply mbat, D = 2048, float32", seconds, items=count, unit="records", note=note)]


def encoded(copies: int) -> tuple[float, int, int]:
    """Seconds, records and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "records.jsonl", Path(folder) / "vectors.parquet"
        source.write_bytes((EMBEDDED / "fhir_patients.jsonl").read_bytes() * copies)
        seconds, summary = timed(lambda: mbat.apply(Apply(ids="number", n_jobs=1), ApplyJob(data=source, out=out)))
        return seconds, summary["records"], out.stat().st_size


def stores(counts: tuple[int, int] = (50_000, 250_000), dim: int = 512) -> list[Measurement]:
    vectors = np.random.default_rng(0).standard_normal((max(counts), dim), np.float32)
    return [of_store(kind, options, vectors, counts) for kind, options in (
        ("array", {}), ("faiss", {"index": "SQ8"}), ("faiss", {"index": "bits"}), ("lance", {}),
    )]  # fmt: skip


def of_store(kind: str, options: dict[str, Any], vectors: np.ndarray, counts: tuple[int, int]) -> Measurement:
    seconds, sizes = [], []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            ids = [f"{i:012d}" for i in range(count)]

            def fill(folder: str = folder, ids: list[str] = ids) -> None:
                with open_store(f"{kind}:{Path(folder) / 'store'}", vectors.shape[1], **options) as store:
                    for first in range(0, len(ids), 10_000):
                        store.upsert(ids[first : first + 10_000], vectors[first : first + 10_000][: len(ids) - first])
                    store.flush()

            seconds.append(timed(fill)[0])
            sizes.append(sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()))
    each, size = (seconds[1] - seconds[0]) / (counts[1] - counts[0]), (sizes[1] - sizes[0]) / (counts[1] - counts[0])
    note = (
        f"10⁹: {hours(each * RECORDS)}, {size * RECORDS / 1e12:.2f} TB ({size:,.0f} B each); from the difference of two"
    )
    name = " ".join([kind, *map(str, options.values())])
    return Measurement(
        f"filling a store, {name}, D = {vectors.shape[1]}", seconds[1], items=counts[1], unit="vectors", note=note
    )


# -- a 70B model -------------------------------------------------------------------------------------------------------


def llama(hidden: int, layers: int) -> LlamaForCausalLM:
    """Of the proportions of a Llama of 70B: 3.5 times as wide inside, eight queries to a key."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": hidden, "intermediate_size": hidden * 7 // 2, "num_hidden_layers": layers}
    sizes |= {"num_attention_heads": max(8, hidden // 128), "num_key_value_heads": max(1, hidden // 1024)}
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()


def weights(hidden: int) -> float:
    """Of a block of these proportions."""
    return hidden**2 * (2 + 2 / 8 + 3 * 3.5)


def calibration(sizes: tuple[int, int] = (512, 1024), lengths: tuple[int, int] = (128, 512)) -> list[Measurement]:
    """Seconds of a step: a for each weight and token, b for each weight."""
    found = {size: [of_step(size, length) for length in lengths] for size in sizes}
    a, b = slopes(found[sizes[0]], weights(sizes[0]), lengths)
    predicted = (a * lengths[1] + b) * weights(sizes[1])
    measured = found[sizes[1]][1]
    a, b = slopes(found[sizes[1]], weights(sizes[1]), lengths)
    tokens = CALIBRATION.batch_size * CALIBRATION.sequence_length
    block = STEPS * (a * tokens + b) * weights(WIDE["hidden_size"])
    note = (
        f"predicted from {sizes[0]}: {predicted / measured:.2f} of that; of 70B, {STEPS} steps of {tokens} tokens: "
        f"{hours(block)}, {BLOCKS} blocks: {hours(BLOCKS * block)}; {2 / a / 1e9:.0f} GFLOP/s of the forward pass alone"
    )
    return [Measurement(f"a step of FlatQuant, block of {sizes[1]}, {lengths[1]} tokens", measured, items=lengths[1],
                        unit="tokens", note=note)]  # fmt: skip


def of_step(hidden: int, length: int) -> float:
    model = llama(hidden, 1)
    block = model.model.layers[0]
    _, (arguments,) = embedded(model, torch.randint(0, 64, (1, length)), "model.layers")
    x = torch.randn(1, length, hidden)
    y, channels = teacher_outputs(block, block_paths(block), x, arguments, 1)
    config = FlatQuantConfig(k_bits=4, v_bits=4, n_samples=1, sequence_length=length, batch_size=1)
    student = start_student(block, config, 0, channels)
    optimizer = torch.optim.AdamW(student.parameter_groups(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        backward(student, x, y, arguments)
        optimizer.step()

    return median(step, 5)


def slopes(seconds: list[float], count: float, lengths: tuple[int, int]) -> tuple[float, float]:
    a = (seconds[1] - seconds[0]) / (lengths[1] - lengths[0]) / count
    return a, max(seconds[0] / count - a * lengths[0], 0.0)


def adapters(sizes: tuple[int, int] = (512, 1024), length: int = 512) -> list[Measurement]:
    """Bone in every linear layer of four blocks: seconds for each frozen weight and token."""
    each = []
    for hidden in sizes:
        model: Any = attach(llama(hidden, 4), BoneConfig(r=64, mode="add", target_modules="all-linear"))
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer, ids = torch.optim.AdamW(trained, fused=True), torch.randint(0, 64, (1, length))

        def step(model: nn.Module = model, optimizer: Any = optimizer, ids: torch.Tensor = ids) -> None:
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()

        seconds = median(step, 5)
        each.append(seconds / length / (4 * weights(hidden)))
    whole = each[1] * 70e9 * FINE_TUNING
    note = (
        f"per weight, {each[0] / each[1]:.2f} at {sizes[0]}; 70B, {FINE_TUNING / 1e6:.0f} million tokens: "
        f"{hours(whole)}; {4 / each[1] / 1e9:.0f} GFLOP/s"
    )
    return [Measurement(f"a step of Bone (add, r = 64), 4 blocks of {sizes[1]}, {length} tokens", seconds, items=length,
                        unit="tokens", note=note)]  # fmt: skip


# -- a hundred subjects ------------------------------------------------------------------------------------------------


def subjects(counts: tuple[int, int] = (150, 300)) -> list[Measurement]:
    epochs = mamem(5)
    X, y = epochs.X, epochs.labels()
    domains = np.arange(len(X)) % 4
    spdnet = SPDNetClassifier(epochs=10, front="augmented")
    rows: dict[str, Callable[[int], Any]] = {
        "ACM, orders 1 to 3, lags 2, 4, 3 folds": lambda n: ACMClassifier(orders=(1, 2, 3), lags=(2, 4)).fit(
            X[:n], y[:n]
        ),
        "SPDNet with GBWBN, 10 passes": lambda n: spdnet.fit(X[:n], y[:n]),
        "SPDNet with GBWBN of 4 domains, 10 passes": lambda n: spdnet.fit(X[:n], y[:n], domains[:n]),
    }
    found = []
    for name, fit in rows.items():
        few, many = (timed(lambda n=n, fit=fit: fit(n))[0] for n in counts)
        note = f"{many / few:.2f} times that of {counts[0]}; {SUBJECTS} subjects of as many: {hours(SUBJECTS * many)}"
        found.append(
            Measurement(f"{name}, {counts[1]} epochs of 8 channels", many, items=counts[1], unit="epochs", note=note)
        )
    return found


# -- clocks ------------------------------------------------------------------------------------------------------------


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()  # of this process and its threads: what else the machine does costs nothing here
    result = function()
    return time.process_time() - start, result


def median(function: Callable[[], Any], repeats: int) -> float:
    function()
    return float(np.median([timed(function)[0] for _ in range(repeats)]))


def hours(seconds: float) -> str:
    number = seconds / 3600
    return f"{number:,.0f} core-hours" if number >= 10 else f"{number:.2g} core-hours"
